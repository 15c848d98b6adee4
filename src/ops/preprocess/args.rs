//! The arguments of `preprocess`.

use crate::data::Preprocess;

pub(super) const OP: &str = "preprocess";

/// What is done to the images of one call.
#[derive(Debug, Clone, Copy)]
pub struct ImageTransform<'a> {
    pub preprocess: &'a Preprocess,
    /// P; the input size for whole images.
    pub patch_size: usize,
    /// Of the random numbers for training images.
    pub seed: u64,
}

impl ImageTransform<'_> {
    /// Patches per side.
    pub(super) fn grid(&self) -> usize {
        self.preprocess.input_size() / self.patch_size
    }
}
