//! The images that are part of the program. Sources: `assets/mnist_subset/README.md`, `assets/letters_subset/README.md`.

use std::path::Path;

use super::idx;
use super::image_set::DataSet;
use crate::error::Result;

const LETTERS: [&str; 10] = ["H", "V", "Σ", "λ", "Д", "Я", "ы", "ば", "む", "モ"];

/// The four IDX files of a folder of `assets`, with their paths.
macro_rules! files {
    ($set:literal) => {
        files!($set, "train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    };
    ($set:literal, $($file:literal),*) => {
        [$((
            include_bytes!(concat!("../../assets/", $set, "/", $file, "-ubyte.gz")).as_slice(),
            concat!("assets/", $set, "/", $file, "-ubyte.gz"),
        )),*]
    };
}

/// MNIST: 400 training and 100 test images per digit, 28x28 grey.
pub fn mnist() -> Result<DataSet> {
    load("mnist_subset", files!("mnist_subset"), idx::digit_names())
}

/// Letters of many fonts: 200 training and 100 test pictures of each, 28x28 grey.
pub fn letters() -> Result<DataSet> {
    load("letters_subset", files!("letters_subset"), LETTERS.map(String::from).to_vec())
}

fn load(name: &str, files: [(&'static [u8], &str); 4], class_names: Vec<String>) -> Result<DataSet> {
    let [train, train_labels, test, test_labels] = files.map(|(bytes, path)| (bytes, Path::new(path)));
    DataSet::new(name, idx::read_pair(train, train_labels)?, idx::read_pair(test, test_labels)?, class_names)
}
