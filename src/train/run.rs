//! The loop one reads first: tasks, steps, evaluation, files. What a run has done is in its last
//! checkpoint and nowhere else: killed at any moment, it goes on from there and ends with the same bits.

use super::batch::{Batch, Training};
use super::evaluate::{self, QueryCache, TaskScore};
use super::session::{Loaded, Session, images_on_a_rank};
use super::{baselines, report};
use crate::comm::{self, Comm, Launch};
use crate::config::Config;
use crate::config::schema::Method as Name;
use crate::data::{Loader, Task, tasks};
use crate::device::Choice;
use crate::error::{Error, Result};
use crate::import::Backbone;
use crate::methods::Ranks;
use crate::network::{StepStats, TaskView};
use crate::optim::schedule::LearningRate;
use crate::output::checkpoint::{State, Store};
use crate::output::log::Log;
use crate::output::progress::Progress;
use crate::output::results::{Baselines, Results, Score, Speed};
use crate::output::tensorboard::{HParam, Writer, tags};
use crate::output::workdir::{self, Workdir};
use crate::output::{say, signal, table};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Instant;

/// Steps between lines in the log and points in TensorBoard.
const LOG_EVERY: u64 = 10;

/// Steps of several GPUs between questions whether somebody asked to stop.
const ASK_EVERY: usize = 8;

/// How a run is started.
#[derive(Debug, Clone)]
pub struct Options {
    pub workdir: PathBuf,
    pub resume: bool,
    pub quiet: bool,
    /// One device for each rank of this process.
    pub choices: Vec<Choice>,
    /// This process among those that were launched together.
    pub launch: Launch,
}

/// Where a run stands; part of every checkpoint.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Position {
    /// The task that is being learned, and the steps done within it.
    pub task: usize,
    pub task_step: usize,
    /// Steps since the start.
    pub step: u64,
    pub optimizer_step: u64,
    /// Row: after task t; column: task i <= t, or the one test set of all.
    pub per_image: Vec<Vec<f64>>,
    pub per_batch: Vec<Vec<f64>>,
    /// Length of the log in bytes.
    pub log_bytes: u64,
    /// Steps since the last line of the log, and their images.
    pub window: Vec<StepStats>,
    pub window_images: usize,
    /// Wall time so far, and the part that steps and evaluation took, with their images.
    pub seconds: f64,
    pub train_seconds: f64,
    pub train_images: u64,
    pub eval_seconds: f64,
    pub eval_images: u64,
    #[serde(alias = "floors")]
    pub baselines: Option<Baselines>,
    /// The results are written.
    pub complete: bool,
    /// For `predict`, which needs no data set.
    pub class_names: Vec<String>,
    pub checkpoint_sha256: String,
    /// Images per step on all ranks together: a resumed run keeps them, on whatever number of ranks.
    #[serde(default)]
    pub batch: usize,
}

impl Position {
    /// Reads what a checkpoint recorded.
    ///
    /// # Errors
    /// `Error::Failed` if it is not a position of this engine.
    pub fn of(state: &State) -> Result<Position> {
        serde_json::from_value(state.meta.clone())
            .map_err(|e| Error::failed(format!("the checkpoint of step {} cannot be used: {e}", state.step)))
    }

    /// Images per step on all ranks together.
    pub fn images(&self, config: &Config) -> usize {
        if self.batch > 0 { self.batch } else { config.train.per_device_batch_size }
    }

    /// # Errors
    /// `Error::Failed` if the run in `workdir` was made on another backbone than this one.
    pub fn expect_backbone(&self, workdir: &Path, backbone: &Backbone, config: &Config) -> Result<()> {
        if self.checkpoint_sha256 == backbone.sha256 {
            return Ok(());
        }
        Err(Error::failed(format!(
            "{}: the run was made on a backbone with sha256 {}, {} has {}; wanted the same file",
            workdir.display(),
            self.checkpoint_sha256,
            config.model.init_checkpoint,
            backbone.sha256
        )))
    }
}

/// Trains from start (or the last checkpoint) to end, on all ranks, and returns the results. Rank 0 alone reads
/// and writes the work directory.
///
/// # Errors
/// `Error::Interrupted` after a signal, with everything saved; any other error leaves the last
/// checkpoint intact.
pub fn train(config: Config, options: &Options) -> Result<Results> {
    signal::install()?;
    let started = Instant::now();
    // Data and backbone lie in the memory of a process once.
    let loaded = OnceLock::new();
    let launch = Launch { fingerprint: config.identity().config_hash(), ..options.launch.clone() };
    comm::run(&launch, options.choices.len(), |comm| {
        let mut choice = options.choices[comm.local_rank()].clone();
        let batch = images_per_step(&comm, &config, options)?;
        // NCCL takes memory before there is a plan of it.
        let ranks = Ranks::join(&comm, &choice.device, batch)?;
        // What one rank can compute, all must.
        choice.auto &= comm.is_alone();
        let images = images_on_a_rank(&config, batch, comm.size());
        if comm.is_alone() {
            let loaded = Loaded::new(&config, choice, images)?;
            return rank(config.clone(), options, loaded, ranks, started);
        }
        let load = || loaded.get_or_init(|| Loaded::new(&config, choice.clone(), images));
        let mut loaded = comm.alive(load).clone()?;
        loaded.dev = loaded.fitting(&config, choice, images)?;
        rank(config.clone(), options, loaded, ranks, started)
    })
}

/// Images of a step on all ranks together: what the configuration says of each, or what a run to be resumed has.
fn images_per_step(comm: &Comm, config: &Config, options: &Options) -> Result<usize> {
    let mut batch = config.train.per_device_batch_size * comm.size();
    if options.resume && comm.is_first() {
        let saved = Store::latest_meta(&options.workdir.join(workdir::CHECKPOINTS));
        let saved = saved.and_then(|meta| serde_json::from_value::<Position>(meta).ok());
        batch = saved.map_or(batch, |at| at.images(config));
    }
    let batch = comm.broadcast("images per step", (batch as u64).to_le_bytes().to_vec())?;
    Ok(batch.iter().rev().fold(0, |n, &byte| n << 8 | usize::from(byte)))
}

/// The run as one rank goes through it.
fn rank(
    config: Config,
    options: &Options,
    loaded: Loaded,
    ranks: Ranks,
    started: Instant,
) -> Result<Results> {
    let (comm, first) = (ranks.comm.clone(), ranks.comm.is_first());
    let quiet = options.quiet || !first;
    // Data and backbone first: a run that cannot start leaves no folder behind.
    let mut session = Session::with(config, loaded, ranks)?;
    let total: u64 = total_steps(&session)?;
    let sha256 = session.backbone.sha256.clone();
    let mut warnings = Vec::new();
    let place = if first { Some(open_place(options, &session.config)?) } else { None };
    let saved = match &place {
        Some((_, store)) => store.load_latest(&mut warnings)?,
        None => None,
    };
    let saved = share_state(&comm, saved)?;
    let mut at = Position {
        class_names: session.split.class_names.clone(),
        checkpoint_sha256: sha256.clone(),
        batch: session.ranks.batch,
        ..Position::default()
    };
    if let Some(state) = &saved {
        at = Position::of(state)?;
        at.batch = session.ranks.batch;
        at.expect_backbone(&options.workdir, &session.backbone, &session.config)?;
        session.method.restore(&state.tensors, at.optimizer_step)?;
    }
    if let Some((workdir, _)) = &place {
        workdir.write_config(
            &session.config,
            &[
                ("engine", env!("CARGO_PKG_VERSION")),
                ("backbone", &session.backbone.source),
                ("backbone sha256", &sha256),
            ],
        )?;
        if session.data.split_here {
            workdir.keep_split(&session.data.lists())?;
        }
        if let Some(list) = session.data.damaged_list() {
            workdir.keep_damaged(&list)?;
        }
    }
    if at.complete && at.task >= session.train_tasks.len() {
        let written = place.as_ref().and_then(|(workdir, _)| Results::read(&workdir.results_json()).ok());
        if let Some(results) = share_json(&comm, "results", written)? {
            warnings.iter().for_each(|w| say(&format!("warning: {w}")));
            return Ok(results);
        }
    }
    let files = place
        .map(|place| Files::open(place, saved.as_ref(), &at, &session.config, &mut warnings))
        .transpose()?;
    let progress = Progress::new(quiet, session.train_tasks.len(), total, at.step);
    warnings.iter().for_each(|w| say(&format!("warning: {w}")));
    if !quiet {
        progress.say(&report::opening(&report::Opening::of(&session, total)));
        progress.say(&table::memory(&session.plan, table::Style::detect()));
    }
    if options.quiet && files.is_some() {
        // A result of some classes is easily taken for one of all.
        tasks::unused(&session.data, &session.split).iter().for_each(|note| say(&format!("note: {note}")));
    }
    if files.as_ref().is_some_and(|files| files.workdir.resumed()) {
        progress.say(&format!("going on from step {} of {total}", at.step));
    }
    let mut run = Run { session, files, progress, at, started, before: 0.0, known: 0 };
    run.before = run.at.seconds;
    run.learn()?;
    if run.at.baselines.is_none() {
        run.at.baselines = Some(baselines::compute(&mut run.session, quiet)?);
        run.save()?;
    }
    let results = run.results(true)?;
    if let Some(files) = &run.files {
        results.write(&files.workdir.results_json())?;
        results.write_csv(&files.workdir.accuracy_csv())?;
    }
    run.at.complete = true;
    run.save()?;
    if let Some(files) = &mut run.files {
        files.events.hparams_end(true)?;
        files.events.flush()?;
    }
    run.progress.finish();
    // Nobody leaves while rank 0 can still fail to write.
    comm.any("the end of the run", false)?;
    Ok(results)
}

/// What rank 0 has, for all ranks.
pub(super) fn share_json<T: Serialize + DeserializeOwned>(
    comm: &Comm,
    what: &'static str,
    mine: Option<T>,
) -> Result<Option<T>> {
    if comm.is_alone() {
        return Ok(mine);
    }
    let failed =
        |e: serde_json::Error| Error::failed(format!("{what} cannot be handed to the other ranks: {e}"));
    let bytes = serde_json::to_vec(&mine).map_err(failed)?;
    serde_json::from_slice(&comm.broadcast(what, bytes)?).map_err(failed)
}

/// The checkpoint that rank 0 has read, for all ranks.
fn share_state(comm: &Comm, saved: Option<State>) -> Result<Option<State>> {
    if comm.is_alone() {
        return Ok(saved);
    }
    let mut bytes = saved.as_ref().map(State::to_bytes).transpose()?.unwrap_or_default();
    let lengths =
        comm.all_gather("length of the saved state", (bytes.len() as u64).to_le_bytes().to_vec())?;
    let length = usize::from_le_bytes(lengths[0].as_slice().try_into().unwrap_or_default());
    // In pieces: all that learns and its moments may be more than one message holds.
    const PIECE: usize = 64 << 20;
    bytes.resize(length, 0);
    for piece in bytes.chunks_mut(PIECE) {
        piece.copy_from_slice(&comm.broadcast("saved state", piece.to_vec())?);
    }
    if comm.is_first() || bytes.is_empty() { Ok(saved) } else { State::from_bytes(&bytes).map(Some) }
}

/// Steps of all tasks.
pub fn total_steps(session: &Session) -> Result<u64> {
    let steps = |task: &Task| -> Result<u64> {
        let review = session.review_loader(task)?;
        Ok((session.loader(task)?.steps() + review.as_ref().map_or(0, Loader::steps)) as u64)
    };
    session.train_tasks.iter().map(steps).sum()
}

/// Trains without files and returns the per-image accuracy matrix. For baselines.
pub fn plain_run(session: &mut Session, quiet: bool) -> Result<Vec<Vec<f64>>> {
    let mut cache = QueryCache::new(session.split.tasks.len());
    let total = total_steps(session)?;
    let mut progress = Progress::new(quiet, session.train_tasks.len(), total, 0);
    let mut matrix = Vec::new();
    let mut step = 0;
    for task in session.train_tasks.clone() {
        progress.task(task.index);
        session.method.begin_task(&session.task_view(&task))?;
        let mut steps = Steps::from(session, &task, 0)?;
        while let Some(done) = steps.next(session)? {
            session.stop_baseline()?;
            step += 1;
            progress.step(step, done.stats.last().map(|s| s.loss), done.images);
        }
        session.method.settle(&session.dev)?;
        if session.tests_after(task.index) {
            let tests = 0..session.split.tests_after(task.index);
            let row: Result<Vec<f64>> =
                tests.map(|i| Ok(evaluate::task(session, &mut cache, i)?.per_image)).collect();
            matrix.push(row?);
        }
    }
    progress.finish();
    Ok(matrix)
}

/// The training steps of one task, one at a time.
struct Steps {
    batches: Training,
    task: TaskView,
    /// What follows on the images kept of all tasks so far: batches, and the first step of them.
    review: Option<(Loader, usize)>,
    rate: LearningRate,
    done: usize,
    total: usize,
    /// Steps on the task's own batches, and the images of each; those that follow have as many as the task's own.
    own: (usize, usize),
    /// Steps of an epoch.
    epoch: usize,
}

/// A step that was made, and what has become known with it: of this step, of several, or nothing yet.
struct Done {
    stats: Vec<StepStats>,
    images: usize,
}

impl Steps {
    /// Those after the first `done`.
    fn from(session: &Session, task: &Task, done: usize) -> Result<Steps> {
        let (loader, config) = (session.loader(task)?, &session.config);
        let (batch, epochs) = (session.ranks.batch, config.train.num_epochs);
        let rate = LearningRate::new(&config.optim, batch, loader.steps_per_epoch(), epochs);
        let (own, review) = (loader.steps(), session.review_loader(task)?);
        let total = own + review.as_ref().map_or(0, Loader::steps);
        let (task, own_batch) = (session.batch_view(task, &loader), loader.whole_batch());
        let epoch = loader.steps_per_epoch();
        let review = review.map(|loader| (loader, done.saturating_sub(own)));
        let first = done.min(own);
        let batches = Training::start(loader, session.resident.as_ref(), session.dtype(), first..own)?;
        Ok(Steps { batches, task, review, rate, done, total, own: (own, own_batch), epoch })
    }

    /// The next batch, and what became known of earlier steps on the way from a task's own images to kept ones.
    fn batch(&mut self, session: &mut Session) -> Result<Option<(Batch, Vec<StepStats>)>> {
        if let Some(batch) = self.batches.next() {
            return Ok(Some((batch?, Vec::new())));
        }
        let Some((loader, first)) = self.review.take() else { return Ok(None) };
        // Without a mask, which steps under way still have.
        let stats = session.method.settle(&session.dev)?;
        self.task.mask = vec![true; session.classes()];
        self.task.share = session.share(loader.whole_batch());
        let steps = first..loader.steps();
        self.batches = Training::start(loader, session.resident.as_ref(), session.dtype(), steps)?;
        let batch = self.batches.next().transpose()?;
        Ok(batch.map(|batch| (batch, stats)))
    }

    /// Makes the next step; `None` after the last.
    fn next(&mut self, session: &mut Session) -> Result<Option<Done>> {
        let Some((batch, mut stats)) = self.batch(session)? else { return Ok(None) };
        self.done += 1;
        let lr = self.rate.at(self.done);
        let images = if self.done <= self.own.0 { self.own.1 } else { session.ranks.batch };
        let targets = batch.targets();
        stats.extend(session.method.step(&session.dev, batch.pixels(), targets.view(), &self.task, lr)?);
        if self.done == self.total {
            stats.extend(session.method.settle(&session.dev)?);
        }
        Ok(Some(Done { stats, images }))
    }
}

/// A run's folder and its checkpoints.
type Place = (Workdir, Store);

fn open_place(options: &Options, config: &Config) -> Result<Place> {
    let workdir = Workdir::create(&options.workdir, options.resume, config)?;
    let store = Store::open(&workdir.checkpoints(), &config.identity().config_hash())?;
    Ok((workdir, store))
}

/// What rank 0 writes.
struct Files {
    workdir: Workdir,
    store: Store,
    log: Log,
    events: Writer,
}

impl Files {
    fn open(
        (workdir, store): Place,
        saved: Option<&State>,
        at: &Position,
        config: &Config,
        warnings: &mut Vec<String>,
    ) -> Result<Files> {
        let log = Log::open(&workdir.log_jsonl(), saved.map(|_| at.log_bytes), warnings)?;
        let from = workdir.resumed().then(|| saved.map_or(0, |s| s.step + 1));
        let mut events = Writer::create(workdir.path(), from)?;
        if at.step == 0 {
            let hparams: Vec<(String, HParam)> =
                config.pairs().into_iter().map(|(k, v)| (k, HParam::from_toml(&v))).collect();
            events.hparams(&hparams, &[tags::AVG_ACC, tags::FORGETTING])?;
            events.flush()?;
        }
        Ok(Files { workdir, store, log, events })
    }
}

struct Run {
    session: Session,
    /// Of rank 0.
    files: Option<Files>,
    progress: Progress,
    at: Position,
    started: Instant,
    /// Seconds of the parts before this process.
    before: f64,
    /// Steps of this task that have been made and whose numbers are known.
    known: usize,
}

impl Run {
    fn learn(&mut self) -> Result<()> {
        let mut cache = QueryCache::new(self.session.split.tasks.len());
        let tasks = self.session.train_tasks.clone();
        while self.at.task < tasks.len() {
            let task = &tasks[self.at.task];
            self.progress.task(task.index);
            if self.at.task_step == 0 {
                self.session.method.begin_task(&self.session.task_view(task))?;
            }
            self.train_task(task, &mut cache)?;
            if self.session.tests_after(task.index) {
                self.evaluate(task, &mut cache)?;
            }
            self.at.task += 1;
            self.at.task_step = 0;
            let parameters = self.session.method.model().params.trainable.view().read_f64()?;
            let digest = Sha256::digest(bytemuck::cast_slice(&parameters));
            self.session.ranks.comm.expect_same("learned parameters", &digest)?;
            self.save()?;
            if let Some(files) = &self.files {
                self.results(false)?.write(&files.workdir.results_json())?;
            }
        }
        Ok(())
    }

    fn train_task(&mut self, task: &Task, cache: &mut QueryCache) -> Result<()> {
        let mut steps = Steps::from(&self.session, task, self.at.task_step)?;
        let every = self.session.config.train.checkpoint_every_steps;
        let epochs = self.session.config.train.eval_per_epochs * steps.epoch;
        let mut clock = Instant::now();
        self.known = self.at.task_step;
        while let Some(Done { stats, images }) = steps.next(&mut self.session)? {
            self.at.task_step += 1;
            self.at.step += 1;
            self.at.train_seconds += clock.elapsed().as_secs_f64();
            self.at.train_images += images as u64;
            let loss = stats.last().map(|s| s.loss);
            self.learned(task, &steps, stats)?;
            self.progress.step(self.at.step, loss, images);
            // Before anything is saved, so that what is saved is tested.
            if epochs > 0 && self.at.task_step.is_multiple_of(epochs) && steps.done < steps.total {
                self.evaluate_within(task, &steps, cache)?;
            }
            // Hosts of GPUs do not wait for each other at every step.
            let ask = self.session.dev.gpu().is_none()
                || self.session.ranks.is_alone()
                || self.at.task_step.is_multiple_of(ASK_EVERY);
            if ask {
                self.stop_if_asked(Some((task, &steps)))?;
            }
            if every > 0 && self.at.task_step.is_multiple_of(every) && steps.done < steps.total {
                self.save_within(task, &steps)?;
            }
            clock = Instant::now();
        }
        Ok(())
    }

    /// Takes the numbers of the next steps, and writes a line for every [`LOG_EVERY`] of them.
    fn learned(&mut self, task: &Task, steps: &Steps, stats: Vec<StepStats>) -> Result<()> {
        let before = self.at.step - self.at.task_step as u64;
        for stats in stats {
            self.at.window.push(stats);
            let (own, images) = steps.own;
            self.at.window_images += if self.known < own { images } else { self.session.ranks.batch };
            self.known += 1;
            let step = before + self.known as u64;
            if step.is_multiple_of(LOG_EVERY) || self.known == steps.total {
                self.report_steps(task, step, steps.rate.at(self.known))?;
            }
        }
        Ok(())
    }

    /// Saves in the middle of a task, when everything about its steps so far is known.
    fn save_within(&mut self, task: &Task, steps: &Steps) -> Result<()> {
        let stats = self.session.method.settle(&self.session.dev)?;
        self.learned(task, steps, stats)?;
        self.save()
    }

    /// Tests in the middle of a task, for the log and TensorBoard.
    fn evaluate_within(&mut self, task: &Task, steps: &Steps, cache: &mut QueryCache) -> Result<()> {
        let stats = self.session.method.settle(&self.session.dev)?;
        self.learned(task, steps, stats)?;
        let clock = Instant::now();
        let tests = 0..self.tests_after(task);
        let scores: Result<Vec<TaskScore>> =
            tests.map(|i| evaluate::task(&mut self.session, cache, i)).collect();
        let scores = scores?;
        self.at.eval_seconds += clock.elapsed().as_secs_f64();
        self.at.eval_images += scores.iter().map(|s| s.images as u64).sum::<u64>();
        let Some(Files { events, log, .. }) = &mut self.files else { return Ok(()) };
        for (i, score) in scores.iter().enumerate() {
            events.scalar(&tags::accuracy(i), self.at.step, score.per_image)?;
            events.scalar(&tags::eval_loss(i), self.at.step, score.loss)?;
        }
        events.flush()?;
        let per_image: Vec<f64> = scores.iter().map(|s| s.per_image).collect();
        let per_batch: Vec<f64> = scores.iter().map(|s| s.per_batch).collect();
        let fields = json!({"task": task.index, "per_image": per_image, "per_batch": per_batch});
        log.append("epoch", self.at.step, fields)
    }

    /// How many test sets the network is tested on in or after this task.
    fn tests_after(&self, task: &Task) -> usize {
        let (split, joint) = (&self.session.split, self.session.config.method == Name::Joint);
        split.tests_after(if joint { split.tasks.len() - 1 } else { task.index })
    }

    /// After a signal: saves and ends the run.
    fn stop_if_asked(&mut self, within: Option<(&Task, &Steps)>) -> Result<()> {
        if !self.session.stop_requested()? {
            return Ok(());
        }
        match within {
            Some((task, steps)) => self.save_within(task, steps)?,
            None => self.save()?,
        }
        self.progress.finish();
        let place = self
            .files
            .as_ref()
            .map_or("by rank 0".into(), |files| format!("in {}", files.store.dir().display()));
        Err(Error::Interrupted(format!("saved after step {} {place}; add --resume to go on", self.at.step)))
    }

    fn report_steps(&mut self, task: &Task, step: u64, lr: f64) -> Result<()> {
        let (window, images) =
            (std::mem::take(&mut self.at.window), std::mem::take(&mut self.at.window_images));
        let n = window.len() as f64;
        let mean = window.iter().map(|s| s.loss).sum::<f64>() / n;
        let deviation = (window.iter().map(|s| (s.loss - mean).powi(2)).sum::<f64>() / n).sqrt();
        let correct: usize = window.iter().map(|s| s.correct).sum();
        let last = window.last().copied().unwrap_or_default();
        let accuracy = correct as f64 / images.max(1) as f64;
        let Some(Files { events, log, .. }) = &mut self.files else { return Ok(()) };
        for (tag, value) in [
            (tags::LOSS, mean),
            (tags::LOSS_STD, deviation),
            (tags::TRAIN_ACCURACY, accuracy),
            (tags::LEARNING_RATE, lr),
            (tags::L2_GRADS, last.grad_norm),
            (tags::TASK_ID, task.index as f64),
            (&tags::ours("ce_loss"), last.ce_loss),
            (&tags::ours("pull"), last.pull),
        ] {
            events.scalar(tag, step, value)?;
        }
        events.flush()?;
        let fields = json!({
            "task": task.index, "loss": mean, "ce_loss": last.ce_loss, "pull": last.pull, "accuracy": accuracy,
            "learning_rate": lr, "grad_norm": last.grad_norm,
        });
        log.append("train", step, fields)
    }

    fn evaluate(&mut self, task: &Task, cache: &mut QueryCache) -> Result<()> {
        let joint = self.session.config.method == Name::Joint;
        let upto = self.tests_after(task);
        let clock = Instant::now();
        let scores: Result<Vec<TaskScore>> = (0..upto)
            .map(|i| {
                self.stop_if_asked(None)?;
                evaluate::task(&mut self.session, cache, i)
            })
            .collect();
        let scores = scores?;
        if let Some(bad) = scores.iter().position(|s| !s.loss.is_finite()) {
            return Err(Error::failed(format!(
                "after task {} the loss on the test images of task {bad} is {}: the last steps diverged; a smaller \
                 optim.learning_rate may help; the last checkpoint is intact",
                task.index, scores[bad].loss
            )));
        }
        self.at.eval_seconds += clock.elapsed().as_secs_f64();
        self.at.eval_images += scores.iter().map(|s| s.images as u64).sum::<u64>();
        let per_image: Vec<f64> = scores.iter().map(|s| s.per_image).collect();
        let per_batch: Vec<f64> = scores.iter().map(|s| s.per_batch).collect();
        // Learned all at once: after any number of tasks the same network answers.
        let rows = if joint { 1..upto + 1 } else { upto..upto + 1 };
        for n in rows {
            self.at.per_image.push(per_image[..n].to_vec());
            self.at.per_batch.push(per_batch[..n].to_vec());
        }
        let step = self.at.step;
        let Some(Files { events, log, .. }) = &mut self.files else { return Ok(()) };
        for (i, score) in scores.iter().enumerate() {
            events.scalar(&tags::accuracy(i), step, score.per_image)?;
            events.scalar(&tags::eval_loss(i), step, score.loss)?;
            events.scalar(&tags::ours(&format!("per_batch/accuracy_{i}")), step, score.per_batch)?;
            if !score.usage.is_empty() {
                events.counts(&tags::histogram(i), step, &score.usage)?;
            }
        }
        let (own, voted) =
            (Score::from_matrix(self.at.per_image.clone())?, Score::from_matrix(self.at.per_batch.clone())?);
        for (tag, value, vote) in [
            (tags::AVG_ACC, Some(own.avg_acc), Some(voted.avg_acc)),
            (tags::FORGETTING, own.forgetting, voted.forgetting),
            (tags::BACKWARD, own.backward, voted.backward),
            (tags::LEARNING_ACC, Some(own.learning_acc), Some(voted.learning_acc)),
        ] {
            if let Some(value) = value {
                events.scalar(tag, step, value)?;
            }
            if let Some(value) = vote {
                events.scalar(&tags::ours(&format!("per_batch/{tag}")), step, value)?;
            }
        }
        events.flush()?;
        let each = |of: fn(&TaskScore) -> serde_json::Value| scores.iter().map(of).collect::<Vec<_>>();
        let fields = json!({
            "task": task.index, "per_image": per_image, "per_batch": per_batch,
            "prompt_usage": each(|s| json!(s.usage)), "vote_usage": each(|s| json!(s.vote_usage)),
            "similarity": each(|s| json!(s.similarity)),
        });
        log.append("task", step, fields)?;
        self.progress.say(&report::task_line(task, self.session.train_tasks.len(), &own, &voted));
        Ok(())
    }

    /// Writes a checkpoint of this moment.
    fn save(&mut self) -> Result<()> {
        let Some(files) = &mut self.files else { return Ok(()) };
        // What a checkpoint follows must be in the files before it.
        files.events.flush()?;
        files.log.sync()?;
        self.at.log_bytes = files.log.len();
        self.at.optimizer_step = self.session.method.optimizer_step();
        self.at.seconds = self.before + self.started.elapsed().as_secs_f64();
        let meta = serde_json::to_value(&self.at)
            .map_err(|e| Error::failed(format!("the state of the run cannot be written: {e}")))?;
        files.store.save(&State { step: self.at.step, meta, tensors: self.session.method.state()? })?;
        Ok(())
    }

    fn device(&self) -> String {
        let one = format!("{} ({} threads)", self.session.dev.name(), rayon::current_num_threads());
        match self.session.ranks.comm.size() {
            1 => one,
            n => format!("{n} ranks, the first on {one}"),
        }
    }

    fn results(&self, complete: bool) -> Result<Results> {
        let per = |images: u64, seconds: f64| if seconds > 0.0 { images as f64 / seconds } else { f64::NAN };
        let (config, at) = (&self.session.config, &self.at);
        Ok(Results {
            engine_version: env!("CARGO_PKG_VERSION").into(),
            rule_set: config.rule_set.to_string(),
            method: config.method.to_string(),
            dataset: self.session.data.name.clone(),
            seed: config.seed,
            device: self.device(),
            precision: config.precision.to_string(),
            config_hash: config.config_hash(),
            checkpoint: config.model.init_checkpoint.clone(),
            checkpoint_sha256: at.checkpoint_sha256.clone(),
            num_tasks: self.session.split.tasks.len(),
            complete,
            per_image: Score::from_matrix(at.per_image.clone())?,
            per_batch: Score::from_matrix(at.per_batch.clone())?,
            baselines: at.baselines.clone().unwrap_or_default(),
            images_per_second: Speed {
                train: per(at.train_images, at.train_seconds),
                eval: per(at.eval_images, at.eval_seconds),
            },
            seconds: self.before + self.started.elapsed().as_secs_f64(),
        })
    }
}
