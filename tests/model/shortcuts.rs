//! The exact savings of work (`train.shortcuts`) against the plain path.

use super::support::{DEV, Kind, dims, images, kinds, l2p, labels};
use l2p_engine::config::schema::Shortcuts;
use l2p_engine::nn::vit::Dims;
use l2p_engine::ops::match_prompts::Select;
use l2p_engine::prompts::{PromptChoice, Query};
use l2p_engine::tensor::DType;
use l2p_engine::testing::close::relative_error;

const BATCH: usize = 5;

/// Everything a step and an evaluation compute, by name.
fn results(kind: &Kind, shortcuts: &[String]) -> Vec<(String, Vec<f64>)> {
    let mut kind = kind.clone();
    kind.config.train.shortcuts = shortcuts.to_vec();
    let mut model = kind.model(BATCH);
    let (x, y) = (images(BATCH, DType::F64), labels(BATCH));
    let mut all = Vec::new();
    // A smaller batch first: its remains must not matter.
    let few = (images(2, DType::F64), labels(2));
    kind.step(&mut model, &few.0, &few.1);
    let stats = kind.step(&mut model, &x, &y);
    for (name, value) in [
        ("loss", stats.loss),
        ("ce_loss", stats.ce_loss),
        ("pull", stats.pull),
        ("grad_norm", stats.grad_norm),
        ("correct", stats.correct as f64),
    ] {
        all.push((name.to_string(), vec![value]));
    }
    all.push(("logits".into(), model.logits().to_f64()));
    all.push(("pre_logits".into(), model.pre_logits().to_f64()));
    all.push(("query".into(), model.last_query().to_f64()));
    let ids = model.prompts.pool().map(|pool| pool.ids.to_f64());
    all.push(("ids".into(), ids.unwrap_or_default()));
    for id in model.params.ids() {
        let spec = model.params.spec(id);
        if let Some(grad) = model.grads.get(&model.params, id) {
            all.push((format!("gradient of {}", spec.name), grad.to_f64()));
        }
    }
    if let PromptChoice::Weights(rows) = model.prompts.choice().expect("a choice") {
        all.push(("weights".into(), rows.values));
    }
    if model.prompts.query() != Query::Nothing {
        let query = model.last_query().clone();
        let choice = model.choose(&DEV, query.view(), Select::PerImage).expect("a choice");
        let logits = model.logits_with(&DEV, x.view(), &choice).expect("logits");
        all.push(("evaluation logits".into(), logits.to_f64()));
    }
    all
}

#[test]
fn shortcuts_change_nothing() {
    let all = Shortcuts::all();
    for kind in kinds() {
        let plain = results(&kind, &[]);
        compare(&kind, "all", &results(&kind, &all), &plain);
        for one in &all {
            compare(&kind, one, &results(&kind, std::slice::from_ref(one)), &plain);
        }
    }
}

/// Layers that are large enough for it, an odd number of tokens in either pass.
#[test]
fn strassen_changes_the_rounding_alone() {
    let dims = Dims { patch_size: 1, embed_dim: 384, mlp_dim: 448, ..dims(2) };
    for kind in
        [l2p("wide, vote", |_| {}), l2p("wide, per image", |c| c.prompt_pool.batchwise_prompt = false)]
    {
        let kind = Kind { dims, ..kind };
        let without = results(&kind, &[]);
        let with = results(&kind, &["strassen".to_string()]);
        compare(&kind, "strassen", &with, &without);
        let logits = |all: &[(String, Vec<f64>)]| all.iter().find(|r| r.0 == "logits").map(|r| r.1.clone());
        assert_ne!(logits(&with), logits(&without), "the shortcut was not taken");
        compare(&kind, "all", &results(&kind, &Shortcuts::all()), &without);
    }
}

/// The same bits, also after a frozen matrix was changed.
#[test]
fn packed_weights_change_no_bit() {
    let dims = Dims { patch_size: 1, embed_dim: 384, mlp_dim: 448, ..dims(2) };
    let mut kind = Kind { dims, ..l2p("wide", |_| {}) };
    let mut run = |shortcuts: &[&str]| {
        kind.config.train.shortcuts = shortcuts.iter().map(ToString::to_string).collect();
        let mut model = kind.model(BATCH);
        let (x, y) = (images(BATCH, DType::F64), labels(BATCH));
        kind.step(&mut model, &x, &y);
        let kernel = model.params.find("block_0/fc1/kernel").expect("a kernel");
        let kept = model.params.packed(kernel).is_some();
        let first = model.logits().to_f64();
        let values: Vec<f64> = model.params.get(kernel).to_f64().iter().map(|v| v + 0.01).collect();
        model.params.set(kernel, &values).expect("other values");
        assert!(model.params.packed(kernel).is_none(), "out of date");
        kind.step(&mut model, &x, &y);
        assert_eq!(model.params.packed(kernel).is_some(), kept);
        let second = model.logits().to_f64();
        assert_ne!(first, second);
        let gradients = model.params.ids().filter_map(|id| model.grads.get(&model.params, id));
        (kept, first, second, gradients.flat_map(|g| g.to_f64()).collect::<Vec<f64>>())
    };
    let (without, with) = (run(&["strassen"]), run(&["strassen", "packed_weights"]));
    assert!(!without.0 && with.0, "the shortcut was not taken");
    assert!(with.1 == without.1 && with.2 == without.2 && with.3 == without.3);
    assert!(!run(&["packed_weights"]).0, "packed for nothing");
}

fn compare(kind: &Kind, which: &str, fast: &[(String, Vec<f64>)], plain: &[(String, Vec<f64>)]) {
    assert_eq!(fast.len(), plain.len(), "{}", kind.name);
    let gradients = plain.iter().filter(|(name, _)| name.starts_with("gradient"));
    let largest = gradients.flat_map(|(_, g)| g).fold(0.0, |m: f64, g| m.max(g.abs()));
    for ((name, fast), (_, plain)) in fast.iter().zip(plain) {
        // A gradient that is nearly zero everywhere is judged against the largest of all.
        let own = plain.iter().fold(0.0, |m: f64, g| m.max(g.abs()));
        let small = name.starts_with("gradient") && own < 1e-3 * largest;
        let error = relative_error(fast, plain) * if small { own / largest } else { 1.0 };
        assert!(error <= 1e-12, "{}, {which}: {name} differs by {error:.1e}", kind.name);
    }
}
