//! Launches of `kernels/sum.cu`.

use crate::device::{Form, Gpu, Grid, Kernel, args, kernel};
use crate::error::Result;
use crate::tensor::{View, ViewMut};

const COLUMNS: Kernel = kernel!("sum", "sum_columns", [partial: *f32, x: *T, rows: u32, c: u32]);
const ADD_GROUPS: Kernel = kernel!("sum", "sum_add_groups", [out: *f32, partial: *f32, groups: u32, c: u32]);

/// Rows per partial sum.
const GROUP: usize = 64;
const THREADS: usize = 256;

pub fn columns_acc(gpu: &Gpu, out: ViewMut, x: View) -> Result<()> {
    let (form, rows, c) = (x.dtype().form("sum", "x")?, x.dims()[0], x.dims()[1]);
    let (groups, columns) = (rows.div_ceil(GROUP), c.div_ceil(THREADS));
    let partial = gpu.scratch(groups * c)?;
    let grid = Grid::new(groups, THREADS as u32).by(columns, 1);
    // SAFETY: the scratch memory holds one row per group.
    unsafe { gpu.launch(&COLUMNS, form, grid, &args![partial, x, rows, c])? };
    let grid = Grid::new(columns, THREADS as u32);
    // SAFETY: as above; mod.rs has checked that `out` has c elements.
    unsafe { gpu.launch(&ADD_GROUPS, Form::F32, grid, &args![out, partial, groups, c]) }
}
