//! CUB-200-2011. Source: Wah et al. 2011, <https://www.vision.caltech.edu/datasets/cub_200_2011/>.
//!
//! `images.txt` (`id path`), `image_class_labels.txt` (`id class`, from 1), `train_test_split.txt` (`id 1`
//! for training, `id 0` for testing), `classes.txt` (`class name`), pictures below `images/`; or `train/` and
//! `test/` with a folder per class, as other programs make them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::folder::{self, Layout};
use super::image_set::{DataSet, ImageSet, Sample};
use super::images;
use super::source::Source;
use crate::error::{Error, Result};

const NAME: &str = "cub200";
const FILES: [&str; 4] = ["images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt"];
const FOLDERS: [&str; 4] = ["CUB_200_2011", "", "cub", "CUB"];

/// The set from `dir` or its usual sub-folders.
///
/// # Errors
/// As [`super::load`].
pub fn load(dir: &str) -> Result<DataSet> {
    let dir = folder::open(dir, NAME)?;
    let layout = Layout { folders: &FOLDERS, files: &FILES, or_gz: false };
    if let Some(paths) = layout.find(dir) {
        return official(&paths);
    }
    for sub in FOLDERS {
        let path = dir.join(sub);
        if path.is_dir()
            && let Some(data) = images::load_named(&path, NAME, false)?
        {
            return Ok(data);
        }
    }
    let wanted = [layout.describe(), "train/ and test/ with a folder per class".into()];
    Err(folder::not_found(dir, NAME, &wanted))
}

/// The lines `id word` of a file, with their numbers.
fn table(path: &Path) -> Result<Vec<(usize, u32, String)>> {
    let text = folder::read_text(path)?;
    let mut rows = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let parts = line.trim().split_once(' ').and_then(|(id, word)| Some((id.parse().ok()?, word.trim())));
        let Some((id, word)) = parts else {
            let what = format!("line {}: a number and a word were wanted, separated by a blank", i + 1);
            return Err(Error::file(path, what));
        };
        rows.push((i + 1, id, word.to_string()));
    }
    Ok(rows)
}

/// `table` with numbers, by id.
fn numbers(path: &Path) -> Result<HashMap<u32, u32>> {
    let number = |(line, id, word): (usize, u32, String)| {
        let shown: String = word.chars().take(40).collect();
        let what = || format!("line {line}: a number was wanted after the id, found `{shown}`");
        word.parse().map(|number| (id, number)).map_err(|_| Error::file(path, what()))
    };
    table(path)?.into_iter().map(number).collect()
}

fn official(paths: &[PathBuf]) -> Result<DataSet> {
    let (labels, is_train) = (numbers(&paths[1])?, numbers(&paths[2])?);
    let classes = table(&paths[3])?;
    let position: HashMap<u32, u32> =
        classes.iter().enumerate().map(|(i, (_, id, _))| (*id, i as u32)).collect();
    let pictures = paths[0].with_file_name("images");
    let (mut train, mut test) = (Vec::new(), Vec::new());
    for (line, id, file) in table(&paths[0])? {
        let missing = |path: &Path| Error::file(path, format!("no line for image {id} of {}", FILES[0]));
        let label = labels.get(&id).ok_or_else(|| missing(&paths[1]))?;
        let label = *position.get(label).ok_or_else(|| {
            let what = format!("line {line}: class {label} of image {id} is not in {}", FILES[3]);
            Error::file(&paths[0], what)
        })?;
        let part = is_train.get(&id).ok_or_else(|| missing(&paths[2]))?;
        let sample = Sample { source: Source::File(pictures.join(file)), label, domain: 0 };
        if *part == 1 { train.push(sample) } else { test.push(sample) }
    }
    let names = classes.into_iter().map(|(_, _, name)| name).collect();
    DataSet::new(NAME, ImageSet::of_files(train), ImageSet::of_files(test), names)
}
