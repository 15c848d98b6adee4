//! A set of named tensors, whichever its container and in however many files: what is in it, and one
//! tensor at a time as f32.

use super::backbone::HostTensor;
use super::foreign;
use super::npz::{self, Npz};
use super::safetensors::{self, Safetensors};
use super::stored::TensorInfo;
use super::torch_zip::{self, TorchZip};
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::fmt;
use std::io::Cursor;
use std::path::Path;
use zip::ZipArchive;

/// One file in memory.
#[derive(Clone, Copy)]
pub(super) struct FileBytes<'a> {
    pub path: &'a Path,
    pub bytes: &'a [u8],
}

enum Container<'a> {
    Npz(Npz<'a>),
    Safetensors(Safetensors<'a>),
    TorchZip(TorchZip<'a>),
}

struct FilePart<'a> {
    path: &'a Path,
    container: Container<'a>,
}

/// Where a tensor lies.
#[derive(Debug, Clone)]
struct StoredTensor {
    part: usize,
    /// Its name in the file, of which wrappers may have been taken off.
    name: String,
}

pub(super) struct Archive<'a> {
    /// What messages call the checkpoint.
    pub path: &'a Path,
    pub container: String,
    pub infos: BTreeMap<String, TensorInfo>,
    /// Text entries of the header (safetensors only).
    pub metadata: BTreeMap<String, String>,
    /// Remarks for the source sentence.
    pub notes: Vec<String>,
    places: BTreeMap<String, StoredTensor>,
    parts: Vec<FilePart<'a>>,
}

impl<'a> Archive<'a> {
    /// Reads the headers of all parts; a tensor may be in one of them only.
    pub(super) fn open(path: &'a Path, files: &[FileBytes<'a>]) -> Result<Archive<'a>> {
        let mut archive = Archive {
            path,
            container: String::new(),
            infos: BTreeMap::new(),
            metadata: BTreeMap::new(),
            notes: Vec::new(),
            places: BTreeMap::new(),
            parts: Vec::new(),
        };
        for &file in files {
            archive.add(file)?;
        }
        if files.len() > 1 {
            archive.container = format!("{} files of {}", files.len(), archive.container);
        }
        Ok(archive)
    }

    fn add(&mut self, file: FileBytes<'a>) -> Result<()> {
        let FileBytes { path, bytes } = file;
        if let Some(what) = foreign::kind(path, bytes) {
            return Err(Error::file(path, format!("is {what}; {}", foreign::CONTAINERS)));
        }
        let part = self.parts.len();
        let (name, container, infos) = if bytes.starts_with(b"PK") {
            let zip = ZipArchive::new(Cursor::new(bytes))
                .map_err(|e| Error::file(path, format!("is not a valid zip archive: {e}")))?;
            match torch_zip::pickle_index(&zip) {
                Some(index) => {
                    let (body, infos, notes) = torch_zip::open(path, bytes, zip, index)?;
                    self.notes.extend(notes);
                    ("a PyTorch file", Container::TorchZip(body), infos)
                }
                None => {
                    let (body, infos) = npz::open(path, bytes, zip)?;
                    ("npz", Container::Npz(body), infos)
                }
            }
        } else {
            let (body, infos, metadata) = safetensors::open(path, bytes)?;
            self.metadata.extend(metadata);
            ("safetensors", Container::Safetensors(body), infos)
        };
        for (name, info) in infos {
            if self.places.insert(name.clone(), StoredTensor { part, name: name.clone() }).is_some() {
                return Err(Error::file(path, format!("has the tensor `{name}` that another part has, too")));
            }
            self.infos.insert(name, info);
        }
        self.container = name.to_string();
        self.parts.push(FilePart { path, container });
        Ok(())
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.infos.contains_key(name)
    }

    /// An error about this checkpoint.
    pub(super) fn error(&self, what: impl fmt::Display) -> Error {
        Error::file(self.path, what)
    }

    /// Renames every tensor; those for which `rename` gives nothing are forgotten.
    pub(super) fn rename(&mut self, rename: impl Fn(&str) -> Option<String>) -> Result<()> {
        let (mut infos, mut places) = (BTreeMap::new(), BTreeMap::<String, StoredTensor>::new());
        for (name, info) in &self.infos {
            let Some((new, place)) = rename(name).zip(self.places.get(name)) else { continue };
            if let Some(other) = places.insert(new.clone(), place.clone()) {
                return Err(self.error(format!(
                    "has `{}` and `{}`, which are both `{new}` without the names of wrappers",
                    other.name, place.name
                )));
            }
            infos.insert(new, info.clone());
        }
        (self.infos, self.places) = (infos, places);
        Ok(())
    }

    /// Reads one tensor and checks that all of it is finite.
    pub(super) fn read(&self, name: &str) -> Result<HostTensor> {
        let known = self.infos.get(name).zip(self.places.get(name));
        let (info, place) = known.ok_or_else(|| self.error(format!("has no tensor `{name}`")))?;
        let FilePart { path, container } = &self.parts[place.part];
        let data = match container {
            Container::Npz(body) => body.read(path, &place.name, info)?,
            Container::Safetensors(body) => body.read(path, &place.name, info)?,
            Container::TorchZip(body) => body.read(path, &place.name)?,
        };
        if let Some(at) = data.iter().position(|v| !v.is_finite()) {
            let bad = data.iter().filter(|v| !v.is_finite()).count();
            return Err(Error::file(
                path,
                format!(
                    "tensor `{}` has {bad} values that are not finite in float32, the first ({}) at position {at} \
                     of {}; such weights cannot be used",
                    place.name,
                    data[at],
                    data.len()
                ),
            ));
        }
        Ok(HostTensor { shape: info.shape.clone(), data })
    }
}
