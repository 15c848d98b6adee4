//! What the host does not check before a kernel runs: ids that are none, labels that are masked, gradients
//! that are not finite; and the ties that selection has to break as the CPU does.

use super::device;
use approx::abs_diff_eq;
use l2p_engine::device::Device;
use l2p_engine::ops::match_prompts::{self, Select};
use l2p_engine::ops::optimizer::{self, Adam, Sgd};
use l2p_engine::ops::{component_weights, cross_entropy, gather, sum};
use l2p_engine::tensor::{DType, Shape, Tensor};
use l2p_engine::testing::close::same_bits;

fn ids(values: &[u32], shape: impl Into<Shape>, dev: &Device) -> Tensor {
    Tensor::from_vec(values.to_vec(), shape).to(dev).expect("an upload")
}

fn f32s(values: &[f64], shape: impl Into<Shape>, dev: &Device) -> Tensor {
    Tensor::from_f64(values, shape, DType::F32).to(dev).expect("an upload")
}

fn read(tensor: &Tensor) -> Vec<f64> {
    tensor.view().read_f64().expect("a download")
}

fn selection(dev: &Device) {
    const NAN: f64 = f64::NAN;
    // Ties, both zeros, infinities, NaN among numbers and alone.
    let similarity = [
        [0.5, 0.9, 0.9, -1.0, 0.5],
        [-0.0, 0.0, -0.0, 0.0, -1e-30],
        [NAN, -5.0, NAN, f64::NEG_INFINITY, f64::INFINITY],
        [NAN; 5],
        [-3.0, -2.0, -2.0, -4.0, NAN],
    ]
    .concat();
    let run = |dev: &Device, n: usize, how| {
        let (mut to, from) = (ids(&vec![77; 5 * n], [5, n], dev), f32s(&similarity, [5, 5], dev));
        match_prompts::select(dev, to.view_mut(), from.view(), how).expect("a selection");
        read(&to)
    };
    for n in 1..=5 {
        let votes = [1, 2, 3, 5, 100].map(|group| Select::Vote { group });
        for how in [Select::PerImage, Select::Fixed { start: 5 - n }].into_iter().chain(votes) {
            assert_eq!(run(dev, n, how), run(&Device::Cpu, n, how), "{n} of 5, {how:?}");
        }
    }
    // Forty candidates: more than a warp has lanes.
    let many: Vec<f64> = (0..80).map(|i| f64::from((i * 7) % 13)).collect();
    let run = |dev: &Device, how| {
        let (mut to, from) = (ids(&[77; 66], [2, 33], dev), f32s(&many, [2, 40], dev));
        match_prompts::select(dev, to.view_mut(), from.view(), how).expect("a selection");
        read(&to)
    };
    for how in [Select::PerImage, Select::Vote { group: 2 }] {
        assert_eq!(run(dev, how), run(&Device::Cpu, how), "33 of 40, {how:?}");
    }
}

fn pull(dev: &Device) {
    // The second image names prompt 1 twice, the third one that does not exist.
    let chosen = ids(&[0, 2, 1, 1, 3, 2], [3, 2], dev);
    let similarity = f32s(&[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0], [3, 3], dev);
    let (mut out, mut d) = (f32s(&[f64::NAN], [1], dev), f32s(&[f64::NAN; 9], [3, 3], dev));
    match_prompts::pull(dev, out.view_mut(), similarity.view(), chosen.view()).expect("a sum");
    assert_eq!(read(&out), [293.0 / 3.0].map(|x: f64| f64::from(x as f32)));
    match_prompts::backward_pull(dev, d.view_mut(), chosen.view(), 3.0).expect("a gradient");
    assert_eq!(read(&d), [1.0, 0.0, 1.0, 0.0, 2.0, 0.0, 0.0, 0.0, 1.0]);
}

/// Small whole numbers: exact in every type.
fn strange_ids_are_passed_over(dev: &Device, dtype: DType) {
    let floats =
        |values: &[f64], shape: &[usize]| Tensor::from_f64(values, shape, dtype).to(dev).expect("an upload");
    let chosen = ids(&[1, 4_000_000_000, 2, 1], [2, 2], dev);
    let table = floats(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], &[4, 2]);
    let mut tokens = floats(&[0.5; 20], &[2, 5, 2]);
    gather::forward(dev, tokens.view_mut(), 1, table.view(), chosen.view(), 2).expect("rows");
    let (none, one) = ([0.5; 2], [5.0, 6.0, 7.0, 8.0]);
    let wanted: Vec<f64> = [&none[..], &one, &none, &none, &none, &none, &none, &one].concat();
    assert_eq!(read(&tokens), wanted);
    let mut dtable = floats(&[100.0; 8], &[4, 2]);
    let dtokens: Vec<f64> = (0..20).map(f64::from).collect();
    let dtokens = floats(&dtokens, &[2, 5, 2]);
    gather::backward_acc(dev, dtable.view_mut(), dtokens.view(), 1, chosen.view(), 2).expect("sums");
    assert_eq!(read(&dtable), [100.0, 100.0, 100.0, 100.0, 118.0, 120.0, 122.0, 124.0]);
}

fn labels(dev: &Device) {
    let run = |logits: [f64; 3], label: u32| {
        let (z, label) = (f32s(&logits, [1, 3], dev), ids(&[label], [1], dev));
        let (mask, mut outcome) = (ids(&[1, 1, 0], [3], dev), f32s(&[-1.0; 2], [2], dev));
        let mut d = f32s(&[-1.0; 3], [1, 3], dev);
        let (to, d_view) = (outcome.view_mut(), Some(d.view_mut()));
        cross_entropy::forward_backward(dev, to, d_view, z.view(), label.view(), mask.view(), 0.0)
            .expect("a loss");
        (read(&outcome), read(&d))
    };
    let (outcome, d) = run([2.0, 2.0, 9.0], 0);
    assert!(
        abs_diff_eq!(outcome[0], 2f64.ln(), epsilon = 1e-6) && outcome[1] == 1.0,
        "{outcome:?}: a tie goes to class 0"
    );
    assert_eq!(d, [-0.5, 0.5, 0.0]);
    assert_eq!(run([2.0, 2.0, 9.0], 1).0[1], 0.0, "a tie goes to class 0");
    masks_and_shares(dev);
    for (logits, label) in [([1.0, 2.0, 3.0], 2), ([1.0, 2.0, 3.0], 7), ([f64::NAN, 2.0, 3.0], 0)] {
        let (outcome, d) = run(logits, label);
        assert!(outcome[0].is_nan() && outcome[1] == 0.0, "{logits:?}, label {label}: {outcome:?}");
        assert!(d[0].is_nan() && d[1].is_nan() && d[2] == 0.0, "{logits:?}, label {label}: {d:?}");
    }
}

/// Two images with masks of their own, as labels and as shares: what is masked in the other image's row only is
/// allowed, what is masked in its own makes NaN of its own row alone.
fn masks_and_shares(dev: &Device) {
    let run = |targets: &Tensor, masks: [u32; 6]| {
        let (z, masks) = (f32s(&[1.0, 1.0, 9.0, 2.0, 5.0, 5.0], [2, 3], dev), ids(&masks, [2, 3], dev));
        let (mut outcome, mut d) = (f32s(&[-1.0; 2], [2], dev), f32s(&[-1.0; 6], [2, 3], dev));
        let (to, d_view) = (outcome.view_mut(), Some(d.view_mut()));
        cross_entropy::forward_backward(dev, to, d_view, z.view(), targets.view(), masks.view(), 0.0)
            .expect("a loss");
        (read(&outcome), read(&d))
    };
    let (labels, shares) = (ids(&[0, 2], [2], dev), f32s(&[1.0, 0.0, 0.0, 0.0, 0.5, 0.5], [2, 3], dev));
    let hot = f32s(&[1.0, 0.0, 0.0, 0.0, 0.0, 1.0], [2, 3], dev);
    let (outcome, d) = run(&labels, [1, 1, 0, 0, 1, 1]);
    assert!(
        abs_diff_eq!(outcome[0], 2f64.ln(), epsilon = 1e-6) && outcome[1] == 1.0,
        "{outcome:?}: class 1 of the second ties"
    );
    assert_eq!(d, [-0.25, 0.25, 0.0, 0.0, 0.25, -0.25]);
    assert_eq!(run(&hot, [1, 1, 0, 0, 1, 1]), (outcome, d), "shares that are labels");
    // The second image is half class 1, half class 2: its main class is 1.
    let (outcome, d) = run(&shares, [1, 1, 0, 0, 1, 1]);
    assert!(abs_diff_eq!(outcome[0], 2f64.ln(), epsilon = 1e-6) && outcome[1] == 2.0, "{outcome:?}");
    assert_eq!(d, [-0.25, 0.25, 0.0, 0.0, 0.0, 0.0]);
    for targets in [&labels, &shares] {
        let (outcome, d) = run(targets, [1, 1, 0, 0, 1, 0]);
        assert!(outcome[0].is_nan() && outcome[1] == 1.0, "{outcome:?}");
        assert!(d[..3] == [-0.25, 0.25, 0.0] && d[3] == 0.0 && d[4].is_nan() && d[5] == 0.0, "{d:?}");
    }
}

fn updates(dev: &Device) {
    let with = Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, decay: 0.1, max_norm: 1.0 };
    let step_scalars = f32s(&with.step_scalars(0.1, 3, 0.5), [4], dev);
    let start = [1.0, -2.0, 3.0, 0.25, 5.0];
    let step = |g: f64| {
        let grads = f32s(&[g, 3.0, 0.0, -4.0, 1.0], [5], dev);
        let (mut p, mut u, mut squares) =
            (f32s(&start, [5], dev), f32s(&start, [5], dev), f32s(&[0.0], [1], dev));
        let (mut m, mut v) = (f32s(&start, [5], dev), f32s(&start.map(f64::abs), [5], dev));
        sum::squares_acc(dev, squares.view_mut(), grads.view()).expect("a norm");
        let (m_view, v_view) = (m.view_mut(), v.view_mut());
        optimizer::adam(
            dev,
            p.view_mut(),
            [m_view, v_view],
            grads.view(),
            squares.view(),
            step_scalars.view(),
            with,
        )
        .expect("a step");
        let (g, s) = (grads.view(), squares.view());
        let with = Sgd { momentum: 0.9, nesterov: true, max_norm: 1.0 };
        optimizer::sgd(dev, u.view_mut(), m.view_mut(), g, s, step_scalars.view(), with).expect("a step");
        [read(&p), read(&m), read(&v), read(&u)]
    };
    let still = [&start, &start, &start.map(f64::abs), &start];
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e30] {
        for (got, kept) in step(bad).iter().zip(still) {
            assert!(same_bits(got, kept), "a gradient of {bad} moved {kept:?} to {got:?}");
        }
    }
    for (got, kept) in step(1.0).iter().zip(still) {
        assert!(
            got.iter().zip(kept).all(|(a, b)| a != b && a.is_finite()),
            "{kept:?} stayed or broke: {got:?}"
        );
    }
}

/// Components, keys and queries of zeros have weight 0; what is no number shows in the weights of its image alone, and
/// gradients are those of the CPU where a length is at its floor.
fn components(dev: &Device) {
    let run = |dev: &Device, query: [f64; 4]| {
        let q = f32s(&query, [2, 2], dev);
        let (a, k) =
            (f32s(&[3., 2., 0., 0., 1., 1.], [3, 2], dev), f32s(&[1., 1., 1., 2., 0., 0.], [3, 2], dev));
        let mut w = f32s(&[f64::NAN; 6], [2, 3], dev);
        component_weights::forward(dev, w.view_mut(), q.view(), a.view(), k.view()).expect("weights");
        let [mut da, mut dk] = [(); 2].map(|()| f32s(&[0.5; 6], [3, 2], dev));
        let dw = f32s(&[1e-13, 0., 0., 1e-13, 1e-13, 1e-13], [2, 3], dev);
        let out = (da.view_mut(), dk.view_mut());
        component_weights::backward_acc(dev, out.0, out.1, dw.view(), q.view(), a.view(), k.view())
            .expect("gradients");
        [read(&w), read(&da), read(&dk)]
    };
    for query in [[1., -2., 0., 0.], [1., -2., 1e-13, 1e-13], [0.; 4]] {
        for (got, wanted) in run(dev, query).iter().zip(run(&Device::Cpu, query)) {
            let close = got.iter().zip(&wanted).all(|(a, b)| abs_diff_eq!(a, b, epsilon = 1e-6));
            assert!(close, "{query:?}: {got:?}, wanted {wanted:?}");
        }
    }
    let [w, ..] = run(dev, [1., -2., f64::NAN, 1.]);
    assert!(w[..3].iter().all(|w| w.is_finite()) && w[3..].iter().all(|w| w.is_nan()), "{w:?}");
}

/// The checks of this file, by op.
pub fn of(op: &str, dev: &Device) {
    match op {
        "match_prompts" => {
            selection(dev);
            pull(dev);
        }
        "gather" => [DType::F32, DType::BF16, DType::F16]
            .iter()
            .for_each(|&dtype| strange_ids_are_passed_over(dev, dtype)),
        "cross_entropy" => labels(dev),
        "optimizer" => updates(dev),
        "component_weights" => components(dev),
        _ => {}
    }
}

pub fn all(dev: &Device) {
    ["match_prompts", "gather", "cross_entropy", "optimizer", "component_weights"]
        .iter()
        .for_each(|op| of(op, dev));
}

#[test]
fn edges_that_no_case_covers() {
    let Some(gpu) = device() else { return };
    all(&Device::Cuda(gpu));
}
