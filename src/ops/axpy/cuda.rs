//! Launches of `kernels/axpy.cu`.

use crate::device::{Gpu, Grid, Kernel, args, kernel};
use crate::error::Result;
use crate::tensor::{DType, View, ViewMut};

const AXPY: Kernel = kernel!("axpy", "axpy_axpy", [y: *T, x: *T, n: u64, a: f32]);
const SCALE: Kernel = kernel!("axpy", "axpy_scale", [x: *T, n: u64, a: f32]);
const TO_F32: Kernel = kernel!("axpy", "axpy_to_f32", [y: *f32, x: *T, n: u64]);
const FROM_F32: Kernel = kernel!("axpy", "axpy_from_f32", [y: *T, x: *f32, n: u64]);

/// One thread per element.
const THREADS: u32 = 256;

fn grid(n: usize) -> Grid {
    Grid::new(n.div_ceil(THREADS as usize), THREADS)
}

pub fn axpy(gpu: &Gpu, y: ViewMut, x: View, a: f64) -> Result<()> {
    let (form, n) = (y.dtype().form("axpy", "y")?, y.len());
    // SAFETY: the kernel touches the first n elements of both; mod.rs has checked that x has as many.
    unsafe { gpu.launch(&AXPY, form, grid(n), &args![y, x, n = n as u64, a = a as f32]) }
}

pub fn scale_in_place(gpu: &Gpu, x: ViewMut, a: f64) -> Result<()> {
    let (form, n) = (x.dtype().form("axpy", "x")?, x.len());
    // SAFETY: the kernel touches the first n elements.
    unsafe { gpu.launch(&SCALE, form, grid(n), &args![x, n = n as u64, a = a as f32]) }
}

pub fn cast(gpu: &Gpu, y: ViewMut, x: View) -> Result<()> {
    let n = y.len();
    let (kernel, narrow) = match y.dtype() {
        DType::F32 => (&TO_F32, x.dtype()),
        dtype => (&FROM_F32, dtype),
    };
    let form = narrow.form("cast", "y")?;
    // SAFETY: the kernel touches the first n elements of both; mod.rs has checked that x has as many.
    unsafe { gpu.launch(kernel, form, grid(n), &args![y, x, n = n as u64]) }
}
