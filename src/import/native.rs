//! Our own backbone files: safetensors with the engine's names, and the rest as text in the header.

use super::archive::Archive;
use super::backbone::{Backbone, Gelu, PositionResize, VitDims};
use super::beside::DescribedBy;
use super::conversion::{Conversion, count_blocks, grid_of_table, shape_of};
use super::source::{StoredLayout, TensorSource};
use crate::error::{Error, Result};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::path::Path;

const FORMAT: &str = "l2p-engine backbone";
const VERSION: &str = "l2p-engine backbone 1";
/// What the names of tensors begin with that an exported run has beside those of its backbone.
pub const RUN: &str = "run/";
/// Names of the header that [`write_native`] sets.
const KEYS: [&str; 8] =
    ["format", "heads", "patch_size", "image_size", "gelu", "layer_norm_eps", "mean", "std"];

pub(super) fn is(archive: &Archive) -> bool {
    archive.metadata.get("format").is_some_and(|format| format.starts_with(FORMAT))
}

/// # Errors
/// `Error::File` if the version or an entry of the header is not understood.
pub(super) fn conversion(archive: &Archive) -> Result<Conversion> {
    let text = |key: &str| {
        let missing = || archive.error(format!("has no entry `{key}` in its header"));
        archive.metadata.get(key).ok_or_else(missing)
    };
    let bad =
        |key: &str, value: &str| archive.error(format!("has the entry {key} = `{value}`, which is no {key}"));
    if text("format")? != VERSION {
        let found = text("format")?;
        return Err(archive.error(format!("is of the format `{found}`; this program reads `{VERSION}`")));
    }
    let size = |key: &str| text(key).and_then(|v| v.parse::<usize>().map_err(|_| bad(key, v)));
    let three = |key: &str| -> Result<[f32; 3]> {
        let value = text(key)?;
        let list: Option<Vec<f32>> = value.split(',').map(|v| v.trim().parse().ok()).collect();
        list.and_then(|list| list.try_into().ok()).ok_or_else(|| bad(key, value))
    };
    let gelu = match text("gelu")?.as_str() {
        "tanh" => Gelu::Tanh,
        "erf" => Gelu::Erf,
        other => return Err(bad("gelu", other)),
    };
    let eps = text("layer_norm_eps")?;
    let [patch, _, channels, dim] = shape_of::<4>(archive, FORMAT, "embedding/kernel")?;
    let grid = grid_of_table(archive, "pos_embedding", shape_of(archive, FORMAT, "pos_embedding")?)?;
    let registers = match archive.has("registers") {
        true => shape_of::<3>(archive, FORMAT, "registers")?[1],
        false => 0,
    };
    let [_, mlp_dim] = shape_of::<2>(archive, FORMAT, "block_0/fc1/kernel")?;
    let (heads, layers) = (size("heads")?, count_blocks(archive, "block_"));
    if (size("patch_size")?, size("image_size")?) != (patch, grid * patch) || channels != 3 || heads == 0 {
        return Err(archive.error(format!(
            "says patch_size {}, image_size {} and {heads} heads, but its tensors are for {patch} and {} with \
             {channels} channels",
            size("patch_size")?,
            size("image_size")?,
            grid * patch
        )));
    }
    let dims = VitDims {
        image_size: grid * patch,
        patch_size: patch,
        channels,
        embed_dim: dim,
        heads,
        mlp_dim,
        layers,
        registers,
    };
    let source = |(to, to_shape): (String, Vec<usize>)| TensorSource {
        from: vec![(to.clone(), to_shape.clone())],
        to,
        to_shape,
        layout: StoredLayout::InOut,
        scale: None,
    };
    Ok(Conversion {
        format: FORMAT.to_string(),
        dims,
        gelu,
        layer_norm_eps: eps.parse().map_err(|_| bad("layer_norm_eps", eps))?,
        norm: (three("mean")?, three("std")?),
        position_resize: PositionResize::BilinearAligned,
        resized: false,
        sources: dims.tensors().into_iter().map(source).collect(),
        dropped: vec![RUN.to_string()],
        described_by: DescribedBy::Itself,
        notes: Vec::new(),
    })
}

/// Writes a backbone as `path`, whole or not at all. Equal arguments give equal bytes; `extra` entries
/// go into the header as they are.
///
/// # Errors
/// `Error::File` if the file cannot be written; `Error::Failed` if a tensor is missing or misshapen, or
/// an extra entry has a name of the format.
pub fn write_native(path: &Path, backbone: &Backbone, extra: &BTreeMap<String, String>) -> Result<()> {
    write_native_with(path, backbone, extra, &[])
}

/// A tensor beside those of a backbone, little-endian.
#[derive(Debug)]
pub struct MoreTensor<'a> {
    /// Begins with [`RUN`].
    pub name: String,
    /// As safetensors call it.
    pub dtype: &'static str,
    pub shape: &'a [usize],
    pub bytes: &'a [u8],
}

/// [`write_native`] with more tensors behind those of the backbone, which readers of backbones pass over.
///
/// # Errors
/// As there.
pub fn write_native_with(
    path: &Path,
    backbone: &Backbone,
    extra: &BTreeMap<String, String>,
    more: &[MoreTensor],
) -> Result<()> {
    let join = |three: [f32; 3]| three.map(|v| v.to_string()).join(",");
    let dims = &backbone.dims;
    let gelu = match backbone.gelu {
        Gelu::Tanh => "tanh",
        Gelu::Erf => "erf",
    };
    let own = [
        VERSION.to_string(),
        dims.heads.to_string(),
        dims.patch_size.to_string(),
        dims.image_size.to_string(),
        gelu.to_string(),
        backbone.layer_norm_eps.to_string(),
        join(backbone.mean),
        join(backbone.std),
    ];
    let mut entries: Map<String, Value> = Map::new();
    for (key, value) in KEYS.into_iter().zip(own) {
        entries.insert(key.to_string(), Value::String(value));
    }
    for (key, value) in extra {
        if entries.insert(key.clone(), Value::String(value.clone())).is_some() {
            return Err(Error::failed(format!("write_native: `{key}` is a name of the format itself")));
        }
    }
    let mut header = Map::from_iter([("__metadata__".to_string(), Value::Object(entries))]);
    let (mut at, mut order) = (0usize, Vec::new());
    for (name, shape) in dims.tensors() {
        let tensor = backbone.tensors.get(&name).filter(|t| t.shape == shape);
        let tensor = tensor.filter(|t| t.data.len() == shape.iter().product::<usize>()).ok_or_else(|| {
            Error::failed(format!("write_native: the backbone has no `{name}` of the shape {shape:?}"))
        })?;
        let end = at + tensor.data.len() * 4;
        header.insert(name, json!({ "dtype": "F32", "shape": shape, "data_offsets": [at, end] }));
        order.push(tensor);
        at = end;
    }
    for MoreTensor { name, dtype, shape, bytes } in more {
        let end = at + bytes.len();
        let entry = json!({ "dtype": dtype, "shape": shape, "data_offsets": [at, end] });
        header.insert(name.clone(), entry);
        at = end;
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');

    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let write = || -> std::io::Result<()> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(".backbone-").suffix(".tmp");
        // The usual permissions of a new file, not those of a private temporary one.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let file = builder.tempfile_in(folder)?;
        let mut out = BufWriter::with_capacity(1 << 20, &file);
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        for tensor in order {
            // Little-endian is checked when the crate is built, below.
            out.write_all(bytemuck::cast_slice(&tensor.data))?;
        }
        more.iter().try_for_each(|tensor| out.write_all(tensor.bytes))?;
        out.flush()?;
        drop(out);
        file.as_file().sync_all()?;
        file.persist(path).map_err(|e| e.error)?;
        // The rename itself must survive a power cut, too.
        #[cfg(unix)]
        std::fs::File::open(folder)?.sync_all()?;
        Ok(())
    };
    write().map_err(|e| Error::file(path, format!("cannot be written: {e}")))
}

#[cfg(not(target_endian = "little"))]
compile_error!("backbone files are written from memory as it is, which must be little-endian");
