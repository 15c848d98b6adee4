//! Names of timm's `VisionTransformer` (pytorch-image-models, timm/models/vision_transformer.py),
//! which are also those of facebookresearch/dinov2.

use super::archive::Archive;
use super::backbone::PositionResize;
use super::conversion::Conversion;
use super::names_torch::{self, Family, HALF_NORM, IMAGENET_NORM};
use crate::error::Result;

const FAMILY: Family = Family {
    format: "timm ViT",
    cls: "cls_token",
    registers: &["reg_token", "register_tokens"],
    positions: "pos_embed",
    patch: "patch_embed.proj",
    norm: "norm",
    blocks: &["blocks."],
    ln1: &["norm1"],
    ln2: &["norm2"],
    qkv: &["attn.qkv"],
    q: &["attn.q_proj", "attn.q"],
    k: &["attn.k_proj", "attn.k"],
    v: &["attn.v_proj", "attn.v"],
    proj: &["attn.proj"],
    fc1: &["mlp.fc1"],
    fc2: &["mlp.fc2"],
    ls1: &["ls1.gamma"],
    ls2: &["ls2.gamma"],
    dropped: &["head.", "pre_logits.", "fc_norm.", "mask_token"],
    refused: &[
        ("dist_token", "a distillation token"),
        ("mlp.w12", "a SwiGLU MLP"),
        ("mlp.w1.", "a SwiGLU MLP"),
        ("mlp.fc1_g", "a SwiGLU MLP"),
        ("attn.q_norm", "normalised queries and keys"),
        ("norm_pre", "a norm before the blocks"),
        ("relative_position", "relative positions"),
        ("rel_pos", "relative positions"),
        ("patch_embed.backbone", "a ResNet in front"),
    ],
};

pub(super) fn is(archive: &Archive) -> bool {
    archive.infos.keys().any(|name| name.starts_with("patch_embed."))
        && archive.infos.keys().any(|name| name.starts_with("blocks."))
}

/// # Errors
/// `Error::File` for models of another kind and for files whose sizes cannot be read.
pub(super) fn conversion(archive: &Archive) -> Result<Conversion> {
    if archive.has("fc_norm.weight") && !archive.has("norm.weight") {
        return Err(archive.error(
            "is a timm ViT whose final norm is `fc_norm` after a mean over the patches; only ViTs with a final \
             `norm` over every token are supported",
        ));
    }
    let layer_scale = archive.infos.keys().any(|name| name.ends_with(".ls1.gamma"));
    // timm's own ViTs (augreg) were trained on [-1, 1]; those with LayerScale are DINOv2's.
    let norm = if layer_scale { IMAGENET_NORM } else { HALF_NORM };
    // timm takes `mask_token` away; facebookresearch/dinov2 keeps it, and resizes in another way unless the
    // model has registers.
    let is_dinov2 = layer_scale && archive.has("mask_token") && !archive.has("register_tokens");
    let resize = if is_dinov2 { PositionResize::Dinov2 } else { PositionResize::BicubicAntialias };
    names_torch::conversion(archive, &FAMILY, 1e-6, norm, resize)
}
