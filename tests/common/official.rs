//! Between the official implementation's names and configuration and the engine's.

use super::npz::{Array, Npz};
use l2p_engine::config::schema::*;
use l2p_engine::device::Device;
use l2p_engine::network::{Model, Setup};
use l2p_engine::nn::params::{ParamId, official_path};
use l2p_engine::nn::vit::Dims;
use l2p_engine::ops::gelu::GeluForm;
use l2p_engine::tensor::plan::Plan;
use serde_json::Value;

/// Where an official array lies in an engine parameter: name, row length there, first column, columns.
pub struct Place {
    pub name: String,
    pub stride: usize,
    pub column: usize,
    pub width: usize,
}

/// `width`: embedding width.
pub fn place(path: &str, c: usize, len: usize) -> Place {
    let whole = |name: &str| Place { name: name.into(), stride: len, column: 0, width: len };
    let Some(rest) = path.strip_prefix("Transformer/encoderblock_") else {
        return whole(match path {
            "Transformer/posembed_input/pos_embedding" => "pos_embedding",
            "Transformer/encoder_norm/scale" => "norm/scale",
            "Transformer/encoder_norm/bias" => "norm/bias",
            other => other,
        });
    };
    let (layer, rest) = rest.split_once('/').expect("a layer");
    let name = |module: &str, leaf: &str| format!("block_{layer}/{module}/{leaf}");
    let leaf = rest.rsplit('/').next().expect("a leaf");
    for (i, which) in ["query", "key", "value"].iter().enumerate() {
        if rest.contains(&format!("/{which}/")) {
            return Place { name: name("qkv", leaf), stride: 3 * c, column: i * c, width: c };
        }
    }
    let module = [
        ("LayerNorm_0", "ln1"),
        ("LayerNorm_2", "ln2"),
        ("Attention_1/out", "proj"),
        ("MlpBlock_3/Dense_0", "fc1"),
        ("MlpBlock_3/Dense_1", "fc2"),
    ];
    let (_, module) = module.iter().find(|(part, _)| rest.contains(part)).expect("a known module");
    whole(&name(module, leaf))
}

/// The part of an engine array that an official array corresponds to.
pub fn extract(place: &Place, values: &[f64]) -> Vec<f64> {
    values.chunks_exact(place.stride).flat_map(|row| &row[place.column..][..place.width]).copied().collect()
}

/// Puts the arrays `prefix + official path` of an archive into the model's parameters (and into the
/// query backbone's, if `query`).
pub fn load(model: &mut Model, npz: &Npz, prefix: &str, query: bool) {
    let c = model.setup.dims.embed_dim;
    for (path, array) in &npz.arrays {
        let Some(path) = path.strip_prefix(prefix) else { continue };
        let place = place(path, c, array.data.len());
        let params = if query { model.query_params.as_mut() } else { Some(&mut model.params) };
        let Some(params) = params else { continue };
        let id = params.find(&place.name).unwrap_or_else(|| panic!("no parameter {} for {path}", place.name));
        let mut values = params.get(id).to_f64();
        let (held, stored) = (values.len() / place.stride * place.width, array.data.len());
        assert_eq!(held, stored, "{path}: the model's part of {} has another length", place.name);
        for (row, source) in values.chunks_exact_mut(place.stride).zip(array.data.chunks_exact(place.width)) {
            row[place.column..][..place.width].copy_from_slice(source);
        }
        params.set(id, &values).expect("values of the right length");
    }
}

/// The official path of an engine parameter, for messages.
pub fn path_of(model: &Model, id: ParamId) -> String {
    official_path(&model.params.spec(id).name)
}

fn flag(v: &Value, key: &str) -> bool {
    v.get(key).and_then(Value::as_bool).unwrap_or(false)
}

fn number(v: &Value, key: &str, default: f64) -> f64 {
    v.get(key).and_then(Value::as_f64).unwrap_or(default)
}

fn list(v: &Value, key: &str) -> Vec<usize> {
    let items = v.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    items.iter().map(|i| i.as_u64().expect("an index") as usize).collect()
}

/// Images of a step on one device.
pub fn device_batch(official: &Value) -> usize {
    official["per_device_batch_size"].as_u64().expect("per_device_batch_size") as usize
}

/// Classes of every head: `num_classes` of `cases.json`.
pub fn num_classes(all: &Value) -> usize {
    all["num_classes"].as_u64().expect("num_classes") as usize
}

/// Which classes a loss is over: `class_mask` if the configuration masks, or all.
pub fn class_mask(classes: usize, class_mask: &[u32], official: &Value) -> Vec<bool> {
    let masked = official["continual"]["train_mask"].as_bool().expect("train_mask");
    assert!(class_mask.iter().all(|&k| (k as usize) < classes), "{class_mask:?} of {classes} classes");
    (0..classes as u32).map(|k| !masked || class_mask.contains(&k)).collect()
}

/// Devices of a case: arrays of several have their number in front. `axes`: those of one device.
pub fn devices(array: &Array, axes: usize) -> usize {
    if array.shape.len() > axes { array.shape[0] } else { 1 }
}

/// The arrays of several devices as one batch.
pub fn one_batch(mut array: Array, axes: usize) -> Array {
    if array.shape.len() > axes {
        let images = array.shape[0] * array.shape[1];
        array.shape.splice(0..2, [images]);
    }
    array
}

/// The engine's configuration for an official one.
pub fn config(official: &Value) -> Config {
    let mut config = Config { precision: Precision::F64, ..Config::default() };
    let word = |key: &str| official[key].as_str().unwrap_or("").to_string();
    config.model.vit_classifier = match word("vit_classifier").as_str() {
        "prompt" => Classifier::Prompt,
        "token" => Classifier::Token,
        "gap" => Classifier::Gap,
        "token+prompt" => Classifier::TokenPrompt,
        other => panic!("unknown classifier {other}"),
    };
    config.model.norm_pre_logits = flag(official, "norm_pre_logits");
    config.model.temperature = number(official, "temperature", 1.0);
    let parts = official["freeze_part"].as_array().expect("freeze_part");
    config.model.freeze_part = parts.iter().map(|p| p.as_str().expect("a word").to_string()).collect();
    let param = &official["prompt_pool_param"];
    let pool = &mut config.prompt_pool;
    pool.pool_size = number(param, "pool_size", 0.0) as usize;
    pool.length = number(param, "length", 0.0) as usize;
    pool.top_k = number(param, "top_k", 0.0) as usize;
    pool.prompt_key = flag(param, "prompt_key");
    pool.embedding_key = match param["embedding_key"].as_str().unwrap_or("cls") {
        "cls" => EmbeddingKey::Cls,
        "mean" => EmbeddingKey::Mean,
        "max" => EmbeddingKey::Max,
        "mean_max" => EmbeddingKey::MeanMax,
        other => panic!("unknown embedding key {other}"),
    };
    pool.batchwise_prompt = flag(param, "batchwise_prompt");
    pool.use_prompt_mask = flag(param, "use_prompt_mask");
    pool.shared_prompt_pool = flag(param, "shared_prompt_pool");
    pool.shared_prompt_key = flag(param, "shared_prompt_key");
    pool.vote_group = device_batch(official);
    pool.e_prompt_layer_idx = list(official, "e_prompt_layer_idx");
    pool.use_prefix_tune_for_e_prompt = flag(official, "use_prefix_tune_for_e_prompt");
    let pull = flag(official, "pull_constraint");
    pool.pull_constraint_coeff = if pull { number(official, "pull_constraint_coeff", 0.0) } else { 0.0 };
    let general = flag(official, "use_g_prompt");
    config.g_prompt.g_prompt_length =
        if general { number(official, "g_prompt_length", 0.0) as usize } else { 0 };
    config.g_prompt.g_prompt_layer_idx = list(official, "g_prompt_layer_idx");
    config.g_prompt.use_prefix_tune_for_g_prompt = flag(official, "use_prefix_tune_for_g_prompt");
    config.g_prompt.same_key_value = flag(official, "same_key_value_for_shared");
    let optim = &mut config.optim;
    optim.optim = match word("optim").as_str() {
        "adam" => OptimizerName::Adam,
        "adamw" => OptimizerName::AdamW,
        "sgd" => OptimizerName::Sgd,
        other => panic!("unknown optimizer {other}"),
    };
    optim.sgd_momentum = number(official, "sgd_momentum", 0.9);
    optim.learning_rate = number(official, "learning_rate", 0.0);
    optim.grad_clip_max_norm = number(official, "grad_clip_max_norm", 0.0);
    optim.weight_decay = number(official, "weight_decay", 0.0);
    optim.reinit_optimizer = flag(official, "reinit_optimizer");
    optim.clip_scope = ClipScope::All;
    config.train.num_epochs = number(official, "num_epochs", 1.0) as usize;
    config.train.per_device_batch_size = device_batch(official);
    config
}

pub fn dims(models: &Value, key: &str) -> Dims {
    let m = &models[key];
    let n = |key: &str| m[key].as_u64().expect("a number") as usize;
    Dims {
        image_size: n("img"),
        patch_size: n("patch"),
        embed_dim: n("hidden"),
        heads: n("heads"),
        mlp_dim: n("mlp"),
        layers: n("layers"),
        registers: 0,
        eps: 1e-6,
        gelu: GeluForm::Tanh,
    }
}

/// A model with the backbones of a case or trajectory loaded. `all`: `cases.json`; `about`: the entry of the case
/// or trajectory, whose query's backbone is the model's unless it names another.
pub fn model(dev: &Device, config: &Config, all: &Value, about: &Value, max_batch: usize) -> Model {
    let dims = dims(&all["models"], about["model"].as_str().expect("a model"));
    let backbone = about["backbone"].as_str().expect("a backbone");
    let query = about.get("query_backbone").and_then(Value::as_str);
    let setup = Setup::new(config, dims, num_classes(all), max_batch).expect("a valid setup");
    let mut plan = Plan::on(dev);
    let mut model = Model::new(setup, &mut plan);
    plan.check().expect("memory");
    load(&mut model, &Npz::golden(backbone), "", false);
    load(&mut model, &Npz::golden(query.unwrap_or(backbone)), "", true);
    model
}
