//! The official loader's arrays, its positions and the query features of what it loaded.

use super::*;
use crate::support::{cls_feature, deviation};
use l2p_engine::import::{
    Backbone, HostTensor, LoadOptions, PositionResize, VitDims, load, resize_positions,
};

fn loader() -> Backbone {
    load(&golden_dir().join("loader_checkpoint.npz"), &LoadOptions::default()).unwrap()
}

/// The sizes of the checkpoint, from `loader.json`.
fn stored_dims() -> VitDims {
    let config = &json("loader.json")["config"];
    let size =
        |key: &str| config[key].as_u64().unwrap_or_else(|| panic!("loader.json: config.{key}")) as usize;
    VitDims {
        image_size: size("image"),
        patch_size: size("patch"),
        channels: 3,
        embed_dim: size("hidden"),
        heads: size("heads"),
        mlp_dim: size("mlp"),
        layers: size("layers"),
        registers: 0,
    }
}

#[test]
fn the_official_loader_takes_the_same_arrays() {
    let (backbone, stored) = (loader(), Npz::golden("loader_checkpoint.npz"));
    let dims = stored_dims();
    assert_eq!(backbone.dims, dims);
    let width = dims.embed_dim;
    let names = json("loader.json");
    let mut compared = 0;
    for (linen, source) in names["linen_names_and_source"].as_object().unwrap() {
        let Some(source) = source.as_str().and_then(|source| stored.arrays.get(source)) else { continue };
        let name = linen
            .replace("Transformer/encoderblock_", "block_")
            .replace("Transformer/posembed_input/", "")
            .replace("Transformer/encoder_norm", "norm")
            .replace("LayerNorm_0", "ln1")
            .replace("LayerNorm_1", "ln2")
            .replace("MlpBlock_0/Dense_0", "fc1")
            .replace("MlpBlock_0/Dense_1", "fc2")
            .replace("MultiHeadDotProductAttention_0/out", "proj");
        let narrow: Vec<f32> = source.data.iter().map(|&v| v as f32).collect();
        if let Some((block, part)) = name.split_once("/MultiHeadDotProductAttention_0/") {
            let (which, leaf) = part.split_once('/').unwrap();
            let column = ["query", "key", "value"].iter().position(|w| *w == which).unwrap();
            let found = backbone.tensors[&format!("{block}/qkv/{leaf}")].data.chunks_exact(3 * width);
            let found: Vec<f32> = found.flat_map(|line| line[column * width..][..width].to_vec()).collect();
            assert_eq!(found, narrow, "{linen}");
        } else {
            assert_eq!(backbone.tensors[&name].data, narrow, "{linen}");
        }
        compared += 1;
    }
    assert_eq!(compared, dims.layers * 16 + 6);
    let query = Npz::golden("loader_query.npz");
    // The golden images are scaled by 256 (exact in binary), unlike images of data sets.
    let image: Vec<f64> = query.get("in/image_u8").data.iter().map(|v| v / 256.0).collect();
    let wanted = query.get("out/query").data.chunks_exact(width);
    for (image, wanted) in image.chunks_exact(dims.image_size * dims.image_size * 3).zip(wanted) {
        let off = deviation(&cls_feature(&backbone, image), wanted);
        assert!(off < 1e-12, "query feature is off by {off}");
    }
}

#[test]
fn positions_resize_as_the_official_code_does() {
    let arrays = Npz::golden("posembed_resize.npz");
    let tables: Vec<&str> = arrays.arrays.keys().filter_map(|name| name.strip_suffix("/in")).collect();
    assert!(!tables.is_empty() && (!own_golden() || tables.len() == 5), "{tables:?}");
    for name in tables {
        let (from, to) = (arrays.get(&format!("{name}/in")), arrays.get(&format!("{name}/out")));
        let table =
            HostTensor { shape: from.shape.clone(), data: from.data.iter().map(|&v| v as f32).collect() };
        let out =
            resize_positions(&table, (to.shape[1] - 1).isqrt(), PositionResize::BilinearAligned).unwrap();
        assert_eq!(out.shape, to.shape);
        let wide: Vec<f64> = out.data.iter().map(|&v| f64::from(v)).collect();
        assert!(deviation(&wide, &to.data) < 2e-7, "{name}: {}", deviation(&wide, &to.data));
    }
    let bad = HostTensor { shape: vec![1, 4, 2], data: vec![0.0; 8] };
    assert!(resize_positions(&bad, 2, PositionResize::BilinearAligned).is_err());
    // A larger image and fewer blocks than the file has.
    let dims = stored_dims();
    let (grid, blocks) = (dims.grid() + 2, dims.layers.div_ceil(2));
    let image_size = grid * dims.patch_size;
    let loaded = load(
        &golden_dir().join("loader_checkpoint.npz"),
        &LoadOptions { image_size, blocks, ..LoadOptions::default() },
    )
    .unwrap();
    assert_eq!((loaded.dims.image_size, loaded.dims.layers, loaded.dims.grid()), (image_size, blocks, grid));
    assert_eq!(
        loaded.tensors["pos_embedding"],
        resize_positions(&loader().tensors["pos_embedding"], grid, PositionResize::BilinearAligned).unwrap()
    );
    assert_eq!(loaded.tensors.len(), 4 + blocks * 12 + 2);
    println!("{}", loaded.source);
}
