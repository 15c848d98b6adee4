//! A user's own images: lists, a CSV, or a folder per class.
//!
//! In `dir`, the first of: `train.txt` and `test.txt` (or `val.txt`) with lines `path label [task]`;
//! `train.csv` and `test.csv` (or `val.csv`), or `images.csv` with a column `split`; folders `train/` and
//! `test/` (or `val/`) with a folder per class; a folder per class. `images.txt`, an `images.csv` without
//! `split` and a single folder have no parts: [`listing::split_each_class`] makes them. `dir` may also be a
//! `.csv`, `.txt`, `.zip` or `.tar` file. Beside lists, `classes.txt` may name the classes in order.

use std::path::Path;

use super::folder;
use super::image_set::DataSet;
use super::listing::{self, Row};
use super::source::Tree;
use crate::error::{Error, Result};

/// Names of the part that is not for training; the first that is there.
const TESTS: [&str; 4] = ["test", "val", "validation", "valid"];

/// The set in `dir`.
///
/// # Errors
/// As [`super::load`].
pub fn load(dir: &str) -> Result<DataSet> {
    let path = folder::given(dir, "images")?;
    load_named(path, "images", true)?.ok_or_else(|| {
        folder::not_found(
            path,
            "images",
            &["train.txt and test.txt (lines `path label [task]`), or images.txt".into(),
              "train.csv and test.csv (columns path, label and, if you like, task), or images.csv (also split)".into(),
              "train/ and test/ (or val/) with a folder of .jpg, .jpeg or .png files per class".into(),
              "such folders without train/ and test/".into()],
        )
    })
}

/// The set in `path` in one of the layouts above, or `None`; sets without parts only where `split` says so.
///
/// # Errors
/// `Error::File` for bad lists and folders that cannot be read.
pub fn load_named(path: &Path, name: &str, split: bool) -> Result<Option<DataSet>> {
    if path.is_file() {
        return match path.extension().and_then(|e| e.to_str()) {
            Some("txt" | "csv") if split => one_list(path, name).map(Some),
            Some("zip" | "tar") => of_tree(Tree::open(path)?.without_common_folder(), path, name, split),
            _ => Err(Error::file(path, "a folder or a .csv, .txt, .zip or .tar file was wanted")),
        };
    }
    for ending in ["txt", "csv"] {
        let file = |part: &str| path.join(format!("{part}.{ending}"));
        let test = TESTS.iter().map(|part| file(part)).find(|path| path.is_file());
        if let Some(test) = test.filter(|_| file("train").is_file()) {
            let rows = (rows(&file("train"))?, rows(&test)?);
            let classes = listing::class_names(&path.join("classes.txt"))?;
            return finish(listing::data_set(name, rows, classes, &file("train"))?).map(Some);
        }
        if split && file("train").is_file() {
            let what = format!("there is no test.{ending} or val.{ending} beside it");
            return Err(Error::file(file("train"), what));
        }
        if split && file("images").is_file() {
            return one_list(&file("images"), name).map(Some);
        }
    }
    let test = TESTS.iter().find(|part| path.join(part).is_dir());
    let tree = match test.filter(|_| path.join("train").is_dir()) {
        Some(test) => Tree::open_parts(path, &["train", test])?,
        None if split => Tree::open(path)?,
        None => return Ok(None),
    };
    of_tree(tree, path, name, split)
}

/// A list without a second one: its column `split` says the part, else the parts are made.
fn one_list(path: &Path, name: &str) -> Result<DataSet> {
    let base = path.parent().unwrap_or(Path::new(""));
    let classes = listing::class_names(&base.join("classes.txt"))?;
    let rows = rows_with_split(path)?;
    if rows.iter().all(|(_, split)| split.is_none()) {
        let rows = rows.into_iter().map(|(row, _)| row).collect();
        let mut data = listing::data_set(name, listing::split_each_class(rows), classes, path)?;
        made_here(&mut data, path);
        return finish(data);
    }
    let (mut train, mut test) = (Vec::new(), Vec::new());
    for (row, split) in rows {
        match split.as_deref().map(str::to_ascii_lowercase).as_deref() {
            Some("train") => train.push(row),
            Some(part) if TESTS.contains(&part) => test.push(row),
            _ => {
                let found: String = split.unwrap_or_default().chars().take(60).collect();
                let what =
                    format!("line {}: `train` or `test` was wanted as split, found `{found}`", row.line);
                return Err(Error::file(path, what));
            }
        }
    }
    finish(listing::data_set(name, (train, test), classes, path)?)
}

fn rows(path: &Path) -> Result<Vec<Row>> {
    Ok(rows_with_split(path)?.into_iter().map(|(row, _)| row).collect())
}

fn rows_with_split(path: &Path) -> Result<Vec<(Row, Option<String>)>> {
    let base = path.parent().unwrap_or(Path::new(""));
    let text = folder::read_text(path)?;
    match path.extension().and_then(|e| e.to_str()) {
        Some("csv") => listing::of_csv(text.as_bytes(), base, path),
        _ => Ok(listing::of_list(&text, base, path)?.into_iter().map(|row| (row, None)).collect()),
    }
}

/// A folder per class, with or without `train/` and `test/` above.
fn of_tree(tree: Tree, path: &Path, name: &str, split: bool) -> Result<Option<DataSet>> {
    let top = tree.folders();
    let test = TESTS.iter().find(|part| top.contains(*part)).filter(|_| top.contains(&"train"));
    let (parts, left_out) = match test {
        Some(test) => {
            let part = |part: &str| listing::of_folders(&tree.below(&format!("{part}/")));
            let ((train, a), (test, b)) = (part("train"), part(test));
            let both = a.clone().map_or(b.clone(), |(n, path)| Some((n + b.map_or(0, |b| b.0), path)));
            ((train, test), both)
        }
        None if split && top.contains(&"train") => {
            return Err(Error::file(path.join("train"), "there is no folder test or val beside it"));
        }
        None if split => {
            let (rows, left_out) = listing::of_folders(&tree);
            (listing::split_each_class(rows), left_out)
        }
        None => return Ok(None),
    };
    if parts.0.is_empty() && parts.1.is_empty() {
        return Ok(None);
    }
    let mut data = listing::data_set(name, parts, None, path)?;
    if test.is_none() {
        made_here(&mut data, path);
    }
    if let Some((n, first)) = left_out {
        data.notes
            .push(format!("{n} images that are neither JPEG nor PNG are left out, as {}", first.display()));
    }
    finish(data).map(Some)
}

fn made_here(data: &mut DataSet, path: &Path) {
    data.split_here = true;
    data.notes.push(format!(
        "{} has no training and test part: of each class 80 % are for training, chosen by a hash of their paths",
        path.display()
    ));
}

fn finish(data: DataSet) -> Result<DataSet> {
    data.check()?;
    Ok(data)
}
