//! Data sets, tasks, preprocessing and batches.
//!
//! Raw bytes stay as the files hold them ([`DataSet`]), in memory or, for image files, on the disk;
//! [`scenario`] makes tasks of them, [`preprocess`] turns an image into network input, [`loader`] makes
//! batches.

pub mod added;
mod boxes;
pub mod bundled;
pub mod cache;
mod checks;
pub mod cifar;
mod core50;
mod cub200;
mod domainnet;
pub mod extension;
mod few_shot;
pub mod file_kind;
mod folder;
pub mod idx;
pub mod image_file;
pub mod image_set;
mod imagenet_r;
mod images;
mod joined;
pub mod listing;
pub mod loader;
pub mod mat;
pub mod mix;
mod notmnist;
mod numpy;
pub mod parts;
mod pickle;
pub mod prefetch;
pub mod preprocess;
pub mod published;
pub mod reader;
pub mod scenario;
mod sets;
pub mod source;
pub mod svhn;
pub mod synthetic;
pub mod tar_gz;
pub mod tasks;

pub use image_set::{DataSet, Image, ImageSet, ImageView, PixelArray};
pub use loader::Loader;
pub use parts::Subset;
pub use prefetch::{HostBatch, Prefetch};
pub use preprocess::{Normalize, Preprocess};
pub use reader::Reader;
pub use tasks::{Split, Task};

use crate::config::schema::{Data, DatasetName};
use crate::error::Result;

/// Loads `config.dataset` from `config.dir` and keeps the first `train_per_class` and
/// `test_per_class` images per class in stored order (0: all), and behind them all images of what was added. Image files
/// are all checked, and decoded into the cache where it has room. `seed` only matters for `synthetic`.
///
/// # Errors
/// `Error::Config` when the folder is needed and not set; `Error::File` for a folder without the
/// data set (saying what was looked for and what is there) and for a bad file; `Error::Failed` that names all bad
/// image files where there are several.
pub fn load(config: &Data, seed: u64) -> Result<DataSet> {
    let mut cache = cache::Cache::of(config);
    if config.added_sizes.is_empty() {
        return load_first(config, seed, &mut cache);
    }
    let mut data = match load_first(config, seed, &mut cache) {
        Ok(data) => data,
        // What is gone is named by the tasks that are not tested.
        Err(_) if !config.base_classes.is_empty() => DataSet::default(),
        Err(e) => return Err(e),
    };
    added::extend(&mut data, config, &mut cache)?;
    Ok(data)
}

/// The set that the run began with.
fn load_first(config: &Data, seed: u64, cache: &mut cache::Cache) -> Result<DataSet> {
    let from = sets::Source { config, seed, cache };
    let mut data = (sets::row(config.dataset).read)(from)?;
    if let Some(labels) = tasks::selected(&config.classes.0, &data.class_names)? {
        data.select_classes(&labels)?;
    }
    data.train.keep_per_class(config.train_per_class);
    data.test.keep_per_class(config.test_per_class);
    data.val.keep_per_class(config.test_per_class);
    checks::files(&mut data, config.skip_damaged, cache)?;
    data.notes.append(&mut cache.notes);
    if config.dataset == DatasetName::Images {
        data.check()?;
        let notes = checks::overlap(&data)?;
        data.notes.extend(notes);
    }
    Ok(data)
}
