//! Register tokens in the network itself (case 17), against timm and transformers.

use super::support::*;
use super::{sizes, tiny};
use l2p_engine::config::Config;
use l2p_engine::config::schema::{EmbeddingKey, Precision};
use l2p_engine::device::Device;
use l2p_engine::import::Backbone;
use l2p_engine::learner::backbone;
use l2p_engine::network::{Model, Setup};
use l2p_engine::tensor::plan::Plan;
use l2p_engine::tensor::{DType, Tensor};

fn model(config: &Config, backbone: &Backbone, max_batch: usize) -> Model {
    let setup = Setup::new(config, backbone::dims(backbone), 10, max_batch).unwrap();
    let mut model = Model::new(setup, &mut Plan::new());
    for (name, tensor) in &backbone.tensors {
        backbone::place(&mut model, name, tensor).unwrap();
    }
    model.init_prompts(config.seed).unwrap();
    model
}

/// Case 17: the query is the class token's row of the model that the libraries compute, also for images of
/// another size; the order of sizes of batches does not matter.
#[test]
fn the_query_of_a_model_with_registers_is_that_of_its_library() {
    for name in ["timm_reg4", "timm_reg3_positions", "hf_dinov2_registers", "timm_small"] {
        let backbone = tiny(name);
        let expected = read_npz(&format!("import/{name}.npz"));
        let (images, dim) = (&expected["images"], backbone.dims.embed_dim);
        let config = Config { precision: Precision::F64, ..Config::default() };
        let mut model = model(&config, &backbone, 2);
        let pixels: Vec<f64> = images
            .data
            .iter()
            .enumerate()
            .map(|(i, v)| (v - f64::from(backbone.mean[i % 3])) / f64::from(backbone.std[i % 3]))
            .collect();
        let side = backbone.dims.image_size;
        let one = pixels.len() / 2;
        for (first, count) in [(0, 2), (1, 1), (0, 1), (0, 2)] {
            let input = &pixels[first * one..][..count * one];
            let input = Tensor::from_f64(input, [count, side, side, 3], DType::F64);
            let query = model.query(&Device::Cpu, input.view()).unwrap().to_f64();
            let wanted = &expected["cls"].data[first * dim..][..count * dim];
            let off = deviation(&query, wanted);
            println!("{name} {first} {count}: {off:.1e}");
            assert!(off < 1e-6, "{name}: {off}");
        }
        assert_eq!(sizes(name).0["registers"].as_u64().unwrap_or(0) as usize, backbone.dims.registers);
    }
}

/// A query of pooled patches leaves the registers out: it is the same whatever they are.
#[test]
fn a_query_of_patches_leaves_the_registers_out() {
    let mut config = Config { precision: Precision::F64, ..Config::default() };
    config.prompt_pool.embedding_key = EmbeddingKey::Mean;
    config.prompt_pool.batchwise_prompt = false;
    let query = |change: f32| {
        let mut backbone = tiny("timm_reg4");
        backbone.tensors.get_mut("registers").unwrap().data.iter_mut().for_each(|v| *v += change);
        let mut model = model(&config, &backbone, 1);
        let input = Tensor::from_f64(&[0.25; 12 * 12 * 3], [1, 12, 12, 3], DType::F64);
        let patches = model.query(&Device::Cpu, input.view()).unwrap().to_f64();
        (patches, model.features(&Device::Cpu, input.view()).unwrap().to_f64())
    };
    let ((patches, class), (same_patches, other_class)) = (query(0.0), query(0.5));
    assert_eq!(patches, same_patches);
    assert_ne!(class, other_class);
}
