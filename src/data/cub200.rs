//! CUB-200-2011. Source: Wah et al. 2011, <https://www.vision.caltech.edu/datasets/cub_200_2011/>.
//!
//! `images.txt` (`id path`), `image_class_labels.txt` (`id class`, from 1), `train_test_split.txt` (`id 1`
//! for training, `id 0` for testing), `classes.txt` (`class name`), pictures below `images/`; or `train/` and
//! `test/` with a folder per class, as other programs make them. Unpacked, or in `CUB_200_2011.tgz`.

use std::collections::HashMap;

use super::cache::Cache;
use super::folder::{self, FolderLayout};
use super::image_set::{DataSet, ImageSet, Sample};
use super::images;
use super::listing::Owner;
use super::source::{self, FileSource};
use super::tar_gz;
use crate::error::{Error, Result};

const NAME: &str = "cub200";
const FILES: [&str; 4] = ["images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt"];
const ARCHIVE: &str = "CUB_200_2011";
const FOLDERS: [&str; 4] = ["CUB_200_2011", "", "cub", "CUB"];

/// The set from `dir` or its usual sub-folders, else from the archive there.
///
/// # Errors
/// As [`super::load`].
pub fn load(dir: &str, cache: &mut Cache) -> Result<DataSet> {
    let dir = folder::open(dir, NAME)?;
    let layout = FolderLayout { folders: &FOLDERS, files: &FILES, or_gz: false };
    if let Some(paths) = layout.find(dir) {
        let pictures = paths[0].with_file_name("images");
        let files: Vec<FileSource> = paths.into_iter().map(FileSource::File).collect();
        return official(&files, |file| Some(FileSource::File(pictures.join(file))));
    }
    for sub in FOLDERS {
        let path = dir.join(sub);
        if path.is_dir()
            && let Some(data) = images::load_named(&path, NAME, Owner::Published)?
        {
            return Ok(data);
        }
    }
    if let Some(path) = FOLDERS.iter().find_map(|sub| tar_gz::find(&dir.join(sub), ARCHIVE)) {
        let tree = tar_gz::open(&path, cache)?.below(&format!("{ARCHIVE}/"));
        let file = |name: &str| {
            let what = || format!("the archive has no {ARCHIVE}/{name}");
            tree.get(name).cloned().ok_or_else(|| Error::file(&path, what()))
        };
        let files = FILES.iter().map(|name| file(name)).collect::<Result<Vec<FileSource>>>()?;
        return official(&files, |file| tree.get(&format!("images/{file}")).cloned());
    }
    let wanted = [
        layout.describe(),
        format!("{ARCHIVE}.tgz (or .tar.gz)"),
        "train/ and test/ with a folder per class".into(),
    ];
    Err(folder::not_found(dir, NAME, &wanted))
}

/// The lines `id word` of a file, with their numbers.
fn table(source: &FileSource) -> Result<Vec<(usize, u32, String)>> {
    let path = source.path();
    let text = folder::text(source.read()?, &path)?;
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
fn numbers(source: &FileSource) -> Result<HashMap<u32, u32>> {
    let number = |(line, id, word): (usize, u32, String)| {
        let shown: String = word.chars().take(40).collect();
        let what = || format!("line {line}: a number was wanted after the id, found `{shown}`");
        word.parse().map(|number| (id, number)).map_err(|_| Error::file(source.path(), what()))
    };
    table(source)?.into_iter().map(number).collect()
}

/// `files`: those of [`FILES`]; `picture`: that of a path in `images/`, where it is there.
fn official(files: &[FileSource], picture: impl Fn(&str) -> Option<FileSource>) -> Result<DataSet> {
    let (labels, is_train) = (numbers(&files[1])?, numbers(&files[2])?);
    let classes = table(&files[3])?;
    let position: HashMap<u32, u32> =
        classes.iter().enumerate().map(|(i, (_, id, _))| (*id, i as u32)).collect();
    let (mut train, mut test) = (Vec::new(), Vec::new());
    for (line, id, file) in table(&files[0])? {
        let missing =
            |list: &FileSource| Error::file(list.path(), format!("no line for image {id} of {}", FILES[0]));
        let label = labels.get(&id).ok_or_else(|| missing(&files[1]))?;
        let label = *position.get(label).ok_or_else(|| {
            let what = format!("line {line}: class {label} of image {id} is not in {}", FILES[3]);
            Error::file(files[0].path(), what)
        })?;
        let part = is_train.get(&id).ok_or_else(|| missing(&files[2]))?;
        let source = picture(&file).ok_or_else(|| {
            let what = format!("line {line}: the archive has no images/{}", source::shown(&file));
            Error::file(files[0].path(), what)
        })?;
        let sample = Sample { source, label, domain: 0 };
        if *part == 1 { train.push(sample) } else { test.push(sample) }
    }
    let names = classes.into_iter().map(|(_, _, name)| name).collect();
    DataSet::new(NAME, ImageSet::of_files(train), ImageSet::of_files(test), names)
}
