//! Sequences of tokens: class token, patches and positions into one sequence, and moving ranges of
//! rows between sequences of different lengths.

mod args;
mod cpu;
mod cuda;

use crate::device::{Device, range};
use crate::error::{Error, Result};
use crate::ops::matmul::Write;
use crate::tensor::{View, ViewMut, expect_shape};
use args::OP;
use std::ops::Range;

/// x = [cls; patches] + positions. x: (B, 1+N, C), patches: (B, N, C), cls: (C),
/// positions: (1+N, C). Overwrites x.
pub fn embed(dev: &Device, x: ViewMut, patches: View, cls: View, positions: View) -> Result<()> {
    let (b, t, c) = (x.dims()[0], x.dims()[1], x.dims()[2]);
    expect_shape(OP, "patches", patches.reshaped([patches.len()]).shape(), [b * (t - 1) * c])?;
    expect_shape(OP, "cls", cls.reshaped([cls.len()]).shape(), [c])?;
    expect_shape(OP, "positions", positions.reshaped([positions.len()]).shape(), [t * c])?;
    let _op = range(c"tokens");
    match dev {
        Device::Cpu => float!("tokens", "x", x.dtype(), T => {
            let (cls, positions) = (cls.get::<T>(OP, "cls")?, positions.get::<T>(OP, "positions")?);
            cpu::embed(x.get::<T>(OP, "x")?, patches.get::<T>(OP, "patches")?, cls, positions);
            Ok(())
        }),
        Device::Cuda(gpu) => cuda::embed(gpu, x, patches, cls, positions),
    }
}

/// sum += Σ_b of the rows `rows` of every image. sum: (n, C), x: (B, T, C). The gradient of what
/// `embed` adds to every image: positions with all rows, the class token with row 0.
pub fn sum_images_acc(dev: &Device, sum: ViewMut, x: View, rows: Range<usize>) -> Result<()> {
    let (t, c) = (x.dims()[1], x.dims()[2]);
    expect_shape(OP, "sum", sum.as_view().reshaped([sum.len()]).shape(), [rows.len() * c])?;
    check_rows("x", &rows, t)?;
    let _op = range(c"tokens");
    match dev {
        Device::Cpu => float!("tokens", "sum", sum.dtype(), T => {
            cpu::sum_images_acc(sum.get::<T>(OP, "sum")?, x.get::<T>(OP, "x")?, t, c, rows.start);
            Ok(())
        }),
        Device::Cuda(gpu) => cuda::sum_images_acc(gpu, sum, x, rows),
    }
}

/// Row `to + i` of every image of `y` becomes (or grows by) row `from.start + i` of the same image
/// of `x`. y: (B, Ty, C), x: (B, Tx, C).
pub fn copy(dev: &Device, y: ViewMut, to: usize, x: View, from: Range<usize>, write: Write) -> Result<()> {
    let (b, ty, c) = (y.dims()[0], y.dims()[1], y.dims()[2]);
    let tx = x.dims()[1];
    expect_shape(OP, "x", x.shape(), [b, tx, c])?;
    check_rows("x", &from, tx)?;
    check_rows("y", &(to..to + from.len()), ty)?;
    let _op = range(c"tokens");
    match dev {
        Device::Cpu => float!("tokens", "y", y.dtype(), T => {
            cpu::copy((y.get::<T>(OP, "y")?, ty, to), (x.get::<T>(OP, "x")?, tx, from), c, write);
            Ok(())
        }),
        Device::Cuda(gpu) => cuda::copy(gpu, y, to, x, from, write),
    }
}

/// Adds `row` (C) to every row of `x` (rows, C).
pub fn add_row_in_place(dev: &Device, x: ViewMut, row: View) -> Result<()> {
    expect_shape(OP, "row", row.shape(), [x.dims()[1]])?;
    let _op = range(c"tokens");
    match dev {
        Device::Cpu => float!("tokens", "x", x.dtype(), T => {
            crate::ops::linear::cpu::add_bias(x.get::<T>(OP, "x")?, row.get::<T>(OP, "row")?);
            Ok(())
        }),
        Device::Cuda(gpu) => cuda::add_row_in_place(gpu, x, row),
    }
}

fn check_rows(arg: &'static str, rows: &Range<usize>, of: usize) -> Result<()> {
    if rows.start <= rows.end && rows.end <= of {
        return Ok(());
    }
    Err(Error::Shape { op: OP, arg, wanted: format!("rows {rows:?}"), got: format!("{of} rows") })
}
