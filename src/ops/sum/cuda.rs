//! Launches of `kernels/sum.cu`.

use crate::device::{ElementType, Gpu, Grid, Kernel, args, kernel, vectors};
use crate::error::Result;
use crate::tensor::{View, ViewMut};

const COLUMNS: Kernel = kernel!("sum", "sum_columns", [partial: *f32, x: *T, rows: u32, c: u32]);
const ADD_GROUPS: Kernel = kernel!("sum", "sum_add_groups", [out: *f32, partial: *f32, groups: u32, c: u32]);
const SQUARES: Kernel = kernel!("sum", "sum_squares", [partial: *f32, x: *f32, n: u64, vectors: u32]);
const ADD_SQUARES: Kernel = kernel!("sum", "sum_add_squares", [out: *f32, partial: *f32, pieces: u32]);

/// Rows per partial sum.
const GROUP: usize = 64;
const THREADS: usize = 256;
/// Elements per partial sum of squares.
const PIECE: usize = 16 * THREADS;

pub fn columns_acc(gpu: &Gpu, out: ViewMut, x: View) -> Result<()> {
    let (form, rows, c) = (x.dtype().form("sum", "x")?, x.dims()[0], x.dims()[1]);
    let (groups, columns) = (rows.div_ceil(GROUP), c.div_ceil(THREADS));
    let partial = gpu.scratch(groups * c)?;
    let grid = Grid::new(groups, THREADS as u32).by(columns, 1);
    // SAFETY: the scratch memory holds one row per group.
    unsafe { gpu.launch(&COLUMNS, form, grid, &args![partial, x, rows, c])? };
    let grid = Grid::new(columns, THREADS as u32);
    // SAFETY: as above; mod.rs has checked that `out` has c elements.
    unsafe { gpu.launch(&ADD_GROUPS, ElementType::F32, grid, &args![out, partial, groups, c]) }
}

pub fn squares_acc(gpu: &Gpu, out: ViewMut, x: View) -> Result<()> {
    let n = x.len();
    let pieces = n.div_ceil(PIECE);
    let partial = gpu.scratch(pieces)?;
    let (grid, vectors) = (Grid::new(pieces, THREADS as u32), vectors(ElementType::F32, n, &[&x]));
    // SAFETY: the scratch memory holds a number per block, and a block reads its piece of the n elements.
    unsafe { gpu.launch(&SQUARES, ElementType::F32, grid, &args![partial, x, n = n as u64, vectors])? };
    // SAFETY: as above; mod.rs has checked that `out` has one element.
    unsafe {
        gpu.launch(&ADD_SQUARES, ElementType::F32, Grid::new(1, THREADS as u32), &args![out, partial, pieces])
    }
}
