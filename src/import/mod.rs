//! Pre-trained checkpoints of other programs: `.npz` and `.safetensors` files to one backbone.
//!
//! A file is read in three steps. [`archive`] lists its tensors without reading them; a `names_*`
//! module recognises whose names they are and lays out a [`plan`], which says for every tensor of the
//! engine where its numbers come from; the plan is checked against the list (one table with
//! everything that is missing, extra or misshapen) and only then run. So nothing is allocated that
//! the file has not shown to contain.

mod archive;
mod hints;
mod names_hf;
mod names_jax;
mod names_timm;
mod names_torch;
mod native;
mod npz;
mod plan;
mod positions;
mod report;
mod safetensors;

pub use native::write_native;
pub use positions::resize_positions;

use crate::error::{Error, Result};
use archive::Archive;
use hints::Hints;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

/// The sizes of a vision transformer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VitDims {
    /// Side of the square input, in pixels.
    pub image_size: usize,
    /// Side of a patch, in pixels.
    pub patch_size: usize,
    /// Always 3.
    pub channels: usize,
    pub embed_dim: usize,
    pub heads: usize,
    pub mlp_dim: usize,
    pub layers: usize,
}

impl VitDims {
    /// Patches along one side of the image.
    pub fn grid(&self) -> usize {
        self.image_size / self.patch_size
    }

    /// Name and shape of every tensor of a [`Backbone`], in the order of the forward pass. Kernels
    /// are [in, out]; the columns of `qkv` are all query heads, then all key heads, then all value
    /// heads.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (p, d, m) = (self.patch_size, self.embed_dim, self.mlp_dim);
        let mut all = vec![
            ("embedding/kernel".to_string(), vec![p, p, self.channels, d]),
            ("embedding/bias".to_string(), vec![d]),
            ("cls".to_string(), vec![1, 1, d]),
            ("pos_embedding".to_string(), vec![1, 1 + self.grid() * self.grid(), d]),
        ];
        for l in 0..self.layers {
            let block = [
                ("ln1/scale", vec![d]),
                ("ln1/bias", vec![d]),
                ("qkv/kernel", vec![d, 3 * d]),
                ("qkv/bias", vec![3 * d]),
                ("proj/kernel", vec![d, d]),
                ("proj/bias", vec![d]),
                ("ln2/scale", vec![d]),
                ("ln2/bias", vec![d]),
                ("fc1/kernel", vec![d, m]),
                ("fc1/bias", vec![m]),
                ("fc2/kernel", vec![m, d]),
                ("fc2/bias", vec![d]),
            ];
            all.extend(block.map(|(name, shape)| (format!("block_{l}/{name}"), shape)));
        }
        all.push(("norm/scale".to_string(), vec![d]));
        all.push(("norm/bias".to_string(), vec![d]));
        all
    }
}

/// Which form of x Phi(x) the weights were trained with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gelu {
    /// 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), the default of JAX.
    Tanh,
    /// 0.5 x (1 + erf(x / sqrt(2))), the default of PyTorch.
    Erf,
}

/// A tensor in main memory, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct HostTensor {
    pub shape: Vec<usize>,
    pub data: Vec<f32>,
}

/// A pre-trained vision transformer without its head.
#[derive(Debug, Clone, PartialEq)]
pub struct Backbone {
    pub dims: VitDims,
    pub gelu: Gelu,
    pub layer_norm_eps: f64,
    /// The weights expect `(x - mean) / std` for pixels x in [0, 1].
    pub mean: [f32; 3],
    pub std: [f32; 3],
    /// One sentence: the format, what was recognised, the sizes.
    pub source: String,
    /// SHA-256 of the file, in hex.
    pub sha256: String,
    /// By the names of [`VitDims::tensors`].
    pub tensors: BTreeMap<String, HostTensor>,
}

/// What the user says about a checkpoint; the default asks for everything as the file has it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Options {
    /// Attention heads; 0: as stored, or inferred.
    pub heads: usize,
    /// Only the first so many blocks (the final norm stays); 0: all.
    pub blocks: usize,
    /// Side of the input in pixels, to which the position table is resized; 0: as stored.
    pub image_size: usize,
    /// Overrides what the format implies.
    pub gelu: Option<Gelu>,
    /// Overrides what the format implies.
    pub layer_norm_eps: Option<f64>,
    /// Mean and deviation of the input; overrides what the format implies.
    pub norm: Option<([f32; 3], [f32; 3])>,
}

/// Reads a checkpoint. The container is told by the first bytes, the format by the tensor names;
/// JSON files beside it (`<stem>.json`, and for PyTorch formats `config.json` and
/// `preprocessor_config.json`) say what the tensors cannot.
///
/// # Errors
/// `Error::File` if the file is not understood, damaged, or contains a model of another kind;
/// `Error::Config` if an option does not fit the model.
pub fn load(path: &Path, options: &Options) -> Result<Backbone> {
    collected(|place| read(path, options, place))
}

/// Reads a checkpoint that is part of the program; `name` stands for the path in messages.
///
/// # Errors
/// As [`load`].
pub fn load_bytes(name: &str, bytes: &[u8], options: &Options) -> Result<Backbone> {
    collected(|place| read_bytes(name, bytes, options, place))
}

/// What a checkpoint is, without its tensors and its checksum: the file's header is read and checked.
///
/// # Errors
/// As [`load`], but for damage behind the header.
pub fn describe(path: &Path, options: &Options) -> Result<Backbone> {
    with_bytes(path, |file| {
        let (archive, plan) = settled(path, file.bytes, options, |plan| Hints::beside(path, plan))?;
        Ok(plan.about(archive.container))
    })
}

/// [`describe`] for a checkpoint that is part of the program.
///
/// # Errors
/// As [`describe`].
pub fn describe_bytes(name: &str, bytes: &[u8], options: &Options) -> Result<Backbone> {
    let (archive, plan) = settled(Path::new(name), bytes, options, |_| Ok(Hints::default()))?;
    Ok(plan.about(archive.container))
}

/// Takes a tensor of the engine under its name.
pub type Place<'a> = &'a mut dyn FnMut(&str, HostTensor) -> Result<()>;

/// [`load`] without the whole checkpoint in memory: each tensor goes to `place` as soon as it is converted, and the
/// pages of the file that were read are given back. The result has a checksum and no tensors.
///
/// # Errors
/// As [`load`], and those of `place`.
pub fn read(path: &Path, options: &Options, place: Place) -> Result<Backbone> {
    with_bytes(path, |file| build(path, file, options, |plan| Hints::beside(path, plan), place))
}

/// [`read`] for a checkpoint that is part of the program.
///
/// # Errors
/// As [`read`].
pub fn read_bytes(name: &str, bytes: &[u8], options: &Options, place: Place) -> Result<Backbone> {
    build(Path::new(name), Mapped { bytes, map: None }, options, |_| Ok(Hints::default()), place)
}

/// The backbone that `read` reads, with its tensors.
fn collected(read: impl FnOnce(Place) -> Result<Backbone>) -> Result<Backbone> {
    let mut tensors = BTreeMap::new();
    let backbone = read(&mut |name: &str, tensor| {
        tensors.insert(name.to_string(), tensor);
        Ok(())
    })?;
    Ok(Backbone { tensors, ..backbone })
}

/// Name, shape and element type of every tensor of an `.npz` or `.safetensors` file, by name.
///
/// # Errors
/// `Error::File` if it is neither, or damaged.
pub fn list(path: &Path) -> Result<Vec<(String, Vec<usize>, String)>> {
    with_bytes(path, |file| {
        let archive = Archive::open(path, file.bytes)?;
        let row = |(name, info): (&String, &archive::Info)| {
            (name.clone(), info.shape.clone(), info.kind.to_string())
        };
        Ok(archive.infos.iter().map(row).collect())
    })
}

/// The text entries of a `.safetensors` header; empty for `.npz`.
///
/// # Errors
/// As [`list`].
pub fn metadata(path: &Path) -> Result<BTreeMap<String, String>> {
    with_bytes(path, |file| Ok(Archive::open(path, file.bytes)?.metadata))
}

/// The bytes of a checkpoint, of a file or of the program itself.
#[derive(Clone, Copy)]
struct Mapped<'a> {
    bytes: &'a [u8],
    map: Option<&'a memmap2::Mmap>,
}

impl Mapped<'_> {
    /// Gives the pages that were read back to the system: a mapped file counts as memory of the process.
    fn release(&self) {
        #[cfg(unix)]
        if let Some(map) = self.map {
            // SAFETY: the map is shared with the file and read-only, so that no page holds anything but what the
            // file has: a page that is read again comes from the file again. The advice may fail without harm.
            let _ = unsafe { map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
        }
    }
}

/// Maps a file and hands its bytes to `use_bytes`.
fn with_bytes<T>(path: &Path, use_bytes: impl FnOnce(Mapped) -> Result<T>) -> Result<T> {
    let file = File::open(path).map_err(|e| Error::file(path, format!("cannot be opened: {e}")))?;
    let about = file.metadata().map_err(|e| Error::file(path, format!("cannot be examined: {e}")))?;
    if !about.is_file() {
        return Err(Error::file(path, "is not a file; wanted a `.npz` or `.safetensors` file"));
    }
    if about.len() == 0 {
        return Err(Error::file(path, "is empty"));
    }
    // SAFETY: the map is read-only and dropped before this function returns. Another process that
    // shortens the file meanwhile would end this one, as with every program that maps its weights.
    let map = unsafe { memmap2::Mmap::map(&file) };
    let map = map.map_err(|e| Error::file(path, format!("cannot be mapped: {e}")))?;
    use_bytes(Mapped { bytes: &map, map: Some(&map) })
}

/// Recognises a checkpoint, checks it against what is wanted and settles what the user and other files say of it.
fn settled<'a>(
    path: &'a Path,
    bytes: &'a [u8],
    options: &Options,
    hints: impl FnOnce(&plan::Plan) -> Result<Hints>,
) -> Result<(Archive<'a>, plan::Plan)> {
    let archive = Archive::open(path, bytes)?;
    let mut plan = recognise(&archive)?;
    plan.check(&archive)?;
    let hints = hints(&plan)?;
    plan.settle(path, &hints, options)?;
    Ok((archive, plan))
}

/// Bytes that the checksum reads before it gives their pages back.
const SUM_BYTES: usize = 8 << 20;

/// Recognise, check, convert. The checksum runs beside it.
fn build(
    path: &Path,
    file: Mapped,
    options: &Options,
    hints: impl FnOnce(&plan::Plan) -> Result<Hints>,
    place: Place,
) -> Result<Backbone> {
    std::thread::scope(|scope| {
        let sum = scope.spawn(|| {
            let mut sum = Sha256::new();
            for part in file.bytes.chunks(SUM_BYTES) {
                sum.update(part);
                file.release();
            }
            format!("{:x}", sum.finalize())
        });
        let (archive, plan) = settled(path, file.bytes, options, hints)?;
        plan.run(&archive, &|| file.release(), place)?;
        let mut backbone = plan.about(archive.container);
        backbone.sha256 = sum.join().map_err(|_| Error::failed("the checksum thread stopped"))?;
        Ok(backbone)
    })
}

fn recognise(archive: &Archive) -> Result<plan::Plan> {
    if native::is(archive) {
        native::plan(archive)
    } else if names_jax::is(archive) {
        names_jax::plan(archive)
    } else if names_timm::is(archive) {
        names_timm::plan(archive)
    } else if let Some(prefix) = names_hf::prefix(archive) {
        names_hf::plan(archive, prefix)
    } else {
        Err(report::unknown(archive))
    }
}
