//! What a file says about one of its tensors.

use half::{bf16, f16};
use std::fmt;

/// Element type of a stored tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum StoredType {
    F16,
    Bf16,
    F32,
    F64,
    /// Anything that is not a weight, by its own name.
    Other(String),
}

impl fmt::Display for StoredType {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            StoredType::F16 => "float16",
            StoredType::Bf16 => "bfloat16",
            StoredType::F32 => "float32",
            StoredType::F64 => "float64",
            StoredType::Other(name) => name,
        })
    }
}

impl StoredType {
    /// Bytes of one element; `None` for what is never read.
    pub(super) fn item_bytes(&self) -> Option<usize> {
        match self {
            StoredType::F16 | StoredType::Bf16 => Some(2),
            StoredType::F32 => Some(4),
            StoredType::F64 => Some(8),
            StoredType::Other(_) => None,
        }
    }

    /// Little-endian elements as f32.
    pub(super) fn decode(&self, bytes: &[u8]) -> Vec<f32> {
        match self {
            StoredType::F16 => each(bytes, |b| f16::from_le_bytes(b).to_f32()),
            StoredType::Bf16 => each(bytes, |b| bf16::from_le_bytes(b).to_f32()),
            StoredType::F32 => each(bytes, f32::from_le_bytes),
            StoredType::F64 => each(bytes, |b| f64::from_le_bytes(b) as f32),
            StoredType::Other(_) => Vec::new(),
        }
    }
}

fn each<const N: usize>(bytes: &[u8], convert: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    bytes.as_chunks::<N>().0.iter().map(|&chunk| convert(chunk)).collect()
}

/// Shape and type of one tensor, from a header.
#[derive(Debug, Clone)]
pub(super) struct TensorInfo {
    pub shape: Vec<usize>,
    pub stored: StoredType,
}

/// A tensor of PyTorch: a view of a storage that lies in another file of the archive.
#[derive(Debug, Clone)]
pub(super) struct StridedView {
    /// Name of the storage's file.
    pub key: String,
    pub stored: StoredType,
    /// Elements of the storage; `None` if only its bytes are known.
    pub storage_len: Option<usize>,
    /// In elements, as the strides.
    pub offset: usize,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
}
