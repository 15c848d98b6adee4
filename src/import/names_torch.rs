//! What timm and Hugging Face have in common: PyTorch layouts, several names for one thing.

use super::archive::Archive;
use super::plan::{Beside, Layout, Plan, Row, count_blocks, grid_of_table, shape_of};
use super::{Gelu, VitDims};
use crate::error::Result;

/// The names of one family of PyTorch checkpoints. Inside a block several spellings may stand for one
/// thing; the one that block 0 uses counts.
pub(super) struct Family {
    pub format: &'static str,
    pub cls: &'static str,
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

/// The plan with the defaults of PyTorch (exact GELU); epsilon and norm are the caller's.
///
/// # Errors
/// `Error::File` for models of another kind and for files whose sizes cannot be read.
pub(super) fn plan(
    archive: &Archive,
    family: &Family,
    prefix: &str,
    layer_norm_eps: f64,
    norm: ([f32; 3], [f32; 3]),
) -> Result<Plan> {
    for (part, what) in family.refused {
        if let Some(name) = archive.infos.keys().find(|name| name.contains(part)) {
            return Err(archive.error(format!(
                "is a {} with {what} (found `{name}`); that kind of model is not supported",
                family.format
            )));
        }
    }
    let top = |name: &str| format!("{prefix}{name}");
    if !archive.has(&top(family.cls)) {
        return Err(archive.error(format!(
            "is a {} without a class token (no `{}`); only ViTs with a class token are supported",
            family.format,
            top(family.cls)
        )));
    }
    let patch_kernel = top(&format!("{}.weight", family.patch));
    let [dim, channels, patch, _] = shape_of::<4>(archive, family.format, &patch_kernel)?;
    if channels != 3 {
        return Err(archive.error(format!("takes {channels} input channels (`{patch_kernel}`); wanted 3")));
    }
    let positions = top(family.positions);
    let grid = grid_of_table(archive, &positions, shape_of(archive, family.format, &positions)?)?;
    let pick = |names: &[&'static str], exists: &dyn Fn(&str) -> bool| {
        names.iter().copied().find(|name| exists(name)).or(names.first().copied()).unwrap_or_default()
    };
    let blocks = top(pick(family.blocks, &|name| archive.infos.keys().any(|k| k.starts_with(&top(name)))));
    let layers = count_blocks(archive, &blocks);
    let in_first = |name: &str| archive.has(&format!("{blocks}0.{name}.weight"));
    let part = |names| pick(names, &in_first);
    let fc1 = part(family.fc1);
    let [mlp_dim, _] = shape_of::<2>(archive, family.format, &format!("{blocks}0.{fc1}.weight"))?;
    let dims = VitDims {
        image_size: grid * patch,
        patch_size: patch,
        channels,
        embed_dim: dim,
        heads: 0,
        mlp_dim,
        layers,
    };
    let scale = |names: &[&'static str]| {
        let found =
            names.iter().find(|name| archive.infos.keys().any(|key| key.ends_with(&format!(".{name}"))));
        found.copied()
    };
    let (ls1, ls2) = (scale(family.ls1), scale(family.ls2));
    let fused = part(family.qkv);
    let qkv =
        if in_first(fused) { vec![fused] } else { vec![part(family.q), part(family.k), part(family.v)] };
    // Some models have no bias here, in no block; then it is zero.
    let has_qkv_bias = archive.infos.keys().any(|key| {
        key.starts_with(&blocks) && qkv.iter().any(|name| key.ends_with(&format!(".{name}.bias")))
    });

    let row = |to: String, to_shape: Vec<usize>| {
        let (number, within) = match to.strip_prefix("block_").and_then(|rest| rest.split_once('/')) {
            Some((number, within)) => (Some(number), within),
            None => (None, to.as_str()),
        };
        let (module, leaf) = within.split_once('/').unwrap_or((within, ""));
        let name = |module: &str, leaf: &str| match number {
            Some(number) => format!("{blocks}{number}.{module}.{leaf}"),
            None => top(&format!("{module}.{leaf}")),
        };
        let torch_leaf = if leaf == "bias" { "bias" } else { "weight" };
        let flipped: Vec<usize> = to_shape.iter().rev().copied().collect();
        let mut layout = if leaf == "kernel" { Layout::OutIn } else { Layout::InOut };
        let mut scaled = None;
        let modules = match module {
            "qkv" => qkv.clone(),
            "embedding" => vec![family.patch],
            "norm" => vec![family.norm],
            "ln1" => vec![part(family.ln1)],
            "ln2" => vec![part(family.ln2)],
            "fc1" => vec![fc1],
            "fc2" => {
                scaled = ls2;
                vec![part(family.fc2)]
            }
            "proj" => {
                scaled = ls1;
                vec![part(family.proj)]
            }
            _ => Vec::new(),
        };
        let from = match (module, leaf) {
            ("cls", _) => vec![(top(family.cls), to_shape.clone())],
            ("pos_embedding", _) => vec![(positions.clone(), to_shape.clone())],
            ("embedding", "kernel") => {
                layout = Layout::Conv;
                vec![(patch_kernel.clone(), vec![dim, channels, patch, patch])]
            }
            ("qkv", "bias") if !has_qkv_bias => Vec::new(),
            _ => {
                let mut shape = if leaf == "kernel" { flipped } else { to_shape.clone() };
                shape[0] /= modules.len();
                modules.iter().map(|module| (name(module, torch_leaf), shape.clone())).collect()
            }
        };
        let scale = scaled.and_then(|ls| Some(format!("{blocks}{}.{ls}", number?)));
        Row { to, to_shape, from, layout, scale }
    };
    let rows = dims.tensors().into_iter().map(|(to, shape)| row(to, shape)).collect();
    let mut notes = Vec::new();
    if ls1.or(ls2).is_some() {
        notes.push("LayerScale folded".to_string());
    }
    if !has_qkv_bias {
        notes.push("no bias in qkv".to_string());
    }
    Ok(Plan {
        format: family.format.to_string(),
        dims,
        gelu: Gelu::Erf,
        layer_norm_eps,
        norm,
        rows,
        dropped: family.dropped.iter().flat_map(|name| [name.to_string(), top(name)]).collect(),
        beside: Beside::StemAndConfig,
        notes,
    })
}
