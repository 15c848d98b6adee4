//! The safetensors container: a JSON header and one block of data.
//!
//! Source: github.com/huggingface/safetensors, format description. The crate checks that the tensors
//! tile the block exactly.

use super::stored::{StoredType, TensorInfo};
use crate::error::{Error, Result};
use ::safetensors::{Dtype, SafeTensorError, SafeTensors};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

pub(super) struct Safetensors<'a> {
    data: &'a [u8],
    ranges: BTreeMap<String, Range<usize>>,
}

type Opened<'a> = (Safetensors<'a>, BTreeMap<String, TensorInfo>, BTreeMap<String, String>);

/// Reads the header.
pub(super) fn open<'a>(path: &Path, bytes: &'a [u8]) -> Result<Opened<'a>> {
    let (header_len, header) =
        SafeTensors::read_metadata(bytes).map_err(|e| Error::file(path, explain(&e, bytes)))?;
    let data = bytes.get(8 + header_len..).unwrap_or_default();
    let (mut infos, mut ranges) = (BTreeMap::new(), BTreeMap::new());
    for (name, info) in header.tensors() {
        let stored = match info.dtype {
            Dtype::F16 => StoredType::F16,
            Dtype::BF16 => StoredType::Bf16,
            Dtype::F32 => StoredType::F32,
            Dtype::F64 => StoredType::F64,
            other => StoredType::Other(format!("{other:?}")),
        };
        ranges.insert(name.clone(), info.data_offsets.0..info.data_offsets.1);
        infos.insert(name, TensorInfo { shape: info.shape.clone(), stored });
    }
    let metadata = header.metadata().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
    Ok((Safetensors { data, ranges }, infos, metadata))
}

impl Safetensors<'_> {
    pub(super) fn read(&self, path: &Path, name: &str, info: &TensorInfo) -> Result<Vec<f32>> {
        let bytes = self.ranges.get(name).and_then(|range| self.data.get(range.clone()));
        let bytes =
            bytes.ok_or_else(|| Error::file(path, format!("tensor `{name}` lies outside the file")))?;
        let data = info.stored.decode(bytes);
        if data.len() != info.shape.iter().product::<usize>() {
            return Err(Error::file(path, format!("tensor `{name}` cannot be read as {}", info.stored)));
        }
        Ok(data)
    }
}

fn explain(error: &SafeTensorError, bytes: &[u8]) -> String {
    let len = bytes.len();
    match error {
        SafeTensorError::HeaderTooSmall => {
            format!("has {len} bytes, too few for a `.npz` or `.safetensors` file")
        }
        SafeTensorError::HeaderTooLarge | SafeTensorError::InvalidHeaderLength => format!(
            "is neither a `.npz` file (a zip archive) nor a `.safetensors` file: a header length within the \
             {len} bytes of the file was wanted in the first eight"
        ),
        SafeTensorError::MetadataIncompleteBuffer => format!(
            "is a safetensors file whose header describes another amount of data than the {len} bytes it has; \
             it may be truncated"
        ),
        other => format!("is not a valid safetensors file: {other}"),
    }
}
