//! Position tables at another resolution (case 18), against numbers that PyTorch, timm and transformers
//! computed; `scripts/make_import_fixtures.py` says how.

use super::support::*;
use super::{loader, sizes, tiny};
use l2p_engine::import::{HostTensor, LoadOptions, PositionResize, load, load_bytes, resize_positions};

/// Case 18: the table that `torch.nn.functional.interpolate` computes in float64.
#[test]
fn tables_are_those_of_pytorch() {
    let arrays = read_npz("import/positions.npz");
    for sizes in ["4to7", "7to4", "14to7", "3to1", "1to3", "37to16", "5to6"] {
        let table = &arrays[&format!("{sizes}/in")];
        let table =
            HostTensor { shape: table.shape.clone(), data: table.data.iter().map(|&v| v as f32).collect() };
        for (name, rule) in [
            ("bicubic", PositionResize::Bicubic),
            ("bicubic_antialias", PositionResize::BicubicAntialias),
            ("dinov2", PositionResize::Dinov2),
        ] {
            let wanted = &arrays[&format!("{sizes}/{name}")];
            let found = resize_positions(&table, (wanted.shape[1] - 1).isqrt(), rule).unwrap();
            assert_eq!(found.shape, wanted.shape);
            let found: Vec<f64> = found.data.iter().map(|&v| f64::from(v)).collect();
            let off = deviation(&found, &wanted.data);
            println!("{sizes} {name}: {off:.1e}");
            // Half of a unit in the last place of float32, of a value up to the largest.
            assert!(off < 6e-8, "{sizes} {name}: {off}");
        }
    }
}

/// Case 18: timm and transformers resize their own tables to the size of the images; so do their files here.
#[test]
fn resized_models_compute_what_their_libraries_compute() {
    for (name, rule) in [
        ("timm_small", "antialiased, the rule of timm"),
        ("timm_reg4", "antialiased, the rule of timm"),
        ("hf_vit_small", "not antialiased, the rule of Hugging Face"),
        ("hf_dinov2_small", "not antialiased, the rule of Hugging Face"),
        ("hf_dinov2_registers", "antialiased, the rule of timm"),
    ] {
        let expected = read_npz(&format!("import/{name}_resized.npz"));
        let images = &expected["images"];
        let options = LoadOptions { image_size: images.shape[1], ..sizes(name).1 };
        let backbone = load(&fixture(&format!("import/{name}.safetensors")), &options).unwrap();
        assert!(backbone.source.contains("positions resized from 12 pixels"), "{}", backbone.source);
        assert!(backbone.source.contains(rule), "{}", backbone.source);
        let (image_len, dim) = (images.data.len() / 2, backbone.dims.embed_dim);
        for (image, cls) in images.data.chunks_exact(image_len).zip(expected["cls"].data.chunks(dim)) {
            let off = deviation(&cls_feature(&backbone, image), cls);
            println!("{name}: {off:.1e}");
            // timm and transformers resize in float32.
            assert!(off < 2e-6, "{name}: {off}");
        }
    }
}

/// Case 18: whose rule is used for which file, and that the user may choose another.
#[test]
fn rules_follow_the_format_and_can_be_set() {
    let table = |bytes: &[u8], heads: usize, rule| {
        let options = LoadOptions { heads, image_size: 8, position_resize: rule, ..LoadOptions::default() };
        let backbone = load_bytes("x", bytes, &options).unwrap();
        (backbone.tensors["pos_embedding"].clone(), backbone.source)
    };
    let timm = fixture_bytes("import/timm_dinov2.safetensors");
    // facebookresearch/dinov2 keeps the mask token, which timm takes away.
    let with = |extra: &str, shape: &[usize]| {
        let tensor = (shape.to_vec(), vec![0u8; 4 * shape.iter().product::<usize>()]);
        edited("timm_dinov2", |all| drop(all.insert(extra.to_string(), tensor.clone())))
    };
    let dinov2 = with("mask_token", &[1, 24]);
    for (bytes, rule, word) in
        [(&timm, PositionResize::BicubicAntialias, "timm"), (&dinov2, PositionResize::Dinov2, "DINOv2")]
    {
        let stored = tiny("timm_dinov2").tensors["pos_embedding"].clone();
        let (found, source) = table(bytes, 2, None);
        assert_eq!(found, resize_positions(&stored, 2, rule).unwrap());
        assert!(source.contains(&format!("the rule of {word}")), "{source}");
    }
    let stored = loader().tensors["pos_embedding"].clone();
    let jax = fixture_bytes("golden/loader_checkpoint.npz");
    let (found, source) = table(&jax, 0, None);
    assert_eq!(found, resize_positions(&stored, 2, PositionResize::BilinearAligned).unwrap());
    assert!(source.contains("bilinear, aligned corners"), "{source}");
    for rule in [
        PositionResize::BilinearAligned,
        PositionResize::Bicubic,
        PositionResize::BicubicAntialias,
        PositionResize::Dinov2,
    ] {
        let (found, source) = table(&jax, 0, Some(rule));
        assert_eq!(found, resize_positions(&stored, 2, rule).unwrap());
        assert!(source.contains(rule.describe()), "{source}");
    }
}

/// Case 17: tables without a row for the class token (DeiT III), whose class token has no position.
#[test]
fn a_table_without_a_row_for_the_class_token_leaves_it_without() {
    let bytes = edited("timm_vit", |all| {
        let (_, data) = all.remove("pos_embed").unwrap();
        all.insert("pos_embed".to_string(), (vec![1, 9, 24], data[24 * 4..].to_vec()));
    });
    let found = load_bytes("x", &bytes, &sizes("timm_vit").1).unwrap();
    let (found, wanted) =
        (&found.tensors["pos_embedding"].data, &tiny("timm_vit").tensors["pos_embedding"].data);
    assert_eq!(found[..24], [0.0; 24]);
    assert_eq!(found[24..], wanted[24..]);
}
