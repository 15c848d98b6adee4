//! GELU: y = x Φ(x) (erf form), or its tanh form y = x/2 (1 + tanh(√(2/π) (x + 0.044715 x³))).
//! Source: Hendrycks & Gimpel 2016, arXiv:1606.08415. The official JAX code uses the tanh form, the
//! PyTorch ports the erf form.

mod args;
mod constants;
pub mod cpu;
pub(crate) mod cuda;
pub(crate) mod erf;

pub use args::GeluForm;
pub(crate) use constants::Constants;

use crate::device::{Device, range};
use crate::error::Result;
use crate::tensor::{View, ViewMut, expect_shape};

/// y = gelu(x). Overwrites y. x, y: the same shape.
pub fn forward(dev: &Device, y: ViewMut, x: View, form: GeluForm) -> Result<()> {
    expect_shape("gelu", "y", y.shape(), x.shape())?;
    let _op = range(c"gelu");
    match dev {
        Device::Cpu => float!("gelu", "y", y.dtype(), T => {
            cpu::forward(y.get::<T>("gelu", "y")?, x.get::<T>("gelu", "x")?, form);
            Ok(())
        }),
        Device::Cuda(gpu) => cuda::forward(gpu, y, x, form),
    }
}

/// d := d · gelu'(x). On entry d = dL/dy, on return dL/dx. d, x: the same shape.
pub fn backward_in_place(dev: &Device, d: ViewMut, x: View, form: GeluForm) -> Result<()> {
    expect_shape("gelu", "d", d.shape(), x.shape())?;
    let _op = range(c"gelu, backward");
    match dev {
        Device::Cpu => float!("gelu", "d", d.dtype(), T => {
            cpu::backward_in_place(d.get::<T>("gelu", "d")?, x.get::<T>("gelu", "x")?, form);
            Ok(())
        }),
        Device::Cuda(gpu) => cuda::backward_in_place(gpu, d, x, form),
    }
}
