//! Images as the files hold them to rows of patches, where the images lie on the device: what
//! [`crate::data::Preprocess`] and [`super::patches`] do one after the other, with the same bits.

mod args;
mod cpu;
mod cuda;

use crate::data::{Normalize, PixelArray, Preprocess};
pub use args::ImageTransform;

use crate::device::{Device, range};
use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor, View, ViewMut, expect_shape, plan as memory};
use args::OP;

/// Images as the files hold them, in the memory of a device, and how the network sees them.
#[derive(Debug)]
pub struct Resident {
    /// (images, height, width, 1 or 3) u8
    pixels: Tensor,
    table: Tensor,
    preprocess: Preprocess,
    seed: u64,
}

impl Resident {
    /// Copies a set to the device of `plan`. `seed`: of the random numbers for training images.
    ///
    /// # Errors
    /// `Error::Failed` if the device has too little memory.
    pub fn new(
        plan: &mut memory::Plan,
        name: &str,
        images: &PixelArray,
        preprocess: &Preprocess,
        seed: u64,
    ) -> Result<Resident> {
        let shape = [images.len(), images.height, images.width, images.channels];
        let mut pixels = plan.tensor(name, shape, DType::U8);
        plan.check()?;
        pixels.view_mut().write(&images.bytes)?;
        let (table, preprocess) = (table(preprocess).to(plan.device())?, preprocess.clone());
        Ok(Resident { pixels, table, preprocess, seed })
    }

    /// Overwrites `rows` with the images `indices`; see [`forward`].
    pub fn rows(
        &self,
        dev: &Device,
        rows: ViewMut,
        indices: View,
        first: Option<View>,
        patch_size: usize,
    ) -> Result<()> {
        let plan = ImageTransform { preprocess: &self.preprocess, patch_size, seed: self.seed };
        forward(dev, rows, self.pixels.view(), indices, first, self.table.view(), plan)
    }
}

/// Mean and deviation of each colour, as [`forward`] reads them.
pub fn table(preprocess: &Preprocess) -> Tensor {
    let Normalize { mean, std } = preprocess.normalize();
    Tensor::from_vec([mean, std].concat(), [6])
}

/// Overwrites `rows` (B·N, P·P·3), N = (S/P)², with the images `indices`.
///
/// # Shapes
/// pixels: (images, height, width, 1 or 3) u8; indices: (B) u32; first: (2) u32, low and high half of a number:
/// place i draws box and flip from stream `Augment`, index first + i. Without it they are test images.
/// table: (6) f32, see [`table`]; the CPU does not look at it.
///
/// # Errors
/// `Error::Shape`, naming the argument. An index that is not an image is an error on the CPU; a GPU skips it.
/// `Error::Failed` on a GPU if [`Preprocess::on_device`] says no.
pub fn forward(
    dev: &Device,
    rows: ViewMut,
    pixels: View,
    indices: View,
    first: Option<View>,
    table: View,
    plan: ImageTransform,
) -> Result<()> {
    let (size, patch) = (plan.preprocess.input_size(), plan.patch_size);
    let refuse = |arg, wanted: String, got: String| Err(Error::Shape { op: OP, arg, wanted, got });
    if patch == 0 || !size.is_multiple_of(patch) {
        return refuse("patch_size", format!("a divisor of {size}"), patch.to_string());
    }
    let &[images, height, width, channels @ (1 | 3)] = pixels.dims() else {
        return refuse("pixels", "(images, height, width, 1 or 3)".into(), format!("{:?}", pixels.shape()));
    };
    let extents = [images, height, width, channels];
    expect_shape(OP, "indices", indices.shape(), [indices.len()])?;
    let wanted = [indices.len() * plan.grid() * plan.grid(), patch * patch * 3];
    expect_shape(OP, "rows", rows.shape(), wanted)?;
    expect_shape(OP, "table", table.shape(), [6])?;
    if let Some(first) = first {
        expect_shape(OP, "first", first.shape(), [2])?;
    }
    let _op = range(c"preprocess");
    match dev {
        Device::Cpu => float!("preprocess", "rows", rows.dtype(), T => {
            let first = first.map(|f| f.get::<u32>(OP, "first")).transpose()?;
            let (pixels, indices) = ((pixels.get::<u8>(OP, "pixels")?, extents), indices.get::<u32>(OP, "indices")?);
            cpu::forward(rows.get::<T>(OP, "rows")?, pixels, indices, first, plan)
        }),
        Device::Cuda(_) if !plan.preprocess.on_device() => Err(Error::failed(
            "preprocess: the kernel does box, flip and normalisation by `data.transforms = \"tensorflow\"` and nothing \
             else; such images are prepared on the host",
        )),
        Device::Cuda(gpu) => cuda::forward(gpu, rows, pixels, indices, first, table, plan),
    }
}
