//! Launches of `kernels/row_norm.cu`.

use super::args::Normalization;
use crate::device::{self, Gpu, Grid, Kernel, args, kernel};
use crate::error::Result;
use crate::tensor::{View, ViewMut};

const FORWARD: Kernel =
    kernel!("row_norm", "row_norm_forward", [y: *f32, x: *f32, rows: u32, c: u32, how: u32]);
const BACKWARD: Kernel =
    kernel!("row_norm", "row_norm_backward", [dx: *f32, dy: *f32, x: *f32, rows: u32, c: u32, how: u32]);
const COLUMNS: Kernel = kernel!("row_norm", "row_norm_columns", [x: *f32, rows: u32, c: u32]);

/// Rows per block: one warp each.
const WARPS: usize = 8;

fn grid(rows: usize) -> Grid {
    Grid::new(rows.div_ceil(WARPS), 32 * WARPS as u32)
}

fn code(form: Normalization) -> u32 {
    match form {
        Normalization::Rsqrt => 0,
        Normalization::Plus => 1,
    }
}

pub fn forward(gpu: &Gpu, y: ViewMut, x: View, form: Normalization) -> Result<()> {
    let (rows, c) = (x.dims()[0], x.dims()[1]);
    // SAFETY: mod.rs has checked that both have rows x c elements.
    unsafe {
        gpu.launch(&FORWARD, device::ElementType::F32, grid(rows), &args![y, x, rows, c, how = code(form)])
    }
}

pub fn columns_in_place(gpu: &Gpu, x: ViewMut) -> Result<()> {
    let (rows, c) = (x.dims()[0], x.dims()[1]);
    let grid = Grid::new(c.div_ceil(32), 32 * WARPS as u32);
    // SAFETY: the kernel reads and writes rows x c elements.
    unsafe { gpu.launch(&COLUMNS, device::ElementType::F32, grid, &args![x, rows, c]) }
}

pub fn backward_acc(gpu: &Gpu, dx: ViewMut, dy: View, x: View, form: Normalization) -> Result<()> {
    let (rows, c) = (x.dims()[0], x.dims()[1]);
    let args = args![dx, dy, x, rows, c, how = code(form)];
    // SAFETY: as in `forward`.
    unsafe { gpu.launch(&BACKWARD, device::ElementType::F32, grid(rows), &args) }
}
