//! `results.json`, `accuracy_matrix.csv` and `metrics.csv`.

use super::answers::Tally;
use super::atomic;
use super::metrics::{Further, METRICS, Metrics};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::path::Path;

/// What `baselines` was called in `results.json` of earlier versions.
const EARLIER_NAME: &str = "floors";
const WHAT: &str = "a results.json";

/// Everything that a run found. Accuracies are fractions; what is not finite is `null` in the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Results {
    pub engine_version: String,
    pub rule_set: String,
    pub method: String,
    pub dataset: String,
    pub seed: u64,
    /// In words, such as `cpu (2 threads)` or `cuda:0 NVIDIA H200`.
    pub device: String,
    pub precision: String,
    /// What multiplied, for `precision = "bf16"` on a CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bf16_arithmetic: Option<String>,
    /// On a GPU: which of the kernels of this program were found to compute what they should there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernels: Option<String>,
    pub config_hash: String,
    /// Path or name of the backbone.
    pub checkpoint: String,
    pub checkpoint_sha256: String,
    pub num_tasks: usize,
    /// How many classes learning has met; 0 in the results of earlier versions.
    #[serde(default)]
    pub classes_seen: usize,
    /// Every class in the order of learning, as `class_accuracy` has them; empty in the results of earlier versions.
    pub classes: Vec<ClassOfRun>,
    /// What the last `add-classes` did; `None` in other runs, and before it is learned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub added: Option<Added>,
    /// Where the run went on with another `optim.learning_rate`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub learning_rate_changes: Vec<RateChange>,
    /// All tasks are done.
    pub complete: bool,
    /// Each test image selects its own prompts: the headline.
    pub per_image: Score,
    /// The test images of a vote group select together, as the official evaluation does.
    pub per_batch: Score,
    /// Of validation images, where every task has some; each selects its own prompts. Chooses nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation: Option<Score>,
    pub baselines: Baselines,
    pub images_per_second: Speed,
    /// Wall time of the run so far, resumed parts included.
    #[serde(with = "super::nullable::number")]
    pub seconds: f64,
}

/// A class of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClassOfRun {
    pub name: String,
    /// The task that learns it, from 0; `None` where several do, or none.
    pub task: Option<usize>,
}

/// The task that `add-classes` added last. Accuracies are those of images that choose for themselves; `None` where
/// nothing was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Added {
    /// Its number, from 0.
    pub task: usize,
    pub classes: Vec<String>,
    /// Images that it learned, and those that were held out for its test.
    pub train_images: usize,
    pub test_images: usize,
    pub accuracy: Option<f64>,
    /// The tasks before it.
    pub earlier: Vec<EarlierTask>,
    /// Means over the earlier tasks that were measured before and after, and what was lost: before less after.
    pub before: Option<f64>,
    pub after: Option<f64>,
    pub forgetting: Option<f64>,
}

/// A task before one that was added. Its test images may be gone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EarlierTask {
    pub task: usize,
    pub name: String,
    pub before: Option<f64>,
    pub after: Option<f64>,
}

impl Added {
    /// Fills in the means.
    pub fn with_means(mut self) -> Added {
        let both = || self.earlier.iter().filter_map(|task| task.before.zip(task.after));
        let n = both().count() as f64;
        let mean = |values: f64| Some(values / n).filter(|mean| mean.is_finite());
        let before = mean(both().map(|(before, _)| before).sum());
        let after = mean(both().map(|(_, after)| after).sum());
        (self.before, self.after) = (before, after);
        self.forgetting = before.zip(after).map(|(before, after)| before - after);
        self
    }
}

/// A run that went on with another `optim.learning_rate`, which all steps after the first `step` have.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RateChange {
    pub step: u64,
    pub from: f64,
    pub to: f64,
}

/// An accuracy matrix and what follows from it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Score {
    /// Row: after task t; column: task i <= t, both in the order of training. One column: a test set that all
    /// tasks share; then a row need not be there for every task, and `after_each_task` names those of the rows.
    #[serde(with = "super::nullable::matrix")]
    pub accuracy_matrix: Vec<Vec<f64>>,
    /// The metrics after the last row.
    #[serde(with = "super::nullable::number")]
    pub avg_acc: f64,
    pub forgetting: Option<f64>,
    pub backward: Option<f64>,
    #[serde(with = "super::nullable::number")]
    pub learning_acc: f64,
    #[serde(flatten)]
    pub further: Further,
    pub after_each_task: Vec<Metrics>,
    /// After the last row, by engine class: `null` for a class without test images; empty where it was not counted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub class_accuracy: Vec<Option<f64>>,
    /// After the last row: images of task i that were answered with a class of task j; one column more for the classes
    /// of no task, where there are any. Empty where classes do not belong to tasks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub task_confusion: Vec<Vec<u64>>,
}

/// What a score says beside its matrix.
#[derive(Debug, Clone, Default)]
pub struct TestSets<'a> {
    /// Test images of each task; empty where all tasks share a test set.
    pub images: Vec<usize>,
    /// Tasks bring classes of their own.
    pub new_classes: bool,
    /// All tasks were learned at once: no row is of an earlier moment than another.
    pub at_once: bool,
    pub tally: Option<&'a Tally>,
    /// Accuracy on task t + 1 after task t, and before the first step; empty where it was not tested.
    pub forward: (&'a [f64], &'a [f64]),
}

impl Score {
    /// # Errors
    /// Those of [`Metrics::from_matrix`].
    pub fn from_matrix(accuracy_matrix: Vec<Vec<f64>>) -> Result<Score> {
        let after_each_task = Metrics::from_matrix(&accuracy_matrix)?;
        let mut score = Score { accuracy_matrix, after_each_task, ..Score::default() };
        score.take_last();
        Ok(score)
    }

    /// The metrics after the last row are those of the score.
    fn take_last(&mut self) {
        let Some(last) = self.after_each_task.last() else { return };
        (self.avg_acc, self.learning_acc) = (last.avg_acc, last.learning_acc);
        (self.forgetting, self.backward, self.further) = (last.forgetting, last.backward, last.further);
    }

    /// With the metrics that need more than the matrix.
    pub fn with_tests(mut self, tests: &TestSets) -> Score {
        let rows = self.accuracy_matrix.len();
        if self.accuracy_matrix.iter().all(|row| row.len() <= tests.images.len()) {
            let matrix = &self.accuracy_matrix;
            Metrics::add_images(&mut self.after_each_task, matrix, &tests.images, tests.new_classes);
        }
        let (ahead, fresh) = tests.forward;
        Metrics::add_forward(&mut self.after_each_task, ahead, fresh);
        if let Some(tally) = tests.tally.filter(|tally| rows > 0 && tally.macro_acc.len() == rows) {
            for (metrics, mean) in self.after_each_task.iter_mut().zip(&tally.macro_acc) {
                metrics.further.macro_acc = *mean;
            }
            (self.class_accuracy, self.task_confusion) = (tally.class_accuracy(), tally.confusion.clone());
        }
        if tests.at_once {
            for Metrics { further, .. } in &mut self.after_each_task {
                (further.incremental_acc, further.anytime_acc) = (None, None);
                (further.base_acc, further.novel_acc, further.harmonic_acc) = (None, None, None);
            }
        }
        self.take_last();
        self
    }

    /// With the task after which each row was taken, where that is not its place.
    pub fn after_tasks(mut self, tasks: &[usize]) -> Score {
        self.after_each_task.iter_mut().zip(tasks).for_each(|(metrics, &task)| metrics.task = task);
        self
    }

    /// The task after which row `row` was taken, from 0.
    pub fn task_of(&self, row: usize) -> usize {
        self.after_each_task.get(row).map_or(row, |metrics| metrics.task)
    }
}

/// The baselines of a run, from the same data in the same run. `None`: not computed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Baselines {
    pub ncm: Option<Score>,
    pub linear_probe: Option<Score>,
    pub naive_head: Option<Score>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ranpac: Option<Score>,
    #[serde(alias = "pool_of_one")]
    pub single_prompt: Option<Score>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub random_prompts: Option<Score>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fixed_prompts: Option<Score>,
}

/// The baselines that depend on the prompts of their run.
pub const PROMPT_BASELINES: [&str; 3] = ["single prompt", "random prompts", "fixed prompts"];

/// What the controls of the selection are, for the captions of tables that have them.
pub const CONTROLS: &str = "random prompts and fixed prompts: the same method trained once more without keys, where every \
                            image, in training and in tests, takes prompts drawn at random for it, or all take the same ones";

impl Baselines {
    /// The computed ones with a name for a table.
    pub fn named(&self) -> Vec<(&'static str, &Score)> {
        [
            ("nearest class mean", &self.ncm),
            ("linear probe", &self.linear_probe),
            ("naive head", &self.naive_head),
            ("ranpac", &self.ranpac),
            (PROMPT_BASELINES[0], &self.single_prompt),
            (PROMPT_BASELINES[1], &self.random_prompts),
            (PROMPT_BASELINES[2], &self.fixed_prompts),
        ]
        .into_iter()
        .filter_map(|(name, score)| score.as_ref().map(|s| (name, s)))
        .collect()
    }

    /// Whether there is a control of the selection.
    pub fn have_controls(&self) -> bool {
        self.random_prompts.is_some() || self.fixed_prompts.is_some()
    }
}

/// Images per second.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Default)]
pub struct Speed {
    #[serde(with = "super::nullable::number")]
    pub train: f64,
    #[serde(with = "super::nullable::number")]
    pub eval: f64,
}

impl Results {
    /// Replaces `path` with these results. The object `baselines` is written a second time under the name
    /// that it had in earlier versions, `floors`; the next version drops it.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be written; the old file is then untouched.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut value = serde_json::to_value(self).map_err(|e| Error::file(path, e))?;
        value[EARLIER_NAME] = value["baselines"].clone();
        atomic::write_json(path, &value)
    }

    /// Reads the baselines from `baselines`, or from `floors` in a file of an earlier version.
    ///
    /// # Errors
    /// [`Error::File`] if the file cannot be read or is not a `results.json`.
    pub fn read(path: &Path) -> Result<Results> {
        let mut value: serde_json::Value = atomic::read_json(path, WHAT)?;
        if let Some(object) = value.as_object_mut()
            && let Some(baselines) = object.remove(EARLIER_NAME)
        {
            object.entry("baselines").or_insert(baselines);
        }
        serde_json::from_value(value)
            .map_err(|e| Error::file(path, format!("is not {WHAT} of this engine: {e}")))
    }

    /// Replaces `path` with every metric as CSV: `result,after_task,avg_acc,…`, one row per result, baselines included,
    /// and test, tasks numbered from 1; what is not defined is empty.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be written.
    pub fn write_metrics_csv(&self, path: &Path) -> Result<()> {
        atomic::write(path, self.metrics_csv().as_bytes())
    }

    pub fn metrics_csv(&self) -> String {
        let mut out = String::from("result,after_task");
        METRICS.iter().for_each(|metric| out.extend([",", metric.key]));
        out.push('\n');
        let mut results = vec![("per_image", &self.per_image), ("per_batch", &self.per_batch)];
        results.extend(self.validation.as_ref().map(|score| ("validation", score)));
        results.extend(self.baselines.named());
        for (name, score) in results {
            for after in &score.after_each_task {
                let _ = write!(out, "{name},{}", after.task + 1);
                for metric in &METRICS {
                    out.push(',');
                    if let Some(value) = (metric.of)(after).filter(|value| value.is_finite()) {
                        let _ = write!(out, "{value}");
                    }
                }
                out.push('\n');
            }
        }
        out
    }

    /// Replaces `path` with both accuracy matrices as CSV: `selection,after_task,task_1,…`, one row
    /// per selection and task, tasks numbered from 1; tasks not yet learned are empty.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be written.
    pub fn write_csv(&self, path: &Path) -> Result<()> {
        atomic::write(path, self.csv().as_bytes())
    }

    pub fn csv(&self) -> String {
        let widest = |score: &Score| score.accuracy_matrix.iter().map(Vec::len).max().unwrap_or(0);
        let tasks = self.num_tasks.max(widest(&self.per_image)).max(widest(&self.per_batch));
        let mut out = String::from("selection,after_task");
        for task in 1..=tasks {
            let _ = write!(out, ",task_{task}");
        }
        out.push('\n');
        for (selection, score) in [("per_image", &self.per_image), ("per_batch", &self.per_batch)] {
            for (i, row) in score.accuracy_matrix.iter().enumerate() {
                let _ = write!(out, "{selection},{}", score.task_of(i) + 1);
                for task in 0..tasks {
                    out.push(',');
                    if let Some(value) = row.get(task).filter(|v| v.is_finite()) {
                        let _ = write!(out, "{value}");
                    }
                }
                out.push('\n');
            }
        }
        out
    }
}
