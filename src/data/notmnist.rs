//! notMNIST: letters A to J in many fonts, 28x28 grey. Source: Bulatov 2011,
//! <http://yaroslavvb.blogspot.com/2011/09/notmnist-dataset.html>.
//!
//! `notMNIST/Train` and `notMNIST/Test` with folders A to J, as l2p-pytorch downloads it (also in
//! `notMNIST.zip`), or the original `notMNIST_small/A` to `J` or, without it, `notMNIST_large`, also in their
//! `.tar.gz`, of which 80 % are for training. The original has a few damaged files: they are left out and named.

use std::path::Path;

use rayon::prelude::*;

use super::cache::Cache;
use super::image_set::{DataSet, ImageSet, PixelArray};
use super::listing::{self, ListedImage, Owner};
use super::source::Tree;
use super::{folder, image_file, tar_gz};
use crate::error::{Error, Result};

const NAME: &str = "notmnist";
const SIDE: usize = 28;
const LETTERS: [&str; 10] = ["A", "B", "C", "D", "E", "F", "G", "H", "I", "J"];
/// Damaged files beyond this share are a damaged download.
const DAMAGED_SHARE_MAX: f64 = 0.01;
const NAMED: usize = 5;

/// The original's folders; archives of the same name.
const WHOLE: [&str; 2] = ["notMNIST_small", "notMNIST_large"];

/// The set from `dir` or its usual sub-folders, else from an archive there.
///
/// # Errors
/// As [`super::load`]; more damaged files than 1 % and one.
pub fn load(dir: &str, cache: &mut Cache) -> Result<DataSet> {
    let dir = folder::open(dir, NAME)?;
    let parts = ["notMNIST", ""].map(|sub| dir.join(sub)).into_iter();
    let whole = [WHOLE[0], "", WHOLE[1]].map(|sub| dir.join(sub)).into_iter();
    let zip = dir.join("notMNIST.zip");
    if let Some(path) =
        parts.into_iter().find(|path| path.join("Train").is_dir() && path.join("Test").is_dir())
    {
        return of_parts(&Tree::open_parts(&path, &["Train", "Test"])?);
    }
    if let Some(path) = whole.into_iter().find(|path| LETTERS.iter().all(|letter| path.join(letter).is_dir()))
    {
        return of_whole(&Tree::open_parts(&path, &LETTERS)?, &path);
    }
    if zip.is_file() {
        return of_parts(&Tree::open(&zip)?.without_common_folder());
    }
    if let Some(path) = WHOLE.iter().find_map(|name| tar_gz::find(dir, name)) {
        let tree = tar_gz::open(&path, cache)?.without_common_folder();
        let top = tree.folders();
        if let Some(letter) = LETTERS.iter().find(|letter| !top.contains(letter)) {
            return Err(Error::file(
                path,
                format!("folders A to J were wanted, the archive has no {letter}/"),
            ));
        }
        return of_whole(&tree, &path);
    }
    let wanted = [
        "Train/ and Test/ with folders A to J, in the folder itself or notMNIST/".into(),
        "folders A to J in the folder itself, notMNIST_small/ or notMNIST_large/".into(),
        "notMNIST.zip, notMNIST_small.tar.gz or notMNIST_large.tar.gz (or .tgz)".into(),
    ];
    Err(folder::not_found(dir, NAME, &wanted))
}

fn of_parts(tree: &Tree) -> Result<DataSet> {
    of_rows(rows(&tree.below("Train/")), rows(&tree.below("Test/")))
}

/// Folders A to J without parts.
fn of_whole(tree: &Tree, path: &Path) -> Result<DataSet> {
    let parts = listing::split_each_class(rows(tree));
    let mut data = of_rows(parts.train, parts.test)?;
    data.notes.push(format!(
        "{} has no training and test part: of each class 80 % are for training, chosen by a hash of their paths",
        path.display()
    ));
    Ok(data)
}

fn rows(tree: &Tree) -> Vec<ListedImage> {
    let found = listing::of_folders(tree, Owner::Published);
    found.rows.into_iter().filter(|row| LETTERS.contains(&row.label.as_str())).collect()
}

fn of_rows(train: Vec<ListedImage>, test: Vec<ListedImage>) -> Result<DataSet> {
    let ((train, note), (test, other)) = (decode(&train)?, decode(&test)?);
    let mut data = DataSet::new(NAME, train, test, LETTERS.map(String::from).to_vec())?;
    data.notes = note.into_iter().chain(other).collect();
    Ok(data)
}

/// All images in memory, and a sentence about those that are none.
fn decode(rows: &[ListedImage]) -> Result<(ImageSet, Option<String>)> {
    let read = |row: &ListedImage| -> Result<Vec<u8>> {
        let path = row.source.path();
        let (pixels, height, width) = image_file::decode_grey(&row.source.read()?, &path)?;
        match (height, width) {
            (SIDE, SIDE) => Ok(pixels),
            _ => Err(Error::file(path, format!("{SIDE}x{SIDE} pixels were wanted, found {width}x{height}"))),
        }
    };
    let decoded: Vec<Result<Vec<u8>>> = rows.par_iter().map(read).collect();
    let (mut bytes, mut labels, mut damaged) = (Vec::new(), Vec::new(), Vec::new());
    for (row, result) in rows.iter().zip(decoded) {
        match result {
            Ok(pixels) => {
                bytes.extend(pixels);
                labels.extend(LETTERS.iter().position(|letter| *letter == row.label).map(|i| i as u32));
            }
            Err(error) => damaged.push((row.source.path(), error)),
        }
    }
    if damaged.len() > 1 + (rows.len() as f64 * DAMAGED_SHARE_MAX) as usize {
        let (path, error) = damaged.swap_remove(0);
        let folder = path.parent().unwrap_or(Path::new(""));
        let what = format!("{} of {} images are damaged, the first: {error}", damaged.len() + 1, rows.len());
        return Err(Error::file(folder, what));
    }
    let note = (!damaged.is_empty()).then(|| {
        let named: Vec<String> =
            damaged.iter().take(NAMED).map(|(path, _)| path.display().to_string()).collect();
        let more = if damaged.len() > NAMED { " and others" } else { "" };
        format!("{} damaged images are left out: {}{more}", damaged.len(), named.join(", "))
    });
    let pixels = PixelArray { height: SIDE, width: SIDE, channels: 1, bytes };
    Ok((ImageSet::in_memory(pixels, labels), note))
}
