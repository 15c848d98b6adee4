//! The published cases of further methods: their files, sizes and networks, and the configuration of CODA-Prompt's.
//! `tests/fixtures/golden_methods/README.md` describes them.

use super::npz::Npz;
use super::official;
use l2p_engine::config::schema::{Classifier, Config, Method, Schedule};
use l2p_engine::device::Device;
use l2p_engine::network::{Model, Setup};
use l2p_engine::ops::gelu::GeluForm;
use l2p_engine::tensor::plan::Plan;
use serde_json::Value;
use std::path::{Path, PathBuf};

pub fn folder() -> PathBuf {
    match std::env::var_os("L2P_GOLDEN_METHODS_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden_methods"),
    }
}

pub fn npz(name: &str) -> Npz {
    Npz::read(&folder().join(name))
}

pub fn cases() -> Value {
    let path = folder().join("cases.json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

pub fn count(of: &Value, key: &str) -> usize {
    of[key].as_u64().unwrap_or_else(|| panic!("{key}: wanted a count, found {}", of[key])) as usize
}

pub fn number(of: &Value, key: &str) -> f64 {
    of[key].as_f64().unwrap_or_else(|| panic!("{key}: wanted a number, found {}", of[key]))
}

pub fn is_coda(about: &Value) -> bool {
    about["config"]["method"] == "coda_prompt"
}

pub fn coda_config(of: &Value) -> Config {
    let mut config = Config { method: Method::CodaPrompt, ..Config::default() };
    config.prompt_pool.pool_size = 0;
    config.model.vit_classifier = Classifier::Token;
    config.continual.num_tasks = count(of, "num_tasks");
    config.coda.components = count(of, "pool_size");
    config.coda.length = count(of, "prompt_length");
    config.coda.layers = serde_json::from_value(of["prompt_layers"].clone()).expect("layers");
    config.coda.ortho_mu = number(of, "ortho_mu");
    config.optim.lr_batch = 0;
    config.optim.grad_clip_max_norm = 0.0;
    config.optim.learning_rate_schedule = Schedule::CodaCosine;
    if of.get("epochs").is_some() {
        config.optim.learning_rate = number(of, "learning_rate");
        config.train.num_epochs = count(of, "epochs");
    }
    config
}

/// A model of the sizes that `about` names, without weights.
pub fn model_of(
    dev: &Device,
    config: &Config,
    all: &Value,
    about: &Value,
    classes: usize,
    batch: usize,
) -> Model {
    let mut dims = official::dims(&all["models"], about["model"].as_str().expect("a model"));
    assert_eq!(all["activation"], "gelu_erf");
    (dims.gelu, dims.eps) = (GeluForm::Erf, number(all, "layer_norm_eps"));
    let setup = Setup::new(config, dims, classes, batch).expect("a valid setup");
    Model::new(setup, &mut Plan::on(dev))
}

/// The same with the backbone of the case.
pub fn model(dev: &Device, config: &Config, all: &Value, about: &Value, batch: usize) -> Model {
    let mut model = model_of(dev, config, all, about, count(&about["config"], "num_classes"), batch);
    official::load(&mut model, &npz(about["backbone"].as_str().expect("a backbone")), "", false);
    model
}
