//! Where a run stands: the part of every checkpoint that is no tensor.

use super::origin::Origin;
use crate::config::Config;
use crate::config::schema::{Method, Scenario};
use crate::error::{Error, Result};
use crate::network::StepStats;
use crate::output::answers::Tally;
use crate::output::checkpoint::State;
use crate::output::results::{Baselines, RateChange};
use serde::{Deserialize, Serialize};

/// Where a run stands; part of every checkpoint.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Position {
    /// The task that is being learned, and the steps done within it.
    pub task: usize,
    pub task_step: usize,
    /// Steps since the start.
    pub step: u64,
    pub optimizer_step: u64,
    /// Row: after task t; column: task i <= t, or the one test set of all. NaN where a task was not tested, because its
    /// images are gone.
    #[serde(with = "crate::output::nullable::matrix")]
    pub per_image: Vec<Vec<f64>>,
    #[serde(with = "crate::output::nullable::matrix")]
    pub per_batch: Vec<Vec<f64>>,
    /// The same as `per_image` for validation images, where there are any.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "crate::output::nullable::matrix")]
    pub validation: Vec<Vec<f64>>,
    /// What the answers behind these say of classes; earlier versions did not save it.
    #[serde(default)]
    pub tallies: Tallies,
    /// With `continual.forward_transfer`, accuracies of own selection and vote: on task t + 1 after task t, and before
    /// the first step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ahead: Vec<[f64; 2]>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fresh: Vec<[f64; 2]>,
    /// Length of the log in bytes.
    pub log_bytes: u64,
    /// Steps since the last line of the log, and their images.
    pub window: Vec<StepStats>,
    pub window_images: usize,
    /// Images of this epoch so far, and those that were answered right, where a task may end when all are.
    #[serde(default)]
    pub epoch_images: usize,
    #[serde(default)]
    pub epoch_right: usize,
    /// The steps of the task are over, although there could be more.
    #[serde(default)]
    pub task_ended: bool,
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
    /// By engine class id; for `predict`, which needs no data set.
    pub class_names: Vec<String>,
    /// Engine class ids that learning has met, ascending. Earlier versions did not save it.
    #[serde(default)]
    pub classes_seen: Vec<u32>,
    pub checkpoint_sha256: String,
    /// What the run is made of beside its configuration; earlier versions did not save it.
    #[serde(default)]
    pub origin: Origin,
    /// `optim.learning_rate`; earlier versions did not save it.
    #[serde(default)]
    pub learning_rate: Option<f64>,
    /// Where it was changed.
    #[serde(default)]
    pub learning_rate_changes: Vec<RateChange>,
    /// What multiplied in bf16 on a CPU; see [`super::bf16_arithmetic`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bf16_arithmetic: Option<String>,
    /// What was known of the kernels, on a GPU; see [`crate::device::Gpu::verdict`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernels: Option<String>,
    /// Images per step on all ranks together: a resumed run keeps them, on whatever number of ranks.
    #[serde(default)]
    pub batch: usize,
}

/// A tally for each accuracy matrix of a [`Position`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Tallies {
    pub per_image: Tally,
    pub per_batch: Tally,
    pub validation: Tally,
}

impl Position {
    /// Reads what a checkpoint of a run of `config` recorded.
    ///
    /// # Errors
    /// `Error::Failed` if it is not a position of this engine.
    pub fn of(state: &State, config: &Config) -> Result<Position> {
        let mut at: Position = serde_json::from_value(state.meta.clone()).map_err(|e| {
            Error::failed(format!("the checkpoint of step {} cannot be used: {e}", state.step))
        })?;
        if at.classes_seen.is_empty() {
            at.classes_seen = at.classes_of_tasks(config);
        }
        Ok(at)
    }

    /// The classes that a run has met whose version did not record them: those of its finished tasks where tasks
    /// bring new classes, otherwise all.
    fn classes_of_tasks(&self, config: &Config) -> Vec<u32> {
        let (cl, all) = (&config.continual, self.class_names.len());
        let in_order = cl.scenario == Scenario::Class && config.method != Method::Joint;
        let met = if in_order { cl.num_classes_per_task.upto(self.per_image.len()) } else { all };
        (0..if met == 0 { all } else { met.min(all) } as u32).collect()
    }

    /// The `optim.learning_rate` that the run had so far, if `config` has another for the steps that are left of its
    /// `tasks` tasks. `earlier`: that of a run whose version did not save it.
    ///
    /// # Errors
    /// `Error::Config` if no step is left.
    pub fn rate_before(&self, config: &Config, earlier: Option<f64>, tasks: usize) -> Result<Option<f64>> {
        let to = config.optim.learning_rate;
        let Some(from) = self.learning_rate.or(earlier).filter(|&from| from != to && self.step > 0) else {
            return Ok(None);
        };
        if self.task < tasks {
            return Ok(Some(from));
        }
        Err(Error::config(format!(
            "optim.learning_rate: the run has {from}, asked for {to}, but all of its tasks are learned; ask for the same \
             value, or choose another `--workdir`"
        )))
    }

    /// Images per step on all ranks together.
    pub fn images(&self, config: &Config) -> usize {
        if self.batch > 0 { self.batch } else { config.train.per_device_batch_size }
    }
}
