//! Names of timm's `VisionTransformer` (pytorch-image-models, timm/models/vision_transformer.py),
//! which are also those of facebookresearch/dinov2.

use super::archive::Archive;
use super::names_torch::{self, Family};
use super::plan::{HALF_NORM, IMAGENET_NORM, Plan};
use crate::error::Result;

const FAMILY: Family = Family {
    format: "timm ViT",
    cls: "cls_token",
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
        ("reg_token", "register tokens"),
        ("register_tokens", "register tokens"),
        ("dist_token", "a distillation token"),
        ("mlp.w12", "a SwiGLU MLP"),
        ("mlp.w1.", "a SwiGLU MLP"),
        ("mlp.fc1_g", "a SwiGLU MLP"),
        ("attn.q_norm", "normalised queries and keys"),
        ("attn_pool", "attention pooling"),
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
pub(super) fn plan(archive: &Archive) -> Result<Plan> {
    if archive.has("fc_norm.weight") && !archive.has("norm.weight") {
        return Err(archive.error(
            "is a timm ViT whose final norm is `fc_norm` after a mean over the patches; only ViTs with a final \
             `norm` over every token are supported",
        ));
    }
    let layer_scale = archive.infos.keys().any(|name| name.ends_with(".ls1.gamma"));
    // timm's own ViTs (augreg) were trained on [-1, 1]; those with LayerScale are DINOv2's.
    let norm = if layer_scale { IMAGENET_NORM } else { HALF_NORM };
    names_torch::plan(archive, &FAMILY, "", 1e-6, norm)
}
