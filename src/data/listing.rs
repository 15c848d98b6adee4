//! Image files with labels by name or number: folders per class, list files, CSV.
//!
//! Classes are the labels found, in order: by number where all are numbers, else by name. Where labels
//! are numbers and each has a folder of its own, the folder is the class's name.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use md5::{Digest, Md5};

use super::checks;
use super::file_kind::{self, FileKind};
use super::folder;
use super::image_file::Orientation;
use super::image_set::{DataSet, ImageSet, Sample};
use super::parts::BySubset;
use super::source::{FileSource, Tree, name_text};
use crate::error::{Error, Result};

/// Endings of the files that are read of published sets.
const PUBLISHED_ENDINGS: [&str; 3] = ["jpg", "jpeg", "png"];
/// Endings that say that a file is an image; what it is says its content.
const ENDINGS: [&str; 11] = ["jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "dib", "gif", "tif", "tiff"];
/// Camera files that begin like TIFF and hold a small picture first.
const RAW_ENDINGS: [&str; 8] = ["nef", "dng", "arw", "cr2", "pef", "srw", "orf", "rw2"];
/// Of a set without parts, this share is for training.
const TRAIN_SHARE: f64 = 0.8;

/// Whose images a set has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// A published set: JPEG and PNG by their endings, pixels as they are stored.
    Published,
    /// The user: every kind that is decoded, by content, the right way up.
    User,
}

/// One line of a list: an image, its label, and what domain it belongs to.
#[derive(Debug, Clone)]
pub struct ListedImage {
    /// The path as the list or the tree has it.
    pub name: String,
    pub source: FileSource,
    pub label: String,
    pub domain: Option<String>,
    /// Line in the list, from 1; 0 without a list.
    pub line: usize,
}

/// What was found in folders per class.
#[derive(Debug, Default)]
pub struct Found {
    /// Sorted by path.
    pub rows: Vec<ListedImage>,
    /// Files that were passed over, by kind: how many, and the first.
    pub left_out: BTreeMap<String, (usize, PathBuf)>,
    /// Class folders without an image.
    pub empty: Vec<String>,
}

/// The images of a tree whose top folders are classes.
pub fn of_folders(tree: &Tree, owner: Owner) -> Found {
    let mut found = Found { empty: tree.empty_folders(), ..Found::default() };
    let mut classes = BTreeSet::new();
    for (name, source) in &tree.files {
        let Some((class, _)) = name.split_once('/') else { continue };
        match left_out(name, source, owner) {
            None => {
                classes.insert(class);
                let (name, source) = (name.clone(), source.clone());
                found.rows.push(ListedImage { name, source, label: class.into(), domain: None, line: 0 });
            }
            Some(kind) => found.left_out.entry(kind).or_insert_with(|| (0, source.path())).0 += 1,
        }
    }
    let without = tree.folders().into_iter().filter(|class| !classes.contains(class)).map(String::from);
    found.empty.extend(without);
    found.empty.sort();
    found
}

impl Found {
    /// The same for several parts; `name` is that of the part for each.
    pub fn add_left_out(&mut self, name: &str, other: &Found) {
        for (kind, (n, first)) in &other.left_out {
            self.left_out.entry(kind.clone()).or_insert_with(|| (0, first.clone())).0 += n;
        }
        self.empty.extend(other.empty.iter().map(|class| format!("{name}/{class}")));
    }

    /// Sentences about what was passed over.
    pub fn notes(&self, path: &Path) -> Vec<String> {
        let mut notes = Vec::new();
        if !self.left_out.is_empty() {
            let kinds: Vec<String> =
                self.left_out.iter().map(|(kind, (n, _))| format!("{n} {kind}")).collect();
            let example = self.left_out.values().next().expect("one kind").1.display();
            let all: usize = self.left_out.values().map(|(n, _)| n).sum();
            notes.push(format!(
                "{all} files of {} are left out ({}), as {example}",
                path.display(),
                kinds.join(", ")
            ));
        }
        if !self.empty.is_empty() {
            notes.push(format!(
                "{} folders of {} have no image that can be read and are no classes: {}",
                self.empty.len(),
                path.display(),
                checks::first(&self.empty)
            ));
        }
        notes
    }
}

/// Whether the ending of a name says that it is an image that can be decoded.
pub fn has_image_ending(name: &str) -> bool {
    ENDINGS.contains(&ending(name).as_str())
}

fn ending(name: &str) -> String {
    let file = name.rsplit('/').next().unwrap_or(name);
    file.rsplit_once('.').map_or("", |(_, ending)| ending).to_ascii_lowercase()
}

/// The kind of a file that is not taken as an image; `None`: it is taken.
fn left_out(name: &str, source: &FileSource, owner: Owner) -> Option<String> {
    let ending = ending(name);
    match owner {
        Owner::Published if PUBLISHED_ENDINGS.contains(&ending.as_str()) => return None,
        // What such a file is, is said when it cannot be decoded.
        Owner::User if ENDINGS.contains(&ending.as_str()) => return None,
        _ => {}
    }
    let by_ending = || match ending.as_str() {
        "" => "files without an ending".to_string(),
        ending => format!(".{}", ending.chars().take(20).collect::<String>()),
    };
    match FileKind::of(&source.head(file_kind::HEAD)) {
        _ if RAW_ENDINGS.contains(&ending.as_str()) => Some("camera raw".into()),
        FileKind::Image(_) if owner == Owner::User => None,
        FileKind::Image(format) => Some(file_kind::name(format).into()),
        FileKind::OtherImage(name) => Some(name.into()),
        FileKind::Other(_) | FileKind::Unknown => Some(by_ending()),
    }
}

/// The lines `path label [domain]` of a list, separated by tabs where the line has one, else by blanks;
/// paths are relative to `base`. Empty lines and lines that start with `#` are skipped. Paths may be of any
/// bytes. `path` is only for messages.
///
/// # Errors
/// `Error::File` with the number of a line that has other than two or three parts.
pub fn of_list(text: &[u8], base: &Path, path: &Path) -> Result<Vec<ListedImage>> {
    let mut rows = Vec::new();
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    for (i, line) in text.split(|&b| b == b'\n').enumerate() {
        let (number, line) = (i + 1, line.trim_ascii());
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let parts: Vec<&[u8]> = match line.contains(&b'\t') {
            true => line.split(|&b| b == b'\t').map(<[u8]>::trim_ascii).collect(),
            false => line.split(u8::is_ascii_whitespace).filter(|part| !part.is_empty()).collect(),
        };
        let (file, label, domain) = match *parts.as_slice() {
            [file, label] => (file, label, None),
            [file, label, domain] => (file, label, Some(name_text(domain))),
            _ => {
                let what = format!(
                    "line {number}: `path label [task]` was wanted, found {} parts; separate them by tabs where paths hold blanks",
                    parts.len()
                );
                return Err(Error::file(path, what));
            }
        };
        let source = FileSource::File(listed(base, file));
        rows.push(ListedImage {
            name: name_text(file),
            source,
            label: name_text(label),
            domain,
            line: number,
        });
    }
    Ok(rows)
}

/// The file that a list names. Lists made on Windows have `\` between folders.
fn listed(base: &Path, file: &[u8]) -> PathBuf {
    let path = base.join(OsStr::from_bytes(file));
    if !file.contains(&b'\\') || path.exists() {
        return path;
    }
    let slashes: Vec<u8> = file.iter().map(|&b| if b == b'\\' { b'/' } else { b }).collect();
    base.join(OsStr::from_bytes(&slashes))
}

/// Names of columns, as programs that make lists of images write them. The first four and two are documented.
const PATH_COLUMNS: [&str; 12] = [
    "path",
    "image",
    "file",
    "filename",
    "filepath",
    "file_path",
    "file_name",
    "image_path",
    "image_name",
    "image_file",
    "img",
    "img_path",
];
const LABEL_COLUMNS: [&str; 8] =
    ["label", "class", "target", "category", "class_name", "label_name", "classname", "labels"];

/// The rows of a CSV with a header: `path` (or `image`, `file`, `filename`), `label` (or `class`), and
/// where they are there `task` (or `domain`, `session`) and `split`; the value of `split` comes with
/// each row. Fields are separated by `,`, `;`, tabs or `|`, whichever the header has. Rows without any value are
/// skipped. `path` is only for messages.
///
/// # Errors
/// `Error::File` for a missing column or a bad record, with its line.
pub fn of_csv(bytes: &[u8], base: &Path, path: &Path) -> Result<Vec<(ListedImage, Option<String>)>> {
    let fail = |e: csv::Error| Error::file(path, format!("no readable CSV: {e}"));
    let bytes = without_empty_rows(bytes);
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(separator(&bytes))
        .trim(csv::Trim::All)
        .comment(Some(b'#'))
        .from_reader(bytes.as_slice());
    let header = reader.headers().map_err(fail)?.clone();
    let plain = |name: &str| name.to_lowercase().replace([' ', '-'], "_");
    let column =
        |names: &[&str]| names.iter().find_map(|name| header.iter().position(|h| plain(h).as_str() == *name));
    let needed = |names: &[&str], shown: usize| {
        column(names).ok_or_else(|| {
            let found: String = header.iter().collect::<Vec<_>>().join(", ").chars().take(200).collect();
            let wanted = names[..shown].join("` or `");
            Error::file(path, format!("line 1: a column `{wanted}` was wanted, found: {found}"))
        })
    };
    let file = needed(&PATH_COLUMNS, 4)?;
    let label = needed(&LABEL_COLUMNS, 2)?;
    let (domain, split) =
        (column(&["task", "domain", "session"]), column(&["split", "subset", "set", "partition"]));
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(fail)?;
        let line = record.position().map_or(0, |position| position.line() as usize);
        let text = |column: usize| record[column].to_string();
        if record[file].is_empty() || record[label].is_empty() {
            return Err(Error::file(path, format!("line {line}: path and label must not be empty")));
        }
        let source = FileSource::File(listed(base, record[file].as_bytes()));
        let row =
            ListedImage { name: text(file), source, label: text(label), domain: domain.map(text), line };
        rows.push((row, split.map(text)));
    }
    Ok(rows)
}

/// The text with lines of separators and quotes alone made empty, as spreadsheets leave them below a table, and
/// without the line `sep=;` that Excel reads.
fn without_empty_rows(bytes: &[u8]) -> Vec<u8> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut out = Vec::with_capacity(bytes.len());
    for (i, line) in bytes.split_inclusive(|&b| b == b'\n').enumerate() {
        let empty =
            line.iter().all(|b| matches!(b, b',' | b';' | b'\t' | b'|' | b'"' | b' ' | b'\r' | b'\n'));
        let directive = i == 0 && line.trim_ascii().to_ascii_lowercase().starts_with(b"sep=");
        match empty || directive {
            true => out.push(b'\n'),
            false => out.extend_from_slice(line),
        }
    }
    out
}

/// What separates the names of the header.
fn separator(bytes: &[u8]) -> u8 {
    let header = bytes.split(|&b| b == b'\n').find(|line| {
        let line = line.trim_ascii();
        !line.is_empty() && !line.starts_with(b"#")
    });
    let count = |separator: u8| header.unwrap_or_default().iter().filter(|&&b| b == separator).count();
    // Of equals the last is taken: the comma.
    [b'|', b'\t', b';', b','].into_iter().max_by_key(|&separator| count(separator)).unwrap_or(b',')
}

/// Rows with labels to a data set. `class_names`: what numbers count in and names must be among; none:
/// the labels found. `list` is only for messages.
///
/// # Errors
/// `Error::File` for an unknown label or for a row without a domain among rows with one, with the line.
pub fn data_set(
    name: &str,
    parts: BySubset<Vec<ListedImage>>,
    class_names: Option<Vec<String>>,
    list: &Path,
    owner: Owner,
) -> Result<DataSet> {
    let all = || parts.iter();
    let labels = ordered(all().map(|row| row.label.as_str()));
    let mut of_label: HashMap<&str, u32> = HashMap::new();
    let class_names = match class_names {
        None => {
            of_label.extend(labels.iter().enumerate().map(|(i, &label)| (label, i as u32)));
            names_by_folder(&labels, all()).unwrap_or_else(|| labels.iter().map(|l| l.to_string()).collect())
        }
        Some(names) => {
            for row in all() {
                let label = row.label.as_str();
                let by_name = || names.iter().position(|name| name == label);
                let by_number = || whole(label).filter(|&number: &usize| number < names.len());
                if of_label.contains_key(label) {
                    continue;
                }
                let Some(found) = by_name().or_else(by_number) else {
                    let label: String = label.chars().take(60).collect();
                    let what = format!(
                        "{}a class name or a number from 0 to {} was wanted, found `{label}`",
                        at_line(row.line),
                        names.len().saturating_sub(1)
                    );
                    return Err(Error::file(list, what));
                };
                of_label.insert(label, found as u32);
            }
            names
        }
    };
    let with_domain = all().any(|row| row.domain.is_some());
    if let Some(row) = all().find(|row| with_domain && row.domain.as_deref().is_none_or(str::is_empty)) {
        let what = format!("{}a task was wanted, as other lines have one", at_line(row.line));
        return Err(Error::file(list, what));
    }
    let domains = ordered(all().filter_map(|row| row.domain.as_deref()));
    let of_domain: HashMap<&str, u32> = domains.iter().enumerate().map(|(i, &d)| (d, i as u32)).collect();
    let part = |rows: &[ListedImage]| {
        let sample = |row: &ListedImage| Sample {
            source: row.source.clone(),
            label: of_label[row.label.as_str()],
            domain: row.domain.as_deref().map_or(0, |domain| of_domain[domain]),
        };
        let orientation = match owner {
            Owner::Published => Orientation::Ignored,
            Owner::User => Orientation::Applied,
        };
        if rows.is_empty() {
            return ImageSet::default();
        }
        ImageSet::of_files_with(rows.iter().map(sample).collect(), orientation)
    };
    let mut domain_names: Vec<String> = domains.iter().map(|d| d.to_string()).collect();
    if domain_names.is_empty() {
        domain_names.push(name.into());
    }
    let (train, test, val) = (part(&parts.train), part(&parts.test), part(&parts.val));
    let notes = if owner == Owner::User { look_alikes(&labels) } else { Vec::new() };
    Ok(DataSet {
        name: name.into(),
        train,
        test,
        val,
        class_names,
        domain_names,
        notes,
        ..DataSet::default()
    })
}

/// A sentence about labels that differ in case or in how a number is written only.
fn look_alikes(labels: &[&str]) -> Vec<String> {
    let key = |label: &str| match number(label) {
        Some(number) => number.to_string(),
        None => label.to_lowercase(),
    };
    let mut alike: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    labels.iter().for_each(|label| alike.entry(key(label)).or_default().push(label));
    let quoted = |labels: &Vec<&str>| {
        labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(" and ")
    };
    let pairs: Vec<String> = alike.values().filter(|labels| labels.len() > 1).map(quoted).collect();
    if pairs.is_empty() {
        return Vec::new();
    }
    vec![format!(
        "labels that differ in case or leading zeros only are classes of their own: {}",
        checks::first(&pairs)
    )]
}

/// A label as a number.
fn number(label: &str) -> Option<f64> {
    // Words such as `inf` and `1e5` are names.
    let plain = label.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'-' | b'+' | b'.'));
    label.parse().ok().filter(|_| plain)
}

/// A label as a whole number, also where a program has written it as `3.0`.
fn whole(label: &str) -> Option<usize> {
    let number = number(label)?;
    (number >= 0.0 && number.fract() == 0.0 && number < 1e9).then_some(number as usize)
}

fn at_line(line: usize) -> String {
    if line == 0 { String::new() } else { format!("line {line}: ") }
}

/// The distinct words: by number where all are numbers, else by name.
fn ordered<'a>(words: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let distinct: BTreeSet<&str> = words.collect();
    let mut words: Vec<&str> = distinct.into_iter().collect();
    if words.iter().all(|word| number(word).is_some()) {
        // Equal numbers and such as no f64 tells apart go by their digits.
        let value = |word: &str| number(word).unwrap_or_default();
        words.sort_by(|a, b| value(a).total_cmp(&value(b)).then(a.len().cmp(&b.len())).then(a.cmp(b)));
    }
    words
}

/// For labels that are numbers: the folders of their files, where each label has one of its own.
fn names_by_folder<'a>(
    labels: &[&'a str],
    rows: impl Iterator<Item = &'a ListedImage>,
) -> Option<Vec<String>> {
    if labels.iter().any(|label| number(label).is_none()) {
        return None;
    }
    let mut folders: HashMap<&str, String> = HashMap::new();
    for row in rows {
        let path = row.source.path();
        let folder = name_text(path.parent()?.file_name()?.as_bytes());
        if *folders.entry(&row.label).or_insert_with(|| folder.clone()) != folder {
            return None;
        }
    }
    let distinct: BTreeSet<&String> = folders.values().collect();
    (distinct.len() == labels.len()).then(|| labels.iter().map(|label| folders[label].clone()).collect())
}

/// What orders the examples of a TFDS split: MD5 of the split's name and the example's key.
/// Source: tensorflow/datasets 4.9, `core/hashing.py`, `core/shuffle.py`.
pub fn tfds_order(split: &str, key: &str) -> [u8; 16] {
    Md5::new().chain_update(split).chain_update(key).finalize().into()
}

/// Training and test rows of a set without parts: of each class the first 80 % (rounded, at least one of
/// each kind where there are two) in the order of [`tfds_order`] of the path, so that the same files give the
/// same parts wherever they lie.
pub fn split_each_class(rows: Vec<ListedImage>) -> BySubset<Vec<ListedImage>> {
    let mut of_class: HashMap<String, Vec<([u8; 16], usize)>> = HashMap::new();
    for (i, row) in rows.iter().enumerate() {
        of_class.entry(row.label.clone()).or_default().push((tfds_order("test", &row.name), i));
    }
    let mut is_train = vec![false; rows.len()];
    for mut class in of_class.into_values() {
        class.sort_unstable();
        let n = (class.len() as f64 * TRAIN_SHARE).round() as usize;
        let n = n.clamp(1, class.len().saturating_sub(1).max(1));
        class[..n].iter().for_each(|&(_, i)| is_train[i] = true);
    }
    let mut is_train = is_train.into_iter();
    let (train, test) = rows.into_iter().partition(|_| is_train.next().expect("one per row"));
    BySubset { train, test, val: Vec::new() }
}

/// The class names in `path`, one per line; `None` without such a file.
///
/// # Errors
/// `Error::File` when it cannot be read or names a class twice.
pub fn class_names(path: &Path) -> Result<Option<Vec<String>>> {
    if !path.is_file() {
        return Ok(None);
    }
    let text = folder::read_text(path)?;
    let names: Vec<String> =
        text.lines().map(str::trim).filter(|line| !line.is_empty()).map(String::from).collect();
    let mut seen = BTreeSet::new();
    match names.iter().find(|name| !seen.insert(name.as_str())) {
        Some(twice) => Err(Error::file(path, format!("the class `{twice}` stands there twice"))),
        None => Ok(Some(names)),
    }
}
