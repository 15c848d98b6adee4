//! The kernels: every op of the case table on a CUDA device beside the CPU in f64, in all three forms,
//! under several orders of streams, blocks and threads. Without a GPU the device is the emulated one of
//! `tests/emulation`; `L2P_REQUIRE_GPU=1` asks for a real one.

mod coda;
#[path = "../common/mod.rs"]
mod common;
mod edges;
#[path = "../emulation/mod.rs"]
mod emulation;
#[path = "races.rs"]
mod every_kernel;
mod hopper;
mod model;
mod mutations;
#[path = "../emulation/races.rs"]
mod races;
mod regularizers;
mod s_prompts;
mod tensors;
mod tiny;

use common::lanes::deep;
use l2p_engine::device::{Device, Gpu};
use l2p_engine::tensor::{DType, Tensor};
use l2p_engine::testing::batches;
use l2p_engine::testing::cases::{self, Case, Data, On};
use l2p_engine::testing::close;
use l2p_engine::testing::parity::{TIMES, limit};
use std::io::Write as _;
use std::sync::{Arc, Once};

const SEED: u64 = 20_261;

fn host(tensors: &[Tensor]) -> Vec<Vec<f64>> {
    tensors.iter().map(|t| t.view().read_f64().expect("a download")).collect()
}

#[derive(Default)]
struct Found {
    arrays: usize,
    worst: f64,
    failures: Vec<String>,
}

impl Found {
    /// `plain`: the CPU's results in f32, for f32 forms.
    fn compare(
        &mut self,
        (what, dtype, limit): (&str, DType, f64),
        got: &[Vec<f64>],
        wanted: &[Vec<f64>],
        plain: Option<&[Vec<f64>]>,
    ) {
        assert_eq!(got.len(), wanted.len(), "{what}");
        for (i, (got, wanted)) in got.iter().zip(wanted).enumerate() {
            let error = close::relative_error(got, wanted);
            let limit = limit + plain.map_or(0.0, |p| TIMES * close::relative_error(&p[i], wanted));
            self.arrays += 1;
            self.worst = self.worst.max(error / limit);
            if error.is_nan() || error > limit {
                self.failures.push(format!("{what} {dtype:?}, array {i}: off by {error:.1e} > {limit:.1e}"));
            }
        }
    }

    /// One case in one form, outputs poisoned and guarded by the table: beside the CPU in f64, and with the
    /// same bits in each of the `runs`.
    fn check(&mut self, case: &Case, gpu: &Arc<Gpu>, dtype: DType, runs: &[(u64, usize)]) {
        let data = case.data(SEED, dtype);
        let exact = data.to(&Device::Cpu, DType::F64).expect("numbers");
        let what = format!("{} {}", case.op, case.label);
        let mut first: Option<[Vec<Vec<f64>>; 2]> = None;
        for &(seed, band) in runs {
            emulation::set_seed(seed);
            let there = On { dev: Device::Cuda(gpu.clone()), band };
            let data = data.to(&there.dev, dtype).expect("an upload");
            let [starts, slopes] = case.starts(&there, &data);
            let result = case.run_forward(&there, &data, Some(&starts)).and_then(|outputs| {
                let grads = case.run_backward(&there, &data, &outputs, Some(&slopes))?;
                Ok([host(&outputs), host(&grads)])
            });
            let found = match result {
                Ok(found) => found,
                Err(e) => return self.failures.push(format!("{what} {dtype:?}, seed {seed}: {e}")),
            };
            let Some(first) = &first else {
                self.beside_the_cpu(case, &exact, dtype, &found);
                first = Some(found);
                continue;
            };
            for (i, (a, b)) in first.concat().iter().zip(&found.concat()).enumerate() {
                self.arrays += 1;
                if !close::same_bits(a, b) {
                    let text =
                        format!("{what} {dtype:?}, array {i}: other bits under seed {seed} after {band}");
                    self.failures.push(text);
                }
            }
        }
    }

    fn beside_the_cpu(&mut self, case: &Case, exact: &Data, dtype: DType, found: &[Vec<Vec<f64>>; 2]) {
        let what = format!("{} {}", case.op, case.label);
        let on_cpu = |data: &Data| {
            let [starts, slopes] = case.starts(&On::CPU, data);
            let outputs = case.run_forward(&On::CPU, data, Some(&starts)).expect("the CPU's results");
            let grads = case.run_backward(&On::CPU, data, &outputs, Some(&slopes));
            [host(&outputs), host(&grads.expect("the CPU's gradients"))]
        };
        let wanted = on_cpu(exact);
        let plain = (dtype == DType::F32).then(|| on_cpu(&case.data(SEED, dtype)));
        if let Some([plain, _]) = &plain
            && case.op == "preprocess"
            && !found[0].iter().zip(plain).all(|(a, b)| close::same_bits(a, b))
        {
            self.failures.push(format!("{what}: not the CPU's pixels bit for bit"));
        }
        let plain = plain.as_ref().map(|p| (&p[0][..], &p[1][..])).unzip();
        self.compare((&what, dtype, limit(dtype)), &found[0], &wanted[0], plain.0);
        let what = format!("{what} gradients");
        self.compare((&what, dtype, 2.0 * limit(dtype)), &found[1], &wanted[1], plain.1);
    }
}

fn real() -> bool {
    std::env::var_os("L2P_REQUIRE_GPU").is_some_and(|v| v == "1")
}

/// Whether to run what takes the emulated device minutes: in the deep lane, and on a real GPU.
fn thorough(what: &str) -> bool {
    real() || deep(what)
}

/// The device of the tests, or `None` where there is no host compiler to make one.
fn device() -> Option<Arc<Gpu>> {
    numbered_device(0)
}

/// The same of several: of the emulated ones the first has compute capability 8.0, the second 9.0.
fn numbered_device(index: usize) -> Option<Arc<Gpu>> {
    static DEVICES: Once = Once::new();
    let real = real();
    if !real && let Err(why) = emulation::compiler() {
        let _ = writeln!(std::io::stderr(), "skipped: 1 test of kernels: {why}");
        return None;
    }
    DEVICES.call_once(|| {
        // SAFETY: read by the driver, which nothing has called before; every test comes through here first.
        unsafe {
            std::env::set_var("L2P_EMU_DEVICES", "2");
            std::env::set_var("L2P_EMU_CAPABILITY", "80,90");
        }
    });
    emulation::install().expect("the kernels compile for the host");
    let gpu = if real {
        Gpu::open(index, l2p_engine::device::embedded::image)
    } else {
        // The emulated driver finds kernels by name and does not look at images.
        Gpu::open(index, |_| Some(&[0u8; 64]))
    };
    Some(gpu.expect("a device"))
}

/// The order of streams, blocks and threads, 0 as submitted, and how many elements lie beside each output:
/// addresses after 64 are aligned for vectors, after 67 they are not.
const RUNS: [(u64, usize); 4] = [(0, 64), (0, 67), (1, 64), (2, 67)];
/// For the larger cases: the emulation is slow.
const FEW_RUNS: [(u64, usize); 2] = [(1, 64), (0, 67)];

#[test]
fn kernels_agree_with_the_cpu() {
    agree_with_the_cpu("small", &cases::small_on_gpu(), &RUNS);
}

#[test]
fn deep_kernels_agree_with_the_cpu_at_medium_sizes() {
    if thorough("every kernel at medium sizes beside the CPU") {
        agree_with_the_cpu("medium", &cases::medium_on_gpu(), &FEW_RUNS);
    }
}

fn agree_with_the_cpu(sizes: &str, cases: &[Case], runs: &[(u64, usize)]) {
    let Some(gpu) = device() else { return };
    let mut found = Found::default();
    for case in cases {
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            if dtype == DType::F32 || case.has_narrow_form() {
                found.check(case, &gpu, dtype, runs);
            }
        }
    }
    let text = format!(
        "\nkernels, {sizes} cases: {} arrays compared with the CPU, at most {:.2} of the limit\n",
        found.arrays, found.worst
    );
    let _ = std::io::stderr().write_all(text.as_bytes());
    assert!(found.failures.is_empty(), "{} failures:\n{}", found.failures.len(), found.failures.join("\n"));
    assert!(found.arrays > 500, "{} arrays", found.arrays);
}

#[test]
fn results_do_not_depend_on_the_batch() {
    do_not_depend_on_the_batch(&cases::small_on_gpu());
}

#[test]
fn deep_results_do_not_depend_on_the_batch_at_medium_sizes() {
    if thorough("batches of medium sizes image by image") {
        do_not_depend_on_the_batch(&cases::medium_on_gpu());
    }
}

fn do_not_depend_on_the_batch(cases: &[Case]) {
    let Some(gpu) = device() else { return };
    let on = On { dev: Device::Cuda(gpu), band: 64 };
    let mut compared = 0;
    for case in cases {
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            if dtype == DType::F32 || case.has_narrow_form() {
                compared += batches::compare(&on, case, &case.data(SEED, dtype));
            }
        }
    }
    assert!(compared > 2 * cases.len(), "{compared} arrays of {} cases compared", cases.len());
}
