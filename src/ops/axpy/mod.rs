//! y += a x and x *= a: sums of gradients, l2 penalties, the temperature of the head; and y = x in another
//! type.

mod cpu;
mod cuda;

use crate::device::{Device, range};
use crate::error::Result;
use crate::tensor::{View, ViewMut, expect_shape};

/// y += a x. x, y: the same number of elements.
pub fn axpy(dev: &Device, y: ViewMut, x: View, a: f64) -> Result<()> {
    expect_shape("axpy", "x", x.reshaped([x.len()]).shape(), [y.len()])?;
    let _op = range(c"axpy");
    match dev {
        Device::Cpu => float!("axpy", "y", y.dtype(), T => {
            cpu::axpy(y.get::<T>("axpy", "y")?, x.get::<T>("axpy", "x")?, a);
            Ok(())
        }),
        Device::Cuda(gpu) => cuda::axpy(gpu, y, x, a),
    }
}

/// x *= a.
pub fn scale_in_place(dev: &Device, x: ViewMut, a: f64) -> Result<()> {
    let _op = range(c"scale");
    match dev {
        Device::Cpu => float!("axpy", "x", x.dtype(), T => {
            cpu::scale_in_place(x.get::<T>("axpy", "x")?, a);
            Ok(())
        }),
        Device::Cuda(gpu) => cuda::scale_in_place(gpu, x, a),
    }
}

/// y = x, rounded to the type of y, to nearest with ties to even. One of the two is F32, or both are of one
/// type.
pub fn cast(dev: &Device, mut y: ViewMut, x: View) -> Result<()> {
    expect_shape("cast", "x", x.reshaped([x.len()]).shape(), [y.len()])?;
    if y.dtype() == x.dtype() {
        return y.copy_from(x);
    }
    let _op = range(c"cast");
    match dev {
        Device::Cpu => cpu::cast(y, x),
        Device::Cuda(gpu) => cuda::cast(gpu, y, x),
    }
}
