//! Data sets, tasks, preprocessing and batches.
//!
//! Raw bytes stay as the files hold them ([`DataSet`]); [`tasks`] splits them by class,
//! [`preprocess`] turns an image into network input, [`loader`] makes batches.

pub mod bundled;
pub mod cifar;
mod folder;
pub mod idx;
pub mod image_file;
pub mod image_set;
pub mod loader;
pub mod mix;
mod pickle;
pub mod prefetch;
pub mod preprocess;
pub mod synthetic;
pub mod tasks;

pub use image_set::{DataSet, ImageSet, ImageView};
pub use loader::{Images, Loader};
pub use prefetch::{Batch, Prefetch};
pub use preprocess::{Normalize, Preprocess};
pub use tasks::{Split, Task};

use crate::config::schema::{Data, DatasetName};
use crate::error::Result;

/// Loads `config.dataset` from `config.dir` and keeps the first `train_per_class` and
/// `test_per_class` images per class in stored order (0: all). `seed` only matters for `synthetic`.
///
/// # Errors
/// `Error::Config` when the folder is needed and not set; `Error::File` for a folder without the
/// data set (saying what was looked for and what is there) and for bad files.
pub fn load(config: &Data, seed: u64) -> Result<DataSet> {
    let mut data = match config.dataset {
        DatasetName::MnistSubset => bundled::load()?,
        DatasetName::Mnist => idx::load_mnist(&config.dir)?,
        DatasetName::FashionMnist => idx::load_fashion_mnist(&config.dir)?,
        DatasetName::Cifar10 => cifar::load(&config.dir, &cifar::CIFAR10)?,
        DatasetName::Cifar100 => cifar::load(&config.dir, &cifar::CIFAR100)?,
        DatasetName::Synthetic => synthetic::load(seed),
    };
    data.train.keep_per_class(config.train_per_class);
    data.test.keep_per_class(config.test_per_class);
    Ok(data)
}
