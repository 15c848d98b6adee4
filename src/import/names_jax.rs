//! Names of the official JAX checkpoints (google-research/vision_transformer), pre-linen and linen.
//!
//! Pre-linen files number the children of a block together (`LayerNorm_0`,
//! `MultiHeadDotProductAttention_1`, `LayerNorm_2`, `MlpBlock_3`), linen ones per class. As flax's
//! `convert_pre_linen` does, the children of each class are taken in the order of their numbers.

use super::archive::Archive;
use super::backbone::{Gelu, PositionResize, VitDims};
use super::beside::{DescribedBy, UNIT_NORM};
use super::conversion::{Conversion, count_blocks, grid_of_table, shape_of};
use super::source::{StoredLayout, TensorSource};
use crate::error::Result;
use std::collections::BTreeSet;

const FORMAT: &str = "JAX ViT";
const BLOCK: &str = "Transformer/encoderblock_";
const POSITIONS: &str = "Transformer/posembed_input/pos_embedding";

pub(super) fn is(archive: &Archive) -> bool {
    archive.infos.keys().any(|name| name.starts_with("Transformer/encoder"))
}

/// # Errors
/// `Error::File` for hybrids, models without a class token, and files whose sizes cannot be read.
pub(super) fn conversion(archive: &Archive) -> Result<Conversion> {
    if let Some(name) = archive.infos.keys().find(|n| n.starts_with("conv_root") || n.starts_with("block1/"))
    {
        let what = format!("is a hybrid of ResNet and ViT (found `{name}`); only plain ViTs are supported");
        return Err(archive.error(what));
    }
    if archive.has("pos_embedding") && !archive.has(POSITIONS) {
        return Err(archive.error(
            "is a ViT of big_vision (found `pos_embedding` at the top), whose conventions are not supported; the \
             models of google-research/vision_transformer are",
        ));
    }
    if !archive.has("cls") {
        let what = "has no class token (`cls`); only ViTs with a class token are supported";
        return Err(archive.error(what));
    }
    let [patch, _, channels, dim] = shape_of::<4>(archive, FORMAT, "embedding/kernel")?;
    let grid = grid_of_table(archive, POSITIONS, shape_of(archive, FORMAT, POSITIONS)?)?;
    let first = format!("{BLOCK}0/");
    let mlp = child(archive, &first, "MlpBlock", 0);
    let attention = child(archive, &first, "MultiHeadDotProductAttention", 0);
    let [_, mlp_dim] = shape_of::<2>(archive, FORMAT, &format!("{mlp}/Dense_0/kernel"))?;
    let [_, heads, head_dim] = shape_of::<3>(archive, FORMAT, &format!("{attention}/query/kernel"))?;
    let layers = count_blocks(archive, BLOCK);
    if heads.checked_mul(head_dim) != Some(dim) || channels != 3 {
        return Err(archive.error(format!(
            "has {heads} heads of {head_dim} for {dim} columns and {channels} input channels; wanted heads that \
             make up all columns, and 3 channels"
        )));
    }
    let numbering = if mlp.ends_with("_0") { "linen" } else { "pre-linen" };
    let dims = VitDims {
        image_size: grid * patch,
        patch_size: patch,
        channels,
        embed_dim: dim,
        heads,
        mlp_dim,
        layers,
        registers: 0,
    };
    let split = (vec![dim, heads, head_dim], vec![heads, head_dim], vec![heads, head_dim, dim]);
    let sources = dims.tensors().into_iter().map(|(to, to_shape)| {
        let from = stored_as(archive, &to, &to_shape, &split);
        TensorSource { to, to_shape, from, layout: StoredLayout::InOut, scale: None }
    });
    Ok(Conversion {
        format: format!("{FORMAT} ({numbering} names)"),
        dims,
        gelu: Gelu::Tanh,
        layer_norm_eps: 1e-6,
        norm: UNIT_NORM,
        position_resize: PositionResize::BilinearAligned,
        resized: false,
        sources: sources.collect(),
        dropped: ["head/", "pre_logits/"].map(String::from).to_vec(),
        described_by: DescribedBy::Stem,
        notes: Vec::new(),
    })
}

/// The stored names and shapes of the engine's tensor `to`. `split` has the shapes of a query kernel,
/// a query bias and an output kernel.
fn stored_as(
    archive: &Archive,
    to: &str,
    to_shape: &[usize],
    split: &(Vec<usize>, Vec<usize>, Vec<usize>),
) -> Vec<(String, Vec<usize>)> {
    let same = |name: String| vec![(name, to_shape.to_vec())];
    let Some((number, part)) = to.strip_prefix("block_").and_then(|rest| rest.split_once('/')) else {
        return same(match to {
            "pos_embedding" => POSITIONS.to_string(),
            "norm/scale" | "norm/bias" => format!("Transformer/encoder_{to}"),
            other => other.to_string(),
        });
    };
    let block = format!("{BLOCK}{number}/");
    let (module, leaf) = part.split_once('/').unwrap_or((part, ""));
    let attention = || child(archive, &block, "MultiHeadDotProductAttention", 0);
    match (module, leaf) {
        ("qkv", leaf) => ["query", "key", "value"]
            .map(|which| {
                let shape = if leaf == "kernel" { split.0.clone() } else { split.1.clone() };
                (format!("{}/{which}/{leaf}", attention()), shape)
            })
            .to_vec(),
        ("proj", "kernel") => vec![(format!("{}/out/kernel", attention()), split.2.clone())],
        ("proj", leaf) => same(format!("{}/out/{leaf}", attention())),
        ("ln1", leaf) => same(format!("{}/{leaf}", child(archive, &block, "LayerNorm", 0))),
        ("ln2", leaf) => same(format!("{}/{leaf}", child(archive, &block, "LayerNorm", 1))),
        (fc, leaf) => {
            let dense = if fc == "fc1" { "Dense_0" } else { "Dense_1" };
            same(format!("{}/{dense}/{leaf}", child(archive, &block, "MlpBlock", 0)))
        }
    }
}

/// The `rank`-th child of a class in a block, by number; the linen name if there is none.
fn child(archive: &Archive, block: &str, class: &str, rank: usize) -> String {
    let number = |name: &String| {
        let rest = name.strip_prefix(block)?.strip_prefix(class)?.strip_prefix('_')?;
        rest.split('/').next()?.parse::<usize>().ok()
    };
    let within = archive.infos.range(block.to_string()..).take_while(|(name, _)| name.starts_with(block));
    let numbers: BTreeSet<usize> = within.filter_map(|(name, _)| number(name)).collect();
    format!("{block}{class}_{}", numbers.iter().nth(rank).unwrap_or(&rank))
}
