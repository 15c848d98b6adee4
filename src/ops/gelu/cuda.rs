//! Launches of `kernels/gelu.cu`.

use super::args::GeluForm;
use crate::device::{Gpu, Grid, Kernel, args, kernel, vectors};
use crate::error::Result;
use crate::tensor::{View, ViewMut};

const FORWARD: Kernel = kernel!("gelu", "gelu_forward", [y: *T, x: *T, n: u64, gelu: u32, vectors: u32]);
const BACKWARD: Kernel = kernel!("gelu", "gelu_backward", [d: *T, x: *T, n: u64, gelu: u32, vectors: u32]);

/// One chunk of 16 bytes per thread.
const THREADS: usize = 256;

/// As `kernels/include/gelu.cuh` counts them.
pub fn code(form: GeluForm) -> u32 {
    match form {
        GeluForm::Tanh => 1,
        GeluForm::Erf => 2,
    }
}

fn grid(n: usize, bytes: usize) -> Grid {
    Grid::new((n * bytes).div_ceil(16 * THREADS), THREADS as u32)
}

pub fn forward(gpu: &Gpu, y: ViewMut, x: View, gelu: GeluForm) -> Result<()> {
    let (form, n) = (y.dtype().form("gelu", "y")?, y.len());
    let vectors = vectors(form, n, &[&y, &x]);
    let args = args![y, x, n = n as u64, gelu = code(gelu), vectors];
    // SAFETY: the kernel touches the first n elements of both; mod.rs has checked that x has as many.
    unsafe { gpu.launch(&FORWARD, form, grid(n, x.dtype().size_bytes()), &args) }
}

pub fn backward_in_place(gpu: &Gpu, d: ViewMut, x: View, gelu: GeluForm) -> Result<()> {
    let (form, n) = (d.dtype().form("gelu", "d")?, d.len());
    let vectors = vectors(form, n, &[&d, &x]);
    let args = args![d, x, n = n as u64, gelu = code(gelu), vectors];
    // SAFETY: as in `forward`.
    unsafe { gpu.launch(&BACKWARD, form, grid(n, x.dtype().size_bytes()), &args) }
}
