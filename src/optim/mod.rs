//! From gradients to new parameters: clip factor, optimizer state, learning-rate schedule.

pub mod schedule;

use crate::config::schema::{Optim, OptimizerName};
use crate::device::Device;
use crate::error::Result;
use crate::nn::params::{Grads, Params};
pub use crate::ops::optimizer::clip_factor;
use crate::ops::optimizer::{Adam, Sgd, adam, sgd};
use crate::tensor::plan::Plan;
use crate::tensor::{Tensor, View};

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPS: f64 = 1e-8;

/// Moments over the flat trainable buffer, and the steps since they were zero.
#[derive(Debug)]
pub struct Optimizer {
    config: Optim,
    pub step: u64,
    /// First moment of Adam; momentum of SGD.
    pub m: Tensor,
    /// Second moment of Adam; empty for SGD.
    pub v: Tensor,
    /// See [`Adam::pace`].
    pace: Tensor,
}

impl Optimizer {
    pub fn new(plan: &mut Plan, params: &Params, config: &Optim) -> Optimizer {
        plan.group("optimizer");
        let (len, dtype) = (params.trainable.len(), params.dtype());
        let m = plan.tensor("first moment", [len], dtype);
        let second = if config.optim == OptimizerName::Sgd { 0 } else { len };
        let v = plan.tensor("second moment", [second], dtype);
        let pace = plan.tensor("pace", [4], plan.number());
        Optimizer { config: config.clone(), step: 0, m, v, pace }
    }

    /// As new: moments and step count zero.
    pub fn reset(&mut self) {
        self.step = 0;
        self.m.fill(0.0);
        self.v.fill(0.0);
    }

    /// One step with `grads`, Σ g² of which is `squares` (1) of the model's report.
    pub fn step(
        &mut self,
        dev: &Device,
        params: &mut Params,
        grads: &Grads,
        squares: View,
        lr: f64,
    ) -> Result<()> {
        self.step += 1;
        let (p, g) = (params.trainable.view_mut(), grads.trainable.view());
        let max_norm = self.config.grad_clip_max_norm;
        let decay = if self.config.optim == OptimizerName::AdamW { self.config.weight_decay } else { 0.0 };
        let with = Adam { beta1: BETA1, beta2: BETA2, eps: EPS, decay, max_norm };
        let pace = Tensor::from_f64(&with.pace(lr, self.step, 1.0), [4], self.pace.dtype());
        self.pace.view_mut().copy_from(pace.view())?;
        let pace = self.pace.view();
        match self.config.optim {
            OptimizerName::Sgd => {
                let with = Sgd { momentum: self.config.sgd_momentum, max_norm };
                sgd(dev, p, self.m.view_mut(), g, squares, pace, with)
            }
            _ => adam(dev, p, self.m.view_mut(), self.v.view_mut(), g, squares, pace, with),
        }
    }
}
