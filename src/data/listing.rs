//! Image files with labels by name or number: folders per class, list files, CSV.
//!
//! Classes are the labels found, in order: by number where all are numbers, else by name. Where labels
//! are numbers and each has a folder of its own, the folder is the class's name.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use md5::{Digest, Md5};

use super::folder;
use super::image_set::{DataSet, ImageSet, Sample};
use super::source::{FileSource, Tree};
use crate::error::{Error, Result};

/// Endings of the files that are read.
const ENDINGS: [&str; 3] = ["jpg", "jpeg", "png"];
/// Other images: worth a word when they are left out.
const OTHERS: [&str; 6] = ["bmp", "gif", "tif", "tiff", "webp", "avif"];
/// Of a set without parts, this share is for training.
const TRAIN_SHARE: f64 = 0.8;

/// One line of a list: an image, its label, and what domain it belongs to.
#[derive(Debug, Clone)]
pub struct Row {
    /// The path as the list or the tree has it.
    pub name: String,
    pub source: FileSource,
    pub label: String,
    pub domain: Option<String>,
    /// Line in the list, from 1; 0 without a list.
    pub line: usize,
}

/// The images of a tree whose top folders are classes, sorted by path, and how many other images there
/// are, with one of them.
pub fn of_folders(tree: &Tree) -> (Vec<Row>, Option<(usize, PathBuf)>) {
    let mut left_out: Option<(usize, PathBuf)> = None;
    let mut rows = Vec::new();
    for (name, source) in &tree.files {
        let Some((class, _)) = name.split_once('/') else { continue };
        let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending).to_ascii_lowercase();
        if ENDINGS.contains(&ending.as_str()) {
            rows.push(Row {
                name: name.clone(),
                source: source.clone(),
                label: class.into(),
                domain: None,
                line: 0,
            });
        } else if OTHERS.contains(&ending.as_str()) {
            let first = left_out.take();
            let (n, path) = first.unwrap_or_else(|| (0, source.path()));
            left_out = Some((n + 1, path));
        }
    }
    (rows, left_out)
}

/// The lines `path label [domain]` of a list, separated by tabs where the line has one, else by blanks;
/// paths are relative to `base`. Empty lines and lines that start with `#` are skipped. `path` is only
/// for messages.
///
/// # Errors
/// `Error::File` with the number of a line that has other than two or three parts.
pub fn of_list(text: &str, base: &Path, path: &Path) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let (number, line) = (i + 1, line.trim());
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let parts: Vec<&str> = match line.contains('\t') {
            true => line.split('\t').map(str::trim).collect(),
            false => line.split_whitespace().collect(),
        };
        let (file, label, domain) = match *parts.as_slice() {
            [file, label] => (file, label, None),
            [file, label, domain] => (file, label, Some(domain.to_string())),
            _ => {
                let what = format!(
                    "line {number}: `path label [task]` was wanted, found {} parts; separate them by tabs where paths hold blanks",
                    parts.len()
                );
                return Err(Error::file(path, what));
            }
        };
        let source = FileSource::File(base.join(file));
        rows.push(Row { name: file.into(), source, label: label.into(), domain, line: number });
    }
    Ok(rows)
}

/// The rows of a CSV with a header: `path` (or `image`, `file`, `filename`), `label` (or `class`), and
/// where they are there `task` (or `domain`, `session`) and `split`; the value of `split` comes with
/// each row. `path` is only for messages.
///
/// # Errors
/// `Error::File` for a missing column or a bad record, with its line.
pub fn of_csv(bytes: &[u8], base: &Path, path: &Path) -> Result<Vec<(Row, Option<String>)>> {
    let fail = |e: csv::Error| Error::file(path, format!("no readable CSV: {e}"));
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).comment(Some(b'#')).from_reader(bytes);
    let header = reader.headers().map_err(fail)?.clone();
    let column =
        |names: &[&str]| header.iter().position(|h| names.contains(&h.to_ascii_lowercase().as_str()));
    let needed = |names: &[&str]| {
        column(names).ok_or_else(|| {
            let found: String = header.iter().collect::<Vec<_>>().join(", ").chars().take(200).collect();
            let wanted = names.join("` or `");
            Error::file(path, format!("line 1: a column `{wanted}` was wanted, found: {found}"))
        })
    };
    let file = needed(&["path", "image", "file", "filename"])?;
    let label = needed(&["label", "class"])?;
    let (domain, split) = (column(&["task", "domain", "session"]), column(&["split"]));
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(fail)?;
        let line = record.position().map_or(0, |position| position.line() as usize);
        let text = |column: usize| record[column].to_string();
        if record[file].is_empty() || record[label].is_empty() {
            return Err(Error::file(path, format!("line {line}: path and label must not be empty")));
        }
        let source = FileSource::File(base.join(&record[file]));
        let row = Row { name: text(file), source, label: text(label), domain: domain.map(text), line };
        rows.push((row, split.map(text)));
    }
    Ok(rows)
}

/// Rows with labels to a data set. `class_names`: what numbers count in and names must be among; none:
/// the labels found. `list` is only for messages.
///
/// # Errors
/// `Error::File` for an unknown label or for a row without a domain among rows with one, with the line.
pub fn data_set(
    name: &str,
    (train, test): (Vec<Row>, Vec<Row>),
    class_names: Option<Vec<String>>,
    list: &Path,
) -> Result<DataSet> {
    let all = || train.iter().chain(&test);
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
                let by_number = || label.parse().ok().filter(|&number: &usize| number < names.len());
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
    let part = |rows: &[Row]| {
        let sample = |row: &Row| Sample {
            source: row.source.clone(),
            label: of_label[row.label.as_str()],
            domain: row.domain.as_deref().map_or(0, |domain| of_domain[domain]),
        };
        ImageSet::of_files(rows.iter().map(sample).collect())
    };
    let mut domain_names: Vec<String> = domains.iter().map(|d| d.to_string()).collect();
    if domain_names.is_empty() {
        domain_names.push(name.into());
    }
    let (train, test) = (part(&train), part(&test));
    Ok(DataSet { name: name.into(), train, test, class_names, domain_names, ..DataSet::default() })
}

fn at_line(line: usize) -> String {
    if line == 0 { String::new() } else { format!("line {line}: ") }
}

/// The distinct words: by number where all are numbers, else by name.
fn ordered<'a>(words: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let distinct: BTreeSet<&str> = words.collect();
    let mut words: Vec<&str> = distinct.into_iter().collect();
    if let Some(numbers) = words.iter().map(|word| word.parse().ok()).collect::<Option<Vec<u64>>>() {
        let mut pairs: Vec<(u64, &str)> = numbers.into_iter().zip(words).collect();
        pairs.sort_unstable();
        words = pairs.into_iter().map(|(_, word)| word).collect();
    }
    words
}

/// For labels that are numbers: the folders of their files, where each label has one of its own.
fn names_by_folder<'a>(labels: &[&'a str], rows: impl Iterator<Item = &'a Row>) -> Option<Vec<String>> {
    if labels.iter().any(|label| label.parse::<u64>().is_err()) {
        return None;
    }
    let mut folders: HashMap<&str, String> = HashMap::new();
    for row in rows {
        let path = row.source.path();
        let folder = path.parent()?.file_name()?.to_string_lossy();
        if *folders.entry(&row.label).or_insert_with(|| folder.to_string()) != folder {
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
pub fn split_each_class(rows: Vec<Row>) -> (Vec<Row>, Vec<Row>) {
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
    rows.into_iter().partition(|_| is_train.next().expect("one per row"))
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
