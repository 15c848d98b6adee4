//! Numbers computed elsewhere: by hand, or in Python's double precision with the command beside them.

use super::{DEV, f64s};
use approx::{abs_diff_eq, assert_abs_diff_eq};
use l2p_engine::ops::attention::{self, Prefix, Qkv};
use l2p_engine::ops::cross_entropy::{self, LossOutcome};
use l2p_engine::ops::gelu::{self, GeluForm};
use l2p_engine::ops::linear::{self, Epilogue, LinearWeights};
use l2p_engine::ops::matmul::{self, Layout, Write};
use l2p_engine::ops::optimizer::{self, Adam, Sgd};
use l2p_engine::ops::pool_tokens::{self, Pooling};
use l2p_engine::ops::{
    anchor, axpy, component_weights, distill, gather, layer_norm, patches, relu, row_norm, sum, tokens,
};
use l2p_engine::tensor::{DType, Tensor, ViewMut};

/// To 1e-14 of the largest value.
fn same(name: &str, got: &Tensor, wanted: &[f64]) {
    let (got, largest) = (got.to_f64(), wanted.iter().fold(0f64, |m, v| m.max(v.abs())));
    let epsilon = if largest > 0.0 { 1e-14 * largest } else { 1e-14 };
    assert!(abs_diff_eq!(got[..], *wanted, epsilon = epsilon), "{name}: {got:?} is not {wanted:?}");
}

fn poisoned<const N: usize>(shape: [usize; N]) -> Tensor {
    let mut t = Tensor::zeros(shape, DType::F64);
    t.fill(f64::NAN);
    t
}

#[test]
fn products() {
    // [[1 2] [3 4] [5 6]] times [[1 -1 2] [0 3 -2]].
    let (x, w) = (f64s(&[1., 2., 3., 4., 5., 6.], [3, 2]), f64s(&[1., -1., 2., 0., 3., -2.], [2, 3]));
    let (m, k, n) = (Layout::dense(3, 3), Layout::dense(3, 2), Layout::dense(2, 3));
    let mut y = poisoned([3, 3]);
    matmul::forward(&DEV, (y.view_mut(), m), (x.view(), k), (w.view(), n), Write::Set).expect("forward");
    same("matmul", &y, &[1., 5., -2., 3., 9., -2., 5., 13., -2.]);
    let mut dx = poisoned([3, 2]);
    matmul::backward_input(&DEV, (dx.view_mut(), k), (y.view(), m), (w.view(), n), Write::Set).expect("dx");
    same("matmul dx", &dx, &[-8., 19., -10., 31., -12., 43.]);
    let mut dw = f64s(&[1000.; 6], [2, 3]);
    matmul::backward_weight_acc(&DEV, (dw.view_mut(), n), (x.view(), k), (y.view(), m)).expect("dw");
    same("matmul dw", &dw, &[1035., 1097., 982., 1044., 1124., 976.]);

    let bias = f64s(&[0.5, -0.5, 10.], [3]);
    let weights = LinearWeights::all(w.view(), bias.view());
    let mut y = poisoned([3, 3]);
    linear::forward(&DEV, y.view_mut(), x.view(), &weights, Epilogue::Plain).expect("plain");
    same("linear", &y, &[1.5, 4.5, 8., 3.5, 8.5, 8., 5.5, 12.5, 8.]);
    let residual = f64s(&[1., 2., 3., 4., 5., 6., 7., 8., 9.], [3, 3]);
    linear::forward(&DEV, y.view_mut(), x.view(), &weights, Epilogue::Residual(residual.view()))
        .expect("sum");
    same("residual", &y, &[2.5, 6.5, 11., 7.5, 13.5, 14., 12.5, 20.5, 17.]);
    let (mut y, mut pre) = (poisoned([3, 1]), poisoned([3, 1]));
    let one = LinearWeights { kernel: w.view(), bias: bias.view(), columns: 1..2, packed: None };
    let ending = Epilogue::Gelu { pre: Some(pre.view_mut()), form: GeluForm::Erf };
    linear::forward(&DEV, y.view_mut(), x.view(), &one, ending).expect("gelu");
    same("pre", &pre, &[4.5, 8.5, 12.5]);
    // python3: [x * (1 + math.erf(x / 2 ** 0.5)) / 2 for x in (4.5, 8.5, 12.5)]
    same("gelu", &y, &[4.4999847104709385, 8.5, 12.5]);
    let mut unkept = poisoned([3, 1]);
    let ending = Epilogue::Gelu { pre: None, form: GeluForm::Erf };
    linear::forward(&DEV, unkept.view_mut(), x.view(), &one, ending).expect("gelu");
    assert_eq!(unkept.to_f64(), y.to_f64(), "the same whether it is kept or not");
}

/// python3: [x * (1 + erf(x / sqrt(2))) / 2 for x in xs];
/// [x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x ** 3))) for x in xs]
#[test]
fn gelu_values() {
    let x = f64s(&[-3., -0.5, 0., 0.5, 2.], [5]);
    let mut y = poisoned([5]);
    gelu::forward(&DEV, y.view_mut(), x.view(), GeluForm::Erf).expect("erf");
    let erf = [-0.00404969409489031, -0.15426876936299344, 0., 0.34573123063700656, 1.9544997361036416];
    same("erf", &y, &erf);
    gelu::forward(&DEV, y.view_mut(), x.view(), GeluForm::Tanh).expect("tanh");
    let tanh = [-0.0036373920817729943, -0.15428599017485606, 0., 0.34571400982514394, 1.954597694087775];
    same("tanh", &y, &tanh);
    let mut d = f64s(&[1., 1., 4., 1., 1.], [5]);
    gelu::backward_in_place(&DEV, d.view_mut(), x.view(), GeluForm::Tanh).expect("slope");
    assert_eq!(d.to_f64()[2], 2.0, "gelu'(0) = 1/2");
}

/// python3: m = sum(x) / 3; r = 1 / sqrt(sum((a - m) ** 2 for a in x) / 3 + 1e-6);
/// [(a - m) * r * s + b for a, s, b in zip(x, scale, bias)]
#[test]
fn layer_norm_values() {
    let (x, scale, bias) =
        (f64s(&[1., 2., 4.5], [1, 3]), f64s(&[0.5, -2., 3.], [3]), f64s(&[0.1, 0.2, 0.3], [3]));
    let (mut y, mut stats) = (poisoned([1, 3]), poisoned([1, 2]));
    let views = (y.view_mut(), stats.view_mut());
    layer_norm::forward(&DEV, views.0, views.1, x.view(), scale.view(), bias.view(), 1e-6).expect("forward");
    same("y", &y, &[-0.4095245477824937, 0.8793660637099916, 4.376196382259949]);
    same("stats", &stats, &[2.5, 0.6793660637099915]);
    let mut again = poisoned([1, 3]);
    layer_norm::recompute(&DEV, again.view_mut(), x.view(), stats.view(), scale.view(), bias.view())
        .expect("again");
    assert_eq!(again.to_f64(), y.to_f64());
}

/// One head of width 2, one question, one prefix row in front of two tokens. python3:
/// S = [sum(a * c for a, c in zip(q, k)) / sqrt(2) for k in K]; Z = sum(map(exp, S));
/// [sum(exp(s) / Z * v[i] for s, v in zip(S, V)) for i in (0, 1)], log(Z)
#[test]
fn attention_values() {
    let q = f64s(&[1., -0.5], [1, 1, 2]);
    let kv = f64s(&[2., -1., 3., -4., 0., 0.5, 5., 0.5], [1, 2, 4]);
    let (pk, pv) = (f64s(&[0.3, 0.7], [1, 1, 2]), f64s(&[1., 2.], [1, 1, 2]));
    let (mut out, mut lse) = (poisoned([1, 1, 2]), poisoned([1, 1, 1]));
    let prefix = Prefix { k: pk.view(), v: pv.view() };
    let qkv = Qkv::apart(q.view(), kv.view());
    attention::forward(&DEV, out.view_mut(), lse.view_mut(), &qkv, Some(&prefix), 1).expect("forward");
    same("out", &out, &[2.9667678672124858, -2.7518025134565933]);
    same("lse", &lse, &[2.0361408712402005]);
}

/// u = (3, -4), (0.5, -2) and zeros beside keys (1, 1), (0, -2) and zeros: -1 / (5 sqrt(2)), 4 / sqrt(17), 0. A component
/// of zeros has no gradient either.
#[test]
fn weights_of_components() {
    let q = f64s(&[1., -2.], [1, 2]);
    let (a, k) = (f64s(&[3., 2., 0.5, 1., 0., 0.], [3, 2]), f64s(&[1., 1., 0., -2., 0., 0.], [3, 2]));
    let mut w = poisoned([1, 3]);
    component_weights::forward(&DEV, w.view_mut(), q.view(), a.view(), k.view()).expect("weights");
    same("weights", &w, &[-0.2 / 2f64.sqrt(), 2.0 / 4.25f64.sqrt(), 0.0]);
    let (mut da, mut dk, dw) = (f64s(&[0.; 6], [3, 2]), f64s(&[0.; 6], [3, 2]), f64s(&[0., 0., 1.], [1, 3]));
    let out = (da.view_mut(), dk.view_mut());
    component_weights::backward_acc(&DEV, out.0, out.1, dw.view(), q.view(), a.view(), k.view())
        .expect("gradients");
    assert_eq!([da.to_f64(), dk.to_f64()], [vec![0.0; 6], vec![0.0; 6]]);
}

/// 2 (3 - 1)² + 0.5 (-1 - 1)² = 10; its gradient 2 · 2 · 2 = 8 and 2 · 0.5 · -2 = -2, by 3 and on top of 1.
#[test]
fn anchored_parameters() {
    let (p, a, mut f) = (f64s(&[3., -1.], [2]), f64s(&[1., 1.], [2]), f64s(&[2., 0.5], [2]));
    let mut out = poisoned([1]);
    anchor::penalty(&DEV, out.view_mut(), p.view(), a.view(), f.view()).expect("a penalty");
    same("penalty", &out, &[10.0]);
    let mut d = f64s(&[1., 1.], [2]);
    anchor::backward_acc(&DEV, d.view_mut(), p.view(), a.view(), f.view(), 3.0).expect("a gradient");
    same("gradient", &d, &[25.0, -5.0]);
    anchor::add_squares(&DEV, f.view_mut(), p.view(), None, 0.25).expect("squares");
    same("importance", &f, &[4.25, 0.75]);
    let loss = f64s(&[2f64.ln()], [1]);
    anchor::add_squares(&DEV, f.view_mut(), p.view(), Some(loss.view()), 0.5).expect("squares");
    same("importance", &f, &[6.5, 1.0]);
}

/// Of (3, -2, 0, 5) the last unit is dropped, the others are kept by a factor of 2.
#[test]
fn relu_with_dropout() {
    let (mut y, keep) = (f64s(&[3., -2., 0., 5.], [4]), f64s(&[2., 2., 2., 0.], [4]));
    relu::forward_in_place(&DEV, y.view_mut(), Some(keep.view())).expect("units");
    same("y", &y, &[6.0, 0.0, 0.0, 0.0]);
    let mut dx = f64s(&[1., 1., 1., 1.], [4]);
    relu::backward_in_place(&DEV, dx.view_mut(), y.view(), 2.0).expect("a gradient");
    same("dx", &dx, &[2.0, 0.0, 0.0, 0.0]);
    let mut y = f64s(&[3., -2., 0., 5.], [4]);
    relu::forward_in_place(&DEV, y.view_mut(), None).expect("units");
    same("y", &y, &[3.0, 0.0, 0.0, 5.0]);
}

/// Logits (2 ln 3, 0, 100) and a teacher's (0, 0, -7) at temperature 2 over the first two classes: b = (3/4, 1/4), a = (1/2,
/// 1/2), D = -(ln 3/4 + ln 1/4) / 2, gradient (b - a) / 2, by 4.
#[test]
fn distillation() {
    let (z, t) = (f64s(&[2.0 * 3f64.ln(), 0., 100.], [1, 3]), f64s(&[0., 0., -7.], [1, 3]));
    let (mut out, mut d) = (poisoned([1]), f64s(&[1., 1., 1.], [1, 3]));
    let mut run = |mask: [u32; 3]| {
        let mask = Tensor::from_vec(mask.to_vec(), [3]);
        let to = (out.view_mut(), d.view_mut());
        distill::forward_backward_acc(&DEV, to.0, to.1, z.view(), t.view(), mask.view(), (2.0, 4.0))
            .expect("a distance");
        (out.clone(), d.clone())
    };
    let (out, d) = run([1, 1, 0]);
    same("distance", &out, &[-0.5 * (0.75f64.ln() + 0.25f64.ln())]);
    same("gradient", &d, &[1.5, 0.5, 1.0]);
    let (out, d) = run([0, 0, 0]);
    assert_eq!((out.to_f64(), d.to_f64().len()), (vec![0.0], 3), "no class");
    same("gradient", &d, &[1.5, 0.5, 1.0]);
}

/// Columns (3, 4) and (0, 0), the second stays.
#[test]
fn columns_become_unit_vectors() {
    let mut x = f64s(&[3.0, 0.0, -4.0, 0.0], [2, 2]);
    row_norm::columns_in_place(&DEV, x.view_mut()).expect("columns");
    let length = 5.0 + 1e-10;
    same("x", &x, &[3.0 / length, 0.0, -4.0 / length, 0.0]);
}

fn loss(d: Option<ViewMut>, z: &Tensor, labels: &Tensor, mask: &[u32], smoothing: f64) -> LossOutcome {
    let k = z.dims()[1];
    let shape = if mask.len() == k { vec![k] } else { vec![mask.len() / k, k] };
    let (mut outcome, mask) = (poisoned([2]), Tensor::from_vec(mask.to_vec(), shape.as_slice()));
    let (into, z, labels) = (outcome.view_mut(), z.view(), labels.view());
    cross_entropy::forward_backward(&DEV, into, d, z, labels, mask.view(), smoothing).expect("a loss");
    LossOutcome::read(outcome.view()).expect("numbers")
}

/// Class 2 is masked though its logits are the largest. python3, M = (0, 1, 3):
/// Z = sum(exp(z[j]) for j in M); T = {j: s / 3 + (1 - s) * (j == y) for j in M};
/// loss += sum(T[j] * (log(Z) - z[j]) for j in M) / 2; d = [(exp(z[j]) / Z - T[j]) / 2 for j in M]
#[test]
fn cross_entropy_values() {
    let z = f64s(&[0.5, -1., 9., 2., 3., 1., 0., -2.], [2, 4]);
    let labels = Tensor::from_vec(vec![1u32, 3], [2]);
    let mut d = poisoned([2, 4]);
    let run = |d: Option<_>, s| loss(d, &z, &labels, &[1, 1, 0, 1], s);
    assert_abs_diff_eq!(run(None, 0.0).loss, 4.187078265192366, epsilon = 1e-14);
    let outcome = run(Some(d.view_mut()), 0.1);
    assert_abs_diff_eq!(outcome.loss, 3.9787449318590333, epsilon = 1e-14);
    assert_eq!(outcome.correct, 0);
    let first = [0.07097852940335168, -0.447110380031323, 0., 0.3761318506279713];
    let second = [0.42113363086487715, 0.042583160600838124, 0., -0.46371679146571526];
    same("dlogits", &d, &[first, second].concat());
    // With a mask of its own each image says what it says under that mask alone; the mean is over both.
    let masks = [[1, 1, 0, 1], [1, 0, 1, 1]];
    let mut own = poisoned([2, 4]);
    let both = loss(Some(own.view_mut()), &z, &labels, &masks.concat(), 0.1);
    let alone = |i: usize| {
        let z = f64s(&z.to_f64()[4 * i..][..4], [1, 4]);
        let label = Tensor::from_vec(vec![[1u32, 3][i]], [1]);
        let mut d = poisoned([1, 4]);
        (loss(Some(d.view_mut()), &z, &label, &masks[i], 0.1), d.to_f64())
    };
    let [(first, d_first), (second, d_second)] = [0, 1].map(alone);
    assert_abs_diff_eq!(both.loss, (first.loss + second.loss) / 2.0, epsilon = 1e-15);
    let halves: Vec<f64> = d_first.iter().chain(&d_second).map(|d| d / 2.0).collect();
    same("dlogits under masks of their own", &own, &halves);
    assert!(d_first[2] == 0.0 && d_second[1] == 0.0 && d_second[2] != 0.0);
    // Shares that are labels say the same; what is shared is a weighted mean, and so is the gradient.
    let one_hot = |labels: [usize; 2]| {
        let row = |label: usize| (0..4).map(move |j| if j == label { 1.0f32 } else { 0.0 });
        labels.into_iter().flat_map(row).collect::<Vec<f32>>()
    };
    let with = |soft_labels: Vec<f32>, s| {
        let (soft_labels, mut d) = (Tensor::from_vec(soft_labels, [2, 4]), poisoned([2, 4]));
        let outcome = loss(Some(d.view_mut()), &z, &soft_labels, &[1, 1, 0, 1], s);
        (outcome, d.to_f64())
    };
    assert_eq!(with(one_hot([1, 3]), 0.1), (outcome, d.to_f64()));
    let [(a, da), (b, db)] = [[1, 3], [0, 1]].map(|labels| with(one_hot(labels), 0.0));
    let mixed: Vec<f32> =
        one_hot([1, 3]).iter().zip(one_hot([0, 1])).map(|(x, y)| 0.25 * x + 0.75 * y).collect();
    let (c, dc) = with(mixed, 0.0);
    assert_abs_diff_eq!(c.loss, 0.25 * a.loss + 0.75 * b.loss, epsilon = 1e-14);
    for ((a, b), c) in da.iter().zip(db).zip(dc) {
        assert_abs_diff_eq!(c, 0.25 * a + 0.75 * b, epsilon = 1e-15);
    }
    // An image counts as the class it is most of: here the largest logits, 3 and 0.
    assert_eq!(with(vec![0.0, 0.3, 0.0, 0.7, 0.6, 0.0, 0.0, 0.4], 0.0).0.correct, 2);
    // Ties go to the lower class: right for label 0, wrong for label 1.
    let z = f64s(&[1., 1., 1., 1.], [2, 2]);
    let labels = Tensor::from_vec(vec![0u32, 1], [2]);
    let outcome = loss(None, &z, &labels, &[1, 1], 0.0);
    assert_eq!(outcome.correct, 1);
    assert_abs_diff_eq!(outcome.loss, 2f64.ln(), epsilon = 1e-15);
}

/// Two steps from p = 1 with gradients 0.5 and -2, both halved: the first by the clip factor, the second
/// as the scale of a loss. lr 0.1. python3:
/// m = .9 * m + .1 * g; v = .999 * v + .001 * g * g;
/// p -= .1 * (m / (1 - .9 ** t)) / (sqrt(v / (1 - .999 ** t)) + 1e-8) + .1 * decay * p
#[test]
fn optimizer_values() {
    let adam = [[0.9000000039999998, 0.025, 6.25e-05], [0.9559503526363238, -0.0775, 0.0010624375]];
    let adamw = [[0.8800000039999998, 0.025, 6.25e-05], [0.9183503525563238, -0.0775, 0.0010624375]];
    for (decay, wanted) in [(0.0, adam), (0.2, adamw)] {
        let (mut p, mut m, mut v) = (f64s(&[1.], [1]), f64s(&[0.], [1]), f64s(&[0.], [1]));
        for (step, g) in [(1, 0.5), (2, -2.0)] {
            let (max_norm, unscale) = halved(step, g);
            let with = Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, decay, max_norm };
            let step_scalars = f64s(&with.step_scalars(0.1, step, unscale), [4]);
            let (squares, g) = (f64s(&[g * g], [1]), f64s(&[g], [1]));
            let (g, squares, step_scalars) = (g.view(), squares.view(), step_scalars.view());
            let update = optimizer::adam(
                &DEV,
                p.view_mut(),
                [m.view_mut(), v.view_mut()],
                g,
                squares,
                step_scalars,
                with,
            );
            update.expect("adam");
            let [wp, wm, wv] = wanted[step as usize - 1];
            same("p", &p, &[wp]);
            same("m", &m, &[wm]);
            same("v", &v, &[wv]);
        }
    }
    // u = .9 * u + g; p -= .1 * (g + .9 * u)
    let (mut p, mut u) = (f64s(&[1.], [1]), f64s(&[0.], [1]));
    for (step, g, wp, wu) in [(1, 0.5, 0.9525, 0.25), (2, -2.0, 1.12225, -0.775)] {
        let (max_norm, unscale) = halved(step, g);
        let (squares, g, step_scalars) =
            (f64s(&[g * g], [1]), f64s(&[g], [1]), f64s(&[0.1, 1., 1., unscale], [4]));
        let (g, squares, step_scalars) = (g.view(), squares.view(), step_scalars.view());
        let with = Sgd { momentum: 0.9, nesterov: true, max_norm };
        optimizer::sgd(&DEV, p.view_mut(), u.view_mut(), g, squares, step_scalars, with).expect("sgd");
        same("p", &p, &[wp]);
        same("u", &u, &[wu]);
    }
    // The same without Nesterov: p -= .1 * u
    let (mut p, mut u) = (f64s(&[1.], [1]), f64s(&[0.], [1]));
    for (step, g, wp, wu) in [(1, 0.5, 0.975, 0.25), (2, -2.0, 1.0525, -0.775)] {
        let (max_norm, unscale) = halved(step, g);
        let (squares, g, step_scalars) =
            (f64s(&[g * g], [1]), f64s(&[g], [1]), f64s(&[0.1, 1., 1., unscale], [4]));
        let (g, squares, step_scalars) = (g.view(), squares.view(), step_scalars.view());
        let with = Sgd { momentum: 0.9, nesterov: false, max_norm };
        optimizer::sgd(&DEV, p.view_mut(), u.view_mut(), g, squares, step_scalars, with).expect("sgd");
        same("p", &p, &[wp]);
        same("u", &u, &[wu]);
    }
}

/// max_norm and unscale that halve a gradient in one way and in the other.
fn halved(step: u64, g: f64) -> (f64, f64) {
    if step == 1 { (0.5 * (g.abs() + 1e-6), 1.0) } else { (0.0, 0.5) }
}

/// Gradients that are not finite change nothing.
#[test]
fn optimizers_pass_over_infinity() {
    let (mut p, mut m, mut v, g) = (f64s(&[1.], [1]), f64s(&[2.], [1]), f64s(&[3.], [1]), f64s(&[4.], [1]));
    let with = Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, decay: 0.1, max_norm: 1.0 };
    let step_scalars = f64s(&with.step_scalars(0.1, 1, 1.0), [4]);
    for bad in [f64::NAN, f64::INFINITY] {
        let squares = f64s(&[bad], [1]);
        let (g, squares, step_scalars) = (g.view(), squares.view(), step_scalars.view());
        optimizer::adam(&DEV, p.view_mut(), [m.view_mut(), v.view_mut()], g, squares, step_scalars, with)
            .expect("adam");
        let with = Sgd { momentum: 0.9, nesterov: true, max_norm: 0.0 };
        optimizer::sgd(&DEV, p.view_mut(), m.view_mut(), g, squares, step_scalars, with).expect("sgd");
    }
    assert_eq!([p.to_f64(), m.to_f64(), v.to_f64()], [[1.], [2.], [3.]]);
}

#[test]
fn rows_and_tokens() {
    // Two patches of side 1 per row of a 2 x 2 image: the image itself.
    let image: Vec<f64> = (0..48).map(f64::from).collect();
    let mut rows = poisoned([4, 12]);
    patches::forward(&DEV, rows.view_mut(), f64s(&image, [1, 4, 4, 3]).view(), 2).expect("patches");
    // Patch (0, 1): rows 0 and 1 of the image, columns 2 and 3.
    assert_eq!(rows.to_f64()[12..24], [6., 7., 8., 9., 10., 11., 18., 19., 20., 21., 22., 23.]);

    let mut x = poisoned([2, 2, 1]);
    let (p, cls, positions) = (f64s(&[10., 20.], [2, 1, 1]), f64s(&[1.], [1]), f64s(&[0.5, 0.25], [2, 1]));
    tokens::embed(&DEV, x.view_mut(), p.view(), cls.view(), positions.view()).expect("embed");
    same("embed", &x, &[1.5, 10.25, 1.5, 20.25]);
    tokens::copy(&DEV, x.view_mut(), 0, p.view(), 0..1, Write::Set).expect("copy");
    same("copy", &x, &[10., 10.25, 20., 20.25]);
    tokens::copy(&DEV, x.view_mut(), 1, p.view(), 0..1, Write::Add).expect("copy");
    same("copy, added", &x, &[10., 20.25, 20., 40.25]);
    let mut s = f64s(&[1.], [1, 1]);
    tokens::sum_images_acc(&DEV, s.view_mut(), x.view(), 1..2).expect("sum");
    same("sum_images", &s, &[61.5]);
    let mut m = f64s(&[1., 2., 3., 4.], [2, 2]);
    tokens::add_row_in_place(&DEV, m.view_mut(), f64s(&[10., 20.], [2]).view()).expect("add");
    same("add_row", &m, &[11., 22., 13., 24.]);
    let mut columns = f64s(&[100., 0.], [2]);
    sum::columns_acc(&DEV, columns.view_mut(), m.view()).expect("sum");
    same("columns", &columns, &[124., 46.]);
    let mut squares = f64s(&[1.], [1]);
    sum::squares_acc(&DEV, squares.view_mut(), m.view()).expect("squares");
    same("squares", &squares, &[1. + 121. + 484. + 169. + 576.]);
    axpy::axpy(&DEV, m.view_mut(), f64s(&[1., 2., 3., 4.], [4]).view(), -2.0).expect("axpy");
    same("axpy", &m, &[9., 18., 7., 16.]);
    axpy::scale_in_place(&DEV, m.view_mut(), 0.5).expect("scale");
    same("scale", &m, &[4.5, 9., 3.5, 8.]);

    let (table, ids) = (f64s(&[1., 2., 3.], [3, 1]), Tensor::from_vec(vec![2u32, 0, 2, 2], [2, 2]));
    let mut seq = f64s(&[-1.; 6], [2, 3, 1]);
    gather::forward(&DEV, seq.view_mut(), 1, table.view(), ids.view(), 1).expect("gather");
    same("gather", &seq, &[-1., 3., 1., -1., 3., 3.]);
    let mut dtable = f64s(&[0., 5., 0.], [3, 1]);
    let d = f64s(&[9., 1., 2., 9., 3., 4.], [2, 3, 1]);
    gather::backward_acc(&DEV, dtable.view_mut(), d.view(), 1, ids.view(), 1).expect("gather");
    same("dtable", &dtable, &[2., 5., 8.]);
    // Prompt 1 of two rows each.
    let (table, ids) = (f64s(&[1., 2., 3., 4.], [4, 1]), Tensor::from_vec(vec![1u32], [1, 1]));
    let mut seq = f64s(&[-1.; 3], [1, 3, 1]);
    gather::forward(&DEV, seq.view_mut(), 1, table.view(), ids.view(), 2).expect("gather");
    same("gather by prompts", &seq, &[-1., 3., 4.]);
}

#[test]
fn norms_and_pools() {
    let x = f64s(&[3., 4., 0., 0.], [2, 2]);
    let mut y = poisoned([2, 2]);
    row_norm::forward(&DEV, y.view_mut(), x.view(), row_norm::Normalization::Rsqrt).expect("rsqrt");
    same("rsqrt", &y, &[0.6, 0.8, 0., 0.]);
    row_norm::forward(&DEV, y.view_mut(), x.view(), row_norm::Normalization::Plus).expect("plus");
    same("plus", &y, &[3. / (5. + 1e-10), 4. / (5. + 1e-10), 0., 0.]);
    // At zero: 1 / √1e-12 below the floor, and 1 / 1e-10.
    for (form, slope) in [(row_norm::Normalization::Rsqrt, 1e6), (row_norm::Normalization::Plus, 1e10)] {
        let mut dx = f64s(&[0.; 4], [2, 2]);
        row_norm::backward_acc(&DEV, dx.view_mut(), f64s(&[0., 0., 1., -2.], [2, 2]).view(), x.view(), form)
            .expect("backward");
        same("at zero", &dx, &[0., 0., slope, -2. * slope]);
    }

    // One image of three rows, of which the last two are pooled; column 1 ties.
    let x = f64s(&[100., 100., 1., 5., 4., 5.], [1, 3, 2]);
    let dy = f64s(&[1., 10.], [1, 2]);
    let cases = [
        (Pooling::Mean, [2.5, 5.], [0.5, 5., 0.5, 5.]),
        (Pooling::Max, [4., 5.], [0., 5., 1., 5.]),
        (Pooling::MeanMax, [9., 15.], [1., 15., 2., 15.]),
    ];
    for (kind, wanted, slope) in cases {
        let (mut y, mut dx) = (poisoned([1, 2]), poisoned([1, 3, 2]));
        pool_tokens::forward(&DEV, y.view_mut(), x.view(), 1..3, kind).expect("forward");
        same("pool", &y, &wanted);
        pool_tokens::backward(&DEV, dx.view_mut(), dy.view(), x.view(), 1..3, kind).expect("backward");
        same("dpool", &dx, &[[0.; 2].as_slice(), &slope].concat());
    }
}
