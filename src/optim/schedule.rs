//! Learning rate by step. Source: google-research/l2p `libml/utils.py` as `train_continual.py`
//! calls it; steps are counted from 1 within a task.

use crate::config::schema::{Optim, Schedule};

/// The schedule of one task.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LearningRate {
    /// Already scaled by the batch.
    pub base: f64,
    pub schedule: Schedule,
    pub warmup_epochs: f64,
    /// Scaled likewise.
    pub min: f64,
    pub steps_per_epoch: usize,
    pub num_epochs: usize,
}

impl LearningRate {
    pub fn new(
        config: &Optim,
        global_batch: usize,
        steps_per_epoch: usize,
        num_epochs: usize,
    ) -> LearningRate {
        LearningRate {
            base: base(config, global_batch),
            schedule: config.learning_rate_schedule,
            warmup_epochs: config.warmup_epochs,
            min: scaled(config, config.min_learning_rate, global_batch),
            steps_per_epoch,
            num_epochs,
        }
    }

    /// With epoch = step / steps_per_epoch and r = max(0, (epoch - warmup) / (epochs - warmup)):
    /// constant: base; cosine: base · (1 + cos πr) / 2; linear: base · (1 - r); times
    /// min(1, epoch / warmup); after the warm-up never below `min`. coda_cosine, in epoch e of E, counted from 0:
    /// base · cos(99π max(e - 1, 0) / (200 (E - 1))), base where E is 1 (GT-RIPL/CODA-Prompt @ 6417d4f,
    /// `utils/schedulers.py`, as `learners/default.py` steps it). cosine_epoch: base · (1 + cos(πe / E)) / 2.
    pub fn at(&self, step: usize) -> f64 {
        let epoch = step as f64 / self.steps_per_epoch as f64;
        let r = ((epoch - self.warmup_epochs) / (self.num_epochs as f64 - self.warmup_epochs)).max(0.0);
        let lr = match self.schedule {
            Schedule::Constant => self.base,
            Schedule::Cosine => self.base * 0.5 * (1.0 + (std::f64::consts::PI * r).cos()),
            Schedule::Linear => self.base * (1.0 - r),
            Schedule::CodaCosine => self.base * self.coda_cosine(step),
            Schedule::CosineEpoch => {
                let done = self.epoch(step) as f64 / self.num_epochs.max(1) as f64;
                self.base * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
            }
        };
        let warm = if self.warmup_epochs > 0.0 { (epoch / self.warmup_epochs).min(1.0) } else { 1.0 };
        if warm < 1.0 { lr * warm } else { (lr * warm).max(self.min) }
    }

    /// The epoch of a step, from 0. Steps of a review come after the last epoch, and count as steps of it.
    fn epoch(&self, step: usize) -> usize {
        (step.saturating_sub(1) / self.steps_per_epoch.max(1)).min(self.num_epochs.saturating_sub(1))
    }

    /// Of the base rate.
    fn coda_cosine(&self, step: usize) -> f64 {
        let last = self.num_epochs.saturating_sub(1);
        let done = self.epoch(step).saturating_sub(1) as f64 / last.max(1) as f64;
        (99.0 * std::f64::consts::PI * done / 200.0).cos()
    }
}

/// The learning rate of a step of `global_batch` images, before its schedule.
pub fn base(config: &Optim, global_batch: usize) -> f64 {
    scaled(config, config.learning_rate, global_batch)
}

/// rate · global_batch / lr_batch (256 in the official code, which scales the least rate like the base rate:
/// google-research/l2p @ dd8836e, `train_continual.py`, where `learning_rate_fn` is made); `lr_batch` 0: as it is.
fn scaled(config: &Optim, rate: f64, global_batch: usize) -> f64 {
    match config.lr_batch {
        0 => rate,
        per => rate * global_batch as f64 / per as f64,
    }
}
