//! CIFAR-10 and CIFAR-100, binary and Python versions, unpacked or in their `.tar.gz`.
//! Source: Krizhevsky 2009, <https://www.cs.toronto.edu/~kriz/cifar.html>.
//!
//! Both hold an image as 3072 bytes: the red, then the green, then the blue plane of 32x32. A binary
//! record is the label bytes, then the image; CIFAR-100 has the coarse label before the fine one.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use super::folder::{self, FolderLayout};
use super::image_set::{DataSet, ImageSet, PixelArray};
use super::pickle::PickledArrays;
use super::tar_gz;
use crate::error::{Error, Result};

const SIDE: usize = 32;
const PLANE: usize = SIDE * SIDE;
const IMAGE: usize = 3 * PLANE;

/// How one of the two sets is stored.
pub struct Cifar {
    pub name: &'static str,
    pub classes: usize,
    binary_archive: &'static str,
    binary_folder: &'static str,
    /// Training files, then the test file, then the class names.
    binary_files: &'static [&'static str],
    /// Label bytes per record; the last one is used.
    label_bytes: usize,
    python_archive: &'static str,
    python_folder: &'static str,
    /// As `binary_files`.
    python_files: &'static [&'static str],
    labels_key: &'static str,
    names_key: &'static str,
}

pub const CIFAR10: Cifar = Cifar {
    name: "cifar10",
    classes: 10,
    binary_archive: "cifar-10-binary.tar.gz",
    binary_folder: "cifar-10-batches-bin",
    binary_files: &[
        "data_batch_1.bin",
        "data_batch_2.bin",
        "data_batch_3.bin",
        "data_batch_4.bin",
        "data_batch_5.bin",
        "test_batch.bin",
        "batches.meta.txt",
    ],
    label_bytes: 1,
    python_archive: "cifar-10-python.tar.gz",
    python_folder: "cifar-10-batches-py",
    python_files: &[
        "data_batch_1",
        "data_batch_2",
        "data_batch_3",
        "data_batch_4",
        "data_batch_5",
        "test_batch",
        "batches.meta",
    ],
    labels_key: "labels",
    names_key: "label_names",
};

/// With the 100 fine labels.
pub const CIFAR100: Cifar = Cifar {
    name: "cifar100",
    classes: 100,
    binary_archive: "cifar-100-binary.tar.gz",
    binary_folder: "cifar-100-binary",
    binary_files: &["train.bin", "test.bin", "fine_label_names.txt"],
    label_bytes: 2,
    python_archive: "cifar-100-python.tar.gz",
    python_folder: "cifar-100-python",
    python_files: &["train", "test", "meta"],
    labels_key: "fine_labels",
    names_key: "fine_label_names",
};

/// Images as the readers append them.
#[derive(Debug, Default)]
pub struct Records {
    /// (n, 32, 32, 3).
    pub pixels: Vec<u8>,
    pub labels: Vec<u32>,
}

/// The set from `dir` or its usual sub-folder, else from the archive there; the binary version is taken
/// when both are there.
///
/// # Errors
/// As [`super::load`].
pub fn load(dir: &str, set: &Cifar) -> Result<DataSet> {
    let dir = folder::open(dir, set.name)?;
    let versions = [
        (set.binary_folder, set.binary_files, set.binary_archive, true),
        (set.python_folder, set.python_files, set.python_archive, false),
    ];
    for (sub, files, _, is_binary) in versions {
        if let Some(paths) = (FolderLayout { folders: &[sub, ""], files, or_gz: false }).find(dir) {
            return read_set(set, is_binary, paths.into_iter().map(|path| (path, None)).collect());
        }
    }
    // Folders and archives that lie deeper, as other programs put them.
    let folders = folder::folders_below(dir, |_| false);
    for (sub, files, _, is_binary) in versions {
        let mut named = folders.iter().filter(|folder| folder.file_name().is_some_and(|name| name == sub));
        if let Some(paths) =
            named.find_map(|folder| (FolderLayout { folders: &[""], files, or_gz: false }).find(folder))
        {
            return read_set(set, is_binary, paths.into_iter().map(|path| (path, None)).collect());
        }
    }
    for (sub, files, archive, is_binary) in versions {
        let stem = archive.trim_end_matches(".tar.gz");
        let names = [archive.to_string(), format!("{stem}.tgz"), format!("{stem}.tar")];
        let paths = folders.iter().flat_map(|folder| names.iter().map(|name| folder.join(name)));
        if let Some(path) = paths.into_iter().find(|path| path.is_file()) {
            let contents = tar_gz::read(&path, sub, files)?.into_iter().map(Some);
            let paths = files.iter().map(|file| path.join(sub).join(file));
            return read_set(set, is_binary, paths.zip(contents).collect());
        }
    }
    let wanted = versions.map(|(sub, files, archive, _)| {
        format!(
            "{} or {archive} (or .tgz, .tar)",
            FolderLayout { folders: &[sub, ""], files, or_gz: false }.describe()
        )
    });
    Err(folder::not_found(dir, set.name, &wanted))
}

/// The set from its files in the order of `Cifar`; those without content are read.
fn read_set(set: &Cifar, is_binary: bool, files: Vec<(PathBuf, Option<Vec<u8>>)>) -> Result<DataSet> {
    let (names, images) = files.split_last().expect("the layouts have files");
    let (test, train) = images.split_last().expect("the layouts have image files");
    fn content((path, content): &(PathBuf, Option<Vec<u8>>)) -> Result<Cow<'_, [u8]>> {
        match content {
            Some(bytes) => Ok(Cow::Borrowed(bytes)),
            None => Ok(Cow::Owned(folder::read(path, folder::FILE_BYTES_MAX)?)),
        }
    }
    let part = |files: &[(PathBuf, Option<Vec<u8>>)]| -> Result<ImageSet> {
        let mut all = Records::default();
        for file in files {
            let read = if is_binary { read_binary } else { read_python };
            read(&content(file)?, &file.0, set, &mut all)?;
        }
        let pixels = PixelArray { height: SIDE, width: SIDE, channels: 3, bytes: all.pixels };
        Ok(ImageSet::in_memory(pixels, all.labels))
    };
    let class_names = class_names(&content(names)?, &names.0, set, is_binary)?;
    DataSet::new(set.name, part(train)?, part(std::slice::from_ref(test))?, class_names)
}

/// Appends the records of a binary file; `path` is only for messages.
///
/// # Errors
/// `Error::File` when the length is no multiple of the record or a label is too large.
pub fn read_binary(bytes: &[u8], path: &Path, set: &Cifar, into: &mut Records) -> Result<()> {
    let record = set.label_bytes + IMAGE;
    if bytes.is_empty() || !bytes.len().is_multiple_of(record) {
        return Err(Error::file(
            path,
            format!(
                "offset {}: records of {record} bytes were wanted, found {} bytes after the last one",
                bytes.len() - bytes.len() % record,
                bytes.len() % record
            ),
        ));
    }
    into.pixels.reserve(bytes.len() / record * IMAGE);
    for (i, record_bytes) in bytes.chunks_exact(record).enumerate() {
        let (labels, planes) = record_bytes.split_at(set.label_bytes);
        let label = labels[set.label_bytes - 1];
        if usize::from(label) >= set.classes {
            let offset = i * record + set.label_bytes - 1;
            let last = set.classes - 1;
            return Err(Error::file(
                path,
                format!("offset {offset}: a label from 0 to {last} was wanted, found {label}"),
            ));
        }
        into.labels.push(u32::from(label));
        push_interleaved(planes, &mut into.pixels);
    }
    Ok(())
}

/// Appends the images of a pickled batch; `path` is only for messages.
///
/// # Errors
/// `Error::File` with the offset of a bad instruction, or the entry of the dictionary that is wrong.
pub fn read_python(bytes: &[u8], path: &Path, set: &Cifar, into: &mut Records) -> Result<()> {
    let fail = |what: String| Error::file(path, what);
    let pickle = PickledArrays::parse(bytes).map_err(fail)?;
    let data = pickle.get("data").and_then(|id| pickle.byte_array(id, "data")).map_err(fail)?;
    let key = set.labels_key;
    let labels = pickle.get(key).and_then(|id| pickle.ints(id, key)).map_err(fail)?;
    if data.columns != IMAGE || data.rows != labels.len() || data.rows == 0 {
        return Err(fail(format!(
            "`data` must have one row of {IMAGE} bytes per label, found {}x{} for {} labels",
            data.rows,
            data.columns,
            labels.len()
        )));
    }
    for (i, &label) in labels.iter().enumerate() {
        if label < 0 || label >= set.classes as i64 {
            let last = set.classes - 1;
            return Err(fail(format!("`{key}`: entry {i} must be from 0 to {last}, found {label}")));
        }
        into.labels.push(label as u32);
    }
    into.pixels.reserve(data.data.len());
    for planes in data.data.chunks_exact(IMAGE) {
        push_interleaved(planes, &mut into.pixels);
    }
    Ok(())
}

/// (3, 32, 32) to (32, 32, 3).
fn push_interleaved(planes: &[u8], pixels: &mut Vec<u8>) {
    for i in 0..PLANE {
        pixels.extend_from_slice(&[planes[i], planes[PLANE + i], planes[2 * PLANE + i]]);
    }
}

fn class_names(bytes: &[u8], path: &Path, set: &Cifar, is_binary: bool) -> Result<Vec<String>> {
    let names: Vec<String> = if is_binary {
        let text = String::from_utf8_lossy(bytes);
        text.lines().map(str::trim).filter(|line| !line.is_empty()).map(String::from).collect()
    } else {
        let pickle = PickledArrays::parse(bytes).map_err(|what| Error::file(path, what))?;
        let key = set.names_key;
        pickle.get(key).and_then(|id| pickle.texts(id, key)).map_err(|what| Error::file(path, what))?
    };
    if names.len() != set.classes {
        return Err(Error::file(
            path,
            format!("{} class names were wanted, found {}", set.classes, names.len()),
        ));
    }
    Ok(names)
}
