//! A whole run from the command line to its results. What a run has done is in its last checkpoint and nowhere else:
//! killed at any moment, it goes on from there and ends with the same bits.

use super::learn::{Learning, LearningKind};
use super::options::Options;
use super::record::{Record, RunFolder};
use super::scores::{self, Tests};
use super::session::{Loaded, Session, images_on_a_rank};
use super::steps::{steps_from, total_steps};
use super::{baselines, report, share};
use crate::comm::{self, Comm, Launch};
use crate::config::Config;
use crate::data::tasks;
use crate::device::range::{self, range};
use crate::error::Result;
use crate::learner::{self, InitialWeights, Position, Purpose};
use crate::methods::Ranks;
use crate::output::checkpoint::{State, Store};
use crate::output::progress::Progress;
use crate::output::results::{Results, Speed};
use crate::output::workdir;
use crate::output::{say, signal, table};
use std::sync::OnceLock;
use std::time::Instant;

/// Trains from start (or the last checkpoint) to end, on all ranks, and returns the results. Rank 0 alone reads
/// and writes the work directory.
///
/// # Errors
/// `Error::Interrupted` after a signal, with everything saved; any other error leaves the last
/// checkpoint intact.
pub fn train(config: Config, options: &Options) -> Result<Results> {
    signal::install()?;
    let started = Instant::now();
    // The data lies in the memory of a process once.
    let loaded = OnceLock::new();
    let launch = Launch { fingerprint: config.identity().config_hash(), ..options.launch.clone() };
    comm::run(&launch, options.choices.len(), |comm| {
        let mut choice = options.choices[comm.local_rank()].clone();
        let batch = images_per_step(&comm, &config, options)?;
        // NCCL takes memory before there is a plan of it.
        let ranks = Ranks::join(&comm, &choice.device, batch)?;
        // What one rank can compute, all must.
        choice.auto &= comm.is_alone();
        let purpose =
            Purpose::Training { ranks: &ranks, images: images_on_a_rank(&config, batch, comm.size()) };
        if comm.is_alone() {
            let loaded = Loaded::new(&config, choice, purpose)?;
            return rank(config.clone(), options, loaded, ranks, started);
        }
        let load = || loaded.get_or_init(|| Loaded::new(&config, choice.clone(), purpose));
        let mut loaded = comm.alive(load).clone()?;
        loaded.dev = loaded.fitting(&config, choice, purpose)?;
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
    if options.profile {
        range::record(&loaded.dev);
    }
    let start = range(c"start");
    // Data and backbone first: a run that cannot start leaves no folder behind.
    let mut session = Session::for_training(config, loaded, ranks, InitialWeights::Checkpoint)?;
    total_steps(&session)?;
    let mut warnings = Vec::new();
    let config = &session.learner.config;
    let place = if first { Some(RunFolder::open(&options.workdir, options.resume, config)?) } else { None };
    let saved = match &place {
        Some(place) => place.store.load_latest(&mut warnings)?,
        None => None,
    };
    let saved = share::state(&comm, saved)?;
    let at = restored(&mut session, saved.as_ref(), options, &mut warnings)?;
    let total = at.step - at.task_step as u64 + steps_from(&session, at.task)?;
    let earlier = place.as_ref().and_then(|place| place.workdir.earlier_rate());
    let rate_before = at.rate_before(&session.learner.config, earlier, session.train_tasks.len())?;
    if let Some(place) = &place {
        write_config(&session, place)?;
    }
    if at.complete && at.task >= session.train_tasks.len() && baselines::missing(&session, &at).is_empty() {
        let written = place.as_ref().and_then(|place| Results::read(&place.workdir.results_json()).ok());
        if let Some(results) = share::json(&comm, "results", written)? {
            warnings.iter().for_each(|w| say(&format!("warning: {w}")));
            return Ok(results);
        }
    }
    let config = &session.learner.config;
    let record =
        place.map(|place| Record::open(place, saved.as_ref(), &at, config, &mut warnings)).transpose()?;
    let progress = Progress::new(quiet, session.train_tasks.len(), total, at.step);
    let progress = progress.heard_by(options.listener.clone());
    warnings.iter().for_each(|w| say(&format!("warning: {w}")));
    if !quiet {
        progress.say(&report::opening(&report::Opening::of(&session, total)));
        progress.say(&table::memory(&session.learner.plan, table::Style::detect()));
    }
    if options.quiet && record.is_some() {
        // A result of some classes is easily taken for one of all.
        tasks::unused(&session.data, &session.split).iter().for_each(|note| say(&format!("note: {note}")));
    }
    if record.as_ref().is_some_and(|record| record.workdir.resumed()) {
        progress.say(&format!("going on from step {} of {total}", at.step));
    }
    drop(start);
    let mut run = Learning::new(session, LearningKind::Run, record, progress, at, started);
    run.change_rate(rate_before)?;
    finish(run, quiet)
}

/// Where a run stands: at the checkpoint, which is put into the session, or at the start.
fn restored(
    session: &mut Session,
    saved: Option<&State>,
    options: &Options,
    warnings: &mut Vec<String>,
) -> Result<Position> {
    let (origin, batch) = (session.origin(), session.ranks.batch);
    let bf16_arithmetic = learner::bf16_arithmetic(session.learner.config.precision, &session.learner.dev);
    let kernels = session.learner.dev.gpu().and_then(|gpu| gpu.verdict()).map(str::to_string);
    let Some(state) = saved else {
        let learner = &session.learner;
        return Ok(Position {
            origin,
            class_names: learner.class_names.clone(),
            checkpoint_sha256: learner.backbone.sha256.clone(),
            batch,
            bf16_arithmetic,
            kernels,
            ..Position::default()
        });
    };
    let mut at = Position::of(state, &session.learner.config)?;
    if let (Some(was), Some(is)) = (&at.bf16_arithmetic, &bf16_arithmetic)
        && was != is
    {
        warnings.push(format!(
            "the run multiplied with `{was}` and goes on with `{is}`: it will differ in rounding from a run that was not \
             interrupted; L2P_CPU_BF16={was} keeps its arithmetic on a processor that has it"
        ));
    }
    at.bf16_arithmetic = bf16_arithmetic;
    if let (Some(was), Some(is)) = (&at.kernels, &kernels)
        && was != is
    {
        warnings.push(format!("the kernels of the run: were `{was}`, are `{is}`"));
    }
    at.kernels = kernels;
    at.batch = batch;
    session.learner.expect_backbone(&at, &options.workdir)?;
    session.expect_origin(&at, &options.workdir)?;
    // A run of an earlier version is from now on what it is now.
    at.origin = origin;
    session.learner.method.restore(&state.tensors, at.optimizer_step)?;
    Ok(at)
}

/// Keeps what the run is in its folder.
fn write_config(session: &Session, place: &RunFolder) -> Result<()> {
    let backbone = &session.learner.backbone;
    place.workdir.write_config(
        &session.learner.config,
        &[
            ("engine", env!("CARGO_PKG_VERSION")),
            ("backbone", &backbone.source),
            ("backbone sha256", &backbone.sha256),
        ],
    )?;
    if session.data.split_here {
        place.workdir.keep_split(&session.data.lists())?;
    }
    if let Some(list) = session.data.damaged_list() {
        place.workdir.keep_damaged(&list)?;
    }
    Ok(())
}

/// Learns the tasks that are left, computes the baselines that are missing and writes the results.
fn finish(mut run: Learning, quiet: bool) -> Result<Results> {
    run.learn(|run| {
        let results = results(run, false)?;
        run.record.as_ref().map_or(Ok(()), |record| results.write(&record.workdir.results_json()))
    })?;
    let missing = baselines::missing(&run.session, &run.at);
    if !missing.is_empty() || run.at.baselines.is_none() {
        let mut all = run.at.baselines.take().unwrap_or_default();
        let phase = range(c"baselines");
        baselines::compute(&mut run.session, &missing, &mut all, quiet)?;
        drop(phase);
        run.at.baselines = Some(all);
        run.save()?;
    }
    let results = results(&run, true)?;
    if let Some(record) = &run.record {
        results.write(&record.workdir.results_json())?;
        results.write_csv(&record.workdir.accuracy_csv())?;
        results.write_metrics_csv(&record.workdir.metrics_csv())?;
    }
    run.at.complete = true;
    run.note_times()?;
    run.save()?;
    if let Some(record) = &mut run.record {
        record.end()?;
    }
    run.progress.finish();
    if let Some((rows, seconds)) = run.times() {
        say(&table::times(rows, seconds, table::Style::detect()));
    }
    // All ranks wait here until rank 0 has written its files: writing can still fail.
    run.session.ranks.comm.any("the end of the run", false)?;
    Ok(results)
}

fn device(session: &Session) -> String {
    let one = format!("{} ({} threads)", session.learner.dev.name(), rayon::current_num_threads());
    match session.ranks.comm.size() {
        1 => one,
        n => format!("{n} ranks, the first on {one}"),
    }
}

fn results(run: &Learning, complete: bool) -> Result<Results> {
    let per = |images: u64, seconds: f64| if seconds > 0.0 { images as f64 / seconds } else { f64::NAN };
    let (session, at) = (&run.session, &run.at);
    let config = &session.learner.config;
    Ok(Results {
        engine_version: env!("CARGO_PKG_VERSION").into(),
        rule_set: config.rule_set.to_string(),
        method: config.method.to_string(),
        dataset: session.data.name.clone(),
        seed: config.seed,
        device: device(session),
        precision: config.precision.to_string(),
        bf16_arithmetic: at.bf16_arithmetic.clone(),
        kernels: at.kernels.clone(),
        config_hash: config.config_hash(),
        checkpoint: config.model.init_checkpoint.clone(),
        checkpoint_sha256: at.checkpoint_sha256.clone(),
        num_tasks: session.split.tasks.len(),
        classes_seen: session.learner.classes_seen.len(),
        learning_rate_changes: at.learning_rate_changes.clone(),
        complete,
        classes: scores::classes(&session.split),
        added: scores::added(session, at),
        per_image: session.score(at, Tests::Own)?,
        per_batch: session.score(at, Tests::Vote)?,
        validation: match at.validation.is_empty() {
            true => None,
            false => Some(session.score(at, Tests::Validation)?),
        },
        baselines: at.baselines.clone().unwrap_or_default(),
        images_per_second: Speed {
            train: per(at.train_images, at.train_seconds),
            eval: per(at.eval_images, at.eval_seconds),
        },
        seconds: run.seconds(),
    })
}
