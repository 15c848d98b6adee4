//! A small network with random weights, for whole runs on a device.

use l2p_engine::config::schema::Config;
use l2p_engine::network::{Model, Setup};
use l2p_engine::nn::vit::Dims;
use l2p_engine::ops::gelu::GeluForm;
use l2p_engine::rng::{Rng, Stream};
use l2p_engine::tensor::plan::Plan;

/// Normal values around zero, f32 numbers.
pub fn normal(seed: u64, stream: u64, n: usize, spread: f64) -> Vec<f64> {
    let mut rng = Rng::new(seed, Stream::Test, stream);
    (0..n).map(|_| f64::from((spread * rng.normal()) as f32)).collect()
}

/// Two blocks of width 16 for images of 8 pixels, `batch` at once; scales around one, all else around zero.
pub fn model(config: &Config, (classes, batch): (usize, usize), plan: &mut Plan, seed: u64) -> Model {
    let (gelu, eps) = (GeluForm::Erf, 1e-6);
    let dims = Dims {
        image_size: 8,
        patch_size: 4,
        embed_dim: 16,
        heads: 2,
        mlp_dim: 24,
        layers: 2,
        registers: 0,
        eps,
        gelu,
    };
    let setup = Setup::new(config, dims, classes, batch).expect("a valid setup");
    let mut model = Model::new(setup, plan);
    for (i, id) in model.params.ids().enumerate() {
        let (n, scale) = (model.params.spec(id).shape.len(), model.params.spec(id).name.ends_with("scale"));
        let values: Vec<f64> =
            normal(seed, i as u64, n, 0.3).iter().map(|v| if scale { 1.0 + v } else { *v }).collect();
        model.params.set(id, &values).expect("values");
    }
    model
}
