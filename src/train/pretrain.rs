//! Training of a backbone, from random weights or on from a checkpoint: the network without prompts, everything
//! learning or the last blocks. The classes are those of the data set, or with `pretrain.exemplars` every image is a
//! class of its own; with `pretrain.rotations` each image is also turned and the turn is part of its class (Gidaris et
//! al. 2018, arXiv:1803.07728). Both are harder to learn than a few classes, and give better features.

use super::affine_augment::warp;
use super::evaluate::argmax;
use super::learn::{Learning, LearningKind};
use super::record::{Record, RunFolder};
use super::session::Session;
use crate::config::Config;
use crate::config::schema::{Baselines, Classifier, Method, StartFrom};
use crate::data::{self, DataSet, Normalize, Subset, Task, tasks};
use crate::device::Choice;
use crate::error::{Error, Result};
use crate::import::{Backbone, Gelu, HostTensor, VitDims, write_native};
use crate::learner::{self, InitialWeights, Learner, Position, Purpose, backbone};
use crate::methods::Ranks;
use crate::nn::vit::CHANNELS;
use crate::output::progress::Progress;
use crate::output::{say, signal, table};
use crate::prompts::PromptChoice;
use crate::rng::{Rng, Stream};
use crate::tensor::Tensor;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

const EPS: f64 = 1e-6;

/// What a pre-training run reached.
#[derive(Debug)]
pub struct Pretrained {
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
/// As [`super::run::train`]; `Error::Config` if the configuration has no network to train.
pub fn pretrain(
    config: &Config,
    workdir: &Path,
    out: &Path,
    resume: bool,
    quiet: bool,
    choice: Choice,
) -> Result<Pretrained> {
    config.check_pretrain()?;
    signal::install()?;
    let started = Instant::now();
    // Data and network first: a training that cannot start leaves no folder behind.
    let data = Arc::new(data::load(&config.data, config.seed)?);
    let mut session = session(&without_prompts(config), data.clone(), choice)?;
    let place = RunFolder::open(workdir, resume, config)?;
    let mut warnings = Vec::new();
    let saved = place.store.load_latest(&mut warnings)?;
    let mut at = Position::default();
    if let Some(state) = &saved {
        at = Position::of(state, config)?;
        session.learner.expect_backbone(&at, workdir)?;
        session.expect_origin(&at, workdir)?;
        session.learner.method.restore(&state.tensors, at.optimizer_step)?;
    }
    at.checkpoint_sha256.clone_from(&session.learner.backbone.sha256);
    at.origin = session.origin();
    let rate_before = at.rate_before(config, place.workdir.earlier_rate(), session.train_tasks.len())?;
    let record = Record::open(place, saved.as_ref(), &at, config, &mut warnings)?;
    let total = session.loader(&session.train_tasks[0])?.steps();
    let progress = Progress::new(quiet, 1, total as u64, at.step);
    warnings.iter().for_each(|w| say(&format!("warning: {w}")));
    progress.say(&table::memory(&session.learner.plan, table::Style::detect()));
    let mut run = Learning::new(session, LearningKind::Pretraining, Some(record), progress, at, started);
    run.change_rate(rate_before)?;
    run.learn(|_| Ok(()))?;
    run.progress.finish();
    let accuracy = test(&mut run.session)?;
    let backbone = trained(&run.session.learner)?;
    let mut extra = BTreeMap::from([
        ("trained_by".to_string(), format!("l2p-engine {} pretrain", env!("CARGO_PKG_VERSION"))),
        ("data".to_string(), data.name.clone()),
        ("seed".to_string(), config.seed.to_string()),
    ]);
    if !run.at.checkpoint_sha256.is_empty() {
        extra.insert("start_from".to_string(), run.at.checkpoint_sha256.clone());
    }
    write_native(out, &backbone, &extra)?;
    let sha256 = crate::import::load(out, &crate::import::LoadOptions::default())?.sha256;
    Ok(Pretrained { accuracy, classes: run.session.classes(), path: out.to_path_buf(), sha256 })
}

/// The configuration of the network that becomes a backbone: no prompts, everything learns, all classes in each loss.
fn without_prompts(config: &Config) -> Config {
    let mut config = config.clone();
    config.method = Method::FineTune;
    config.prompt_pool.pool_size = 0;
    config.g_prompt.g_prompt_length = 0;
    config.model.freeze_part.clear();
    if matches!(config.model.vit_classifier, Classifier::Prompt | Classifier::TokenPrompt) {
        config.model.vit_classifier = Classifier::Token;
    }
    config.continual.train_mask = false;
    config.continual.replay_batch_size = 0;
    config.continual.replay_per_class = 0;
    config.continual.num_review_epochs = 0;
    config.baselines = Baselines::none();
    config
}

/// All images of the data set as one task of its classes or exemplars, with their turns.
fn session(config: &Config, data: Arc<DataSet>, choice: Choice) -> Result<Session> {
    let mut split = tasks::split(&data, &config.continual, config.seed)?;
    split.tasks = vec![tasks::joint(&split)];
    let batch = config.train.per_device_batch_size;
    let turns = turns(config);
    let kinds = if config.pretrain.exemplars { data.train.len() } else { data.class_names.len() };
    let names: Vec<String> = (0..kinds * turns as usize).map(|class| class.to_string()).collect();
    let (about, weights) = match config.pretrain.start_from {
        StartFrom::Random => (described(config), InitialWeights::Random),
        StartFrom::Checkpoint => (backbone::describe(config)?, InitialWeights::Checkpoint),
    };
    let mut config = config.clone();
    config.model.freeze_part = frozen(config.pretrain.learning_blocks, about.dims.layers)?;
    let (config, ranks) = (&config, Ranks::alone(batch));
    let purpose = Purpose::Pretraining { ranks: &ranks, images: batch };
    let dev = learner::fitting_device(config, backbone::dims(&about), names.len(), choice, purpose)?;
    let learner = Learner::new(config.clone(), about, dev, names, purpose, weights)?;
    let mut session = Session::on_host(learner, data, split, ranks);
    let loader = session.loader(&session.train_tasks[0])?;
    let config = config.clone();
    session.change = Some(Arc::new(move |step, images, labels| {
        if config.pretrain.exemplars {
            labels.copy_from_slice(&loader.batch_indices(step));
        }
        change(&config, turns, 1 << 63 | (step * batch) as u64, images, labels);
    }));
    Ok(session)
}

/// What stays as it is where only the last `learning` of `layers` blocks learn, in words of `model.freeze_part`.
fn frozen(learning: usize, layers: usize) -> Result<Vec<String>> {
    if learning == 0 {
        return Ok(Vec::new());
    }
    let below = layers.checked_sub(learning).ok_or_else(|| {
        Error::config(format!(
            "pretrain.learning_blocks must be at most {layers}, the blocks of the checkpoint, found {learning}"
        ))
    })?;
    // "embedding" is in the names of the patch embedding and of the positions.
    let before = ["embedding", "cls"].map(String::from);
    Ok(before.into_iter().chain((0..below).map(|block| format!("encoderblock_{block}/"))).collect())
}

/// Quarter turns that an image may have.
fn turns(config: &Config) -> u32 {
    if config.pretrain.rotations { 4 } else { 1 }
}

/// The backbone of a configuration, before it has weights.
fn described(config: &Config) -> Backbone {
    let p = &config.pretrain;
    let dims = VitDims {
        image_size: config.data.input_size,
        patch_size: p.patch_size,
        channels: CHANNELS,
        embed_dim: p.embed_dim,
        heads: p.heads,
        mlp_dim: p.mlp_dim,
        layers: p.layers,
        registers: 0,
    };
    let (mean, std) = (Normalize::UNIT.mean, Normalize::UNIT.std);
    let (source, sha256, tensors) = (String::new(), String::new(), BTreeMap::new());
    Backbone {
        dims,
        gelu: Gelu::Tanh,
        layer_norm_eps: EPS,
        mean,
        std,
        position_resize: None,
        source,
        sha256,
        tensors,
    }
}

/// The backbone with what was learned.
fn trained(learner: &Learner) -> Result<Backbone> {
    let mut tensors: BTreeMap<String, HostTensor> =
        backbone::tensors(&learner.method.model().params)?.into_iter().collect();
    let (registers, c) = (learner.backbone.dims.registers, learner.backbone.dims.embed_dim);
    if registers > 0
        && let Some(table) = tensors.get_mut("pos_embedding")
    {
        // Their rows stand behind that of the class token; see `backbone::place`.
        let rows: Vec<f32> = table.data.drain(c..(1 + registers) * c).collect();
        table.shape[1] -= registers;
        tensors.insert("registers".into(), HostTensor { shape: vec![1, registers, c], data: rows });
    }
    Ok(Backbone { tensors, ..learner.backbone.clone() })
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
fn test(session: &mut Session) -> Result<f64> {
    let Session { learner, reader, train_tasks, .. } = session;
    let (config, task): (&Config, &Task) = (&learner.config, &train_tasks[0]);
    let (side, exemplars) = (config.data.input_size, config.pretrain.exemplars);
    let (which, indices) = if exemplars { (Subset::Train, &task.train) } else { (Subset::Test, &*task.test) };
    let (mut right, mut all) = (0, 0u64);
    for chunk in indices.chunks(config.train.eval_batch_size) {
        let mut pixels = vec![0.0; chunk.len() * side * side * CHANNELS];
        let mut labels = vec![0; chunk.len()];
        reader.fill_eval(which, chunk, &mut pixels, &mut labels)?;
        if exemplars {
            labels.copy_from_slice(chunk);
        }
        change(config, turns(config), 3 << 62 | all, &mut pixels, &mut labels);
        let dtype = learner.method.model().dtype();
        let images = learner::ready(dtype, side, &pixels);
        let none = Tensor::zeros([chunk.len(), 1], dtype);
        let logits = learner.method.logits(
            &learner.dev,
            images.view().into(),
            none.view(),
            &PromptChoice::nothing(),
        )?;
        let classes = logits.dims()[1];
        let answers = logits.view().read_f64()?;
        right +=
            answers.chunks_exact(classes).zip(&labels).filter(|(z, l)| argmax(z) == **l as usize).count();
        all += chunk.len() as u64;
    }
    Ok(right as f64 / all.max(1) as f64)
}
