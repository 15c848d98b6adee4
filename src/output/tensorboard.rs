//! TensorBoard event files: scalars, histograms of counts, text, hyper-parameters. Field numbers: tensorflow `event.proto`,
//! `summary.proto`, `tensor.proto`; TensorBoard `plugins/hparams/{api,plugin_data}.proto`.

use super::atomic;
pub use super::tf_record::frame;
use crate::error::{Error, Result};
use crate::protobuf::ProtoMessage;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Tags as the official code writes them (google-research/l2p @ dd8836e, `train_continual.py`).
pub mod tags {
    pub const AVG_ACC: &str = "avg_acc";
    pub const FORGETTING: &str = "forgetting";
    pub const BACKWARD: &str = "backward";
    pub const LEARNING_ACC: &str = "learning_acc";
    pub const TRAIN_ACCURACY: &str = "train_accuracy";
    pub const LOSS: &str = "loss";
    pub const LOSS_STD: &str = "loss_std";
    pub const LEARNING_RATE: &str = "learning_rate";
    pub const L2_GRADS: &str = "l2_grads";
    pub const TASK_ID: &str = "task_id";
    /// Ours stand beside the official ones under this.
    pub const OURS: &str = "l2p_engine/";

    pub fn accuracy(task: usize) -> String {
        format!("accuracy_{task}")
    }

    pub fn eval_loss(task: usize) -> String {
        format!("eval_loss_{task}")
    }

    /// How often each prompt was selected on task `task`.
    pub fn histogram(task: usize) -> String {
        format!("histogram_{task}")
    }

    /// Of a metric by its key: those of the official code have its tags.
    pub fn metric(key: &str) -> String {
        if [AVG_ACC, FORGETTING, BACKWARD, LEARNING_ACC].contains(&key) { key.into() } else { ours(key) }
    }

    /// A tag of this program, such as `l2p_engine/per_batch/avg_acc`.
    pub fn ours(name: &str) -> String {
        format!("{OURS}{name}")
    }
}

/// The value of a hyper-parameter.
#[derive(Debug, Clone, PartialEq)]
pub enum HParam {
    Number(f64),
    Text(String),
    Bool(bool),
}

impl HParam {
    /// A value as it stands in the configuration file.
    pub fn from_toml(value: &str) -> HParam {
        match value {
            "true" => HParam::Bool(true),
            "false" => HParam::Bool(false),
            _ => match value.parse::<f64>() {
                Ok(number) => HParam::Number(number),
                Err(_) => HParam::Text(value.trim_matches('"').to_string()),
            },
        }
    }

    /// google.protobuf.Value.
    fn value(&self) -> ProtoMessage {
        match self {
            HParam::Number(x) => ProtoMessage::default().double(2, *x),
            HParam::Text(x) => ProtoMessage::default().text(3, x),
            HParam::Bool(x) => ProtoMessage::default().int(4, u64::from(*x)),
        }
    }

    /// hparams.DataType.
    fn kind(&self) -> u64 {
        match self {
            HParam::Text(_) => 1,
            HParam::Bool(_) => 2,
            HParam::Number(_) => 3,
        }
    }
}

/// Appends events to a new file in the folder of a run.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    out: BufWriter<File>,
}

impl Writer {
    /// Starts a new event file in `dir`. With `resume` it tells TensorBoard to forget every event at
    /// or after that step, which an earlier file of the same folder may hold.
    ///
    /// # Errors
    /// [`Error::File`] if the file cannot be made or written.
    pub fn create(dir: &Path, resume: Option<u64>) -> Result<Writer> {
        std::fs::create_dir_all(dir).map_err(|e| Error::file(dir, atomic::explain(&e, "made")))?;
        // TensorBoard reads the files of a folder in the order of their names.
        let second = (now() as u64).max(latest_second(dir) + 1);
        let path = dir.join(format!("events.out.tfevents.{second:010}.l2p-engine.{}", std::process::id()));
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(|e| Error::file(&path, atomic::explain(&e, "made")))?;
        let mut writer = Writer { path, out: BufWriter::new(file) };
        writer.event(ProtoMessage::default().double(1, now()).text(3, "brain.Event:2"))?;
        if let Some(step) = resume {
            // SessionLog.status = START.
            let log = ProtoMessage::default().int(1, 1);
            writer.event(ProtoMessage::default().double(1, now()).int(2, step).message(7, log))?;
        }
        writer.flush()?;
        Ok(writer)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// # Errors
    /// [`Error::File`] if it cannot be written; so for all that follow.
    pub fn scalar(&mut self, tag: &str, step: u64, value: f64) -> Result<()> {
        self.value(step, ProtoMessage::default().text(1, tag).float(2, value as f32))
    }

    /// A histogram with one bucket per id: bucket i reaches from i - 1/2 to i + 1/2 and holds
    /// `counts[i]`.
    pub fn counts(&mut self, tag: &str, step: u64, counts: &[u64]) -> Result<()> {
        let limits: Vec<f64> = (0..counts.len()).map(|i| i as f64 + 0.5).collect();
        let counts: Vec<f64> = counts.iter().map(|c| *c as f64).collect();
        self.histogram(tag, step, -0.5, &limits, &counts)
    }

    /// A histogram with given buckets: bucket i reaches from `limits[i - 1]` (`min` for the first) to
    /// `limits[i]`.
    ///
    /// # Shapes
    /// `limits` and `counts`: one value per bucket, limits ascending.
    pub fn histogram(
        &mut self,
        tag: &str,
        step: u64,
        min: f64,
        limits: &[f64],
        counts: &[f64],
    ) -> Result<()> {
        let lefts = std::iter::once(min).chain(limits.iter().copied());
        let centres = lefts.zip(limits).map(|(left, right)| 0.5 * (left + right));
        let (mut n, mut sum, mut squares) = (0.0, 0.0, 0.0);
        for (centre, count) in centres.zip(counts) {
            n += count;
            sum += count * centre;
            squares += count * centre * centre;
        }
        let histogram = ProtoMessage::default()
            .double(1, min)
            .double(2, limits.last().copied().unwrap_or(min))
            .double(3, n)
            .double(4, sum)
            .double(5, squares)
            .doubles(6, limits)
            .doubles(7, counts);
        self.value(step, ProtoMessage::default().text(1, tag).message(5, histogram))
    }

    /// Markdown, shown under "Text".
    pub fn text(&mut self, tag: &str, step: u64, text: &str) -> Result<()> {
        let metadata = ProtoMessage::default().message(1, ProtoMessage::default().text(1, "text"));
        // TensorProto: DT_STRING, shape [1].
        let shape = ProtoMessage::default().message(2, ProtoMessage::default().int(1, 1));
        let tensor = ProtoMessage::default().int(1, 7).message(2, shape).text(8, text);
        self.value(step, ProtoMessage::default().text(1, tag).message(9, metadata).message(8, tensor))
    }

    /// Announces the hyper-parameters of the run and the scalar tags that are its metrics.
    pub fn hparams(&mut self, hparams: &[(String, HParam)], metrics: &[&str]) -> Result<()> {
        let mut experiment = ProtoMessage::default().double(3, now());
        for (name, value) in hparams {
            experiment = experiment.message(4, ProtoMessage::default().text(1, name).int(4, value.kind()));
        }
        for metric in metrics {
            let name = ProtoMessage::default().text(2, metric);
            experiment = experiment.message(5, ProtoMessage::default().message(1, name));
        }
        let mut start = ProtoMessage::default();
        for (name, value) in hparams {
            start = start.message(1, ProtoMessage::default().text(1, name).message(2, value.value()));
        }
        self.plugin("_hparams_/experiment", ProtoMessage::default().int(1, 0).message(2, experiment))?;
        self.plugin(
            "_hparams_/session_start_info",
            ProtoMessage::default().int(1, 0).message(3, start.double(5, now())),
        )
    }

    /// Says that the run announced by [`Writer::hparams`] is over.
    pub fn hparams_end(&mut self, success: bool) -> Result<()> {
        let status = if success { 1 } else { 2 };
        let end = ProtoMessage::default().int(1, status).double(2, now());
        self.plugin("_hparams_/session_end_info", ProtoMessage::default().int(1, 0).message(4, end))
    }

    /// Hands everything written so far to the operating system.
    pub fn flush(&mut self) -> Result<()> {
        self.out.flush().map_err(|e| Error::file(&self.path, atomic::explain(&e, "written")))
    }

    fn plugin(&mut self, tag: &str, data: ProtoMessage) -> Result<()> {
        let plugin = ProtoMessage::default().text(1, "hparams").bytes(2, data.as_bytes());
        // A scalar float 0 as the value, as TensorBoard's own writer does.
        let tensor = ProtoMessage::default().int(1, 1).message(2, ProtoMessage::default()).float(5, 0.0);
        let metadata = ProtoMessage::default().message(1, plugin);
        self.value(0, ProtoMessage::default().text(1, tag).message(9, metadata).message(8, tensor))
    }

    fn value(&mut self, step: u64, value: ProtoMessage) -> Result<()> {
        let summary = ProtoMessage::default().message(1, value);
        self.event(ProtoMessage::default().double(1, now()).int(2, step).message(5, summary))
    }

    fn event(&mut self, event: ProtoMessage) -> Result<()> {
        let record = frame(event.as_bytes());
        self.out.write_all(&record).map_err(|e| Error::file(&self.path, atomic::explain(&e, "written")))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.out.flush();
    }
}

/// The second in the name of the newest event file of `dir`; 0 if there is none.
fn latest_second(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .filter_map(|e| {
            e.file_name()
                .to_str()?
                .strip_prefix("events.out.tfevents.")?
                .split('.')
                .next()?
                .parse::<u64>()
                .ok()
        })
        .max()
        .unwrap_or(0)
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}
