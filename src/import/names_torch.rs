//! What timm and Hugging Face have in common: PyTorch layouts, several names for one thing.

use super::archive::Archive;
use super::backbone::{Gelu, PositionResize, VitDims};
use super::beside::DescribedBy;
use super::conversion::{Conversion, count_blocks, shape_of};
use super::positions::leading_and_grid;
use super::source::{StoredLayout, TensorSource};
use crate::error::Result;

pub(super) const HALF_NORM: ([f32; 3], [f32; 3]) = ([0.5; 3], [0.5; 3]);
pub(super) const IMAGENET_NORM: ([f32; 3], [f32; 3]) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);

/// The names of one family of PyTorch checkpoints. Inside a block several spellings may stand for one
/// thing; the one that block 0 uses counts.
pub(super) struct Family {
    pub format: &'static str,
    pub cls: &'static str,
    pub registers: &'static [&'static str],
    pub positions: &'static str,
    pub patch: &'static str,
    pub norm: &'static str,
    /// What stands before the block number.
    pub blocks: &'static [&'static str],
    pub ln1: &'static [&'static str],
    pub ln2: &'static [&'static str],
    pub qkv: &'static [&'static str],
    pub q: &'static [&'static str],
    pub k: &'static [&'static str],
    pub v: &'static [&'static str],
    pub proj: &'static [&'static str],
    pub fc1: &'static [&'static str],
    pub fc2: &'static [&'static str],
    /// Full names, without `.weight`.
    pub ls1: &'static [&'static str],
    pub ls2: &'static [&'static str],
    pub dropped: &'static [&'static str],
    /// A part of a name, and what a model that has it is.
    pub refused: &'static [(&'static str, &'static str)],
}

/// The conversion with the defaults of PyTorch (exact GELU); the rest is the caller's.
///
/// # Errors
/// `Error::File` for models of another kind and for files whose sizes cannot be read.
pub(super) fn conversion(
    archive: &Archive,
    family: &Family,
    layer_norm_eps: f64,
    norm: ([f32; 3], [f32; 3]),
    position_resize: PositionResize,
) -> Result<Conversion> {
    for (part, what) in family.refused {
        if let Some(name) = archive.infos.keys().find(|name| name.contains(part)) {
            return Err(archive.error(format!(
                "is a {} with {what} (found `{name}`); that kind of model is not supported",
                family.format
            )));
        }
    }
    if !archive.has(family.cls) {
        return Err(archive.error(format!(
            "is a {} without a class token (no `{}`); only ViTs with a class token are supported",
            family.format, family.cls
        )));
    }
    if !archive.has(family.positions) {
        return Err(archive.error(format!(
            "is a {} without a position table (no `{}`); models with rotary or relative positions are not supported",
            family.format, family.positions
        )));
    }
    let names = TorchNames::find(archive, family)?;
    let dims = names.dims;
    let sources = dims.tensors().into_iter().map(|(to, shape)| names.source(to, shape)).collect();
    let mut notes = Vec::new();
    if names.ls1.or(names.ls2).is_some() {
        notes.push("LayerScale folded".to_string());
    }
    if !names.has_qkv_bias {
        notes.push("no bias in qkv".to_string());
    }
    if names.leading == 0 {
        notes.push("no position of the class token".to_string());
    }
    Ok(Conversion {
        format: family.format.to_string(),
        dims,
        gelu: Gelu::Erf,
        layer_norm_eps,
        norm,
        position_resize,
        resized: false,
        sources,
        dropped: family.dropped.iter().chain(&NOT_WEIGHTS).map(|name| name.to_string()).collect(),
        described_by: DescribedBy::StemAndConfig,
        notes,
    })
}

/// What training programs save beside the weights.
const NOT_WEIGHTS: [&str; 3] = ["optimizer.", "global_step", "epoch"];

/// The spellings that one file uses, and its sizes.
struct TorchNames<'f> {
    family: &'f Family,
    dims: VitDims,
    /// What stands before the block number.
    blocks: String,
    ln1: &'static str,
    ln2: &'static str,
    /// One module, or query, key and value.
    qkv: Vec<&'static str>,
    proj: &'static str,
    fc1: &'static str,
    fc2: &'static str,
    ls1: Option<&'static str>,
    ls2: Option<&'static str>,
    /// Some models have no bias here, in no block; then it is zero.
    has_qkv_bias: bool,
    registers: Option<&'static str>,
    /// Rows of the position table, and how many of them are in front of the grid.
    position_rows: usize,
    leading: usize,
}

impl<'f> TorchNames<'f> {
    fn find(archive: &Archive, family: &'f Family) -> Result<TorchNames<'f>> {
        let patch_kernel = format!("{}.weight", family.patch);
        let [dim, channels, patch, width] = shape_of::<4>(archive, family.format, &patch_kernel)?;
        if channels != 3 || patch != width {
            return Err(archive.error(format!(
                "takes patches of {channels} channels and {patch} by {width} pixels (`{patch_kernel}`); wanted 3 \
                 channels and a square"
            )));
        }
        let registers = family.registers.iter().copied().find(|name| archive.has(name));
        let register_count = match registers {
            Some(name) => shape_of::<3>(archive, family.format, name)?[1],
            None => 0,
        };
        let [_, position_rows, _] = shape_of::<3>(archive, family.format, family.positions)?;
        let (leading, grid) = leading_and_grid(position_rows, register_count).ok_or_else(|| {
            archive.error(format!(
                "`{}` has {position_rows} rows; wanted A*A for a square grid of patches, with rows for the class \
                 token or without",
                family.positions
            ))
        })?;
        let pick = |names: &[&'static str], exists: &dyn Fn(&str) -> bool| {
            names.iter().copied().find(|name| exists(name)).or(names.first().copied()).unwrap_or_default()
        };
        let blocks = pick(family.blocks, &|name| archive.infos.keys().any(|k| k.starts_with(name)));
        let in_first = |name: &str| archive.has(&format!("{blocks}0.{name}.weight"));
        let part = |names| pick(names, &in_first);
        let fc1 = part(family.fc1);
        let [mlp_dim, _] = shape_of::<2>(archive, family.format, &format!("{blocks}0.{fc1}.weight"))?;
        let scale = |names: &[&'static str]| {
            let has = |name: &&&str| archive.infos.keys().any(|key| key.ends_with(&format!(".{name}")));
            names.iter().find(has).copied()
        };
        let fused = part(family.qkv);
        let qkv =
            if in_first(fused) { vec![fused] } else { vec![part(family.q), part(family.k), part(family.v)] };
        let has_qkv_bias = archive.infos.keys().any(|key| {
            key.starts_with(blocks) && qkv.iter().any(|name| key.ends_with(&format!(".{name}.bias")))
        });
        let dims = VitDims {
            image_size: grid * patch,
            patch_size: patch,
            channels,
            embed_dim: dim,
            heads: 0,
            mlp_dim,
            layers: count_blocks(archive, blocks),
            registers: register_count,
        };
        Ok(TorchNames {
            family,
            dims,
            blocks: blocks.to_string(),
            ln1: part(family.ln1),
            ln2: part(family.ln2),
            qkv,
            proj: part(family.proj),
            fc1,
            fc2: part(family.fc2),
            ls1: scale(family.ls1),
            ls2: scale(family.ls2),
            has_qkv_bias,
            registers,
            position_rows,
            leading,
        })
    }

    /// Where the engine's tensor `to` comes from.
    fn source(&self, to: String, to_shape: Vec<usize>) -> TensorSource {
        let family = self.family;
        let dim = self.dims.embed_dim;
        let (number, within) = match to.strip_prefix("block_").and_then(|rest| rest.split_once('/')) {
            Some((number, within)) => (Some(number), within),
            None => (None, to.as_str()),
        };
        let (module, leaf) = within.split_once('/').unwrap_or((within, ""));
        let name = |module: &str, leaf: &str| match number {
            Some(number) => format!("{}{number}.{module}.{leaf}", self.blocks),
            None => format!("{module}.{leaf}"),
        };
        let positions = || (family.positions.to_string(), vec![1, self.position_rows, dim]);
        let mut scale = None;
        let modules = match module {
            "qkv" => self.qkv.clone(),
            "embedding" => vec![family.patch],
            "norm" => vec![family.norm],
            "ln1" => vec![self.ln1],
            "ln2" => vec![self.ln2],
            "fc1" => vec![self.fc1],
            "fc2" => {
                scale = self.ls2;
                vec![self.fc2]
            }
            "proj" => {
                scale = self.ls1;
                vec![self.proj]
            }
            _ => Vec::new(),
        };
        let (from, layout) = match (module, leaf) {
            ("cls", _) => (vec![(family.cls.to_string(), to_shape.clone())], StoredLayout::InOut),
            ("pos_embedding", _) => (vec![positions()], StoredLayout::Positions { leading: self.leading }),
            ("registers", _) => {
                let mut from: Vec<_> =
                    self.registers.iter().map(|name| (name.to_string(), to_shape.clone())).collect();
                if self.leading > 1 {
                    from.push(positions());
                }
                (from, StoredLayout::RegistersAndPositions)
            }
            ("embedding", "kernel") => {
                let (patch, channels) = (self.dims.patch_size, self.dims.channels);
                (vec![(name(family.patch, "weight"), vec![dim, channels, patch, patch])], StoredLayout::Conv)
            }
            ("qkv", "bias") if !self.has_qkv_bias => (Vec::new(), StoredLayout::InOut),
            _ => {
                let mut shape = to_shape.clone();
                let layout = if leaf == "kernel" { StoredLayout::OutIn } else { StoredLayout::InOut };
                if leaf == "kernel" {
                    shape.reverse();
                }
                shape[0] /= modules.len();
                let leaf = if leaf == "bias" { "bias" } else { "weight" };
                (modules.iter().map(|module| (name(module, leaf), shape.clone())).collect(), layout)
            }
        };
        let scale = scale.and_then(|ls| Some(format!("{}{}.{ls}", self.blocks, number?)));
        TensorSource { to, to_shape, from, layout, scale }
    }
}
