//! Training of a new backbone: the network without prompts, everything learning. The classes are those
//! of the data set, or with `pretrain.exemplars` every image is a class of its own; with
//! `pretrain.rotations` each image is also turned and the turn is part of its class (Gidaris et al.
//! 2018, arXiv:1803.07728). Both ask for more than ten kinds of clothes do.

use super::affine_augment::warp;
use super::batch;
use super::evaluate::argmax;
use crate::config::Config;
use crate::data::{self, Images, Loader, Normalize, Prefetch, Preprocess, Task, tasks};
use crate::device::{Choice, Device};
use crate::error::{Error, Result};
use crate::import::{Backbone, Gelu, HostTensor, VitDims, write_native};
use crate::learner::backbone as file;
use crate::methods::{Gradient, Method, Ranks};
use crate::network::{Model, Setup, TaskView};
use crate::nn::vit::{CHANNELS, Dims};
use crate::ops::gelu::GeluForm;
use crate::optim::schedule::LearningRate;
use crate::output::checkpoint::{State, Store};
use crate::output::progress::Progress;
use crate::output::workdir::Workdir;
use crate::output::{signal, table};
use crate::rng::{Rng, Stream};
use crate::tensor::Tensor;
use crate::tensor::plan::Plan;
use rayon::prelude::*;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const EPS: f64 = 1e-6;
/// Deviation of the initial weights (Dosovitskiy et al. 2021 use the same for the positions).
const INIT: f64 = 0.02;

/// What a pre-training run reached.
#[derive(Debug)]
pub struct Outcome {
    /// Share of unseen images (new warps of the training images, for exemplars) answered right
    /// among all classes of the training.
    pub accuracy: f64,
    pub classes: usize,
    pub path: PathBuf,
    pub sha256: String,
}

/// Trains a backbone and writes it to `out`. The work directory holds checkpoints to resume from.
///
/// # Errors
/// As [`super::run::train`].
pub fn pretrain(
    config: &Config,
    workdir: &Path,
    out: &Path,
    resume: bool,
    quiet: bool,
    choice: Choice,
) -> Result<Outcome> {
    config.check_pretrain()?;
    signal::install()?;
    let workdir = Workdir::create(workdir, resume, config)?;
    let data = Arc::new(data::load(&config.data, config.seed)?);
    let split = tasks::split(&data, &config.continual)?;
    let task = tasks::joint(&split);
    let normalize = Normalize::UNIT;
    let preprocess = Preprocess::new(&config.data, normalize)?;
    let (batch, epochs) = (config.train.per_device_batch_size, config.train.num_epochs);
    let loader = Arc::new(Loader::new(data.clone(), &split, &task, preprocess, config.seed, batch, epochs)?);
    let turns = if config.pretrain.rotations { 4 } else { 1 };
    let exemplars = config.pretrain.exemplars;
    let kinds = if exemplars { data.train.len() } else { data.class_names.len() };
    let classes = kinds * turns as usize;

    let dims = dims(config);
    let dev = file::fitting_device(config, dims, classes, choice, batch)?;
    let mut config = config.clone();
    config.precision = super::session::precision(config.precision, &dev)?;
    let config = &config;
    let mut setup = Setup::new(config, dims, classes, batch.max(config.train.eval_batch_size))?;
    setup.keep_original = false;
    setup.label_smoothing = config.pretrain.label_smoothing;
    let mut plan = Plan::on(&dev);
    let mut model = Model::new(setup, &mut plan);
    init(&mut model, config.seed)?;
    let dtype = model.dtype();
    let mut method = Gradient::new(config, model, &mut plan, &Ranks::alone(batch));
    plan.check()?;
    let store = Store::open(&workdir.checkpoints(), &config.config_hash())?;
    let mut warnings = Vec::new();
    let mut step = 0;
    if let Some(state) = store.load_latest(&mut warnings)? {
        step = state.step as usize;
        method.restore(&state.tensors, state.step)?;
    }
    let total = loader.steps();
    let mut progress = Progress::new(quiet, 1, total as u64, step as u64);
    warnings.iter().for_each(|w| progress.say(&format!("warning: {w}")));
    progress.say(&table::memory(&plan, table::Style::detect()));
    let rate = LearningRate::new(&config.optim, batch, loader.steps_per_epoch(), epochs);
    let view = TaskView { index: 0, mask: vec![true; classes], share: 1.0 };
    let side = config.data.input_size;
    for prepared in Prefetch::start(loader.clone(), step..total)? {
        let mut prepared = prepared?;
        if exemplars {
            prepared.labels = loader.batch_indices(step);
        }
        change(config, turns, 1 << 63 | (step * batch) as u64, &mut prepared.images, &mut prepared.labels);
        let images = batch::ready(dtype, side, &prepared.images);
        let labels = Tensor::from_vec(prepared.labels.clone(), [batch]);
        step += 1;
        let stats = method.step(&dev, images.view().into(), labels.view(), &view, rate.at(step))?;
        progress.step(step as u64, stats.last().map(|s| s.loss), batch);
        let stop = signal::stop_requested();
        if stop || step.is_multiple_of(config.train.checkpoint_every_steps.max(1)) {
            method.settle(&dev)?;
            let meta = json!({ "task": 0, "task_step": step });
            store.save(&State { step: step as u64, meta, tensors: method.state()? })?;
        }
        if stop {
            progress.finish();
            return Err(Error::Interrupted(format!("saved after step {step}; add --resume to go on")));
        }
    }
    method.settle(&dev)?;
    progress.finish();
    let accuracy = test(config, &dev, &mut method, &loader, &task, turns)?;
    let backbone = backbone(method.model(), config)?;
    let extra = BTreeMap::from([
        ("trained_by".to_string(), format!("l2p-engine {} pretrain", env!("CARGO_PKG_VERSION"))),
        ("data".to_string(), data.name.clone()),
        ("seed".to_string(), config.seed.to_string()),
    ]);
    write_native(out, &backbone, &extra)?;
    let sha256 = crate::import::load(out, &crate::import::LoadOptions::default())?.sha256;
    Ok(Outcome { accuracy, classes, path: out.to_path_buf(), sha256 })
}

fn dims(config: &Config) -> Dims {
    let p = &config.pretrain;
    Dims {
        image_size: config.data.input_size,
        patch_size: p.patch_size,
        embed_dim: p.embed_dim,
        heads: p.heads,
        mlp_dim: p.mlp_dim,
        layers: p.layers,
        registers: 0,
        eps: EPS,
        gelu: GeluForm::Tanh,
    }
}

/// Kernels, class token and positions normal with deviation 0.02, scales one, the rest zero.
fn init(model: &mut Model, seed: u64) -> Result<()> {
    for (i, id) in model.params.ids().enumerate() {
        let (name, n) = (model.params.spec(id).name.clone(), model.params.spec(id).shape.len());
        let mut rng = Rng::new(seed, Stream::Init, 1 << 32 | i as u64);
        let values: Vec<f64> = match name.rsplit('/').next() {
            Some("scale") => vec![1.0; n],
            Some("bias") => vec![0.0; n],
            _ => (0..n).map(|_| INIT * rng.normal()).collect(),
        };
        model.params.set(id, &values)?;
    }
    Ok(())
}

/// Turns a square image (S, S, 3) by `turns` quarter turns.
fn rotate(image: &mut [f32], side: usize, turns: u32) {
    for _ in 0..turns {
        let source = image.to_vec();
        for y in 0..side {
            for x in 0..side {
                let from = (x * side + (side - 1 - y)) * CHANNELS;
                image[(y * side + x) * CHANNELS..][..CHANNELS].copy_from_slice(&source[from..][..CHANNELS]);
            }
        }
    }
}

/// Warps and turns a batch, with random numbers `first`, `first` + 1, …; labels become class and turn.
fn change(config: &Config, turns: u32, first: u64, images: &mut [f32], labels: &mut [u32]) {
    let (side, strength) = (config.data.input_size, config.pretrain.warp as f32);
    let each = images.par_chunks_mut(side * side * CHANNELS).zip(labels.par_iter_mut());
    each.enumerate().for_each(|(i, (image, label))| {
        let mut rng = Rng::new(config.seed, Stream::Augment, first + i as u64);
        let turn = rng.below(turns);
        if strength > 0.0 {
            warp(image, side, strength, &mut rng);
        }
        rotate(image, side, turn);
        *label = *label * turns + turn;
    });
}

/// Accuracy over all classes on images that training has not seen: the test images or, for exemplars,
/// new warps of the training images.
fn test(
    config: &Config,
    dev: &Device,
    method: &mut Gradient,
    loader: &Loader,
    task: &Task,
    turns: u32,
) -> Result<f64> {
    let side = config.data.input_size;
    let exemplars = config.pretrain.exemplars;
    let (which, indices) = if exemplars { (Images::Train, &task.train) } else { (Images::Test, &*task.test) };
    let (mut right, mut all) = (0, 0u64);
    for chunk in indices.chunks(config.train.eval_batch_size) {
        let mut pixels = vec![0.0; chunk.len() * side * side * CHANNELS];
        let mut labels = vec![0; chunk.len()];
        loader.fill_eval(which, chunk, &mut pixels, &mut labels)?;
        if exemplars {
            labels.copy_from_slice(chunk);
        }
        change(config, turns, 3 << 62 | all, &mut pixels, &mut labels);
        let images = batch::ready(method.model().dtype(), side, &pixels);
        let none = Tensor::zeros([chunk.len(), 1], method.model().dtype());
        let logits = method.logits(dev, images.view().into(), none.view(), &[])?;
        let classes = logits.dims()[1];
        let answers = logits.view().read_f64()?;
        right +=
            answers.chunks_exact(classes).zip(&labels).filter(|(z, l)| argmax(z) == **l as usize).count();
        all += chunk.len() as u64;
    }
    Ok(right as f64 / all.max(1) as f64)
}

fn backbone(model: &Model, config: &Config) -> Result<Backbone> {
    let d = dims(config);
    let dims = VitDims {
        image_size: d.image_size,
        patch_size: d.patch_size,
        channels: CHANNELS,
        embed_dim: d.embed_dim,
        heads: d.heads,
        mlp_dim: d.mlp_dim,
        layers: d.layers,
        registers: 0,
    };
    let names = model.params.ids().filter(|&id| crate::nn::params::is_backbone(&model.params.spec(id).name));
    let tensors: Result<_> = names
        .map(|id| {
            let data = model.params.get(id).read_f64()?.into_iter().map(|v| v as f32).collect();
            let spec = model.params.spec(id);
            Ok((spec.name.clone(), HostTensor { shape: spec.shape.dims().to_vec(), data }))
        })
        .collect();
    let tensors = tensors?;
    let (mean, std) = (Normalize::UNIT.mean, Normalize::UNIT.std);
    let (source, sha256) = (String::new(), String::new());
    Ok(Backbone { dims, gelu: Gelu::Tanh, layer_norm_eps: EPS, mean, std, source, sha256, tensors })
}
