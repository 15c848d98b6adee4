//! Launches of `kernels/tokens.cu`.

use super::args::OP;
use crate::device::{ElementType, Gpu, Grid, Kernel, args, kernel, vectors};
use crate::error::Result;
use crate::ops::matmul::Write;
use crate::tensor::{View, ViewMut};
use std::ops::Range;

const EMBED: Kernel = kernel!("tokens", "tokens_embed", [
    x: *T, patches: *T, cls: *f32, positions: *f32, t: u32, c: u32, vectors: u32,
]);
const SUM_IMAGES: Kernel = kernel!("tokens", "tokens_sum_images", [
    sum: *f32, x: *T, b: u32, t: u32, c: u32, from: u32, vectors: u32,
]);
const COPY: Kernel = kernel!("tokens", "tokens_copy", [
    y: *T, x: *T, n: u32, ty: u32, tx: u32, to: u32, from: u32, c: u32, add: u32, vectors: u32,
]);
const ADD_ROW: Kernel = kernel!("tokens", "tokens_add_row", [x: *T, row: *f32, c: u32, vectors: u32]);

const THREADS: usize = 128;

/// A block row per row, one chunk of 16 bytes per thread.
fn grid(rows: usize, c: usize, form: ElementType) -> Grid {
    let chunk = if form == ElementType::F32 { 4 } else { 8 };
    Grid::new(rows, THREADS as u32).by(c.div_ceil(chunk * THREADS), 1)
}

pub fn embed(gpu: &Gpu, x: ViewMut, patches: View, cls: View, positions: View) -> Result<()> {
    let (form, b, t, c) = (x.dtype().form(OP, "x")?, x.dims()[0], x.dims()[1], x.dims()[2]);
    let vectors = vectors(form, c, &[&x, &patches, &cls, &positions]);
    let args = args![x, patches, cls, positions, t, c, vectors];
    // SAFETY: mod.rs has checked all shapes; the grid has one block row per row of x.
    unsafe { gpu.launch(&EMBED, form, grid(b * t, c, form), &args) }
}

pub fn sum_images_acc(gpu: &Gpu, sum: ViewMut, x: View, rows: Range<usize>) -> Result<()> {
    let (form, b, t, c) = (x.dtype().form(OP, "x")?, x.dims()[0], x.dims()[1], x.dims()[2]);
    let vectors = vectors(form, c, &[&x]);
    let args = args![sum, x, b, t, c, from = rows.start, vectors];
    // SAFETY: mod.rs has checked that the rows are rows of x and that `sum` has as many.
    unsafe { gpu.launch(&SUM_IMAGES, form, grid(rows.len(), c, form), &args) }
}

pub fn copy(gpu: &Gpu, y: ViewMut, to: usize, x: View, from: Range<usize>, write: Write) -> Result<()> {
    let (form, b, ty, c) = (y.dtype().form(OP, "y")?, y.dims()[0], y.dims()[1], y.dims()[2]);
    let (n, tx, add) = (from.len(), x.dims()[1], u32::from(write == Write::Add));
    let vectors = vectors(form, c, &[&y, &x]);
    let args = args![y, x, n, ty, tx, to, from = from.start, c, add, vectors];
    // SAFETY: mod.rs has checked that the rows lie within both.
    unsafe { gpu.launch(&COPY, form, grid(b * n, c, form), &args) }
}

pub fn add_row_in_place(gpu: &Gpu, x: ViewMut, row: View) -> Result<()> {
    let (form, rows, c) = (x.dtype().form(OP, "x")?, x.dims()[0], x.dims()[1]);
    let vectors = vectors(form, c, &[&x, &row]);
    // SAFETY: mod.rs has checked that `row` has c elements.
    unsafe { gpu.launch(&ADD_ROW, form, grid(rows, c, form), &args![x, row, c, vectors]) }
}
