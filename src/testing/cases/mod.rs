//! The one table of cases: what every op reads and writes, at which shapes, and how much work that
//! is. It drives the gradient checks, the determinism, parity and guard tests of `tests/ops/main.rs` and
//! the rows of `benches/ops.rs`.

mod case;
mod data;
mod dense;
mod guarded;
mod learn;
mod rows;

pub use case::{Case, Grad, Out, PassCost, Plain, Role};
pub use data::{ArgType, CaseArg, Data, Fill, On, Scope, StepShapes};
pub use guarded::{Guarded, Slot};

/// Small, odd and ragged shapes of every op: what tests run.
pub fn small() -> Vec<Case> {
    dense::small().into_iter().chain(rows::small()).collect()
}

/// Shapes that several threads share: determinism and batch invariance.
pub fn medium() -> Vec<Case> {
    dense::medium().into_iter().chain(rows::medium()).collect()
}

/// [`small`] and [`medium`] of the ops that have a kernel: what a GPU runs.
pub fn small_on_gpu() -> Vec<Case> {
    small().into_iter().filter(|case| case.has_kernel).collect()
}

pub fn medium_on_gpu() -> Vec<Case> {
    medium().into_iter().filter(|case| case.has_kernel).collect()
}

/// Shapes that take the kernels of a GPU which [`small_on_gpu`] does not take.
pub fn other_kernels() -> Vec<Case> {
    dense::other_kernels()
}

/// Products and attention for the kernels of compute capability 9.0.
pub fn hopper() -> Vec<Case> {
    dense::hopper()
}

/// A product and attention for the same kernels, so large that each of so many multiprocessors has several rounds of work.
pub fn hopper_rounds(multiprocessors: usize) -> [Case; 2] {
    dense::hopper_rounds(multiprocessors)
}

/// Layers wide enough for the products that take two rows of an image together; only the CPU has them.
pub fn wide() -> Vec<Case> {
    dense::wide()
}

/// ViT-B/16 with 40 prompt tokens at a batch of four: what the benchmark times.
pub fn vit_b() -> Vec<Case> {
    dense::vit_b().into_iter().chain(rows::vit_b()).collect()
}

/// The ops of a training step at its own shapes.
pub fn of_step(step: &StepShapes) -> Vec<Case> {
    dense::of_step(step).into_iter().chain(rows::of_step(step)).collect()
}
