//! Launches of `kernels/pool_tokens.cu`.

use super::args::{OP, Pooling};
use crate::device::{Gpu, Grid, Kernel, args, kernel};
use crate::error::Result;
use crate::tensor::{View, ViewMut};
use std::ops::Range;

const FORWARD: Kernel = kernel!("pool_tokens", "pool_tokens_forward", [
    y: *f32, x: *T, t: u32, c: u32, from: u32, n: u32, kind: u32,
]);
const BACKWARD: Kernel = kernel!("pool_tokens", "pool_tokens_backward", [
    dx: *T, dy: *f32, x: *T, t: u32, c: u32, from: u32, n: u32, kind: u32,
]);

const THREADS: usize = 128;

/// A block row per image, one thread per column.
fn grid(b: usize, c: usize) -> Grid {
    Grid::new(b, THREADS as u32).by(c.div_ceil(THREADS), 1)
}

fn code(kind: Pooling) -> u32 {
    match kind {
        Pooling::Mean => 0,
        Pooling::Max => 1,
        Pooling::MeanMax => 2,
    }
}

pub fn forward(gpu: &Gpu, y: ViewMut, x: View, rows: Range<usize>, kind: Pooling) -> Result<()> {
    let (form, b, t, c) = (x.dtype().form(OP, "x")?, x.dims()[0], x.dims()[1], x.dims()[2]);
    let args = args![y, x, t, c, from = rows.start, n = rows.len(), kind = code(kind)];
    // SAFETY: mod.rs has checked that the rows are rows of x and that y is (b, c).
    unsafe { gpu.launch(&FORWARD, form, grid(b, c), &args) }
}

pub fn backward(gpu: &Gpu, dx: ViewMut, dy: View, x: View, rows: Range<usize>, kind: Pooling) -> Result<()> {
    let (form, b, t, c) = (x.dtype().form(OP, "x")?, x.dims()[0], x.dims()[1], x.dims()[2]);
    let args = args![dx, dy, x, t, c, from = rows.start, n = rows.len(), kind = code(kind)];
    // SAFETY: as in `forward`; dx has the shape of x.
    unsafe { gpu.launch(&BACKWARD, form, grid(b, c), &args) }
}
