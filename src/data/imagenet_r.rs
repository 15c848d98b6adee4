//! ImageNet-R. Source: Hendrycks et al. 2021, <https://github.com/hendrycks/imagenet-r>.
//!
//! As downloaded (`imagenet-r.tar`, or unpacked: a folder per WordNet id) the set has no parts. The official
//! rule is TFDS's `test[:80%]` for training and the rest for testing, in the order that TFDS stores: by the
//! MD5 of `test` and `<wnid>_<file name>`. Source: google-research/l2p @ dd8836e, `input_pipeline.py`, lines
//! 421-424; tensorflow/datasets 4.9, `imagenet_r_dataset_builder.py`. Lists and `train/` and `test/` folders,
//! as other programs make them, are taken as they are. Labels are ranks of the WordNet ids, as in ImageNet.

use std::path::Path;

use super::image_set::DataSet;
use super::listing::{self, ListedImage, Owner};
use super::parts::BySubset;
use super::source::Tree;
use super::{folder, images};
use crate::error::Result;

const NAME: &str = "imagenet_r";

/// The set from `dir` or what is in it.
///
/// # Errors
/// As [`super::load`].
pub fn load(dir: &str) -> Result<DataSet> {
    let dir = folder::open(dir, NAME)?;
    for sub in ["", "imagenet-r", "imagenet_r"] {
        let path = dir.join(sub);
        if !path.is_dir() {
            continue;
        }
        if let Some(data) = images::load_named(&path, NAME, Owner::Published)? {
            return Ok(data);
        }
        if has_wordnet_folders(&path) {
            return official(&Tree::open(&path)?);
        }
    }
    let archive = dir.join("imagenet-r.tar");
    if archive.is_file() {
        return official(&Tree::open(&archive)?.without_common_folder());
    }
    Err(folder::not_found(
        dir,
        NAME,
        &[
            "folders such as n01443537/ or train/ and test/ with such folders, in the folder itself or imagenet-r/".into(),
            "train.txt and test.txt (lines `path label`) in the folder itself or imagenet-r/".into(),
            "imagenet-r.tar".into(),
        ],
    ))
}

fn is_wordnet_id(name: &str) -> bool {
    name.len() == 9 && name.starts_with('n') && name[1..].bytes().all(|b| b.is_ascii_digit())
}

fn has_wordnet_folders(path: &Path) -> bool {
    let is_class = |entry: std::fs::DirEntry| {
        is_wordnet_id(&entry.file_name().to_string_lossy()) && entry.path().is_dir()
    };
    std::fs::read_dir(path).is_ok_and(|entries| entries.flatten().any(is_class))
}

/// The first 80 % in the official order are for training. Both parts are kept in that order.
fn official(tree: &Tree) -> Result<DataSet> {
    let mut keyed: Vec<([u8; 16], ListedImage)> = listing::of_folders(tree, Owner::Published)
        .rows
        .into_iter()
        .filter(|row| is_wordnet_id(&row.label))
        .map(|row| {
            let path = row.source.path();
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            (listing::tfds_order("test", &format!("{}_{file}", row.label)), row)
        })
        .collect();
    keyed.sort_by_key(|(order, _)| *order);
    // TFDS rounds percentages to the nearest example.
    let n = (keyed.len() as f64 * 0.8).round() as usize;
    let mut train: Vec<ListedImage> = keyed.into_iter().map(|(_, row)| row).collect();
    let test = train.split_off(n);
    let parts = BySubset { train, test, val: Vec::new() };
    let mut data = listing::data_set(NAME, parts, None, Path::new(""), Owner::Published)?;
    data.split_here = true;
    data.notes
        .push("the official rule splits imagenet_r: the first 80 % in TFDS order are for training".into());
    data.check()?;
    Ok(data)
}
