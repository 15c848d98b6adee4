//! The kernels for compute capability 9.0 beside the CPU and the portable ones.

use super::common::lanes::deep;
use super::{
    DType, Device, FEW_RUNS, Found, On, RUNS, SEED, batches, cases, emulation, numbered_device, real,
};
use half::{bf16, f16};
use l2p_engine::device::Gpu;
use l2p_engine::ops::attention::{self, GradientTarget, Gradients, Qkv, Wanted};
use l2p_engine::ops::matmul::{self, Layout, Write};
use l2p_engine::tensor::Tensor;
use l2p_engine::testing::close;
use l2p_engine::testing::parity::limit;
use std::ops::Range;
use std::sync::Arc;

/// A device of compute capability 9.0 with its kernels on, or `None`, said on the way.
pub fn device() -> Option<Arc<Gpu>> {
    // The emulated one has four multiprocessors, so that blocks do several tiles.
    let gpu = numbered_device(usize::from(!real()))?;
    match gpu.use_hopper(true) {
        Ok(()) => Some(gpu),
        Err(why) if real() => {
            eprintln!("skipped: 1 test of Hopper kernels: {why}");
            None
        }
        Err(why) => panic!("{why}"),
    }
}

/// The cases of these ops, small ones first, until something is wrong.
pub fn first_failure(gpu: &Arc<Gpu>, ops: &[&str], runs: &[(u64, usize)]) -> Option<String> {
    let mut cases = cases::hopper();
    cases.retain(|case| ops.contains(&case.op));
    assert!(!cases.is_empty(), "no cases of {ops:?}");
    cases.sort_by_key(|case| case.inputs.iter().map(|a| a.shape.len()).sum::<usize>());
    for case in &cases {
        for dtype in [DType::BF16, DType::F16] {
            let mut found = Found::default();
            found.check(case, gpu, dtype, runs);
            if !found.failures.is_empty() {
                return found.failures.into_iter().next();
            }
        }
    }
    if ops.contains(&"attention") { far_below_zero(gpu) } else { None }
}

/// The names of all kernels of `matmul_hopper.cu`.
fn kernels_of_products() -> Vec<String> {
    let mut names = Vec::new();
    for pass in ["backward_input", "forward"] {
        for cols in [128, 192, 256] {
            names.extend(["bf16", "f16"].map(|form| format!("matmul_hopper_{pass}_n{cols}_{form}")));
        }
    }
    names
}

/// Those of `attention_hopper.cu` and `attention_hopper_backward.cu`.
fn kernels_of_attention() -> Vec<String> {
    let passes: [(&str, &[usize]); 3] = [
        ("forward", &[64, 128, 192, 208, 224, 240, 256]),
        ("backward_q", &[128, 208, 224, 240, 256]),
        ("backward_kv", &[64, 256]),
    ];
    let mut names = Vec::new();
    for (pass, rows) in passes {
        for rows in rows {
            names.extend(["bf16", "f16"].map(|form| format!("attention_hopper_{pass}_n{rows}_{form}")));
        }
    }
    names
}

/// What was launched on the way, if all cases of the ops agree with the CPU.
fn launched_by(gpu: &Arc<Gpu>, ops: &[&str]) -> Vec<String> {
    drop(gpu.take_launched());
    let runs = if deep(&format!("Hopper kernels of {ops:?} under four schedules")) {
        &RUNS[..]
    } else {
        &FEW_RUNS[..]
    };
    assert_eq!(first_failure(gpu, ops, runs), None);
    gpu.take_launched().into_iter().collect()
}

#[test]
fn hopper_kernels_agree_with_the_cpu() {
    let Some(gpu) = device() else { return };
    let launched = launched_by(&gpu, &["matmul", "linear"]);
    // The widest tile is chosen by the number of multiprocessors.
    let missing: Vec<String> =
        kernels_of_products().into_iter().filter(|name| !launched.contains(name)).collect();
    assert!(missing.is_empty() || real(), "not launched: {missing:?}");
    // Columns that begin at odd places have no tensor map.
    assert!(launched.iter().any(|name| name.starts_with("matmul_forward_few_rows")), "{launched:?}");
}

#[test]
fn hopper_attention_agrees_with_the_cpu() {
    let Some(gpu) = device() else { return };
    let launched = launched_by(&gpu, &["attention"]);
    let missing: Vec<String> =
        kernels_of_attention().into_iter().filter(|name| !launched.contains(name)).collect();
    assert!(missing.is_empty(), "not launched: {missing:?}");
    // Heads of 48 channels, a prefix, and 257 keys are left to it.
    for pass in ["forward", "backward_delta", "backward_q", "backward_kv"] {
        for form in ["bf16", "f16"] {
            assert!(launched.contains(&format!("attention_{pass}_{form}")), "{launched:?}");
        }
    }
}

/// Tensors of attention with q apart from k and v, on a device.
struct Attention {
    dev: Device,
    dtype: DType,
    batch: usize,
    heads: usize,
    q: Tensor,
    kv: Tensor,
    dout: Tensor,
    lse: Tensor,
}

impl Attention {
    /// q and k are `by` times numbers in [-1, 1] plus what is added to each; v and dout are such numbers. lse comes from a
    /// forward pass.
    fn new(
        dev: &Device,
        dtype: DType,
        batch: usize,
        (tq, tk): (usize, usize),
        by: f64,
        [add_q, add_k]: [f64; 2],
    ) -> Attention {
        let heads = 2;
        let c = heads * 64;
        let number = |i: usize, step: usize| (i * step % 97) as f64 / 48.5 - 1.0;
        let put = |values: Vec<f64>, dims: [usize; 3]| {
            Tensor::from_f64(&values, dims, dtype).to(dev).expect("an upload")
        };
        let some = |len: usize, step: usize| (0..len).map(move |i| number(i, step));
        let q = put(some(batch * tq * c, 31).map(|x| by * x + add_q).collect(), [batch, tq, c]);
        let of_kv = |(i, x): (usize, f64)| if i % (2 * c) < c { by * x + add_k } else { x };
        let kv = put(some(batch * tk * 2 * c, 29).enumerate().map(of_kv).collect(), [batch, tk, 2 * c]);
        let dout = put(some(batch * tq * c, 23).collect(), [batch, tq, c]);
        let mut out = put(vec![f64::NAN; batch * tq * c], [batch, tq, c]);
        let lse = Tensor::from_f64(&vec![f64::NAN; batch * heads * tq], [batch, heads, tq], DType::F32);
        let mut lse = lse.to(dev).expect("an upload");
        let qkv = Qkv::apart(q.view(), kv.view());
        attention::forward(dev, out.view_mut(), lse.view_mut(), &qkv, None, heads).expect("out");
        Attention { dev: dev.clone(), dtype, batch, heads, q, kv, dout, lse }
    }

    /// dq and dkv of these rows.
    fn gradients(&self, q_rows: Range<usize>, kv_rows: Range<usize>) -> [Vec<f64>; 2] {
        let nan = |rows: usize, cols: usize| {
            let values = vec![f64::NAN; self.batch * rows * cols];
            Tensor::from_f64(&values, [self.batch, rows, cols], self.dtype).to(&self.dev).expect("an upload")
        };
        let c = self.heads * 64;
        let (mut dq, mut dkv) = (nan(q_rows.len(), c), nan(kv_rows.len(), 2 * c));
        let into = GradientTarget::Apart { q: dq.view_mut(), kv: dkv.view_mut() };
        let wanted = Wanted { gradients: Some(Gradients { into, q_rows, kv_rows }), prefix: None };
        let qkv = Qkv::apart(self.q.view(), self.kv.view());
        let (dout, lse) = (self.dout.view(), self.lse.view());
        attention::backward_input(&self.dev, wanted, dout, lse, &qkv, None, self.heads).expect("gradients");
        [dq, dkv].map(|t| t.view().read_f64().expect("a download"))
    }
}

/// Gradients of some rows have the bits that they have where all are asked for: of rows that begin and end within tiles, of none, and
/// of tiles that none is asked of.
#[test]
fn gradients_of_some_rows_are_those_of_all() {
    let Some(gpu) = device() else { return };
    emulation::set_seed(2);
    let (batch, tq, tk) = (3, 200, 130);
    for dtype in [DType::BF16, DType::F16] {
        let given = Attention::new(&Device::Cuda(gpu.clone()), dtype, batch, (tq, tk), 1.0, [0.0; 2]);
        let [all_q, all_kv] = given.gradients(0..tq, 0..tk);
        let bits_of = |all: &[f64], tokens: usize, rows: &Range<usize>| -> Vec<u64> {
            let image = |image: &[f64]| {
                let width = image.len() / tokens;
                image[rows.start * width..rows.end * width].to_vec()
            };
            all.chunks(all.len() / batch).flat_map(image).map(f64::to_bits).collect()
        };
        gpu.take_launched();
        for (q_rows, kv_rows) in [(3..131, 1..2), (64..128, 63..130), (190..191, 64..64), (0..0, 0..65)] {
            let [dq, dkv] = given.gradients(q_rows.clone(), kv_rows.clone());
            let bits = |v: &[f64]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert!(bits(&dq) == bits_of(&all_q, tq, &q_rows), "{dtype:?}, queries {q_rows:?}");
            assert!(bits(&dkv) == bits_of(&all_kv, tk, &kv_rows), "{dtype:?}, keys {kv_rows:?}");
        }
        let launched = gpu.take_launched();
        assert!(launched.iter().all(|name| name.starts_with("attention_hopper_backward_")), "{launched:?}");
        assert_eq!(launched.len(), 2, "{launched:?}");
    }
}

/// Scores so far below zero that exp(-lse) has no number in f32: what is not there, beside them, must count for nothing. Nothing, or
/// what is wrong.
fn far_below_zero(gpu: &Arc<Gpu>) -> Option<String> {
    for (tq, tk) in [(70, 130), (5, 20)] {
        for dtype in [DType::BF16, DType::F16] {
            let run = |hopper: bool| {
                gpu.use_hopper(hopper).expect("a device of 9.0");
                let given = Attention::new(&Device::Cuda(gpu.clone()), dtype, 2, (tq, tk), 0.25, [5.0, -5.0]);
                given.gradients(0..tq, 0..tk)
            };
            let [portable, hopper] = [run(false), run(true)];
            // In dq the roundings of dS, times keys that are all about as long, do not cancel as dS does.
            let [dq, dkv] = &hopper;
            let error = close::relative_error(dkv, &portable[1]);
            if dq.iter().any(|x| !x.is_finite()) || error.is_nan() || error > 2.0 * limit(dtype) {
                return Some(format!(
                    "{tq} queries and {tk} keys far below zero in {dtype:?}: dkv is off by {error:.1e}"
                ));
            }
        }
    }
    None
}

#[test]
fn scores_far_below_zero_leave_nothing_beside_them() {
    let Some(gpu) = device() else { return };
    emulation::set_seed(4);
    assert_eq!(far_below_zero(&gpu), None);
}

#[test]
fn rows_of_hopper_kernels_do_not_depend_on_the_batch() {
    let Some(gpu) = device() else { return };
    let on = On { dev: Device::Cuda(gpu), band: 64 };
    emulation::set_seed(1);
    let mut compared = 0;
    for case in cases::hopper().iter().filter(|case| case.inputs[0].shape.len() < 30_000) {
        for dtype in [DType::BF16, DType::F16] {
            compared += batches::compare(&on, case, &case.data(SEED, dtype));
        }
    }
    assert!(compared > 50, "{compared} arrays compared");
}

/// Whole numbers whose sums are exact in f32, whatever the order: the Hopper kernels, the portable ones and the rounded sums
/// have the same bits.
#[test]
fn whole_numbers_are_multiplied_exactly() {
    let Some(gpu) = device() else { return };
    emulation::set_seed(3);
    let (m, k, n) = (150, 328, 264);
    let numbers =
        |len: usize, step: usize| (0..len).map(|i| (i * step % 11) as f64 - 5.0).collect::<Vec<_>>();
    let (x, w) = (numbers(m * k, 7), numbers(k * n, 3));
    let sum = |i: usize| (0..k).map(|d| x[i / n * k + d] * w[d * n + i % n]).sum::<f64>();
    let sums: Vec<f64> = (0..m * n).map(sum).collect();
    for dtype in [DType::BF16, DType::F16] {
        let round = |v: &f64| match dtype {
            DType::BF16 => bf16::from_f64(*v).to_f64(),
            _ => f16::from_f64(*v).to_f64(),
        };
        let wanted: Vec<f64> = sums.iter().map(round).collect();
        let dev = Device::Cuda(gpu.clone());
        let put = |values: &[f64], rows, cols| {
            Tensor::from_f64(values, [rows, cols], dtype).to(&dev).expect("an upload")
        };
        // w (K, N), and its transposed form, from which backward_input makes the same product.
        let transposed: Vec<f64> = (0..n * k).map(|i| w[i % k * n + i / k]).collect();
        let (x, w, wt) = (put(&x, m, k), put(&w, k, n), put(&transposed, n, k));
        let run = |hopper: bool| {
            gpu.use_hopper(hopper).expect("a device of 9.0");
            let nan = vec![f64::NAN; m * n];
            let (mut y, mut dx) = (put(&nan, m, n), put(&nan, m, n));
            let (y_at, x_at) = (Layout::dense(m, n), Layout::dense(m, k));
            let w_side = (w.view(), Layout::dense(k, n));
            matmul::forward(&dev, (y.view_mut(), y_at), (x.view(), x_at), w_side, Write::Set).expect("y");
            let wt_side = (wt.view(), Layout::dense(n, k));
            let to = (dx.view_mut(), y_at);
            matmul::backward_input(&dev, to, (x.view(), x_at), wt_side, Write::Set).expect("dx");
            [y, dx].map(|t| t.view().read_f64().expect("a download"))
        };
        let [portable, hopper] = [run(false), run(true)];
        for got in portable.iter().chain(&hopper) {
            let wrong = got.iter().zip(&wanted).filter(|(a, b)| a != b).count();
            assert_eq!(wrong, 0, "{dtype:?}: {wrong} of {} differ", wanted.len());
        }
    }
}

#[test]
fn other_devices_refuse_hopper_kernels() {
    if real() {
        return eprintln!("skipped: 1 test of a device of 8.0");
    }
    let Some(gpu) = numbered_device(0) else { return };
    let error = gpu.use_hopper(true).expect_err("a device of 8.0").to_string();
    let words = "has compute capability 8.0, the Hopper kernels are for 9.0";
    assert!(error.starts_with("cuda:0 (") && error.contains(words), "{error}");
    assert!(!gpu.uses_hopper());
}
