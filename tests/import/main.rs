//! Checkpoints of other programs become the same network.

#[path = "../common/lanes.rs"]
mod lanes;

mod beside;
mod damage;
mod families;
mod moved_runs;
mod position_tables;
mod registers;
mod support;
mod torch_files;
mod wrappers;

use l2p_engine::Error;
use l2p_engine::import::{Backbone, Gelu, LoadOptions, list, load, load_bytes, metadata, write_native};
use std::collections::BTreeMap;
use support::*;

const MODELS: [&str; 14] = [
    "timm_vit",
    "timm_dinov2",
    "timm_no_qkv_bias_bf16",
    "hf_vit",
    "hf_vit_classifier_f16",
    "hf_vit_in_memory",
    "hf_dinov2",
    "hf_dinov2_in_memory",
    "timm_small",
    "timm_reg4",
    "timm_reg3_positions",
    "hf_vit_small",
    "hf_dinov2_small",
    "hf_dinov2_registers",
];

/// The sizes of a tiny model, and what to ask for: they have too few columns to infer the heads.
fn sizes(name: &str) -> (serde_json::Value, LoadOptions) {
    let all: serde_json::Value = serde_json::from_slice(&fixture_bytes("import/models.json")).unwrap();
    let heads = all[name]["heads"].as_u64().unwrap() as usize;
    (all[name].clone(), LoadOptions { heads, ..LoadOptions::default() })
}

fn tiny(name: &str) -> Backbone {
    load(&fixture(&format!("import/{name}.safetensors")), &sizes(name).1).unwrap()
}

fn loader() -> Backbone {
    load(&fixture("golden/loader_checkpoint.npz"), &LoadOptions::default()).unwrap()
}

/// The message of an error that must come.
fn refusal(name: &str, bytes: &[u8], options: &LoadOptions) -> String {
    load_bytes(name, bytes, options).expect_err(name).to_string()
}

#[test]
fn tiny_models_compute_what_timm_and_transformers_compute() {
    for name in MODELS {
        let backbone = tiny(name);
        let (wanted, _) = sizes(name);
        let dims = backbone.dims;
        let mut found = serde_json::json!({
            "image_size": dims.image_size, "patch_size": dims.patch_size, "embed_dim": dims.embed_dim,
            "heads": dims.heads, "mlp_dim": dims.mlp_dim, "layers": dims.layers,
        });
        if dims.registers > 0 {
            found["registers"] = dims.registers.into();
        }
        assert_eq!(found, wanted, "{name}");
        let expected = read_npz(&format!("import/{name}.npz"));
        let images = &expected["images"].data;
        for (image, cls) in
            images.chunks_exact(images.len() / 2).zip(expected["cls"].data.chunks(dims.embed_dim))
        {
            let off = deviation(&cls_feature(&backbone, image), cls);
            println!("{name}: {off:.1e}  {}", backbone.source);
            // Not 1e-15 everywhere: the product with LayerScale is rounded to float32, and transformers
            // computes the softmax in float32.
            assert!(off < 1e-6, "{name}: {off}");
        }
    }
}

#[test]
fn formats_set_what_their_weights_expect() {
    let half = ([0.5; 3], [0.5; 3]);
    let imagenet = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
    for (name, eps, norm) in [
        ("timm_vit", 1e-6, half),
        ("timm_dinov2", 1e-6, imagenet),
        ("hf_vit", 1e-12, half),
        ("hf_dinov2", 1e-6, imagenet),
    ] {
        let b = tiny(name);
        assert_eq!((b.gelu, b.layer_norm_eps, (b.mean, b.std)), (Gelu::Erf, eps, norm), "{name}");
    }
    let b = loader();
    assert_eq!((b.gelu, b.layer_norm_eps, (b.mean, b.std)), (Gelu::Tanh, 1e-6, ([0.0; 3], [1.0; 3])));
    assert_eq!(tiny("timm_no_qkv_bias_bf16").tensors["block_1/qkv/bias"].data, [0.0; 192]);
}

#[test]
fn linen_names_and_every_storage_give_the_same_backbone() {
    let stored = read_npz("golden/loader_checkpoint.npz");
    let wanted = loader();
    let linen = |name: &String| {
        let name = name.replace("MlpBlock_3", "MlpBlock_0").replace("LayerNorm_2", "LayerNorm_1");
        name.replace("MultiHeadDotProductAttention_1", "MultiHeadDotProductAttention_0")
    };
    let renamed: BTreeMap<String, Array> = stored.iter().map(|(n, a)| (linen(n), a.clone())).collect();
    for (arrays, store, deflated) in [
        (&renamed, Store::F32, false),
        (&stored, Store::F32, true),
        (&stored, Store::F64, true),
        (&renamed, Store::Fortran, false),
    ] {
        let found = load_bytes("x", &npz(arrays, store, deflated), &LoadOptions::default()).unwrap();
        assert_eq!(found.tensors, wanted.tensors, "{store:?} {deflated}");
        assert_eq!(found.dims, wanted.dims);
    }
    let half = load_bytes("x", &npz(&stored, Store::F16, true), &LoadOptions::default()).unwrap();
    let (a, b) = (&half.tensors["block_3/fc1/kernel"].data, &wanted.tensors["block_3/fc1/kernel"].data);
    assert!(a.iter().zip(b).all(|(a, b)| *a == half::f16::from_f32(*b).to_f32()));
}

#[test]
fn native_files_come_back_and_are_deterministic() {
    let folder = tempfile::tempdir().unwrap();
    let extra = BTreeMap::from([("made_by".to_string(), "a \"test\"".to_string())]);
    for backbone in [loader(), tiny("timm_dinov2"), tiny("hf_vit")] {
        let (one, two) = (folder.path().join("one"), folder.path().join("two.npz"));
        write_native(&one, &backbone, &extra).unwrap();
        write_native(&two, &backbone, &extra).unwrap();
        assert_eq!(std::fs::read(&one).unwrap(), std::fs::read(&two).unwrap());
        let back = load(&one, &LoadOptions::default()).unwrap();
        assert_eq!(back.sha256.len(), 64);
        assert_ne!(back.sha256, backbone.sha256);
        let same = Backbone { source: backbone.source.clone(), sha256: backbone.sha256.clone(), ..back };
        assert_eq!(same, backbone);
        assert_eq!(metadata(&one).unwrap()["made_by"], "a \"test\"");
        let listed = list(&one).unwrap();
        assert_eq!(listed.len(), backbone.tensors.len());
        let shapes: BTreeMap<_, _> =
            listed.into_iter().map(|(name, shape, dtype)| (name, (shape, dtype))).collect();
        assert_eq!(shapes["norm/bias"], (vec![backbone.dims.embed_dim], "float32".to_string()));
        // Only the two files are left: nothing temporary.
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }
    let clash = BTreeMap::from([("heads".to_string(), "3".to_string())]);
    assert!(write_native(&folder.path().join("x"), &loader(), &clash).is_err());
    let mut torn = loader();
    torn.tensors.remove("cls");
    let error = write_native(&folder.path().join("x"), &torn, &extra).unwrap_err().to_string();
    assert!(error.contains("`cls`"), "{error}");
    assert!(!folder.path().join("x").exists());
}

#[test]
fn options_that_do_not_fit_are_configuration_errors() {
    let npz = fixture("golden/loader_checkpoint.npz");
    for (options, word) in [
        (LoadOptions { heads: 3, ..LoadOptions::default() }, "model.heads"),
        (LoadOptions { blocks: 13, ..LoadOptions::default() }, "12 blocks"),
        (LoadOptions { image_size: 18, ..LoadOptions::default() }, "18 pixels"),
        (LoadOptions { layer_norm_eps: Some(f64::NAN), ..LoadOptions::default() }, "epsilon"),
        (LoadOptions { norm: Some(([0.0; 3], [0.0; 3])), ..LoadOptions::default() }, "deviation"),
    ] {
        let error = load(&npz, &options).unwrap_err();
        assert!(matches!(error, Error::Config(_)), "{error:?}");
        assert!(error.to_string().contains(word), "{error}");
    }
    let error = load(&fixture("import/hf_vit.safetensors"), &LoadOptions::default()).unwrap_err();
    assert!(matches!(&error, Error::Config(what) if what.contains("model.heads")), "{error}");
    // Heads of 64 columns need no word.
    let b = load(&fixture("import/timm_no_qkv_bias_bf16.safetensors"), &LoadOptions::default()).unwrap();
    assert_eq!(b.dims.heads, 1);
    let given = LoadOptions {
        gelu: Some(Gelu::Erf),
        layer_norm_eps: Some(1e-5),
        norm: Some(([0.5; 3], [0.25; 3])),
        ..LoadOptions::default()
    };
    let b = load(&npz, &given).unwrap();
    assert_eq!((b.gelu, b.layer_norm_eps, b.mean, b.std), (Gelu::Erf, 1e-5, [0.5; 3], [0.25; 3]));
}

#[test]
fn mismatches_print_one_table() {
    let mut arrays = read_npz("golden/loader_checkpoint.npz");
    arrays.remove("Transformer/encoderblock_3/MlpBlock_3/Dense_0/bias");
    arrays.get_mut("Transformer/encoder_norm/scale").unwrap().shape = vec![2, 4];
    arrays.insert("surprise".to_string(), Array { shape: vec![1], data: vec![0.0] });
    let text = refusal("x.npz", &npz(&arrays, Store::F32, false), &LoadOptions::default());
    println!("{text}");
    for word in [
        "1 missing, 1 extra, 1 of another shape",
        "surprise",
        "[2, 4]",
        "encoderblock_3/MlpBlock_3/Dense_0/bias",
    ] {
        assert!(text.contains(word), "{word} is not in {text}");
    }
    arrays.retain(|name, _| !name.contains("LayerNorm"));
    let text = refusal("x.npz", &npz(&arrays, Store::F32, false), &LoadOptions::default());
    assert!(text.lines().count() < 25 && text.contains("... and "), "{text}");
    // Without block 1 the numbers have a gap.
    let mut arrays = read_npz("golden/loader_checkpoint.npz");
    arrays.retain(|name, _| !name.contains("encoderblock_1/"));
    let text = refusal("x.npz", &npz(&arrays, Store::F32, false), &LoadOptions::default());
    assert!(text.contains("16 missing, 16 extra"), "{text}");
}

/// Runs where a folder with real weights is at hand.
#[test]
fn real_weights_load() {
    let Some(folder) = std::env::var_os("L2P_MODELS_DIR") else {
        println!("skipped: L2P_MODELS_DIR is not set, 1 check of real weights not made");
        return;
    };
    let path = std::path::Path::new(&folder).join("dinov2_vits14_224.npz");
    let start = std::time::Instant::now();
    let b = load(&path, &LoadOptions::default()).unwrap();
    println!("{} in {:.2?}", b.source, start.elapsed());
    let dims = b.dims;
    let found = (dims.image_size, dims.patch_size, dims.embed_dim, dims.heads, dims.mlp_dim, dims.layers);
    assert_eq!(found, (224, 14, 384, 6, 1536, 12));
    assert_eq!((b.gelu, b.layer_norm_eps), (Gelu::Erf, 1e-6));
    assert_eq!((b.mean, b.std), ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]));
    assert_eq!(b.tensors.values().map(|t| t.data.len()).sum::<usize>(), 21_619_584);
    assert!(b.sha256.starts_with("532deaec") && b.sha256.ends_with("6a59"), "{}", b.sha256);
}
