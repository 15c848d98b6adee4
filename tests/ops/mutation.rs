//! The gradient check itself: a gradient that is slightly wrong is refused.

use super::{DEV, f64s, random};
use l2p_engine::ops::attention::{self, Qkv};
use l2p_engine::ops::gelu::{self, GeluForm};
use l2p_engine::ops::layer_norm;
use l2p_engine::tensor::{DType, Tensor};
use l2p_engine::testing::{gradcheck, plain};

/// Good passes, each mutant is far beyond the limit of 1e-7.
fn judge(name: &str, good: &[f64], mutants: &[(&str, Vec<f64>)], numeric: &[f64]) {
    let error = gradcheck::worst(good, numeric);
    assert!(error < 1e-7, "{name}: the right gradient is off by {error:.1e}");
    for (what, mutant) in mutants {
        let error = gradcheck::worst(mutant, numeric);
        assert!(!(error <= 1e-5), "{name} with {what} passes: {error:.1e}");
    }
    let mut scaled = good.to_vec();
    let largest = (0..good.len()).max_by(|&a, &b| good[a].abs().total_cmp(&good[b].abs()));
    scaled[largest.expect("an entry")] *= 1.001;
    assert!(gradcheck::worst(&scaled, numeric) > 1e-4, "{name}: a scaled entry passes");
    let mut poisoned = good.to_vec();
    poisoned[0] = f64::NAN;
    assert!(!(gradcheck::worst(&poisoned, numeric) <= 1e9), "{name}: NaN passes");
}

#[test]
fn layer_norm_without_a_term() {
    let (rows, c) = (3, 7);
    let x = random(1, [rows, c], DType::F64).to_f64();
    let scale: Vec<f64> = random(2, [c], DType::F64).to_f64().iter().map(|z| 1.0 + 0.3 * z).collect();
    let (bias, dy) = (random(3, [c], DType::F64).to_f64(), random(4, [rows, c], DType::F64).to_f64());
    let (_, stats) = plain::layer_norm(&x, &scale, &bias, 1e-6);
    let [good, dscale, _] = plain::layer_norm_backward(&x, &scale, &stats, &dy);
    // dx = rstd (g - mean(g) - x̂ mean(g x̂)), each of the last two terms left out in turn.
    let (mut no_mean, mut no_third) = (good.clone(), good.clone());
    for r in 0..rows {
        let (mean, rstd) = (stats[2 * r], stats[2 * r + 1]);
        let at = |j: usize| r * c + j;
        let mean_g = (0..c).map(|j| dy[at(j)] * scale[j]).sum::<f64>() / c as f64;
        let hat = |j: usize| (x[at(j)] - mean) * rstd;
        let mean_gx = (0..c).map(|j| dy[at(j)] * scale[j] * hat(j)).sum::<f64>() / c as f64;
        for j in 0..c {
            no_mean[at(j)] += rstd * mean_g;
            no_third[at(j)] += rstd * hat(j) * mean_gx;
        }
    }
    let forward = |x: &[Vec<f64>]| {
        let (mut y, mut stats) = (Tensor::zeros([rows, c], DType::F64), Tensor::zeros([rows, 2], DType::F64));
        let inputs = [f64s(&x[0], [rows, c]), f64s(&x[1], [c]), f64s(&x[2], [c])];
        let [x, scale, bias] = inputs.each_ref().map(Tensor::view);
        layer_norm::forward(&DEV, y.view_mut(), stats.view_mut(), x, scale, bias, 1e-6).expect("forward");
        y.to_f64()
    };
    let inputs = [x, scale, bias];
    let numeric = gradcheck::numeric(&inputs, 0, &dy, forward);
    let mutants = [("no mean of g", no_mean), ("no third term", no_third)];
    judge("layer_norm dx", &good, &mutants, &numeric);
    let numeric = gradcheck::numeric(&inputs, 1, &dy, forward);
    judge("layer_norm dscale", &dscale, &[("the other sign", dscale.iter().map(|d| -d).collect())], &numeric);
}

#[test]
fn attention_without_a_term() {
    let e = plain::Heads { b: 2, h: 2, d: 3, tq: 4, tk: 4 };
    let (t, c) = (4, 6);
    let qkv = random(5, [2, t, 3 * c], DType::F64).to_f64();
    let dout = random(6, [2, t, c], DType::F64).to_f64();
    let [q, k, v] = [0, 1, 2].map(|i| plain::columns(&qkv, 3 * c, i * c..(i + 1) * c));
    let pack = |dq: &[f64], dk: &[f64], dv: &[f64]| plain::beside(dq, c, &plain::beside(dk, c, dv, c), 2 * c);
    let a = plain::attention(&q, &k, &v, &dout, e);
    let good = pack(&a.dq, &a.dk, &a.dv);
    // dS = P ∘ dP, without the row sums: what a softmax without its normalisation would give.
    let mut unnormalised = (vec![0.0; q.len()], vec![0.0; k.len()]);
    for (b, h, i, j) in (0..2 * 2 * t * t).map(|n| (n / 32, n / 16 % 2, n / 4 % 4, n % 4)) {
        let (qi, kj) = ((b * t + i) * c + h * 3, (b * t + j) * c + h * 3);
        let dot = |x: &[f64], x0: usize, y: &[f64], y0: usize| -> f64 {
            (0..3).map(|l| x[x0 + l] * y[y0 + l]).sum()
        };
        let scale = 1.0 / 3f64.sqrt();
        let p = (dot(&q, qi, &k, kj) * scale - a.lse[(b * 2 + h) * t + i]).exp();
        let ds = p * dot(&dout, qi, &v, kj) * scale;
        for l in 0..3 {
            unnormalised.0[qi + l] += ds * k[kj + l];
            unnormalised.1[kj + l] += ds * q[qi + l];
        }
    }
    let twice: Vec<f64> = a.dq.iter().map(|d| d * 3f64.sqrt()).collect();
    let mutants = [
        ("no row sums", pack(&unnormalised.0, &unnormalised.1, &a.dv)),
        ("no 1/√D in dq", pack(&twice, &a.dk, &a.dv)),
        ("dk and dv exchanged", pack(&a.dq, &a.dv, &a.dk)),
    ];
    let numeric = gradcheck::numeric(&[qkv], 0, &dout, |x| {
        let (mut out, mut lse) = (Tensor::zeros([2, t, c], DType::F64), Tensor::zeros([2, 2, t], DType::F64));
        let qkv = f64s(&x[0], [2, t, 3 * c]);
        let qkv = Qkv::packed(qkv.view());
        attention::forward(&DEV, out.view_mut(), lse.view_mut(), &qkv, None, 2).expect("forward");
        out.to_f64()
    });
    judge("attention", &good, &mutants, &numeric);
}

#[test]
fn gelu_without_a_term() {
    let (x, dy) = (random(8, [9], DType::F64).to_f64(), random(9, [9], DType::F64).to_f64());
    let slopes = |form| -> Vec<f64> { x.iter().zip(&dy).map(|(&x, d)| plain::gelu(x, form).1 * d).collect() };
    for (form, other) in [(GeluForm::Tanh, GeluForm::Erf), (GeluForm::Erf, GeluForm::Tanh)] {
        // Without x times the density only Φ(x) = gelu(x) / x remains.
        let phi = x.iter().zip(&dy).map(|(&x, d)| plain::gelu(x, form).0 / x * d).collect();
        let mutants = [("no density", phi), ("the other form", slopes(other))];
        let numeric = gradcheck::numeric(std::slice::from_ref(&x), 0, &dy, |x| {
            let mut y = Tensor::zeros([9], DType::F64);
            gelu::forward(&DEV, y.view_mut(), f64s(&x[0], [9]).view(), form).expect("forward");
            y.to_f64()
        });
        judge("gelu", &slopes(form), &mutants, &numeric);
    }
}
