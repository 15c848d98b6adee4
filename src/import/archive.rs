//! A file of named tensors, whichever its container: what is in it, and one tensor at a time as f32.

use super::{HostTensor, npz, safetensors};
use crate::error::{Error, Result};
use half::{bf16, f16};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// Element type of a stored tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    F16,
    Bf16,
    F32,
    F64,
    /// Anything that is not a weight, by its own name.
    Other(String),
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Kind::F16 => "float16",
            Kind::Bf16 => "bfloat16",
            Kind::F32 => "float32",
            Kind::F64 => "float64",
            Kind::Other(name) => name,
        })
    }
}

impl Kind {
    /// Little-endian elements as f32.
    pub(super) fn decode(&self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Kind::F16 => each(bytes, |b| f16::from_le_bytes(b).to_f32()),
            Kind::Bf16 => each(bytes, |b| bf16::from_le_bytes(b).to_f32()),
            Kind::F32 => each(bytes, f32::from_le_bytes),
            Kind::F64 => each(bytes, |b| f64::from_le_bytes(b) as f32),
            Kind::Other(_) => Vec::new(),
        }
    }
}

fn each<const N: usize>(bytes: &[u8], convert: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    bytes.as_chunks::<N>().0.iter().map(|&chunk| convert(chunk)).collect()
}

/// What a header says about one tensor.
#[derive(Debug, Clone)]
pub(super) struct Info {
    pub shape: Vec<usize>,
    pub kind: Kind,
}

enum Body<'a> {
    Npz(npz::Npz<'a>),
    Safetensors(safetensors::Safetensors<'a>),
}

pub(super) struct Archive<'a> {
    pub path: &'a Path,
    pub container: &'static str,
    pub infos: BTreeMap<String, Info>,
    /// Text entries of the header (safetensors only).
    pub metadata: BTreeMap<String, String>,
    body: Body<'a>,
}

impl<'a> Archive<'a> {
    pub(super) fn open(path: &'a Path, bytes: &'a [u8]) -> Result<Archive<'a>> {
        if let Some(what) = foreign(bytes) {
            let wanted = "wanted a `.npz` of JAX names or a `.safetensors` file";
            return Err(Error::file(path, format!("is {what}; {wanted}")));
        }
        if bytes.starts_with(b"PK") {
            let (npz, infos) = npz::open(path, bytes)?;
            let metadata = BTreeMap::new();
            return Ok(Archive { path, container: "npz", infos, metadata, body: Body::Npz(npz) });
        }
        let (body, infos, metadata) = safetensors::open(path, bytes)?;
        Ok(Archive { path, container: "safetensors", infos, metadata, body: Body::Safetensors(body) })
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.infos.contains_key(name)
    }

    /// An error about this file.
    pub(super) fn error(&self, what: impl fmt::Display) -> Error {
        Error::file(self.path, what)
    }

    /// Reads one tensor and checks that all of it is finite.
    pub(super) fn read(&self, name: &str) -> Result<HostTensor> {
        let info = self.infos.get(name).ok_or_else(|| self.error(format!("has no tensor `{name}`")))?;
        let data = match &self.body {
            Body::Npz(npz) => npz.read(self.path, name, info)?,
            Body::Safetensors(body) => body.read(self.path, name, info)?,
        };
        if let Some(at) = data.iter().position(|v| !v.is_finite()) {
            let bad = data.iter().filter(|v| !v.is_finite()).count();
            return Err(self.error(format!(
                "tensor `{name}` has {bad} values that are not finite in float32, the first ({}) at \
                 position {at} of {}; such weights cannot be used",
                data[at],
                data.len()
            )));
        }
        Ok(HostTensor { shape: info.shape.clone(), data })
    }
}

/// Files that people try and that are something else.
fn foreign(bytes: &[u8]) -> Option<&'static str> {
    let head = &bytes[..bytes.len().min(64)];
    if head.starts_with(b"version https://git-lfs") {
        Some("a Git LFS pointer, not the file itself (fetch it with `git lfs pull`)")
    } else if head.starts_with(b"\x89HDF") {
        Some("an HDF5 file")
    } else if head.starts_with(&[0x80]) && head.get(1).is_some_and(|v| (2..=5).contains(v)) {
        Some("a Python pickle (save the model with safetensors instead)")
    } else if head.starts_with(b"\x93NUMPY") {
        Some("a single `.npy` array")
    } else if head.starts_with(&[0x1f, 0x8b]) {
        Some("a gzip file (unpack it first)")
    } else if head.trim_ascii_start().starts_with(b"<") {
        Some("a web page or XML, perhaps a failed download")
    } else {
        None
    }
}
