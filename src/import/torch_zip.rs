//! PyTorch's file format since version 1.6: a zip archive with a pickled state dict (`data.pkl`) and one
//! uncompressed file of bytes per storage (`data/0`, `data/1`, …).
//!
//! Source: PyTorch `torch/serialization.py`, `caffe2/serialize/inline_container.h`. A tensor is a view of a
//! storage: an offset, extents and strides. Several tensors may share one.

use super::pickle::{Entry, Id, PickledWeights};
use super::stored::{StridedView, TensorInfo};
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::ops::Range;
use std::path::Path;
use std::sync::OnceLock;
use zip::{CompressionMethod, ZipArchive};

/// A pickle of names and extents; the numbers are elsewhere.
const PICKLE_LEN_MAX: u64 = 64 << 20;
/// A state dict in a dictionary in a dictionary.
const DEPTH_MAX: usize = 4;
/// Dictionary entries looked at, which bounds what shared dictionaries can cost.
const ENTRIES_MAX: usize = 1_000_000;
/// Bytes of all tensors over those of all storages. Views that overlap (tied weights) make it more than 1.
const SHARED_MAX: u64 = 4;
/// Where training programs put the weights, best first. Of DINO's two networks the teacher is the one that
/// its authors evaluate.
const WRAPPERS: [&str; 13] = [
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "teacher",
    "model_ema",
    "student",
    "module",
    "net",
    "network",
    "backbone",
    "encoder",
    "weights",
];

pub(super) struct TorchZip<'a> {
    bytes: &'a [u8],
    archive: ZipArchive<Cursor<&'a [u8]>>,
    storages: BTreeMap<String, StorageFile>,
    views: BTreeMap<String, StridedView>,
}

/// One storage as it lies in the archive.
struct StorageFile {
    index: usize,
    range: Range<usize>,
    /// Whether its checksum is right: found out once, at the first tensor.
    checked: OnceLock<std::result::Result<(), String>>,
}

type Opened<'a> = (TorchZip<'a>, BTreeMap<String, TensorInfo>, Vec<String>);

/// Position of the pickled state dict, if the archive is of this format.
pub(super) fn pickle_index(archive: &ZipArchive<Cursor<&[u8]>>) -> Option<usize> {
    (0..archive.len()).find(|&index| {
        let name = entry_name(archive, index);
        name == "data.pkl" || name.ends_with("/data.pkl")
    })
}

/// Empty for a name that is no text, which PyTorch does not write.
fn entry_name(archive: &ZipArchive<Cursor<&[u8]>>, index: usize) -> String {
    archive.name_for_index(index).and_then(|name| Some(name.ok()?.into_owned())).unwrap_or_default()
}

/// Reads the names and extents. The third part are remarks on what was chosen.
pub(super) fn open<'a>(
    path: &Path,
    bytes: &'a [u8],
    mut archive: ZipArchive<Cursor<&'a [u8]>>,
    pickle_index: usize,
) -> Result<Opened<'a>> {
    let bad =
        |what: String| Error::file(path, format!("is a PyTorch checkpoint that cannot be read: {what}"));
    let names: Vec<String> = (0..archive.len()).map(|index| entry_name(&archive, index)).collect();
    let root = names[pickle_index].trim_end_matches("data.pkl").to_string();
    if names.iter().any(|n| *n == format!("{root}constants.pkl") || n.starts_with(&format!("{root}code/"))) {
        return Err(Error::file(
            path,
            "is a TorchScript program (`torch.jit.save`), not a state dict; save the weights with \
             `torch.save(torch.jit.load(FILE).state_dict(), NEW)`",
        ));
    }
    let storage_prefix = format!("{root}data/");
    let (mut storages, mut pickle, mut total) = (BTreeMap::new(), Vec::new(), 0u64);
    for (index, name) in names.iter().enumerate() {
        let entry = archive.by_index(index).map_err(|e| bad(e.to_string()))?;
        let (len, stored) = (entry.size(), entry.compression() == CompressionMethod::Stored);
        if index == pickle_index {
            if len > PICKLE_LEN_MAX {
                return Err(bad(format!(
                    "`{name}` claims {len} bytes, at most {PICKLE_LEN_MAX} are expected"
                )));
            }
            entry.take(PICKLE_LEN_MAX).read_to_end(&mut pickle).map_err(|e| bad(format!("`{name}`: {e}")))?;
        } else if *name == format!("{root}byteorder") {
            let mut order = String::new();
            entry.take(16).read_to_string(&mut order).map_err(|e| bad(format!("`{name}`: {e}")))?;
            if order.trim() != "little" {
                return Err(bad(format!(
                    "its numbers are stored {}-endian; wanted little-endian",
                    order.trim()
                )));
            }
        } else if let Some(key) = name.strip_prefix(&storage_prefix) {
            let at = content_start(bytes, entry.header_start());
            let range = at.and_then(|at| Some(at..at.checked_add(usize::try_from(len).ok()?)?));
            let range = range.filter(|range| range.end <= bytes.len() && entry.compressed_size() == len);
            let Some(range) = range.filter(|_| stored) else {
                return Err(bad(format!(
                    "`{name}` is compressed or lies outside the file; wanted it as `torch.save` writes it, stored"
                )));
            };
            total += len;
            storages.insert(key.to_string(), StorageFile { index, range, checked: OnceLock::new() });
        }
    }
    let pickle = PickledWeights::parse(&pickle).map_err(bad)?;
    let (views, notes) = state_dict(&pickle).map_err(bad)?;
    let mut needed = 0u64;
    for (name, view) in &views {
        let storage = storages.get(&view.key);
        let storage = storage.ok_or_else(|| bad(format!("`{name}`: the file has no `data/{}`", view.key)))?;
        let len = check(view, storage.range.len()).map_err(|what| bad(format!("tensor `{name}` {what}")))?;
        needed = needed.saturating_add(len as u64);
    }
    if needed > total.saturating_mul(SHARED_MAX) {
        return Err(bad(format!(
            "its tensors are views of {needed} bytes in all, its storages have {total}"
        )));
    }
    let info = |view: &StridedView| TensorInfo { shape: view.shape.clone(), stored: view.stored.clone() };
    let infos = views.iter().map(|(name, view)| (name.clone(), info(view))).collect();
    Ok((TorchZip { bytes, archive, storages, views }, infos, notes))
}

/// Where the content of an entry begins: behind its local header, a name and an extra field.
fn content_start(bytes: &[u8], header_start: u64) -> Option<usize> {
    let at = usize::try_from(header_start).ok()?;
    let header = bytes.get(at..at.checked_add(30)?)?;
    let length = |i: usize| usize::from(u16::from_le_bytes([header[i], header[i + 1]]));
    header.starts_with(b"PK\x03\x04").then_some(at + 30 + length(26) + length(28))
}

/// The bytes of a view's elements, if the view lies within its storage.
fn check(view: &StridedView, storage_bytes: usize) -> std::result::Result<usize, String> {
    // What is no float is never read.
    let Some(item) = view.stored.item_bytes() else { return Ok(0) };
    let storage_len = storage_bytes / item;
    if view.storage_len.is_some_and(|len| len != storage_len) {
        return Err(format!(
            "lies in a storage of {} elements of {}, but {storage_bytes} bytes are stored",
            view.storage_len.unwrap_or(0),
            view.stored
        ));
    }
    let count = view.shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n));
    let last =
        view.shape.iter().zip(&view.strides).try_fold(view.offset, |at, (&n, &stride)| {
            at.checked_add(n.saturating_sub(1).checked_mul(stride)?)
        });
    match (count, last) {
        (Some(0), _) => Ok(0),
        (Some(count), _) if count > storage_len => Err(format!(
            "is an expanded view: {:?} with the strides {:?} of a storage of {storage_len} elements; save it after \
             `.contiguous()`",
            view.shape, view.strides
        )),
        (Some(count), Some(last)) if last < storage_len => Ok(count * item),
        _ => Err(format!(
            "({:?}, strides {:?}, offset {}) lies outside its storage of {storage_len} elements",
            view.shape, view.strides, view.offset
        )),
    }
}

/// The dictionary of tensors among what was saved with it.
fn state_dict(
    pickle: &PickledWeights,
) -> std::result::Result<(BTreeMap<String, StridedView>, Vec<String>), String> {
    let mut search = Search { pickle, left: ENTRIES_MAX };
    let (mut at, mut path) = (pickle.root, Vec::new());
    for _ in 0..DEPTH_MAX {
        let Some(entries) = pickle.entries(at) else {
            return Err("it holds no dictionary of tensors; save `model.state_dict()`".to_string());
        };
        let entries: Vec<(String, Entry)> = entries.collect();
        let mut dicts = Vec::new();
        for (name, entry) in &entries {
            if let Entry::Dict(id) = entry
                && search.holds_tensors(*id, DEPTH_MAX)?
            {
                dicts.push((name.as_str(), *id));
            }
        }
        let wrapped = WRAPPERS.iter().find_map(|wrapper| dicts.iter().find(|(name, _)| name == wrapper));
        let has_tensors = entries.iter().any(|(_, entry)| matches!(entry, Entry::Tensor(_)));
        let next = match (wrapped, dicts.as_slice()) {
            (Some(&next), _) => Some(next),
            (None, [only]) if !has_tensors => Some(*only),
            _ => None,
        };
        if let Some((name, id)) = next {
            path.push(name.to_string());
            at = id;
            continue;
        }
        if !has_tensors {
            let names: Vec<&str> = entries.iter().take(12).map(|(name, _)| name.as_str()).collect();
            let among = match names.join(", ") {
                none if none.is_empty() => "its dictionary is empty".to_string(),
                names => format!("no state dict is among its entries ({names})"),
            };
            return Err(format!("{among}; wanted one at the top or under one of {}", WRAPPERS.join(", ")));
        }
        let mut views = BTreeMap::new();
        search.collect(at, "", DEPTH_MAX, &mut views)?;
        let notes = if path.is_empty() { Vec::new() } else { vec![format!("its `{}`", path.join("."))] };
        return Ok((views, notes));
    }
    Err(format!("its dictionaries are nested deeper than {DEPTH_MAX}"))
}

struct Search<'p, 'a> {
    pickle: &'p PickledWeights<'a>,
    /// Entries that may still be looked at.
    left: usize,
}

impl Search<'_, '_> {
    fn count(&mut self) -> std::result::Result<(), String> {
        self.left =
            self.left.checked_sub(1).ok_or_else(|| format!("it has more than {ENTRIES_MAX} entries"))?;
        Ok(())
    }

    fn holds_tensors(&mut self, id: Id, depth: usize) -> std::result::Result<bool, String> {
        let pickle = self.pickle;
        for (_, entry) in pickle.entries(id).into_iter().flatten() {
            self.count()?;
            match entry {
                Entry::Tensor(_) => return Ok(true),
                Entry::Dict(inner) if depth > 0 && self.holds_tensors(inner, depth - 1)? => return Ok(true),
                _ => {}
            }
        }
        Ok(false)
    }

    /// Every tensor at or below `id`, by its names joined with dots. The last of equal names counts.
    fn collect(
        &mut self,
        id: Id,
        before: &str,
        depth: usize,
        views: &mut BTreeMap<String, StridedView>,
    ) -> std::result::Result<(), String> {
        let pickle = self.pickle;
        for (name, entry) in pickle.entries(id).into_iter().flatten() {
            self.count()?;
            match entry {
                Entry::Tensor(view) => drop(views.insert(format!("{before}{name}"), view.clone())),
                Entry::Dict(inner) if depth > 0 => {
                    self.collect(inner, &format!("{before}{name}."), depth - 1, views)?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl TorchZip<'_> {
    pub(super) fn read(&self, path: &Path, name: &str) -> Result<Vec<f32>> {
        let bad = |what: &str| Error::file(path, format!("tensor `{name}`: {what}"));
        let view = self.views.get(name).ok_or_else(|| bad("it is not in the file"))?;
        let storage = self.storages.get(&view.key).ok_or_else(|| bad("its storage is not in the file"))?;
        storage.checked.get_or_init(|| self.checksum(storage.index)).as_ref().map_err(|e| bad(e))?;
        let bytes = self.bytes.get(storage.range.clone()).unwrap_or_default();
        let outside = || bad("it lies outside its storage");
        let item = view.stored.item_bytes().ok_or_else(|| bad("it is no float"))?;
        let count = view.shape.iter().product::<usize>();
        if count == 0 {
            return Ok(Vec::new());
        }
        if is_contiguous(view) {
            let from = view.offset * item;
            return Ok(view.stored.decode(bytes.get(from..from + count * item).ok_or_else(outside)?));
        }
        let mut gathered = Vec::with_capacity(count * item);
        let mut index = vec![0usize; view.shape.len()];
        for _ in 0..count {
            let at = index.iter().zip(&view.strides).fold(view.offset, |at, (i, stride)| at + i * stride);
            gathered.extend_from_slice(bytes.get(at * item..(at + 1) * item).ok_or_else(outside)?);
            for (i, &n) in index.iter_mut().zip(&view.shape).rev() {
                *i += 1;
                if *i < n {
                    break;
                }
                *i = 0;
            }
        }
        Ok(view.stored.decode(&gathered))
    }

    /// Reads a storage to its end, where the archive compares the checksum.
    fn checksum(&self, index: usize) -> std::result::Result<(), String> {
        let mut archive = self.archive.clone();
        let mut entry = archive.by_index(index).map_err(|e| e.to_string())?;
        std::io::copy(&mut entry, &mut std::io::sink()).map_err(|e| e.to_string())?;
        Ok(())
    }
}

fn is_contiguous(view: &StridedView) -> bool {
    let mut wanted = 1;
    view.shape.iter().zip(&view.strides).rev().all(|(&n, &stride)| {
        let fits = n == 1 || stride == wanted;
        wanted *= n;
        fits
    })
}
