//! Launches of `kernels/gather.cu`.

use super::args::OP;
use crate::device::{ElementType, Gpu, Grid, Kernel, args, kernel, vectors};
use crate::error::Result;
use crate::tensor::{DType, View, ViewMut};

const FORWARD: Kernel = kernel!("gather", "gather_forward", [
    tokens: *T, table: *f32, ids: *u32, table_rows: u32, n: u32, length: u32, c: u32, ld: u32, vectors: u32,
]);
const FORWARD_NARROW: Kernel = kernel!("gather", "gather_forward_narrow", [
    tokens: *T, table: *T, ids: *u32, table_rows: u32, n: u32, length: u32, c: u32, ld: u32, vectors: u32,
]);
const BACKWARD: Kernel = kernel!("gather", "gather_backward", [
    dtable: *f32, dtokens: *T, ids: *u32, places: u32, n: u32, length: u32, c: u32, ld: u32, vectors: u32,
]);
const BACKWARD_NARROW: Kernel = kernel!("gather", "gather_backward_narrow", [
    dtable: *T, dtokens: *T, ids: *u32, places: u32, n: u32, length: u32, c: u32, ld: u32, vectors: u32,
]);

/// Threads of a forward block, each with a chunk of 16 bytes.
const THREADS: usize = 128;

fn chunk(form: ElementType) -> usize {
    if form == ElementType::F32 { 4 } else { 8 }
}

pub fn forward(gpu: &Gpu, tokens: ViewMut, at: usize, table: View, ids: View, length: usize) -> Result<()> {
    let (form, t, c) = (tokens.dtype().form(OP, "tokens")?, tokens.dims()[1], tokens.dims()[2]);
    let (table_rows, b, n) = (table.dims()[0], ids.dims()[0], ids.dims()[1]);
    if b * n * length == 0 {
        return Ok(());
    }
    let kernel = if table.dtype() == DType::F32 { &FORWARD } else { &FORWARD_NARROW };
    let left = tokens.len() - at * c;
    let tokens = tokens.part(at * c, [left]);
    let vectors = vectors(form, c, &[&tokens]);
    let grid = Grid::new(b * n * length, THREADS as u32).by(c.div_ceil(chunk(form) * THREADS), 1);
    let args = args![tokens, table, ids, table_rows, n, length, c, ld = t * c, vectors];
    // SAFETY: mod.rs has checked that at + n length rows fit into an image of tokens and that ids is (B, n);
    // the kernel reads no row of the table from `table_rows` on.
    unsafe { gpu.launch(kernel, form, grid, &args) }
}

pub fn backward_acc(
    gpu: &Gpu,
    dtable: ViewMut,
    dtokens: View,
    at: usize,
    ids: View,
    length: usize,
) -> Result<()> {
    let (form, t, c) = (dtokens.dtype().form(OP, "dtokens")?, dtokens.dims()[1], dtokens.dims()[2]);
    let (rows, places, n) = (dtable.dims()[0], ids.len(), ids.dims()[1]);
    if places * length == 0 {
        return Ok(());
    }
    let kernel = if dtable.dtype() == DType::F32 { &BACKWARD } else { &BACKWARD_NARROW };
    let dtokens = dtokens.part(at * c, [dtokens.len() - at * c]);
    let vectors = vectors(form, c, &[&dtokens]);
    let grid = Grid::new(rows, 256).by(c.div_ceil(32 * chunk(form)), 1);
    let args = args![dtable, dtokens, ids, places, n, length, c, ld = t * c, vectors];
    // SAFETY: mod.rs has checked that at + n length rows lie in an image of dtokens and that ids is (B, n);
    // the grid has a block for each row of dtable.
    unsafe { gpu.launch(kernel, form, grid, &args) }
}
