//! Models and files that are not supported are named (case 17); those that are, load.

use super::support::*;
use super::{refusal, sizes};
use l2p_engine::import::{LoadOptions, load, load_bytes};
use std::collections::BTreeMap;

#[test]
fn models_of_other_kinds_are_refused_with_a_sentence() {
    let small = || (vec![1usize], vec![0u8; 4]);
    let options = LoadOptions { heads: 2, ..LoadOptions::default() };
    for (extra, word) in [
        ("blocks.0.mlp.w12.weight", "SwiGLU"),
        ("blocks.0.attn.q_norm.weight", "normalised queries"),
        ("norm_pre.weight", "norm before the blocks"),
        ("dist_token", "distillation"),
    ] {
        let bytes = edited("timm_vit", |all| drop(all.insert(extra.to_string(), small())));
        let text = refusal("x", &bytes, &options);
        assert!(text.contains(word) && text.contains(extra), "{text}");
    }
    let text = refusal("x", &edited("timm_vit", |all| drop(all.remove("cls_token"))), &options);
    assert!(text.contains("without a class token"), "{text}");
    let fc_norm = edited("timm_vit", |all| {
        let (weight, bias) = (all.remove("norm.weight").unwrap(), all.remove("norm.bias").unwrap());
        all.extend([("fc_norm.weight".to_string(), weight), ("fc_norm.bias".to_string(), bias)]);
    });
    assert!(refusal("x", &fc_norm, &options).contains("fc_norm"));
    for rows in [11usize, 8] {
        let bytes = edited("timm_vit", |all| {
            drop(all.insert("pos_embed".to_string(), (vec![1, rows, 24], vec![0; rows * 96])))
        });
        let text = refusal("x", &bytes, &options);
        assert!(text.contains(&format!("{rows} rows")), "{text}");
    }
    for (bad, text) in [(f32::NAN, "NaN"), (f32::NEG_INFINITY, "-inf")] {
        let bytes = edited("timm_vit", |all| {
            all.get_mut("blocks.1.mlp.fc1.weight").unwrap().1[40..44].copy_from_slice(&bad.to_le_bytes());
        });
        let message = refusal("x", &bytes, &options);
        assert!(message.contains("`blocks.1.mlp.fc1.weight`") && message.contains(text), "{message}");
        // Of two blocks, the bad one is not used.
        assert!(load_bytes("x", &bytes, &LoadOptions { blocks: 1, ..options }).is_ok());
    }
    let text =
        refusal("x", &edited("timm_vit", |all| all.retain(|name, _| name.starts_with("norm"))), &options);
    assert!(text.contains("no ViT format known here") && text.contains("norm.weight"), "{text}");
}

#[test]
fn other_files_are_told_apart() {
    for (bytes, word) in [
        (&b"version https://git-lfs.github.com/spec/v1\noid"[..], "Git LFS"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x80\x02}q\x00", "pickle"),
        (b"GGUF\x03\0\0\0\0\0\0\0", "GGUF"),
        (b"\x08\x08\x12\x07pytorch\x1a\x051.13", "ONNX"),
        (b"\x83\xa6params\x80\0\0\0\0", "msgpack"),
        (b"\x1c\0\0\0TFL3\0\0", "TensorFlow Lite"),
        (b"{\"weights\": 1} and so on", "JSON"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\x93NUMPY\x01\x00", "single `.npy`"),
        (b"", "0 bytes"),
        (b"hello", "5 bytes"),
        (b"hello, this is a text and no checkpoint", "neither"),
        (b"PK\x03\x04 and nothing more", "zip"),
    ] {
        let text = refusal("some.file", bytes, &LoadOptions::default());
        assert!(text.starts_with("some.file: ") && text.contains(word), "{text}");
    }
    let torch = zip_of([("archive/data.pkl", vec![0x80, 2])], false);
    assert!(refusal("x.pth", &torch, &LoadOptions::default()).contains("PyTorch"));
    let folder = tempfile::tempdir().unwrap();
    let text = load(folder.path(), &LoadOptions::default()).unwrap_err().to_string();
    assert!(text.contains("folder without a checkpoint") && text.contains("model.safetensors"), "{text}");
    assert!(
        load(&folder.path().join("absent"), &LoadOptions::default())
            .unwrap_err()
            .to_string()
            .contains("opened")
    );
    std::fs::write(folder.path().join("empty"), b"").unwrap();
    assert!(
        load(&folder.path().join("empty"), &LoadOptions::default())
            .unwrap_err()
            .to_string()
            .contains("empty")
    );
}

/// A tensor of zeros.
fn zeros(shape: &[usize]) -> (Vec<usize>, Vec<u8>) {
    (shape.to_vec(), vec![0; 4 * shape.iter().product::<usize>()])
}

/// Case 17: one sentence that names the kind of model.
#[test]
fn families_that_are_not_supported_are_named() {
    let alone = |names: &[&str]| {
        safetensors_of(&names.iter().map(|name| (name.to_string(), zeros(&[2]))).collect::<BTreeMap<_, _>>())
    };
    let timm = |extra: &str| edited("timm_vit", |all| drop(all.insert(extra.to_string(), zeros(&[2]))));
    let options = LoadOptions { heads: 2, ..LoadOptions::default() };
    let without_positions = edited("timm_vit", |all| drop(all.remove("pos_embed")));
    let rectangles =
        edited("timm_vit", |all| drop(all.insert("patch_embed.proj.weight".into(), zeros(&[24, 3, 4, 8]))));
    let grey =
        edited("timm_vit", |all| drop(all.insert("patch_embed.proj.weight".into(), zeros(&[24, 1, 4, 4]))));
    let pooled = edited("timm_vit", |all| {
        all.remove("cls_token");
        all.insert("attn_pool.latent".into(), zeros(&[1, 1, 24]));
    });
    let dinov3 = ["embeddings.register_tokens", "embeddings.patch_embeddings.weight", "embeddings.cls_token"];
    let clip = ["vision_model.embeddings.class_embedding", "vision_model.embeddings.patch_embedding.weight"];
    for (name, bytes, word) in [
        ("dinov3", timm("rope_embed.periods"), "DINOv3"),
        ("storage tokens", timm("storage_tokens"), "DINOv3"),
        ("wrapped dinov3", timm("module.rope_embed.periods"), "DINOv3"),
        ("hugging face dinov3", alone(&dinov3), "DINOv3"),
        ("clip", alone(&clip), "CLIP"),
        ("open_clip", alone(&["visual.class_embedding", "visual.conv1.weight"]), "CLIP"),
        ("siglip", alone(&clip[1..]), "SigLIP"),
        ("timm siglip", pooled, "SigLIP"),
        ("big_vision map", alone(&["params/img/MAPHead_0/probe"]), "big_vision"),
        (
            "torchvision",
            alone(&["conv_proj.weight", "encoder.layers.encoder_layer_0.ln_1.weight"]),
            "torchvision",
        ),
        ("swin", alone(&["layers.0.blocks.0.attn.relative_position_bias_table"]), "Swin"),
        ("resnet", alone(&["layer1.0.conv1.weight", "fc.weight"]), "ResNet"),
        ("lora", timm("blocks.0.attn.qkv.lora_A.weight"), "LoRA"),
        ("rotary", without_positions, "without a position table"),
        ("rectangles", rectangles, "4 by 8 pixels"),
        ("grey", grey, "1 channels"),
    ] {
        let text = refusal("x", &bytes, &options);
        assert!(text.contains(word) && text.lines().count() == 1, "{name}: {text}");
    }
    let stored = read_npz("golden/loader_checkpoint.npz");
    let renamed = |from: &str, to: &str| -> BTreeMap<String, Array> {
        stored.iter().map(|(n, a)| (if n == from { to.to_string() } else { n.clone() }, a.clone())).collect()
    };
    let top = renamed("Transformer/posembed_input/pos_embedding", "pos_embedding");
    let text = refusal("x", &npz(&top, Store::F32, false), &LoadOptions::default());
    assert!(text.contains("big_vision") && text.lines().count() == 1, "{text}");
}

/// Case 17: element types that are no weights are named in one sentence, with their number.
#[test]
fn foreign_element_types_are_one_sentence() {
    let bytes = fixture_bytes("import/timm_vit.safetensors");
    let header_len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = std::str::from_utf8(&bytes[8..8 + header_len]).unwrap().replace("\"F32\"", "\"I32\"");
    let all = [&bytes[..8], header.as_bytes(), &bytes[8 + header_len..]].concat();
    let text = refusal("x", &all, &LoadOptions { heads: 2, ..LoadOptions::default() });
    assert!(text.contains("30 of its tensors as I32") || text.contains("of its tensors as I32"), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
}

/// Case 17: bfloat16 that NumPy wrote as raw values of two bytes.
#[test]
fn bfloat16_in_npz_loads() {
    let stored = read_npz("golden/loader_checkpoint.npz");
    let entries: Vec<(String, Vec<u8>)> = stored
        .iter()
        .map(|(name, array)| {
            let shape: String = array.shape.iter().map(|n| format!("{n},")).collect();
            let mut file =
                npy_header(&format!("{{'descr': '|V2', 'fortran_order': False, 'shape': ({shape}), }}"));
            file.extend(array.data.iter().flat_map(|&v| half::bf16::from_f64(v).to_le_bytes()));
            (format!("{name}.npy"), file)
        })
        .collect();
    let bytes = zip_of(entries.iter().map(|(name, file)| (name.as_str(), file.clone())), false);
    let found = load_bytes("x", &bytes, &LoadOptions::default()).unwrap();
    let wanted = load(&fixture("golden/loader_checkpoint.npz"), &LoadOptions::default()).unwrap();
    let (a, b) = (&found.tensors["block_3/fc1/kernel"].data, &wanted.tensors["block_3/fc1/kernel"].data);
    assert!(a.iter().zip(b).all(|(a, b)| *a == half::bf16::from_f32(*b).to_f32()));
}

/// Case 17: what a training program saved beside the weights is passed over.
#[test]
fn optimizer_state_beside_the_weights_is_dropped() {
    let bytes = edited("timm_vit", |all| {
        all.insert("optimizer.state.0.exp_avg".into(), zeros(&[5]));
        all.insert("global_step".into(), zeros(&[1]));
    });
    let found = load_bytes("x", &bytes, &LoadOptions { heads: 2, ..LoadOptions::default() }).unwrap();
    let wanted = load(&fixture("import/timm_vit.safetensors"), &sizes("timm_vit").1).unwrap();
    assert_eq!(found.tensors, wanted.tensors);
}
