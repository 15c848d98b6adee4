//! The 5,000 images of MNIST that are part of the program. Source: `assets/mnist_subset/README.md`.

use std::path::Path;

use super::idx;
use super::image_set::{DataSet, ImageSet};
use crate::error::Result;

macro_rules! asset {
    ($name:literal) => {
        (
            include_bytes!(concat!("../../assets/mnist_subset/", $name)).as_slice(),
            concat!("assets/mnist_subset/", $name),
        )
    };
}

/// 400 training and 100 test images per digit, 28x28 grey.
pub fn load() -> Result<DataSet> {
    let part = |images: (&'static [u8], &str), labels: (&'static [u8], &str)| -> Result<ImageSet> {
        idx::read_pair((images.0, Path::new(images.1)), (labels.0, Path::new(labels.1)))
    };
    let train = part(asset!("train-images-idx3-ubyte.gz"), asset!("train-labels-idx1-ubyte.gz"))?;
    let test = part(asset!("t10k-images-idx3-ubyte.gz"), asset!("t10k-labels-idx1-ubyte.gz"))?;
    DataSet::new("mnist_subset", train, test, idx::digit_names())
}
