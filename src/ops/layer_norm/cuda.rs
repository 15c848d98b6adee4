//! Launches of `kernels/layer_norm.cu`.

use super::args::OP;
use crate::device::{ElementType, Gpu, Grid, Kernel, args, kernel, vectors};
use crate::error::Result;
use crate::tensor::{View, ViewMut};

const FORWARD: Kernel = kernel!("layer_norm", "layer_norm_forward", [
    y: *T, stats: *f32, x: *T, scale: *f32, bias: *f32, rows: u32, c: u32, eps: f32, vectors: u32,
]);
const AGAIN: Kernel = kernel!("layer_norm", "layer_norm_again", [
    y: *T, x: *T, stats: *f32, scale: *f32, bias: *f32, rows: u32, c: u32, vectors: u32,
]);
const BACKWARD_INPUT: Kernel = kernel!("layer_norm", "layer_norm_backward_input", [
    dx: *T, dy: *T, x: *T, stats: *f32, scale: *f32, rows: u32, c: u32, vectors: u32,
]);
const BACKWARD_PARAMS: Kernel = kernel!("layer_norm", "layer_norm_backward_params", [
    partial: *f32, dy: *T, x: *T, stats: *f32, rows: u32, c: u32,
]);
const ADD_PARAMS: Kernel = kernel!("layer_norm", "layer_norm_add_params", [
    dscale: *f32, dbias: *f32, partial: *f32, groups: u32, c: u32,
]);

/// Rows per block: one warp each.
const WARPS: usize = 8;
const THREADS: usize = 32 * WARPS;
/// Rows per partial sum of the parameters' gradients.
const GROUP: usize = 64;

fn grid(rows: usize) -> Grid {
    Grid::new(rows.div_ceil(WARPS), THREADS as u32)
}

pub fn forward(
    gpu: &Gpu,
    y: ViewMut,
    stats: ViewMut,
    x: View,
    (scale, bias): (View, View),
    eps: f64,
) -> Result<()> {
    let (form, rows, c) = (y.dtype().form(OP, "y")?, x.dims()[0], x.dims()[1]);
    let vectors = vectors(form, c, &[&y, &x, &scale, &bias]);
    let args = args![y, stats, x, scale, bias, rows, c, eps = eps as f32, vectors];
    // SAFETY: mod.rs has checked all shapes; the kernel touches rows x c, 2 x rows and c elements.
    unsafe { gpu.launch(&FORWARD, form, grid(rows), &args) }
}

pub fn recompute(gpu: &Gpu, y: ViewMut, x: View, stats: View, (scale, bias): (View, View)) -> Result<()> {
    let (form, rows, c) = (y.dtype().form(OP, "y")?, x.dims()[0], x.dims()[1]);
    let vectors = vectors(form, c, &[&y, &x, &scale, &bias]);
    // SAFETY: as in `forward`.
    unsafe { gpu.launch(&AGAIN, form, grid(rows), &args![y, x, stats, scale, bias, rows, c, vectors]) }
}

pub fn backward_input_acc(gpu: &Gpu, dx: ViewMut, dy: View, x: View, stats: View, scale: View) -> Result<()> {
    let (form, rows, c) = (dx.dtype().form(OP, "dx")?, x.dims()[0], x.dims()[1]);
    let vectors = vectors(form, c, &[&dx, &dy, &x, &scale]);
    // SAFETY: as in `forward`.
    unsafe {
        gpu.launch(&BACKWARD_INPUT, form, grid(rows), &args![dx, dy, x, stats, scale, rows, c, vectors])
    }
}

pub fn backward_params_acc(
    gpu: &Gpu,
    dscale: ViewMut,
    dbias: ViewMut,
    dy: View,
    x: View,
    stats: View,
) -> Result<()> {
    let (form, rows, c) = (x.dtype().form(OP, "x")?, x.dims()[0], x.dims()[1]);
    let (groups, columns) = (rows.div_ceil(GROUP), c.div_ceil(THREADS));
    let partial = gpu.scratch(groups * 2 * c)?;
    let grid = Grid::new(groups, THREADS as u32).by(columns, 1);
    // SAFETY: mod.rs has checked all shapes; the scratch memory holds two rows per group.
    unsafe { gpu.launch(&BACKWARD_PARAMS, form, grid, &args![partial, dy, x, stats, rows, c])? };
    let grid = Grid::new(columns, THREADS as u32);
    // SAFETY: as above; dscale and dbias have c elements.
    unsafe { gpu.launch(&ADD_PARAMS, ElementType::F32, grid, &args![dscale, dbias, partial, groups, c]) }
}
