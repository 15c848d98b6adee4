//! One vector per image from some of its tokens: their mean (what the head reads), their maximum, or
//! maximum + 2 mean (query features of the official code, `models/prompt.py`).

mod args;
mod cpu;
mod cuda;

pub use args::Pooling;

use crate::device::{Device, range};
use crate::error::{Error, Result};
use crate::tensor::{View, ViewMut, expect_shape};
use args::OP;
use std::ops::Range;

fn check(x: &[usize], pooled: View, rows: &Range<usize>) -> Result<()> {
    if rows.start >= rows.end || rows.end > x[1] {
        let wanted = format!("rows {rows:?}");
        return Err(Error::Shape { op: OP, arg: "x", wanted, got: format!("{} rows", x[1]) });
    }
    expect_shape(OP, "pooled", pooled.shape(), [x[0], x[2]])
}

/// Overwrites `y` (B, C) from the rows `rows` of `x` (B, T, C).
pub fn forward(dev: &Device, y: ViewMut, x: View, rows: Range<usize>, kind: Pooling) -> Result<()> {
    check(x.dims(), y.as_view(), &rows)?;
    let (t, c) = (x.dims()[1], x.dims()[2]);
    let _op = range(c"pool tokens");
    match dev {
        Device::Cpu => float!("pool_tokens", "y", y.dtype(), T => {
            cpu::forward(y.get::<T>(OP, "y")?, x.get::<T>(OP, "x")?, t, c, rows, kind);
            Ok(())
        }),
        Device::Cuda(gpu) => cuda::forward(gpu, y, x, rows, kind),
    }
}

/// Overwrites `dx` (B, T, C), zero outside `rows`. dy: (B, C). The gradient of a maximum is shared
/// equally by the rows that attain it.
pub fn backward(
    dev: &Device,
    dx: ViewMut,
    dy: View,
    x: View,
    rows: Range<usize>,
    kind: Pooling,
) -> Result<()> {
    check(x.dims(), dy, &rows)?;
    expect_shape(OP, "dx", dx.shape(), x.shape())?;
    let (t, c) = (x.dims()[1], x.dims()[2]);
    let _op = range(c"pool tokens, backward");
    match dev {
        Device::Cpu => float!("pool_tokens", "dx", dx.dtype(), T => {
            let (dy, x) = (dy.get::<T>(OP, "dy")?, x.get::<T>(OP, "x")?);
            cpu::backward(dx.get::<T>(OP, "dx")?, dy, x, t, c, rows, kind);
            Ok(())
        }),
        Device::Cuda(gpu) => cuda::backward(gpu, dx, dy, x, rows, kind),
    }
}
