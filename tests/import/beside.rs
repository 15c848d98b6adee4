//! JSON files beside a checkpoint (case 35), folders and checkpoints in parts.

use super::support::*;
use super::tiny;
use l2p_engine::import::{Gelu, LoadOptions, list, load};
use std::collections::BTreeMap;
use std::path::Path;

#[test]
fn json_files_beside_say_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::copy(fixture("import/hf_dinov2.safetensors"), at("model.safetensors")).unwrap();
    let config = r#"{"num_attention_heads": 4, "hidden_act": "gelu_new", "layer_norm_eps": 1e-5, "hidden_size": 16,
        "image_size": 12, "patch_size": 4}"#;
    std::fs::write(at("config.json"), config).unwrap();
    std::fs::write(
        at("preprocessor_config.json"),
        r#"{"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 2, 3]}"#,
    )
    .unwrap();
    let b = load(&at("model.safetensors"), &LoadOptions::default()).unwrap();
    assert_eq!((b.dims.heads, b.gelu, b.layer_norm_eps), (4, Gelu::Tanh, 1e-5));
    assert_eq!((b.mean, b.std), ([0.1, 0.2, 0.3], [1.0, 2.0, 3.0]));
    assert!(b.source.contains("config.json"), "{}", b.source);
    for (wrong, word) in [
        (r#"{"hidden_size": 768}"#, "768"),
        (r#"{"image_size": 224}"#, "224"),
        (r#"{"hidden_act": "quick_gelu"}"#, "quick_gelu"),
        (r#"{"input": {"mean": [1], "std": [1, 2, 3]}}"#, "three numbers"),
        (r#"{"image_size": [12, 16]}"#, "16"),
        (r#"{"model_type": "dinov2", "intermediate_size": 3072}"#, "3072"),
        ("{", "JSON"),
    ] {
        std::fs::write(at("config.json"), wrong).unwrap();
        let error =
            load(&at("model.safetensors"), &LoadOptions { heads: 4, ..LoadOptions::default() }).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    }
    // A stem that is the name of the JSON file of an `.npz`.
    std::fs::copy(fixture("golden/loader_checkpoint.npz"), at("vit.npz")).unwrap();
    let side = r#"{"input": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}, "patch": 4, "hidden": 8, "heads": 2,
        "activation": "gelu_erf", "layer_norm_eps": 1e-3}"#;
    std::fs::write(at("vit.json"), side).unwrap();
    let b = load(&at("vit.npz"), &LoadOptions::default()).unwrap();
    assert_eq!((b.gelu, b.layer_norm_eps, b.mean, b.std), (Gelu::Erf, 1e-3, [0.5; 3], [0.5; 3]));
}

/// Case 35: forms of the same files that transformers and timm write.
#[test]
fn every_form_of_a_configuration_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::copy(fixture("import/hf_vit.safetensors"), at("model.safetensors")).unwrap();
    let sizes =
        r#""hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 40"#;
    for (config, preprocessor, mean) in [
        (format!("{{{sizes}, \"image_size\": [16, 16], \"patch_size\": [4, 4]}}"), "{}", [0.5; 3]),
        (
            format!("\u{feff}{{{sizes}, \"model_type\": \"vit\"}}"),
            r#"{"image_mean": 0.25, "image_std": 0.5}"#,
            [0.25; 3],
        ),
        (
            format!("{{{sizes}}}"),
            r#"{"image_mean": [0.5, 0.5, 0.5], "image_std": 1, "size": {"height": 8}}"#,
            [0.5; 3],
        ),
    ] {
        std::fs::write(at("config.json"), &config).unwrap();
        std::fs::write(at("preprocessor_config.json"), preprocessor).unwrap();
        let b = load(&at("model.safetensors"), &LoadOptions::default())
            .unwrap_or_else(|e| panic!("{config}: {e}"));
        assert_eq!((b.dims.heads, b.mean), (4, mean), "{config}");
        assert!(b.source.contains("with config.json"), "{}", b.source);
    }
    std::fs::remove_file(at("preprocessor_config.json")).unwrap();
    let timm = r#"{"architecture": "vit_tiny_patch16_224", "num_features": 16, "pretrained_cfg":
        {"input_size": [3, 16, 16], "mean": [0.1, 0.2, 0.3], "std": [1, 1, 1]}}"#;
    std::fs::write(at("config.json"), timm).unwrap();
    let b = load(&at("model.safetensors"), &LoadOptions { heads: 4, ..LoadOptions::default() }).unwrap();
    assert_eq!(b.mean, [0.1, 0.2, 0.3]);
}

/// Case 35: a file that names another kind of model says nothing about this one.
#[test]
fn the_configuration_of_another_model_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::copy(fixture("import/hf_vit.safetensors"), at("model.safetensors")).unwrap();
    let options = LoadOptions { heads: 2, ..LoadOptions::default() };
    for (config, word) in [
        (
            r#"{"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4,
             "hidden_act": "gelu_new", "layer_norm_eps": 1e-3}"#,
            "bert",
        ),
        (
            r#"{"model_type": "clip_vision_model", "hidden_size": 768, "hidden_act": "quick_gelu"}"#,
            "clip_vision_model",
        ),
        (
            r#"{"architecture": "resnet50", "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1]}}"#,
            "resnet50",
        ),
    ] {
        std::fs::write(at("config.json"), config).unwrap();
        let b = load(&at("model.safetensors"), &options).unwrap();
        assert_eq!(
            (b.dims.heads, b.gelu, b.layer_norm_eps, b.mean),
            (2, Gelu::Erf, 1e-12, [0.5; 3]),
            "{config}"
        );
        let note = format!("config.json is of another model ({word}) and not read");
        assert!(b.source.contains(&note), "{}", b.source);
    }
}

/// Case 35: a folder stands for the checkpoint in it; links are followed.
#[test]
fn folders_stand_for_the_checkpoint_in_them() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::create_dir_all(at("snapshot")).unwrap();
    std::fs::create_dir_all(at("blobs")).unwrap();
    std::fs::copy(fixture("import/hf_vit.safetensors"), at("blobs/abc123")).unwrap();
    std::fs::write(at("blobs/def456"), r#"{"num_attention_heads": 4, "model_type": "vit"}"#).unwrap();
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("../blobs/abc123", at("snapshot/model.safetensors")).unwrap();
        std::os::unix::fs::symlink("../blobs/def456", at("snapshot/config.json")).unwrap();
        let b = load(&at("snapshot"), &LoadOptions::default()).unwrap();
        assert_eq!((b.dims.heads, &b.tensors), (4, &tiny("hf_vit").tensors));
    }
    // One file of another name is found as well; of two, the user has to say which.
    std::fs::create_dir_all(at("other")).unwrap();
    std::fs::write(at("other/README.md"), "no weights").unwrap();
    let small = LoadOptions { heads: 2, ..LoadOptions::default() };
    std::fs::copy(fixture("import/torch_plain.pth"), at("other/mine.pth")).unwrap();
    assert_eq!(load(&at("other"), &small).unwrap().tensors, tiny("timm_small").tensors);
    std::fs::copy(fixture("import/torch_plain.pth"), at("other/yours.pt")).unwrap();
    let text = load(&at("other"), &small).unwrap_err().to_string();
    assert!(text.contains("mine.pth, yours.pt"), "{text}");
    std::fs::copy(fixture("import/torch_plain.pth"), at("other/pytorch_model.bin")).unwrap();
    assert_eq!(load(&at("other"), &small).unwrap().tensors, tiny("timm_small").tensors);
}

/// Splits a fixture into two files and an index, as transformers does with large models.
fn in_parts(folder: &Path, fixture_name: &str) -> Vec<String> {
    let mut all = BTreeMap::new();
    let bytes = fixture_bytes(&format!("import/{fixture_name}.safetensors"));
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    for (name, view) in file.iter() {
        all.insert(name.to_string(), (view.shape().to_vec(), view.data().to_vec()));
    }
    let names: Vec<String> = all.keys().cloned().collect();
    let second = all.split_off(&names[names.len() / 2]);
    let mut map = serde_json::Map::new();
    for (i, part) in [&all, &second].into_iter().enumerate() {
        let file = format!("model-0000{}-of-00002.safetensors", i + 1);
        std::fs::write(folder.join(&file), safetensors_of(part)).unwrap();
        map.extend(part.keys().map(|name| (name.clone(), file.clone().into())));
    }
    let index = serde_json::json!({ "metadata": { "total_size": 1 }, "weight_map": map });
    std::fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
    names
}

/// Case 17: a checkpoint in parts loads by its index or its folder; one part alone names the others.
#[test]
fn checkpoints_in_parts_load_by_their_index() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let names = in_parts(folder.path(), "hf_vit");
    let options = LoadOptions { heads: 4, ..LoadOptions::default() };
    let whole = load(&at("model.safetensors.index.json"), &options).unwrap();
    assert_eq!(whole.tensors, tiny("hf_vit").tensors);
    assert_eq!(load(folder.path(), &options).unwrap(), whole);
    assert!(whole.source.contains("2 files of safetensors"), "{}", whole.source);
    assert_eq!(list(folder.path()).unwrap().len(), names.len());
    let sum = l2p_engine::import::checksum(folder.path()).unwrap();
    assert_eq!(sum, whole.sha256);

    let text = load(&at("model-00001-of-00002.safetensors"), &options).unwrap_err().to_string();
    assert!(text.contains("part 1 of a checkpoint in 2 parts"), "{text}");
    assert!(text.contains("model-00002-of-00002.safetensors") && text.contains(".index.json"), "{text}");
    // Another byte in either part is another checksum.
    let part = at("model-00002-of-00002.safetensors");
    let mut bytes = std::fs::read(&part).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&part, &bytes).unwrap();
    assert_ne!(load(folder.path(), &options).unwrap().sha256, whole.sha256);
    // The parts overlap.
    std::fs::copy(at("model-00001-of-00002.safetensors"), &part).unwrap();
    let text = load(folder.path(), &options).unwrap_err().to_string();
    assert!(text.contains("another part has, too"), "{text}");
    std::fs::remove_file(&part).unwrap();
    let text = load(folder.path(), &options).unwrap_err().to_string();
    assert!(text.contains("`model-00002-of-00002.safetensors`, which is not beside it"), "{text}");
    for (index, word) in [
        ("{", "JSON"),
        ("{}", "weight_map"),
        (r#"{"weight_map": {}}"#, "weight_map"),
        (r#"{"weight_map": {"a": 1}}"#, "no file names"),
        (r#"{"weight_map": {"a": "../../etc/passwd"}}"#, "beside their index"),
    ] {
        std::fs::write(at("model.safetensors.index.json"), index).unwrap();
        let text = load(folder.path(), &options).unwrap_err().to_string();
        assert!(text.contains(word), "{index}: {text}");
    }
}
