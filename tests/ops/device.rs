//! The rungs on a GPU: an emulated one (`tests/emulation`), or a real one with `L2P_REQUIRE_GPU=1`. Every
//! case, in every form of its kernels, with outputs at addresses that suit vector loads and at others that
//! do not, in several orders of streams, blocks and threads.

use super::emulation;
use super::ladder::{SEED, TIMES, compare_batches, everything_on, names, plain_f32};
use l2p_engine::device::{Device, Gpu, embedded};
use l2p_engine::ops::axpy;
use l2p_engine::tensor::{DType, Tensor};
use l2p_engine::testing::cases::{self, Case, Data, Keep, On};
use l2p_engine::testing::close::{self, Budget};
use std::io::Write as _;

/// Orders that the emulation tries; a real GPU has its own.
const ORDERS: [u64; 3] = [0, 1, 2];
const BANDS: [usize; 2] = [64, 67];

/// A GPU, or `None` (and a line that says so) where there is no compiler to emulate one.
pub fn gpu() -> Option<Device> {
    let real = std::env::var_os("L2P_REQUIRE_GPU").is_some_and(|v| v == "1");
    if !real && let Err(why) = emulation::compiler().map(|_| ()) {
        say(&format!("device rungs: skipped, {why}\n"));
        return None;
    }
    emulation::install().expect("the emulated GPU");
    // The emulated driver finds kernels by name and does not look at the image.
    let images = if real { embedded::image } else { |_: &str| Some(&b"emulated"[..]) };
    Some(Device::Cuda(Gpu::open(0, images).expect("a GPU")))
}

/// Not through `eprint!`, which the test harness would keep to itself.
fn say(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Half the distance from 1 to the next number.
fn unit(dtype: DType) -> f64 {
    match dtype {
        DType::BF16 => 2f64.powi(-9),
        DType::F16 => 2f64.powi(-12),
        _ => 0.0,
    }
}

fn forms(case: &Case) -> &'static [DType] {
    if case.has_narrow_form() { &[DType::F32, DType::BF16, DType::F16] } else { &[DType::F32] }
}

/// What each array of a case may be off by: `TIMES` the error of plain code in f32 and one f32 ulp of the
/// scale. Where a form rounds to 16 bits, on the way or at the end, `TIMES` half a 16-bit ulp of the scale
/// comes on top. f32 outputs of a forward pass are sums of inputs and are not rounded on the way.
fn budgets(case: &Case, data: &Data, got: &[Vec<f64>], exact: &[Vec<f64>]) -> Vec<Budget> {
    let plain = plain_f32(case, data, exact);
    let forward = case.outputs.iter().map(|o| matches!(o.keep, Keep::Activation | Keep::Weight));
    let narrow: Vec<bool> = forward.chain(case.grads.iter().map(|_| true)).collect();
    let each = (0..got.len()).map(|i| {
        let mut budget = Budget::f32(&got[i], &plain[i], &exact[i], TIMES);
        if narrow[i] {
            budget.allowed += TIMES * unit(data.dtype) * close::scale(&exact[i]);
        }
        budget
    });
    each.collect()
}

#[test]
fn gpu_agrees_with_the_cpu() {
    let Some(dev) = gpu() else { return };
    let (mut failures, mut arrays) = (Vec::new(), 0);
    let mut worst = (0.0, String::new());
    for case in cases::small().iter().chain(&cases::medium()) {
        for &dtype in forms(case) {
            let host = case.data(SEED, dtype);
            let wide = host.to(&Device::Cpu, DType::F64).expect("numbers");
            let exact = everything_on(&On::CPU, case, &wide).expect("the reference");
            let data = host.to(&dev, dtype).expect("numbers on the device");
            let mut first: Option<Vec<Vec<f64>>> = None;
            for (order, band) in ORDERS.into_iter().zip(BANDS.into_iter().cycle()) {
                emulation::set_seed(order);
                let on = On { dev: dev.clone(), band };
                let got = match everything_on(&on, case, &data) {
                    Ok(got) => got,
                    Err(e) => {
                        failures.push(format!("{} {} {dtype:?}: {e}", case.op, case.label));
                        break;
                    }
                };
                let Some(first) = &first else {
                    for (budget, name) in budgets(case, &host, &got, &exact).iter().zip(names(case)) {
                        let text = format!("{} {} {name} in {dtype:?}", case.op, case.label);
                        if !budget.holds() {
                            let Budget { error, allowed } = budget;
                            failures.push(format!("{text}: off by {error:.2e}, allowed {allowed:.2e}"));
                        }
                        if budget.error / budget.allowed > worst.0 {
                            worst = (budget.error / budget.allowed, text);
                        }
                        arrays += 1;
                    }
                    first = Some(got);
                    continue;
                };
                for ((a, b), name) in first.iter().zip(&got).zip(names(case)) {
                    if !close::same_bits(a, b) {
                        let text = format!("{} {} {name} in {dtype:?}", case.op, case.label);
                        failures.push(format!("{text}: other bits in order {order} at offset {band}"));
                    }
                }
            }
        }
    }
    let share = worst.0;
    say(&format!("\ndevice rungs: {arrays} arrays, at most {share:.2} of the allowed error ({})\n", worst.1));
    assert!(failures.is_empty(), "{} failures:\n  {}", failures.len(), failures.join("\n  "));
    assert!(arrays > 400, "{arrays} arrays compared");
}

#[test]
fn gpu_results_do_not_depend_on_the_batch() {
    let Some(dev) = gpu() else { return };
    let on = On { dev: dev.clone(), band: 64 };
    let mut compared = 0;
    for case in cases::small().iter().chain(&cases::medium()) {
        for &dtype in forms(case) {
            let data = case.data(SEED, dtype);
            compared += compare_batches(case, &data, |case, data| {
                let here = data.to(&dev, dtype).expect("numbers on the device");
                everything_on(&on, case, &here).expect("forward and backward")
            });
        }
    }
    assert!(compared > 500, "{compared} arrays compared");
}

/// Every number of 16 bits to f32 and back, and f32 numbers that lie between.
#[test]
fn gpu_rounds_as_the_cpu() {
    let Some(dev) = gpu() else { return };
    let all: Vec<f32> = (0..=u16::MAX).map(|high| f32::from_bits(u32::from(high) << 16 | 0x8000)).collect();
    let between = Tensor::from_vec(all, [1 << 16]);
    for dtype in [DType::BF16, DType::F16] {
        let (mut here, mut there) = (Tensor::zeros([1 << 16], dtype), None);
        axpy::cast(&Device::Cpu, here.view_mut(), between.view()).expect("rounded");
        let narrow = there.insert(Tensor::zeros_on(&dev, [1 << 16], dtype).expect("memory"));
        axpy::cast(&dev, narrow.view_mut(), between.to(&dev).expect("a copy").view()).expect("rounded");
        let same = |a: &Tensor, b: &Tensor| {
            let pairs = a.to_f64().into_iter().zip(b.to_f64());
            pairs.enumerate().find(|(_, (a, b))| a.to_bits() != b.to_bits() && !(a.is_nan() && b.is_nan()))
        };
        assert_eq!(same(&here, narrow), None, "{dtype:?}");
        let mut back = Tensor::zeros_on(&dev, [1 << 16], DType::F32).expect("memory");
        axpy::cast(&dev, back.view_mut(), narrow.view()).expect("widened");
        assert_eq!(same(&here, &back), None, "{dtype:?}");
    }
}

#[test]
fn gpu_tensors_are_filled_copied_and_refused() {
    let Some(dev) = gpu() else { return };
    for dtype in [DType::F32, DType::BF16, DType::F16, DType::U32, DType::U8] {
        let mut x = Tensor::zeros_on(&dev, [3, 5], dtype).expect("memory");
        assert_eq!(x.to_f64(), [0.0; 15]);
        x.view_mut().part(5, [5]).fill(7.0);
        let mut wanted = vec![0.0; 15];
        wanted[5..10].fill(7.0);
        assert_eq!(x.to_f64(), wanted);
        let mut y = x.clone();
        y.view_mut().part(0, [5]).copy_from(x.view().part(5, [5])).expect("a copy");
        assert_eq!((y.to_f64()[..10].to_vec(), x.to_f64()), (vec![7.0; 10], wanted.clone()));
        let mut host = Tensor::zeros([15], dtype);
        host.view_mut().copy_from(y.view().reshaped([15])).expect("a copy");
        assert_eq!(host.to_f64(), y.to_f64());
    }
    let x = Tensor::zeros_on(&dev, [2], DType::F32).expect("memory");
    let host = x.view().get::<f32>("test", "x").expect_err("is on the device").to_string();
    assert_eq!(host, "test: `x` must be F32, got F32 in GPU memory");
    let error = Tensor::zeros_on(&dev, [2], DType::F64).expect_err("f64").to_string();
    assert_eq!(error, "cuda:0: F64 tensors live on the CPU only");
    let (mut y, x) = (Tensor::zeros([2], DType::F32), x);
    let error = axpy::axpy(&dev, y.view_mut(), x.view(), 1.0).expect_err("host memory").to_string();
    assert_eq!(error, "axpy: `y` must be in GPU memory, got host memory");
}
