//! Phase 1 of RanPAC: before the first task adapters beside a frozen backbone learn its classes, with a head of cosines, which is
//! not used afterwards. Source: McDonnell et al. 2023, arXiv:2307.02251, appendix; RanPAC/RanPAC @ 012927f, `RanPAC.py`,
//! `_init_train`.

use super::named::{self, Fit};
use super::{Pass, Ranks, Shown, Tensors};
use crate::config::schema::{Config, Optim};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::network::{Model, TaskView};
use crate::nn::adapter::{Dropout, PREFIX};
use crate::nn::params::ParamId;
use crate::optim::Optimizer;
use crate::optim::schedule::LearningRate;
use crate::tensor::plan::Plan;

/// How adapters learn.
#[derive(Debug)]
pub struct Adaptation {
    optimizer: Optimizer,
    optim: Optim,
    epochs: usize,
    seed: u64,
    ranks: Ranks,
    /// Of the pass that runs.
    rate: Option<LearningRate>,
    steps: usize,
}

impl Adaptation {
    /// `None` for a network without adapters, and for one that only answers.
    pub fn new(config: &Config, model: &Model, plan: &mut Plan, ranks: &Ranks) -> Option<Adaptation> {
        (model.setup.adapter.is_some() && model.setup.training).then(|| Adaptation {
            optimizer: Optimizer::new(plan, &model.params, &config.optim),
            optim: config.optim.clone(),
            epochs: config.ranpac.adapter_epochs,
            seed: config.seed,
            ranks: ranks.clone(),
            rate: None,
            steps: 0,
        })
    }

    /// The pass that it learns in.
    pub fn pass(&self) -> Pass {
        Pass::Adapt { epochs: self.epochs }
    }

    /// See [`super::Method::begin_pass`].
    pub fn begin(&mut self, steps: usize) {
        self.optimizer.reset();
        self.steps = 0;
        self.rate = Some(LearningRate::new(&self.optim, self.ranks.batch, steps, self.epochs));
    }

    /// One step of the pass.
    ///
    /// # Errors
    /// `Error::Failed` when the loss is not a number.
    pub fn step(&mut self, model: &mut Model, dev: &Device, shown: Shown, task: &TaskView) -> Result<()> {
        let Some(rate) = &self.rate else {
            return Err(Error::failed("ranpac: a step of a pass that was not begun"));
        };
        self.steps += 1;
        let lr = rate.at(self.steps);
        let positions = shown.positions.to_vec();
        model.dropout = Some(Dropout { seed: self.seed, step: self.steps as u64, positions });
        let queued = model.prepare_step(dev, shown.images, shown.labels, task).and_then(|()| {
            model.queue_query(dev, shown.labels.len())?;
            model.queue_gradient(dev, shown.labels, task)
        });
        model.dropout = None;
        queued?;
        if !self.ranks.is_alone() {
            self.ranks.scale_by_rank_fraction(dev, model, task.rank_fraction)?;
            self.ranks.sum(model)?;
        }
        model.queue_norm(dev)?;
        let stats = model.step_stats()?;
        if !stats.loss.is_finite() || !stats.grad_norm.is_finite() {
            return Err(Error::failed(format!(
                "ranpac: the loss of phase 1 is {} with gradient norm {} at the learning rate {lr}; a smaller \
                 optim.learning_rate may help",
                stats.loss, stats.grad_norm
            )));
        }
        self.optimizer.step(dev, &mut model.params, &model.grads, model.report.squares(), lr)
    }
}

/// What of the network's parameters adapters are, by their names in checkpoints; without the head.
fn saved(model: &Model) -> Vec<(ParamId, String)> {
    let params = &model.params;
    let named = params.ids().map(|id| (id, params.spec(id).name.clone()));
    named
        .filter(|(_, name)| name.strip_prefix(PREFIX).is_some_and(|rest| !rest.starts_with("head/")))
        .map(|(id, name)| (id, format!("params/{name}")))
        .collect()
}

/// Adds the adapters to what is saved.
pub fn state(model: &Model, all: &mut Tensors) -> Result<()> {
    for (id, name) in saved(model) {
        all.push(named::saved(name, model.params.get(id))?);
    }
    Ok(())
}

/// Puts saved adapters back.
pub fn put_back(model: &mut Model, tensors: &Tensors, fit: Fit) -> Result<()> {
    for (id, name) in saved(model) {
        named::put_back(model.params.get_mut(id), tensors, &name, fit)?;
    }
    Ok(())
}
