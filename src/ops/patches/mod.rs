//! Images to rows of pixels: patch (i, j) of an image becomes the row [u, v, channel] that the patch
//! embedding multiplies. Source: Dosovitskiy et al. 2021, arXiv:2010.11929, equation 1.

pub(crate) mod cpu;
mod cuda;

use crate::device::{Device, range};
use crate::error::{Error, Result};
use crate::tensor::{View, ViewMut, expect_shape};

/// Overwrites `rows` (B·N, P·P·3) from `images` (B, S, S, 3), N = (S/P)². Nothing flows back: images
/// are data.
pub fn forward(dev: &Device, rows: ViewMut, images: View, patch_size: usize) -> Result<()> {
    let (b, side, channels) = (images.dims()[0], images.dims()[1], images.dims()[3]);
    if patch_size == 0 || !side.is_multiple_of(patch_size) || images.dims()[2] != side {
        return Err(Error::Shape {
            op: "patches",
            arg: "images",
            wanted: format!("square with a side divisible by {patch_size}"),
            got: format!("{:?}", images.shape()),
        });
    }
    let grid = side / patch_size;
    let wanted = [b * grid * grid, patch_size * patch_size * channels];
    expect_shape("patches", "rows", rows.shape(), wanted)?;
    let _op = range(c"patches");
    match dev {
        Device::Cpu => float!("patches", "rows", rows.dtype(), T => {
            let images = images.get::<T>("patches", "images")?;
            cpu::forward(rows.get::<T>("patches", "rows")?, images, side, patch_size, channels);
            Ok(())
        }),
        Device::Cuda(gpu) => cuda::forward(gpu, rows, images, patch_size),
    }
}
