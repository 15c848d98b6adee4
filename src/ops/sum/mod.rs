//! Sums in a fixed order: columns of a matrix, and the squares of a vector for the global norm.

pub mod cpu;
mod cuda;

use crate::device::{Device, range};
use crate::error::Result;
use crate::tensor::{View, ViewMut, expect_shape};

/// out += Σ_rows x. x: (rows, C), out: (C). The gradient of a bias.
pub fn columns_acc(dev: &Device, out: ViewMut, x: View) -> Result<()> {
    let c = x.dims()[1];
    expect_shape("sum", "out", out.shape(), [c])?;
    let _op = range(c"sum");
    match dev {
        Device::Cpu => float!("sum", "out", out.dtype(), T => {
            cpu::columns_acc(out.get::<T>("sum", "out")?, x.get::<T>("sum", "x")?);
            Ok(())
        }),
        Device::Cuda(gpu) => cuda::columns_acc(gpu, out, x),
    }
}

/// out += Σ x². x: any shape; out: (1), F64 on the CPU, F32 on a GPU.
pub fn squares_acc(dev: &Device, out: ViewMut, x: View) -> Result<()> {
    expect_shape("sum", "out", out.shape(), [1])?;
    let _op = range(c"sum");
    match dev {
        Device::Cpu => float!("sum", "x", x.dtype(), T => {
            out.get::<f64>("sum", "out")?[0] += cpu::squares(x.get::<T>("sum", "x")?);
            Ok(())
        }),
        Device::Cuda(gpu) => cuda::squares_acc(gpu, out, x),
    }
}
