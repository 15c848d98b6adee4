//! Rows of unit length, in the two forms of the official code:
//! `Rsqrt`: y = x / √max(Σx², 1e-12) (queries and keys, `models/prompt.py`);
//! `Plus`: y = x / (‖x‖ + 1e-10) (classifier input with `norm_pre_logits`), the latter also for columns, in place
//! (`weight_norm`, `libml/utils.py`).

mod args;
mod cpu;
mod cuda;

pub use args::Normalization;

use crate::device::{Device, range};
use crate::error::Result;
use crate::tensor::{View, ViewMut, expect_shape};
use args::OP;

/// Overwrites y. x, y: (rows, C).
pub fn forward(dev: &Device, y: ViewMut, x: View, form: Normalization) -> Result<()> {
    expect_shape(OP, "y", y.shape(), x.shape())?;
    let c = x.dims()[1];
    let _op = range(c"row norm");
    match dev {
        Device::Cpu => float!("row_norm", "y", y.dtype(), T => {
            cpu::forward(y.get::<T>(OP, "y")?, x.get::<T>(OP, "x")?, c, form);
            Ok(())
        }),
        Device::Cuda(gpu) => cuda::forward(gpu, y, x, form),
    }
}

/// x[:, j] /= ‖x[:, j]‖ + 1e-10 for every column. x: (rows, C).
pub fn columns_in_place(dev: &Device, x: ViewMut) -> Result<()> {
    let shape = x.shape();
    expect_shape(OP, "x", shape, [shape.dims()[0], shape.dims()[1]])?;
    let _op = range(c"row norm");
    match dev {
        Device::Cpu => float!("row_norm", "x", x.dtype(), T => {
            cpu::columns_in_place(x.get::<T>(OP, "x")?, shape.dims()[1]);
            Ok(())
        }),
        Device::Cuda(gpu) => cuda::columns_in_place(gpu, x),
    }
}

/// dx += dL/dx. dx, dy, x: (rows, C).
pub fn backward_acc(dev: &Device, dx: ViewMut, dy: View, x: View, form: Normalization) -> Result<()> {
    expect_shape(OP, "dx", dx.as_view().reshaped([dx.len()]).shape(), [x.len()])?;
    expect_shape(OP, "dy", dy.shape(), x.shape())?;
    let c = x.dims()[1];
    let _op = range(c"row norm, backward");
    match dev {
        Device::Cpu => float!("row_norm", "dx", dx.dtype(), T => {
            let (dy, x) = (dy.get::<T>(OP, "dy")?, x.get::<T>(OP, "x")?);
            cpu::backward_acc(dx.get::<T>(OP, "dx")?, dy, x, c, form);
            Ok(())
        }),
        Device::Cuda(gpu) => cuda::backward_acc(gpu, dx, dy, x, form),
    }
}
