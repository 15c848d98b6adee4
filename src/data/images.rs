//! A user's own images: lists, a CSV, or a folder per class.
//!
//! In `dir`, the first of: `train.txt` and `test.txt` (or `val.txt`) with lines `path label [task]`;
//! `train.csv` and `test.csv` (or `val.csv`), or `images.csv` with a column `split`; folders `train/` and
//! `test/` (or `val/`) with a folder per class; a folder per class. Parts go by the names of [`Subset::named`].
//! `images.txt`, an `images.csv` without `split` and a single folder have no parts:
//! [`listing::split_each_class`] makes them. `dir` may also be a `.csv`, `.txt`, `.zip` or `.tar` file, or a folder
//! that holds nothing but such a folder. Beside lists, `classes.txt` may name the classes in order.
//!
//! Where a test part is there as well, a validation part is kept apart.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::folder;
use super::image_set::DataSet;
use super::listing::{self, Found, ListedImage, Owner};
use super::parts::{BySubset, Subset};
use super::source::{Tree, name_text};
use crate::error::{Error, Result};

/// Folders that hold one folder each.
const DEPTH_MAX: usize = 8;
const LISTS: [&str; 2] = ["txt", "csv"];
/// Folders that are searched for a whole set.
const TOPS_MAX: usize = 20;

/// The set in `dir`.
///
/// # Errors
/// As [`super::load`].
pub fn load(dir: &str) -> Result<DataSet> {
    let given = folder::given(dir, "images")?;
    let mut path = given.to_path_buf();
    for _ in 0..DEPTH_MAX {
        if let Some(only) = only_folder(&path) {
            path = only;
            continue;
        }
        if let Some(mut data) = load_named(&path, "images", Owner::User)? {
            if path != given {
                data.notes.insert(0, format!("the images are those of {}", path.display()));
            }
            return Ok(data);
        }
        break;
    }
    Err(folder::not_found(
        &path,
        "images",
        &[
            "train.txt and test.txt (lines `path label [task]`), or images.txt".into(),
            "train.csv and test.csv (columns path, label and, if you like, task), or images.csv (also split)"
                .into(),
            "train/ and test/ (or val/) with a folder of images (JPEG, PNG, WebP, BMP, GIF, TIFF) per class"
                .into(),
            "such folders without train/ and test/".into(),
        ],
    ))
}

/// The one folder in `path`, where that holds neither images nor lists and the folder holds folders or lists.
fn only_folder(path: &Path) -> Option<PathBuf> {
    let entries = visible(path)?;
    let is_list = |path: &PathBuf| list_of(path).is_some();
    let mut folders = entries.iter().filter(|path| path.is_dir());
    let (only, None) = (folders.next()?, folders.next()) else { return None };
    if Subset::named(&only.file_name()?.to_string_lossy()).is_some() {
        return None;
    }
    let is_image = |path: &PathBuf| listing::has_image_ending(&path.to_string_lossy());
    let inside = visible(only)?;
    let deeper = inside.iter().any(|path| path.is_dir() || is_list(path)) && !inside.iter().any(is_image);
    (deeper && !entries.iter().any(|path| is_list(path) || is_image(path))).then(|| only.clone())
}

/// What is in a folder, sorted, without hidden files.
fn visible(path: &Path) -> Option<Vec<PathBuf>> {
    let entries = std::fs::read_dir(path).ok()?.flatten();
    let mut paths: Vec<PathBuf> = entries
        .filter(|entry| !entry.file_name().as_bytes().starts_with(b".") && entry.file_name() != "__MACOSX")
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    Some(paths)
}

/// The ending of a list of images, and its part or `None` for `images`.
fn list_of(path: &Path) -> Option<(&'static str, Option<Subset>)> {
    let ending = path.extension()?.to_str()?.to_ascii_lowercase();
    let ending = LISTS.into_iter().find(|known| *known == ending)?;
    let stem = path.file_stem()?.to_str()?;
    match Subset::named(stem) {
        Some(subset) => Some((ending, Some(subset))),
        None => stem.eq_ignore_ascii_case("images").then_some((ending, None)),
    }
}

/// The set in `path` in one of the layouts above, or `None`; for published sets only those with parts.
///
/// # Errors
/// `Error::File` for bad lists and folders that cannot be read.
pub fn load_named(path: &Path, name: &str, owner: Owner) -> Result<Option<DataSet>> {
    let own = owner == Owner::User;
    if path.is_file() {
        let ending = path.extension().and_then(|e| e.to_str()).unwrap_or("").to_ascii_lowercase();
        return match ending.as_str() {
            "txt" | "csv" if own => one_list(path, name).map(Some),
            "zip" | "tar" => Folders { path: path.into(), name, owner }.data_set(&Tree::open(path)?),
            _ => Err(Error::file(path, "a folder or a .csv, .txt, .zip or .tar file was wanted")),
        };
    }
    let entries = visible(path).unwrap_or_default();
    for ending in LISTS {
        let of = |subset: Option<Subset>| {
            let mut lists = entries.iter().filter(|path| list_of(path) == Some((ending, subset)));
            lists.next().filter(|path| path.is_file())
        };
        let [train, test, val] = [Subset::Train, Subset::Test, Subset::Validation].map(|part| of(Some(part)));
        if let Some(train) = train
            && (test.is_some() || val.is_some())
        {
            let read = |list: Option<&PathBuf>| list.map_or(Ok(Vec::new()), |list| rows(list));
            let parts = BySubset { train: rows(train)?, test: read(test)?, val: read(val)? };
            let classes = listing::class_names(&path.join("classes.txt"))?;
            return finish(parts, name, classes, train, owner).map(Some);
        }
        if own && let Some(train) = train {
            let what = format!("there is no test.{ending} or val.{ending} beside it");
            return Err(Error::file(train, what));
        }
        if own && let Some(images) = of(None) {
            return one_list(images, name).map(Some);
        }
    }
    let folders = Folders { path: path.into(), name, owner };
    let file_names = entries.iter().filter(|path| path.is_dir()).filter_map(|path| path.file_name());
    let top: Vec<String> = file_names.map(|name| name_text(name.as_bytes())).collect();
    let named = |subset: Subset| top.iter().filter(move |name| Subset::named(name) == Some(subset));
    let tests = named(Subset::Test).chain(named(Subset::Validation));
    let parts: Vec<&str> = named(Subset::Train).chain(tests).map(String::as_str).collect();
    if parts.len() > 1 && named(Subset::Train).next().is_some() {
        // What else lies beside the parts is not looked at.
        let tree = Tree::open_parts(path, &parts)?;
        if let Some(data) = folders.with_parts(&tree)? {
            return Ok(Some(data));
        }
    }
    if own { folders.data_set(&Tree::open(path)?) } else { Ok(None) }
}

/// A list without a second one: its column `split` says the part, else the parts are made.
fn one_list(path: &Path, name: &str) -> Result<DataSet> {
    let base = path.parent().unwrap_or(Path::new(""));
    let classes = listing::class_names(&base.join("classes.txt"))?;
    let rows = rows_with_split(path)?;
    if rows.iter().all(|(_, split)| split.is_none()) {
        let rows = rows.into_iter().map(|(row, _)| row).collect();
        let mut data = finish(listing::split_each_class(rows), name, classes, path, Owner::User)?;
        made_here(&mut data, path);
        return Ok(data);
    }
    let mut parts: BySubset<Vec<ListedImage>> = BySubset::default();
    for (row, split) in rows {
        let Some(subset) = split.as_deref().and_then(Subset::named) else {
            let found: String = split.unwrap_or_default().chars().take(60).collect();
            let what = format!("line {}: `train` or `test` was wanted as split, found `{found}`", row.line);
            return Err(Error::file(path, what));
        };
        parts.get_mut(subset).push(row);
    }
    finish(parts, name, classes, path, Owner::User)
}

fn rows(path: &Path) -> Result<Vec<ListedImage>> {
    Ok(rows_with_split(path)?.into_iter().map(|(row, _)| row).collect())
}

fn rows_with_split(path: &Path) -> Result<Vec<(ListedImage, Option<String>)>> {
    let base = path.parent().unwrap_or(Path::new(""));
    let bytes = folder::of_utf16(folder::read(path, folder::FILE_BYTES_MAX)?, path)?;
    match path.extension().and_then(|e| e.to_str()) {
        Some(ending) if ending.eq_ignore_ascii_case("csv") => {
            listing::of_csv(folder::text(bytes, path)?.as_bytes(), base, path)
        }
        _ => Ok(listing::of_list(&bytes, base, path)?.into_iter().map(|row| (row, None)).collect()),
    }
}

/// Folders of images, and what they are for.
struct Folders<'a> {
    path: PathBuf,
    name: &'a str,
    owner: Owner,
}

impl Folders<'_> {
    /// A folder per class, with or without parts above; the folders that everything lies in are passed.
    fn data_set(&self, tree: &Tree) -> Result<Option<DataSet>> {
        if let Some(data) = self.with_parts(tree)? {
            return Ok(Some(data));
        }
        if let Some(only) = only_top(tree) {
            let path = self.path.join(&only);
            return Folders { path, ..*self }.data_set(&tree.below(&format!("{only}/")));
        }
        if self.owner == Owner::Published {
            return Ok(None);
        }
        self.check_height(tree)?;
        let mut found = listing::of_folders(tree, self.owner);
        let rows = std::mem::take(&mut found.rows);
        if rows.is_empty() {
            return match found.notes(&self.path).as_slice() {
                [] => Ok(None),
                notes => Err(Error::file(&self.path, format!("there are no images; {}", notes.join("; ")))),
            };
        }
        let mut data = finish(listing::split_each_class(rows), self.name, None, &self.path, self.owner)?;
        made_here(&mut data, &self.path);
        data.notes.extend(found.notes(&self.path));
        Ok(Some(data))
    }

    /// Folders for training and for testing with a folder per class each. A folder that has images of its own is a
    /// class, whatever its name.
    fn with_parts(&self, tree: &Tree) -> Result<Option<DataSet>> {
        let mut parts: BySubset<Vec<&str>> = BySubset::default();
        for (folder, images) in tops(tree) {
            if let Some(subset) = Subset::named(folder)
                && images.only_deeper()
            {
                parts.get_mut(subset).push(folder);
            }
        }
        for folders in [&parts.train, &parts.test, &parts.val] {
            if let [a, b, ..] = folders.as_slice() {
                let what = format!("`{a}` and `{b}` look like the same part; take one away");
                return Err(Error::file(&self.path, what));
            }
        }
        let [train, test, val] =
            [&parts.train, &parts.test, &parts.val].map(|folders| folders.first().copied());
        let tested = test.or(val);
        let (train, tested) = match (train, tested) {
            (Some(train), Some(_)) => (train, test),
            (Some(train), None) if self.owner == Owner::User => {
                return Err(Error::file(self.path.join(train), "there is no folder test or val beside it"));
            }
            (None, Some(tested)) if self.owner == Owner::User && tree.folders().len() < 3 => {
                return Err(Error::file(self.path.join(tested), "there is no folder train beside it"));
            }
            _ => return Ok(None),
        };
        let (mut rows, mut all) = (BySubset::default(), Found::default());
        for (subset, part) in
            [(Subset::Train, Some(train)), (Subset::Test, tested), (Subset::Validation, val)]
        {
            let Some(part) = part else { continue };
            let mut below = tree.below(&format!("{part}/"));
            while let Some(only) = only_top(&below) {
                below = below.below(&format!("{only}/"));
            }
            let found = listing::of_folders(&below, self.owner);
            all.add_left_out(part, &found);
            *rows.get_mut(subset) = found.rows;
        }
        if rows.train.is_empty() && rows.test.is_empty() && rows.val.is_empty() {
            return Ok(None);
        }
        let mut data = finish(rows, self.name, None, &self.path, self.owner)?;
        data.notes.extend(all.notes(&self.path));
        Ok(Some(data))
    }

    /// Refuses a folder that is too high: with the set in one of its folders, beside others.
    fn check_height(&self, tree: &Tree) -> Result<()> {
        let (top, images) = (tree.folders(), tops(tree));
        let holds_parts = |folder: &&str| {
            let below = tree.below(&format!("{folder}/"));
            let parts = tops(&below);
            let named = |subset| {
                parts.iter().any(|(part, images)| Subset::named(part) == Some(subset) && images.only_deeper())
            };
            named(Subset::Train) && (named(Subset::Test) || named(Subset::Validation))
        };
        let deeper = || images.iter().filter(|(_, images)| images.only_deeper()).map(|(folder, _)| *folder);
        let only = deeper().next().filter(|_| images.values().filter(|images| images.any()).count() == 1);
        // Whole sets below class folders are looked for where there are few.
        let right = deeper().take(TOPS_MAX).find(holds_parts).or(only);
        let Some(right) = right else { return Ok(()) };
        let inside = tree.below(&format!("{right}/"));
        let classes: Vec<String> = inside.folders().into_iter().map(String::from).collect();
        Err(Error::file(
            &self.path,
            format!(
                "the folders {} were found, which are no classes; `{right}` holds {}. Did you mean {}?",
                super::checks::first(&top.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>()),
                super::checks::first(&classes),
                self.path.join(right).display()
            ),
        ))
    }
}

/// The one folder at the top, where it is no class: nothing lies beside it but files that are no images, and its
/// images lie in folders of their own.
fn only_top(tree: &Tree) -> Option<String> {
    let beside = tree.files.iter().any(|(name, _)| !name.contains('/') && listing::has_image_ending(name));
    let tops = tops(tree);
    let mut folders = tops.iter();
    match (folders.next(), folders.next()) {
        (Some((only, depth)), None) if !beside && tree.empty_folders().is_empty() && depth.only_deeper() => {
            Some(only.to_string())
        }
        _ => None,
    }
}

/// Where the images of a folder are.
#[derive(Debug, Clone, Copy, Default)]
struct Depth {
    /// In the folder itself.
    direct: bool,
    /// In folders below it.
    below: bool,
}

impl Depth {
    fn any(self) -> bool {
        self.direct || self.below
    }

    fn only_deeper(self) -> bool {
        self.below && !self.direct
    }
}

/// The folders at the top.
fn tops(tree: &Tree) -> BTreeMap<&str, Depth> {
    let mut tops: BTreeMap<&str, Depth> = BTreeMap::new();
    for (name, _) in &tree.files {
        let Some((top, rest)) = name.split_once('/') else { continue };
        let depth = tops.entry(top).or_default();
        if listing::has_image_ending(rest) {
            depth.direct |= !rest.contains('/');
            depth.below |= rest.contains('/');
        }
    }
    tops
}

fn made_here(data: &mut DataSet, path: &Path) {
    data.split_here = true;
    data.notes.push(format!(
        "{} has no training and test part: of each class 80 % are for training, chosen by a hash of their paths",
        path.display()
    ));
}

/// The set of these parts. Without a test part the validation images are the test set.
fn finish(
    mut parts: BySubset<Vec<ListedImage>>,
    name: &str,
    classes: Option<Vec<String>>,
    list: &Path,
    owner: Owner,
) -> Result<DataSet> {
    let stand_in = parts.test.is_empty() && !parts.val.is_empty();
    if stand_in {
        parts.test = std::mem::take(&mut parts.val);
    }
    let mut data = listing::data_set(name, parts, classes, list, owner)?;
    data.check()?;
    if owner == Owner::User && !data.val.is_empty() {
        data.notes.push(format!(
            "{} validation images are kept apart: they are neither trained on nor part of the test set",
            data.val.len()
        ));
    }
    if owner == Owner::User && stand_in {
        data.notes.push(format!(
            "there is no test part: the {} validation images are the test set",
            data.test.len()
        ));
    }
    Ok(data)
}
