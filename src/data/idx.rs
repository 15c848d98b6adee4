//! IDX files, plain or gzipped: MNIST and Fashion-MNIST.
//! Source: LeCun, Cortes & Burges, "The MNIST database", section on file formats.
//!
//! Big-endian header: two zero bytes, the element type (8: unsigned byte), the number of axes, then
//! one 32-bit length per axis; the elements follow.

use std::borrow::Cow;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::folder::{self, DEFLATE_RATIO_MAX, FolderLayout};
use super::image_set::{DataSet, ImageSet, PixelArray};
use crate::error::{Error, Result};

const DIGITS: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
/// Source: the table "Labels" of Fashion-MNIST's README.
const FASHION: [&str; 10] = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
];
const FILES: [&str; 4] = [
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
];

/// MNIST from `dir` or `dir/MNIST/raw`.
pub fn load_mnist(dir: &str) -> Result<DataSet> {
    load(dir, "mnist", &["MNIST/raw", ""], &DIGITS)
}

/// Fashion-MNIST from `dir` or `dir/FashionMNIST/raw`.
pub fn load_fashion_mnist(dir: &str) -> Result<DataSet> {
    load(dir, "fashion_mnist", &["FashionMNIST/raw", ""], &FASHION)
}

/// The digits' names, for sets that have the labels of MNIST.
pub fn digit_names() -> Vec<String> {
    DIGITS.map(String::from).to_vec()
}

fn load(dir: &str, name: &str, folders: &[&str], class_names: &[&str]) -> Result<DataSet> {
    let dir = folder::open(dir, name)?;
    let layout = FolderLayout { folders, files: &FILES, or_gz: true };
    let paths = layout
        .find(dir)
        .or_else(|| renamed(dir, name))
        .ok_or_else(|| folder::not_found(dir, name, &[layout.describe()]))?;
    let read = |path: &PathBuf| Ok((folder::read(path, folder::FILE_BYTES_MAX)?, path.clone()));
    let files: Vec<(Vec<u8>, PathBuf)> = paths.iter().map(read).collect::<Result<_>>()?;
    let part = |i: usize| read_pair((&files[i].0, &files[i].1), (&files[i + 1].0, &files[i + 1].1));
    DataSet::new(name, part(0)?, part(2)?, class_names.iter().map(|&c| c.into()).collect())
}

/// The files under the names that other programs give them (`train-images.idx3-ubyte`), each also in a folder of
/// its own, below `dir` but not in folders of a set with the same names.
fn renamed(dir: &Path, set: &str) -> Option<Vec<PathBuf>> {
    let is_fashion = |name: &str| name.contains("fashion");
    let others = |name: &str| match set {
        "mnist" => {
            is_fashion(name) || ["kmnist", "emnist", "kuzushiji", "qmnist"].iter().any(|o| name.contains(o))
        }
        _ => name.contains("mnist") && !is_fashion(name),
    };
    let folders = folder::folders_below(dir, others);
    let find = |wanted: &&str| {
        let names = [wanted.to_string(), wanted.replace("-idx", ".idx")];
        let names = names.iter().flat_map(|name| [name.clone(), format!("{name}.gz")]);
        let names: Vec<String> = names.collect();
        folders
            .iter()
            .find_map(|folder| names.iter().map(|name| folder.join(name)).find(|path| path.is_file()))
    };
    FILES.iter().map(find).collect()
}

/// Images and labels from the bytes of two files; paths are only for messages.
///
/// # Errors
/// `Error::File` naming the file and the offset.
pub fn read_pair(images: (&[u8], &Path), labels: (&[u8], &Path)) -> Result<ImageSet> {
    let (image_axes, pixels) = elements(images.0, images.1, 3)?;
    let (label_axes, label_bytes) = elements(labels.0, labels.1, 1)?;
    if image_axes[0] != label_axes[0] {
        return Err(Error::file(
            labels.1,
            format!(
                "offset 4: one label per image was wanted; {} has {} images, this file {} labels",
                images.1.display(),
                image_axes[0],
                label_axes[0]
            ),
        ));
    }
    if let Some(i) = label_bytes.iter().position(|&label| label >= 10) {
        let found = label_bytes[i];
        return Err(Error::file(
            labels.1,
            format!("offset {}: a label from 0 to 9 was wanted, found {found}", 8 + i),
        ));
    }
    let pixels = PixelArray { height: image_axes[1], width: image_axes[2], channels: 1, bytes: pixels };
    Ok(ImageSet::in_memory(pixels, label_bytes.into_iter().map(u32::from).collect()))
}

/// Axis lengths and elements of one IDX file of unsigned bytes with `axes` axes.
fn elements(bytes: &[u8], path: &Path, axes: usize) -> Result<(Vec<usize>, Vec<u8>)> {
    if let Some(what) = folder::not_a_download(bytes) {
        return Err(Error::file(path, what));
    }
    let gz = bytes.starts_with(&[0x1f, 0x8b]);
    let mut stream: Box<dyn Read + '_> =
        if gz { Box::new(flate2::read::GzDecoder::new(bytes)) } else { Box::new(bytes) };
    let inside: Cow<str> = if gz { " of the unpacked data".into() } else { "".into() };
    let fail = |text: String| Err(Error::file(path, text));

    let header_len = 4 + 4 * axes;
    let mut header = Vec::with_capacity(header_len);
    if let Err(e) = stream.by_ref().take(header_len as u64).read_to_end(&mut header) {
        return fail(format!("cannot be unpacked: {}", folder::unpacking(&e)));
    }
    if header.len() < header_len {
        return fail(format!(
            "offset 0{inside}: an IDX header of {header_len} bytes was wanted, found {} bytes",
            header.len()
        ));
    }
    let magic = [0, 0, 8, axes as u8];
    if header[..4] != magic {
        return fail(format!(
            "offset 0{inside}: the IDX header {magic:02x?} (unsigned bytes, {axes} axes) was wanted, found {:02x?}",
            &header[..4]
        ));
    }
    let lengths: Vec<u32> =
        header[4..].chunks_exact(4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]])).collect();
    if lengths.contains(&0) {
        return fail(format!("offset 4{inside}: an axis has length 0: {lengths:?}"));
    }
    let wanted = lengths.iter().try_fold(1u64, |n, &length| n.checked_mul(u64::from(length)));
    let limit = (bytes.len() as u64).saturating_mul(if gz { DEFLATE_RATIO_MAX } else { 1 });
    let Some(wanted) = wanted.filter(|&n| n <= limit) else {
        return fail(format!(
            "offset 4{inside}: the header announces {lengths:?} bytes, more than a file of {} bytes can hold",
            bytes.len()
        ));
    };
    let mut data = Vec::with_capacity(wanted as usize + 1);
    // One byte more than announced: it shows too long a file and makes gzip check its sum.
    if let Err(e) = stream.take(wanted + 1).read_to_end(&mut data) {
        return fail(format!(
            "offset {}{inside}: cannot be unpacked: {}",
            header_len + data.len(),
            folder::unpacking(&e)
        ));
    }
    if data.len() as u64 != wanted {
        let found = if data.len() as u64 > wanted { "more".into() } else { data.len().to_string() };
        return fail(format!(
            "offset {header_len}{inside}: {wanted} bytes were wanted for {lengths:?}, found {found}"
        ));
    }
    Ok((lengths.into_iter().map(|length| length as usize).collect(), data))
}
