//! What the head starts from.

use super::support::l2p;
use l2p_engine::config::schema::HeadInit;
use l2p_engine::network::{Model, Setup};
use l2p_engine::tensor::plan::Plan;
use l2p_engine::testing::close::same_bits;

/// Kernel and bias of a new run.
fn head(how: HeadInit, seed: u64) -> [Vec<f64>; 2] {
    let kind = l2p("head", |c| c.model.head_init = how);
    let setup = Setup::new(&kind.config, kind.dims, 50, 3).expect("a valid setup");
    let mut model = Model::new(setup, &mut Plan::new());
    model.init_prompts(seed).expect("initial values");
    ["head/kernel", "head/bias"].map(|name| {
        let mut ids = model.params.ids();
        let id = ids.find(|&id| model.params.spec(id).name == name).expect("a head");
        model.params.get(id).to_f64()
    })
}

/// Normal with deviation 0.02, drawn by the seed, the bias zero; not that of prompts or keys, which have other streams.
#[test]
fn a_head_is_drawn_or_zero() {
    let [kernel, bias] = head(HeadInit::Normal, 3);
    let mean = kernel.iter().sum::<f64>() / kernel.len() as f64;
    let deviation = (kernel.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / kernel.len() as f64).sqrt();
    let error = 0.02 / (kernel.len() as f64).sqrt();
    assert!(mean.abs() < 4.0 * error && (deviation - 0.02).abs() < 4.0 * error, "{mean:e} ± {deviation:e}");
    assert!(bias.iter().all(|&v| v == 0.0));
    assert!(
        same_bits(&kernel, &head(HeadInit::Normal, 3)[0])
            && !same_bits(&kernel, &head(HeadInit::Normal, 4)[0])
    );
    assert!(head(HeadInit::Zero, 3).iter().flatten().all(|&v| v == 0.0));
}
