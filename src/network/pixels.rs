//! Where the images of a call come from, and how they become patch rows.

use super::setup::Setup;
use crate::device::Device;
use crate::error::Result;
use crate::nn::vit::{CHANNELS, Embedded};
use crate::ops::patches;
use crate::ops::preprocess::Resident;
use crate::tensor::input::Input;
use crate::tensor::plan::Plan;
use crate::tensor::{DType, Tensor, View};
use std::ops::Range;

/// The images of a call.
#[derive(Debug, Clone, Copy)]
pub enum Pixels<'a> {
    /// Network input that the host has prepared: (B, S, S, 3).
    Ready(View<'a>),
    /// Images that lie on the device as their files hold them.
    Resident {
        set: &'a Resident,
        indices: &'a [u32],
        /// Training images: place i draws box and flip of number first + i. `None`: test images.
        first: Option<u64>,
    },
}

impl<'a> From<View<'a>> for Pixels<'a> {
    fn from(images: View<'a>) -> Pixels<'a> {
        Pixels::Ready(images)
    }
}

impl Pixels<'_> {
    /// B
    pub fn batch(&self) -> usize {
        match self {
            Pixels::Ready(images) => images.dims()[0],
            Pixels::Resident { indices, .. } => indices.len(),
        }
    }

    /// Some of the images, as they are among the others.
    pub fn part(self, rows: Range<usize>) -> Self {
        match self {
            Pixels::Ready(images) => Pixels::Ready(images.rows(rows)),
            Pixels::Resident { set, indices, first } => {
                let first = first.map(|first| first + rows.start as u64);
                Pixels::Resident { set, indices: &indices[rows], first }
            }
        }
    }
}

/// Where images, or their numbers, reach the device.
#[derive(Debug)]
pub struct PixelInputs {
    images: Input,
    indices: Input,
    first: Input,
}

impl PixelInputs {
    pub fn new(plan: &mut Plan, setup: &Setup) -> PixelInputs {
        let (b, side) = (setup.max_batch, setup.dims.image_size);
        PixelInputs {
            images: Input::streamed(plan, "images", [b, side, side, CHANNELS], setup.dtype.accum_dtype()),
            indices: Input::new(plan, "image numbers", [b], DType::U32),
            first: Input::new(plan, "first random number", [2], DType::U32),
        }
    }

    /// Overwrites the patch rows of `embedded`. On a GPU the work is queued.
    pub fn load(
        &mut self,
        dev: &Device,
        embedded: &mut Embedded,
        setup: &Setup,
        pixels: Pixels,
    ) -> Result<()> {
        let rows = embedded.rows_of(pixels.batch(), &setup.dims);
        let patch_size = setup.dims.patch_size;
        match pixels {
            Pixels::Ready(images) => {
                self.images.load(dev, images)?;
                patches::forward(dev, rows, self.images.view(dev, images), patch_size)
            }
            Pixels::Resident { set, indices, first } => {
                let indices = Tensor::from_vec(indices.to_vec(), [indices.len()]);
                self.indices.load(dev, indices.view())?;
                let halves = first.map(|f| Tensor::from_vec(vec![f as u32, (f >> 32) as u32], [2]));
                let mut number = None;
                if let Some(halves) = &halves {
                    self.first.load(dev, halves.view())?;
                    number = Some(self.first.view(dev, halves.view()));
                }
                set.rows(dev, rows, self.indices.view(dev, indices.view()), number, patch_size)
            }
        }
    }
}
