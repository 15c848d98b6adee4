//! Pre-trained checkpoints of other programs: `.npz`, `.safetensors` and PyTorch files to one backbone.
//!
//! A checkpoint is read in three steps. [`archive`] lists its tensors without reading them, and
//! [`wrappers`] takes off what training programs put around their names. A `names_*` module recognises
//! whose names they are and lays out a [`conversion`], which says for every tensor of the engine where its
//! numbers come from. The conversion is checked against the list (one table with everything that is
//! missing, extra or misshapen) and only then run. So nothing is allocated that the file has not shown to
//! contain. `docs/checkpoints.md` says which files are read.

mod allow_list;
mod archive;
mod backbone;
mod beside;
mod conversion;
mod convert;
mod families;
mod foreign;
mod locate;
mod names_hf;
mod names_jax;
mod names_timm;
mod names_torch;
mod native;
mod npz;
mod pickle;
pub mod ports;
mod positions;
mod report;
mod safetensors;
mod source;
mod stored;
mod torch_zip;
mod wrappers;

pub use backbone::{Backbone, Gelu, HostTensor, LoadOptions, PositionResize, TensorSink, VitDims};
pub use native::{MoreTensor, RUN, write_native, write_native_with};
pub use positions::resize_positions;

use crate::error::{Error, Result};
use archive::{Archive, FileBytes};
use beside::Description;
use conversion::Conversion;
use memmap2::Mmap;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Reads a checkpoint: a file, the index of a checkpoint in parts, or a folder with one of them. The
/// container is told by the first bytes, the format by the tensor names; JSON files beside it
/// (`<stem>.json`, and for PyTorch formats `config.json` and `preprocessor_config.json`) say what the
/// tensors cannot.
///
/// # Errors
/// `Error::File` if the file is not understood, damaged, or contains a model of another kind;
/// `Error::Config` if an option does not fit the model.
pub fn load(path: &Path, options: &LoadOptions) -> Result<Backbone> {
    collected(|place| read(path, options, place))
}

/// Reads a checkpoint that is part of the program; `name` stands for the path in messages.
///
/// # Errors
/// As [`load`].
pub fn load_bytes(name: &str, bytes: &[u8], options: &LoadOptions) -> Result<Backbone> {
    collected(|place| read_bytes(name, bytes, options, place))
}

/// What a checkpoint is, without its tensors and its checksum: the headers of its files are read and checked.
///
/// # Errors
/// As [`load`], but for damage behind the headers.
pub fn describe(path: &Path, options: &LoadOptions) -> Result<Backbone> {
    let mapped = Mapped::open(path)?;
    let (archive, conversion) =
        settled(&mapped.path, &mapped.files(), options, |conversion| mapped.description(conversion))?;
    Ok(conversion.about(&archive))
}

/// [`describe`] for a checkpoint that is part of the program.
///
/// # Errors
/// As [`describe`].
pub fn describe_bytes(name: &str, bytes: &[u8], options: &LoadOptions) -> Result<Backbone> {
    let path = Path::new(name);
    let none = |_: &Conversion| Ok(Description::default());
    let (archive, conversion) = settled(path, &[FileBytes { path, bytes }], options, none)?;
    Ok(conversion.about(&archive))
}

/// [`load`] without the whole checkpoint in memory: each tensor goes to `place` as soon as it is converted, and the
/// pages of the files that were read are given back. The result has a checksum and no tensors.
///
/// # Errors
/// As [`load`], and those of `place`.
pub fn read(path: &Path, options: &LoadOptions, place: TensorSink) -> Result<Backbone> {
    let mapped = Mapped::open(path)?;
    let describe = |conversion: &Conversion| mapped.description(conversion);
    build(&mapped.path, &mapped.files(), options, describe, &|| mapped.release(), place)
}

/// [`read`] for a checkpoint that is part of the program.
///
/// # Errors
/// As [`read`].
pub fn read_bytes(name: &str, bytes: &[u8], options: &LoadOptions, place: TensorSink) -> Result<Backbone> {
    let path = Path::new(name);
    build(path, &[FileBytes { path, bytes }], options, |_| Ok(Description::default()), &|| (), place)
}

/// The backbone that `read` reads, with its tensors.
fn collected(read: impl FnOnce(TensorSink) -> Result<Backbone>) -> Result<Backbone> {
    let mut tensors = BTreeMap::new();
    let backbone = read(&mut |name: &str, tensor| {
        tensors.insert(name.to_string(), tensor);
        Ok(())
    })?;
    Ok(Backbone { tensors, ..backbone })
}

/// Name, shape and element type of every tensor of a checkpoint, by name, as its files have them.
///
/// # Errors
/// `Error::File` if it is none, or damaged.
pub fn list(path: &Path) -> Result<Vec<(String, Vec<usize>, String)>> {
    let mapped = Mapped::open(path)?;
    let archive = Archive::open(&mapped.path, &mapped.files())?;
    let row = |(name, info): (&String, &stored::TensorInfo)| {
        (name.clone(), info.shape.clone(), info.stored.to_string())
    };
    Ok(archive.infos.iter().map(row).collect())
}

/// All tensors of floats of a checkpoint, as its files have them.
///
/// # Errors
/// `Error::File` if it is none, or damaged.
fn all(path: &Path, files: &[FileBytes]) -> Result<BTreeMap<String, HostTensor>> {
    let archive = Archive::open(path, files)?;
    let floats = archive.infos.iter().filter(|(_, info)| info.stored.item_bytes().is_some());
    floats.map(|(name, _)| Ok((name.clone(), archive.read(name)?))).collect()
}

/// The text entries of a `.safetensors` header; empty for other files.
///
/// # Errors
/// As [`list`].
pub fn metadata(path: &Path) -> Result<BTreeMap<String, String>> {
    let mapped = Mapped::open(path)?;
    Ok(Archive::open(&mapped.path, &mapped.files())?.metadata)
}

/// The checksum that a [`Backbone`] of this checkpoint has, without reading its tensors.
///
/// # Errors
/// `Error::File` if the files cannot be opened.
pub fn checksum(path: &Path) -> Result<String> {
    let mapped = Mapped::open(path)?;
    Ok(sha256(&mapped.files(), &|| mapped.release()))
}

/// The files of a checkpoint in memory.
struct Mapped {
    path: PathBuf,
    beside: PathBuf,
    parts: Vec<(PathBuf, Mmap)>,
}

impl Mapped {
    fn open(path: &Path) -> Result<Mapped> {
        let found = locate::checkpoint(path)?;
        let parts: Result<Vec<_>> =
            found.parts.into_iter().map(|part| map(&part).map(|map| (part, map))).collect();
        Ok(Mapped { path: found.path, beside: found.beside, parts: parts? })
    }

    fn description(&self, conversion: &Conversion) -> Result<Description> {
        Description::beside(&self.beside, conversion.described_by, &conversion.dims)
    }

    /// Gives the pages that were read back to the system: a mapped file counts as memory of the process.
    fn release(&self) {
        #[cfg(unix)]
        for (_, map) in &self.parts {
            // SAFETY: the map is shared with the file and read-only, so that no page holds anything but what the
            // file has: a page that is read again comes from the file again. The advice may fail without harm.
            let _ = unsafe { map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
        }
    }

    fn files(&self) -> Vec<FileBytes<'_>> {
        self.parts.iter().map(|(path, map)| FileBytes { path, bytes: map }).collect()
    }
}

fn map(path: &Path) -> Result<Mmap> {
    let file = File::open(path).map_err(|e| Error::file(path, format!("cannot be opened: {e}")))?;
    let about = file.metadata().map_err(|e| Error::file(path, format!("cannot be examined: {e}")))?;
    if !about.is_file() {
        return Err(Error::file(path, format!("is not a file; {}", foreign::CONTAINERS)));
    }
    if about.len() == 0 {
        return Err(Error::file(path, "is empty"));
    }
    // SAFETY: the map is read-only and dropped when the checkpoint has been read. Another process that
    // shortens the file meanwhile would end this one, as with every program that maps its weights.
    let map = unsafe { Mmap::map(&file) };
    map.map_err(|e| Error::file(path, format!("cannot be mapped: {e}")))
}

/// Bytes that the checksum reads before it gives their pages back.
const SUM_BYTES: usize = 8 << 20;

/// See [`Backbone::sha256`]. `release` is called between pieces of a file.
fn sha256(files: &[FileBytes], release: &dyn Fn()) -> String {
    let hex = |bytes: &[u8]| {
        let mut sum = Sha256::new();
        for piece in bytes.chunks(SUM_BYTES) {
            sum.update(piece);
            release();
        }
        format!("{:x}", sum.finalize())
    };
    match files {
        [only] => hex(only.bytes),
        parts => {
            let line = |part: &FileBytes| {
                let name = part.path.file_name().unwrap_or_default().to_string_lossy();
                format!("{}  {name}\n", hex(part.bytes))
            };
            hex(parts.iter().map(line).collect::<String>().as_bytes())
        }
    }
}

/// Recognises a checkpoint, checks it against what is wanted and settles what the user and other files say of it.
fn settled<'a>(
    path: &'a Path,
    files: &[FileBytes<'a>],
    options: &LoadOptions,
    describe: impl FnOnce(&Conversion) -> Result<Description>,
) -> Result<(Archive<'a>, Conversion)> {
    let mut archive = Archive::open(path, files)?;
    let mut conversion = recognise(&mut archive)?;
    conversion.check(&archive)?;
    let description = describe(&conversion)?;
    conversion.settle(path, &description, options)?;
    Ok((archive, conversion))
}

/// Recognise, check, convert. The checksum runs beside it.
fn build(
    path: &Path,
    files: &[FileBytes],
    options: &LoadOptions,
    describe: impl FnOnce(&Conversion) -> Result<Description>,
    release: &(dyn Fn() + Sync),
    place: TensorSink,
) -> Result<Backbone> {
    std::thread::scope(|scope| {
        let sum = scope.spawn(|| sha256(files, release));
        let (archive, conversion) = settled(path, files, options, describe)?;
        conversion.run(&archive, release, place)?;
        let mut backbone = conversion.about(&archive);
        backbone.sha256 = sum.join().map_err(|_| Error::failed("the checksum thread stopped"))?;
        Ok(backbone)
    })
}

fn recognise(archive: &mut Archive) -> Result<Conversion> {
    if native::is(archive) {
        return native::conversion(archive);
    }
    if let Some((what, name)) = families::unsupported(archive) {
        return Err(archive.error(format!("is {what} (found `{name}`)")));
    }
    wrappers::strip(archive)?;
    if names_jax::is(archive) {
        names_jax::conversion(archive)
    } else if names_timm::is(archive) {
        names_timm::conversion(archive)
    } else if names_hf::is(archive) {
        names_hf::conversion(archive)
    } else {
        Err(report::unknown(archive))
    }
}
