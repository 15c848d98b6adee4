//! Names of Hugging Face transformers: `ViTModel` and `Dinov2Model`, as `save_pretrained` writes them
//! and as they are in memory since version 5 (`layers.{l}.attention.q_proj`).

use super::archive::Archive;
use super::backbone::PositionResize;
use super::conversion::Conversion;
use super::names_torch::{self, Family, HALF_NORM, IMAGENET_NORM};
use crate::error::Result;

const PROJECTION: &str = "embeddings.patch_embeddings.projection.weight";

const VIT: Family = Family {
    format: "Hugging Face ViT",
    cls: "embeddings.cls_token",
    registers: &["embeddings.register_tokens"],
    positions: "embeddings.position_embeddings",
    patch: "embeddings.patch_embeddings.projection",
    norm: "layernorm",
    blocks: &["encoder.layer.", "encoder.layers.", "layers.", "layer."],
    ln1: &["layernorm_before", "norm1"],
    ln2: &["layernorm_after", "norm2"],
    qkv: &["attention.qkv"],
    q: &["attention.attention.query", "attention.q_proj"],
    k: &["attention.attention.key", "attention.k_proj"],
    v: &["attention.attention.value", "attention.v_proj"],
    proj: &["attention.output.dense", "attention.o_proj"],
    fc1: &["intermediate.dense", "mlp.fc1"],
    fc2: &["output.dense", "mlp.fc2"],
    ls1: &["layer_scale1.lambda1"],
    ls2: &["layer_scale2.lambda1"],
    dropped: &["classifier.", "pooler.", "embeddings.mask_token", "decoder."],
    refused: &[
        ("distillation_token", "a distillation token"),
        ("mlp.weights_in", "a SwiGLU MLP"),
        ("mlp.gate_proj", "a gated MLP"),
        ("relative_position", "relative positions"),
        ("lambda_1", "the LayerScale of BEiT"),
    ],
};

const DINOV2: Family = Family { format: "Hugging Face DINOv2", ..VIT };

pub(super) fn is(archive: &Archive) -> bool {
    archive.has(PROJECTION)
}

/// # Errors
/// `Error::File` for models of another kind and for files whose sizes cannot be read.
pub(super) fn conversion(archive: &Archive) -> Result<Conversion> {
    if !archive.infos.keys().any(|name| name.contains("layer_scale1.lambda1")) {
        return names_torch::conversion(archive, &VIT, 1e-12, HALF_NORM, PositionResize::Bicubic);
    }
    // transformers, `Dinov2WithRegistersEmbeddings.interpolate_pos_encoding`: antialiased; without registers not.
    let resize = match archive.has("embeddings.register_tokens") {
        true => PositionResize::BicubicAntialias,
        false => PositionResize::Bicubic,
    };
    names_torch::conversion(archive, &DINOV2, 1e-6, IMAGENET_NORM, resize)
}
