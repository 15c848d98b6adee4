//! The npz container: a zip archive with one `.npy` array per entry, stored or deflated.
//!
//! Source: numpy/lib/format.py, format versions 1 to 3. Headers are read first, all of them; an array
//! is read only once its shape is known to be wanted.

use super::stored::{StoredType, TensorInfo};
use crate::error::{Error, Result};
use npyz::{DType, NpyHeader, Order, TypeChar};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{Cursor, Read};
use std::path::Path;
use zip::ZipArchive;

/// A header of an array of numbers is about a hundred bytes.
const HEADER_LEN_MAX: usize = 16 << 10;
/// Weights deflate to little less than their size; what grows more is no checkpoint. (Deflate itself
/// reaches a factor of 1032.)
const INFLATE_MAX: u64 = 64;
/// ... beyond this, so that small files of zeros stay readable.
const INFLATE_FREE: u64 = 64 << 20;

pub(super) struct Npz<'a> {
    archive: ZipArchive<Cursor<&'a [u8]>>,
    entries: BTreeMap<String, NpzEntry>,
}

struct NpzEntry {
    index: usize,
    /// Bytes of the array, without the header.
    data_len: usize,
    order: Order,
}

/// Reads the directory and the header of every array.
pub(super) fn open<'a>(
    path: &Path,
    bytes: &'a [u8],
    mut archive: ZipArchive<Cursor<&'a [u8]>>,
) -> Result<(Npz<'a>, BTreeMap<String, TensorInfo>)> {
    let damaged = |e: &dyn Display| Error::file(path, format!("is not a valid zip archive: {e}"));
    if archive.has_duplicate_names() {
        return Err(Error::file(path, "has two entries of one name"));
    }
    let (mut infos, mut entries) = (BTreeMap::new(), BTreeMap::new());
    let mut inflated = 0u64;
    for index in 0..archive.len() {
        let entry = archive.by_index(index).map_err(|e| damaged(&e))?;
        let file_name = entry.name().map_err(|e| damaged(&e))?.into_owned();
        let Some(name) = file_name.strip_suffix(".npy") else { continue };
        let size = entry.size();
        inflated = inflated.saturating_add(size);
        if inflated > (bytes.len() as u64).saturating_mul(INFLATE_MAX).saturating_add(INFLATE_FREE) {
            return Err(Error::file(
                path,
                format!(
                    "claims {inflated} bytes of arrays up to `{name}` in a file of {} bytes; that is no checkpoint",
                    bytes.len()
                ),
            ));
        }
        let bad = |what: &dyn Display| Error::file(path, format!("array `{name}`: {what}"));
        let (header, header_len) = read_header(entry).map_err(|e| bad(&e))?;
        let shape: Option<Vec<usize>> = header.shape().iter().map(|&n| usize::try_from(n).ok()).collect();
        let shape = shape.ok_or_else(|| bad(&"its shape is too large"))?;
        let stored = stored_type(&header.dtype());
        let count = shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n));
        let (data_len, shape) = match header.dtype().num_bytes() {
            // Pickled objects and empty strings: no sizes to compare, so the shape means nothing.
            None | Some(0) => (0, Vec::new()),
            Some(item) => {
                let wanted = count.and_then(|n| n.checked_mul(item));
                let found = size.checked_sub(header_len as u64);
                match (wanted, found) {
                    (Some(wanted), Some(found)) if wanted as u64 == found => (wanted, shape),
                    _ => {
                        return Err(bad(&format!(
                            "its header says {shape:?} of {stored}, but {} bytes of data follow",
                            found.unwrap_or(0)
                        )));
                    }
                }
            }
        };
        entries.insert(name.to_string(), NpzEntry { index, data_len, order: header.order() });
        infos.insert(name.to_string(), TensorInfo { shape, stored });
    }
    Ok((Npz { archive, entries }, infos))
}

impl Npz<'_> {
    /// Reads one array; the end of the entry is read too, so that its checksum is compared.
    pub(super) fn read(&self, path: &Path, name: &str, info: &TensorInfo) -> Result<Vec<f32>> {
        let bad = |what: &dyn Display| Error::file(path, format!("array `{name}`: {what}"));
        let stored = self.entries.get(name).ok_or_else(|| bad(&"it is not in the file"))?;
        // A clone shares the directory and has its own position, so that arrays are read in parallel.
        let mut archive = self.archive.clone();
        let mut entry = archive.by_index(stored.index).map_err(|e| bad(&e))?;
        read_header(&mut entry).map_err(|e| bad(&e))?;
        let mut bytes = vec![0u8; stored.data_len];
        entry.read_exact(&mut bytes).map_err(|e| bad(&e))?;
        let more = entry.read(&mut [0u8; 1]).map_err(|e| bad(&e))?;
        if more != 0 {
            return Err(bad(&"more data follows than its header says"));
        }
        let data = info.stored.decode(&bytes);
        if data.len() != info.shape.iter().product::<usize>() {
            return Err(bad(&format!("it cannot be read as {}", info.stored)));
        }
        Ok(match stored.order {
            Order::C => data,
            Order::Fortran => row_major(&data, &info.shape),
        })
    }
}

/// Reads a header and returns it with its length in bytes. What the parser of the header could choke
/// on (a length of gigabytes, deep nesting, extents whose product overflows) is turned away before.
fn read_header(mut reader: impl Read) -> std::result::Result<(NpyHeader, usize), String> {
    let mut text = vec![0u8; 10];
    reader.read_exact(&mut text).map_err(|e| format!("its header cannot be read: {e}"))?;
    if &text[..6] != b"\x93NUMPY" {
        return Err("it is not a `.npy` array".to_string());
    }
    let len = match text[6] {
        1 => usize::from(u16::from_le_bytes([text[8], text[9]])),
        2 | 3 => {
            let mut rest = [0u8; 2];
            reader.read_exact(&mut rest).map_err(|e| format!("its header cannot be read: {e}"))?;
            text.extend(rest);
            u32::from_le_bytes([text[8], text[9], text[10], text[11]]) as usize
        }
        other => return Err(format!("its format version {other} is unknown")),
    };
    if len > HEADER_LEN_MAX {
        return Err(format!("its header claims {len} bytes, at most {HEADER_LEN_MAX} are expected"));
    }
    let start = text.len();
    text.resize(start + len, 0);
    reader.read_exact(&mut text[start..]).map_err(|e| format!("its header cannot be read: {e}"))?;
    let words = &text[start..];
    let count = |accept: fn(&u8) -> bool| words.iter().filter(|b| accept(b)).count();
    // 19 digits in all keep the product of the extents below 2^64.
    if count(u8::is_ascii_digit) > 19 || count(|b| matches!(b, b'(' | b'[' | b'{')) > 8 || !words.is_ascii() {
        return Err("its header is not that of an array of numbers".to_string());
    }
    let header = NpyHeader::from_reader(&text[..]).map_err(|e| format!("its header is damaged: {e}"))?;
    Ok((header, text.len()))
}

fn stored_type(dtype: &DType) -> StoredType {
    let DType::Plain(plain) = dtype else { return StoredType::Other("record".to_string()) };
    match (plain.type_char(), plain.size_field(), plain.endianness()) {
        (TypeChar::Float, 2, npyz::Endianness::Little) => StoredType::F16,
        (TypeChar::Float, 4, npyz::Endianness::Little) => StoredType::F32,
        (TypeChar::Float, 8, npyz::Endianness::Little) => StoredType::F64,
        // NumPy has no bfloat16: `ml_dtypes` arrays are saved as raw values of two bytes.
        (TypeChar::RawData, 2, _) => StoredType::Bf16,
        _ => StoredType::Other(plain.to_string()),
    }
}

/// Column-major (Fortran order) elements in row-major order.
fn row_major(data: &[f32], shape: &[usize]) -> Vec<f32> {
    let mut index = vec![0usize; shape.len()];
    let mut out = Vec::with_capacity(data.len());
    for _ in 0..data.len() {
        let from = index.iter().zip(shape).rev().fold(0, |at, (&i, &n)| at * n + i);
        out.push(data[from]);
        for (i, &n) in index.iter_mut().zip(shape).rev() {
            *i += 1;
            if *i < n {
                break;
            }
            *i = 0;
        }
    }
    out
}
