//! y += a x and x *= a: sums of gradients, l2 penalties, the temperature of the head.

mod cpu;

use crate::device::Device;
use crate::error::Result;
use crate::tensor::{View, ViewMut, expect_shape};

/// y += a x. x, y: the same number of elements.
pub fn axpy(dev: &Device, y: ViewMut, x: View, a: f64) -> Result<()> {
    expect_shape("axpy", "x", x.reshaped([x.len()]).shape(), [y.len()])?;
    match dev {
        Device::Cpu => float!("axpy", "y", y.dtype(), T => {
            cpu::axpy(y.get::<T>("axpy", "y")?, x.get::<T>("axpy", "x")?, a);
            Ok(())
        }),
    }
}

/// x *= a.
pub fn scale_in_place(dev: &Device, x: ViewMut, a: f64) -> Result<()> {
    match dev {
        Device::Cpu => float!("axpy", "x", x.dtype(), T => {
            cpu::scale_in_place(x.get::<T>("axpy", "x")?, a);
            Ok(())
        }),
    }
}
