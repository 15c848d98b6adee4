//! A run as an ONNX file: from pixels to logits, with the choice of prompts inside. `docs/export.md` describes it.

use super::assemble::Learner;
use crate::error::Result;
use crate::onnx::{Attribute, Element, Graph};
use crate::output::atomic;
use serde_json::json;
use std::path::Path;

/// Writes what `learner` answers as the file `path`, whole or not at all. Equal runs give equal bytes.
///
/// # Errors
/// `Error::Config` for what ONNX cannot compute; `Error::Failed` for a file above 2 GiB; `Error::File` if it cannot be
/// written.
pub fn write(learner: &Learner, path: &Path) -> Result<()> {
    let (side, classes) = (learner.preprocess.input_size(), learner.class_names.len());
    let mut g = Graph::default();
    let images = g.input("images", &[side, side, 3]);
    let wide = |three: [f32; 3]| three.map(f64::from).to_vec();
    let mean = g.weights("mean", &[3], || Ok(wide(learner.backbone.mean)))?;
    let std = g.weights("deviation", &[3], || Ok(wide(learner.backbone.std)))?;
    let centred = g.op("Sub", &[&images, &mean], &[]);
    let pixels = g.op("Div", &[&centred, &std], &[]);
    let answer = learner.method.onnx(&mut g, &pixels)?;
    g.output("logits", &answer.logits, Element::F32, &[classes]);
    let seen = |k: usize| learner.classes_seen.contains(&(k as u32));
    let unseen = (0..classes).map(|k| if seen(k) { 0.0 } else { f64::NEG_INFINITY }).collect();
    let unseen = g.weights("classes that cannot be the answer", &[classes], || Ok(unseen))?;
    let known = g.add(&answer.logits, &unseen);
    let probabilities = g.op("Softmax", &[&known], &[("axis", Attribute::Int(-1))]);
    g.output("probabilities", &probabilities, Element::F32, &[classes]);
    if let Some(chosen) = &answer.chosen {
        g.output(chosen.name, &chosen.value, chosen.element, &[chosen.width]);
    }
    let (config, about) = (&learner.config, &learner.backbone);
    let preprocessing = json!({
        "layout": "N x S x S x 3, RGB, values / 255",
        "input_size": side,
        "resize_size": config.data.resize_size,
        "transforms": config.data.transforms.to_string(),
        "eval_interpolation": config.data.eval_interpolation.to_string(),
    });
    let entries = [
        ("class_names", json!(learner.class_names).to_string()),
        ("classes_seen", json!(learner.classes_seen).to_string()),
        ("preprocessing", preprocessing.to_string()),
        ("method", config.method.to_string()),
        ("checkpoint_sha256", about.sha256.clone()),
        ("config", config.to_toml()),
    ];
    let model = g.finish("l2p-engine", &entries)?;
    atomic::write_with(path, |out| model.write(out))
}
