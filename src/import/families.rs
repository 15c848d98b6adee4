//! Models that are no plain ViT with learned positions, by the names of their tensors.

use super::archive::Archive;

/// One kind of model that is not supported.
struct Unsupported {
    /// All of these must be found, each in some name.
    parts: &'static [&'static str],
    what: &'static str,
}

/// The first that fits counts: what is more specific comes first.
const UNSUPPORTED: &[Unsupported] = &[
    Unsupported {
        parts: &["lora_"],
        what: "a model with LoRA adapters beside its weights; merge them first",
    },
    Unsupported { parts: &["rope_embed."], what: "a DINOv3 (rotary positions), which is not supported" },
    Unsupported { parts: &["storage_tokens"], what: "a DINOv3 (rotary positions), which is not supported" },
    Unsupported {
        parts: &["embeddings.patch_embeddings.weight", "embeddings.register_tokens"],
        what: "a Hugging Face DINOv3 (rotary positions), which is not supported",
    },
    Unsupported {
        parts: &["vision_model.embeddings.class_embedding"],
        what: "a CLIP of Hugging Face (a norm before the blocks), which is not supported",
    },
    Unsupported {
        parts: &["vision_model.embeddings.patch_embedding"],
        what: "a SigLIP of Hugging Face (no class token), which is not supported",
    },
    Unsupported {
        parts: &["visual.class_embedding"],
        what: "a CLIP of OpenAI or OpenCLIP, which is not supported",
    },
    Unsupported {
        parts: &["transformer.resblocks."],
        what: "a CLIP of OpenAI or OpenCLIP, which is not supported",
    },
    Unsupported {
        parts: &["attn_pool.latent"],
        what: "a SigLIP (attention pooling), which is not supported",
    },
    Unsupported {
        parts: &["MAPHead_0/"],
        what: "a SigLIP or another ViT of big_vision with attention pooling, which is not supported",
    },
    Unsupported {
        parts: &["conv_proj.weight", "encoder.layers.encoder_layer_0"],
        what: "a ViT with torchvision's names, which are not supported; timm has the same models",
    },
    Unsupported { parts: &["image_encoder.", "mask_decoder."], what: "a SAM, which is not supported" },
    Unsupported {
        parts: &["relative_position_bias_table"],
        what: "a Swin or BEiT (relative positions), which is not supported",
    },
    Unsupported {
        parts: &["blocks.0.gamma_1"],
        what: "a BEiT, EVA or DINOv3 with timm's names, which is not supported",
    },
    Unsupported { parts: &["layer1.0.conv1.weight"], what: "a ResNet, no vision transformer" },
    Unsupported {
        parts: &["stages.0.blocks.0"],
        what: "a ConvNeXt or another model in stages, no plain ViT",
    },
    Unsupported { parts: &["token_embd.weight"], what: "a language model" },
    Unsupported { parts: &["embed_tokens.weight"], what: "a language model" },
];

/// What the model is and the tensor that shows it; `None` if no entry of the list fits.
pub(super) fn unsupported(archive: &Archive) -> Option<(&'static str, String)> {
    UNSUPPORTED.iter().find_map(|family| {
        let shown = |part: &&str| archive.infos.keys().find(|name| name.contains(*part));
        let names: Option<Vec<&String>> = family.parts.iter().map(shown).collect();
        Some((family.what, names?.first()?.to_string()))
    })
}
