//! What rank 0 writes while a run goes on: log, TensorBoard events, checkpoints.

use super::evaluate::TaskScore;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::learner::Position;
use crate::methods::Method;
use crate::network::StepStats;
use crate::output::checkpoint::{State, Store};
use crate::output::log::Log;
use crate::output::metrics::METRICS;
use crate::output::results::{RateChange, Score};
use crate::output::tensorboard::{HParam, Writer, tags};
use crate::output::times::TimeRow;
use crate::output::workdir::Workdir;
use serde_json::json;
use std::path::Path;

/// A run's folder and its checkpoints.
pub struct RunFolder {
    pub workdir: Workdir,
    pub store: Store,
}

impl RunFolder {
    /// The folder of a run of `config`, new or to be resumed.
    ///
    /// # Errors
    /// Those of [`Workdir::create`].
    pub fn open(workdir: &Path, resume: bool, config: &Config) -> Result<RunFolder> {
        let workdir = Workdir::create(workdir, resume, config)?;
        let store = Store::open(&workdir.checkpoints(), config)?;
        Ok(RunFolder { workdir, store })
    }
}

/// Steps since the last line of the log.
pub struct Window {
    pub task: usize,
    pub step: u64,
    pub learning_rate: f64,
    pub steps: Vec<StepStats>,
    pub images: usize,
}

/// The open files of a run.
pub struct Record {
    pub workdir: Workdir,
    store: Store,
    log: Log,
    events: Writer,
}

impl Record {
    /// Opens the files of a run that stands at `at`, which `saved` is the checkpoint of, if there is one: what was
    /// written after it is cut off.
    pub fn open(
        place: RunFolder,
        saved: Option<&State>,
        at: &Position,
        config: &Config,
        warnings: &mut Vec<String>,
    ) -> Result<Record> {
        let RunFolder { workdir, store } = place;
        let log = Log::open(&workdir.log_jsonl(), saved.map(|_| at.log_bytes), warnings)?;
        let from = workdir.resumed().then(|| saved.map_or(0, |s| s.step + 1));
        let mut events = Writer::create(workdir.path(), from)?;
        if at.step == 0 {
            let hparams: Vec<(String, HParam)> =
                config.pairs().into_iter().map(|(k, v)| (k, HParam::from_toml(&v))).collect();
            events.hparams(&hparams, &[tags::AVG_ACC, tags::FORGETTING])?;
            events.flush()?;
        }
        Ok(Record { workdir, store, log, events })
    }

    /// The folder of the checkpoints.
    pub fn checkpoints(&self) -> &Path {
        self.store.dir()
    }

    /// Writes what some training steps did.
    pub fn steps(&mut self, window: &Window) -> Result<()> {
        let n = window.steps.len() as f64;
        let mean = window.steps.iter().map(|s| s.loss).sum::<f64>() / n;
        let deviation = (window.steps.iter().map(|s| (s.loss - mean).powi(2)).sum::<f64>() / n).sqrt();
        let correct: usize = window.steps.iter().map(|s| s.correct).sum();
        let last = window.steps.last().copied().unwrap_or_default();
        let accuracy = correct as f64 / window.images.max(1) as f64;
        for (tag, value) in [
            (tags::LOSS, mean),
            (tags::LOSS_STD, deviation),
            (tags::TRAIN_ACCURACY, accuracy),
            (tags::LEARNING_RATE, window.learning_rate),
            (tags::L2_GRADS, last.grad_norm),
            (tags::TASK_ID, window.task as f64),
            (&tags::ours("ce_loss"), last.ce_loss),
            (&tags::ours("pull"), last.pull),
        ] {
            self.events.scalar(tag, window.step, value)?;
        }
        self.events.flush()?;
        let fields = json!({
            "task": window.task, "loss": mean, "ce_loss": last.ce_loss, "pull": last.pull, "accuracy": accuracy,
            "learning_rate": window.learning_rate, "grad_norm": last.grad_norm,
        });
        self.log.append("train", window.step, fields)
    }

    /// Writes that the steps after this one have another learning rate.
    pub fn rate(&mut self, change: &RateChange) -> Result<()> {
        self.log.append("learning_rate", change.step, json!({"from": change.from, "to": change.to}))
    }

    /// Writes tests in the middle of task `task`.
    pub fn epoch(&mut self, task: usize, step: u64, scores: &[TaskScore]) -> Result<()> {
        for (i, score) in scores.iter().enumerate().filter(|(_, score)| score.images > 0) {
            self.events.scalar(&tags::accuracy(i), step, score.per_image)?;
            self.events.scalar(&tags::eval_loss(i), step, score.loss)?;
        }
        self.events.flush()?;
        let per_image: Vec<f64> = scores.iter().map(|s| s.per_image).collect();
        let per_batch: Vec<f64> = scores.iter().map(|s| s.per_batch).collect();
        let fields = json!({"task": task, "per_image": per_image, "per_batch": per_batch});
        self.log.append("epoch", step, fields)
    }

    /// Writes the tests after task `task`. `own`, `voted`, `validation`: the scores of all tests so far, the last one
    /// empty without validation images.
    pub fn task(
        &mut self,
        task: usize,
        step: u64,
        scores: &[TaskScore],
        own: &Score,
        voted: &Score,
        validation: &Score,
    ) -> Result<()> {
        let events = &mut self.events;
        for (i, score) in scores.iter().enumerate().filter(|(_, score)| score.images > 0) {
            events.scalar(&tags::accuracy(i), step, score.per_image)?;
            events.scalar(&tags::eval_loss(i), step, score.loss)?;
            events.scalar(&tags::ours(&format!("per_batch/accuracy_{i}")), step, score.per_batch)?;
            if !score.usage.is_empty() {
                events.counts(&tags::histogram(i), step, &score.usage)?;
            }
        }
        for metric in &METRICS {
            let tag = tags::metric(metric.key);
            if let Some(value) = metric.last(&own.after_each_task) {
                events.scalar(&tag, step, value)?;
            }
            if let Some(value) = metric.last(&voted.after_each_task) {
                events.scalar(&tags::ours(&format!("per_batch/{}", metric.key)), step, value)?;
            }
        }
        for (i, accuracy) in validation.accuracy_matrix.last().into_iter().flatten().enumerate() {
            events.scalar(&tags::ours(&format!("validation/accuracy_{i}")), step, *accuracy)?;
        }
        events.flush()?;
        let each = |of: fn(&TaskScore) -> serde_json::Value| scores.iter().map(of).collect::<Vec<_>>();
        let mut fields = json!({
            "task": task,
            "per_image": each(|s| json!(s.per_image)), "per_batch": each(|s| json!(s.per_batch)),
            "prompt_usage": each(|s| json!(s.usage)), "vote_usage": each(|s| json!(s.vote_usage)),
            "similarity": each(|s| json!(s.similarity)),
        });
        if let Some(last) = validation.accuracy_matrix.last() {
            fields["validation"] = json!(last);
        }
        self.log.append("task", step, fields)
    }

    /// Writes where the time since the last such line went.
    pub fn profile(&mut self, step: u64, seconds: f64, rows: &[TimeRow]) -> Result<()> {
        self.log.append("profile", step, json!({ "seconds": seconds, "rows": rows }))
    }

    /// Writes a checkpoint of this moment, for which `at` takes the length of the log.
    pub fn save(&mut self, at: &mut Position, method: &dyn Method) -> Result<()> {
        // What a checkpoint follows must be in the files before it.
        self.events.flush()?;
        self.log.sync()?;
        at.log_bytes = self.log.len();
        let meta = serde_json::to_value(&*at)
            .map_err(|e| Error::failed(format!("the state of the run cannot be written: {e}")))?;
        self.store.save(&State { step: at.step, meta, tensors: method.state()? })?;
        Ok(())
    }

    /// Ends the events of a finished run.
    pub fn end(&mut self) -> Result<()> {
        self.events.hparams_end(true)?;
        self.events.flush()
    }
}
