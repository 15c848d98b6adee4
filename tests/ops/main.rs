//! The ladder of every op: literals, gradients in f64 against finite differences, agreement with
//! plain code in both precisions, poisoned and guarded outputs, equal bits however often, on however
//! many threads and in however large a batch, and errors that name the argument.
//!
//! On a GPU, emulated or real, the same cases run once more: `tests/device/main.rs`.
//!
//! The cases come from `src/testing/cases.rs`. Every run of one poisons what is overwritten with NaN
//! and checks the memory around each output.

mod bf16;
mod errors;
mod gelu;
mod invariance;
mod ladder;
mod literals;
mod mutation;
mod selection;

use l2p_engine::device::Device;
use l2p_engine::tensor::{DType, Shape, Tensor};

const DEV: Device = Device::Cpu;

fn f64s(values: &[f64], shape: impl Into<Shape>) -> Tensor {
    Tensor::from_f64(values, shape, DType::F64)
}

/// Normal values, f32 numbers in either type.
fn random(seed: u64, shape: impl Into<Shape>, dtype: DType) -> Tensor {
    use l2p_engine::rng::{Rng, Stream};
    let shape = shape.into();
    let mut rng = Rng::new(seed, Stream::Test, 7);
    let values: Vec<f64> = (0..shape.len()).map(|_| f64::from(rng.normal() as f32)).collect();
    Tensor::from_f64(&values, shape, dtype)
}

/// Runs `f` in a pool of `threads` threads.
fn on_threads<R: Send>(threads: usize, f: impl FnOnce() -> R + Send) -> R {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
    pool.install(f)
}
