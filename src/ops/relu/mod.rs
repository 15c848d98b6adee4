//! y = max(x, 0), with dropout: what adapters have between their two products.
//! Source of dropout: Srivastava et al. 2014, "Dropout: a simple way to prevent neural networks from overfitting", scaled in
//! training as PyTorch does.

mod cpu;

use crate::device::{Device, range};
use crate::error::{Error, Result};
use crate::tensor::{View, ViewMut, expect_shape};

const OP: &str = "relu";

fn no_kernel() -> Error {
    Error::failed("relu: has no kernel yet; use --device cpu")
}

/// x = max(x, 0), or max(x, 0) keep: `keep` has 0 for what is dropped, with probability p, and 1 / (1 - p) else.
///
/// # Errors
/// `Error::Shape` naming the argument; `Error::Failed` on a GPU.
pub fn forward_in_place(dev: &Device, x: ViewMut, keep: Option<View>) -> Result<()> {
    if let Some(keep) = &keep {
        expect_shape(OP, "keep", keep.shape(), x.shape())?;
    }
    let _op = range(c"relu");
    match dev {
        Device::Cpu => float!("relu", "x", x.dtype(), T => {
            let keep = keep.map(|keep| keep.get::<T>(OP, "keep")).transpose()?;
            cpu::forward_in_place(x.get::<T>(OP, "x")?, keep);
            Ok(())
        }),
        Device::Cuda(_) => Err(no_kernel()),
    }
}

/// dx = factor dx where y > 0, else 0. y: what [`forward_in_place`] has left; `factor`: 1 / (1 - p).
///
/// # Errors
/// Those of [`forward_in_place`].
pub fn backward_in_place(dev: &Device, dx: ViewMut, y: View, factor: f64) -> Result<()> {
    expect_shape(OP, "dx", dx.shape(), y.shape())?;
    let _op = range(c"relu, backward");
    match dev {
        Device::Cpu => float!("relu", "y", y.dtype(), T => {
            cpu::backward_in_place(dx.get::<T>(OP, "dx")?, y.get::<T>(OP, "y")?, factor);
            Ok(())
        }),
        Device::Cuda(_) => Err(no_kernel()),
    }
}
