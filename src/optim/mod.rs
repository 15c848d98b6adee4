//! From gradients to new parameters: clip factor, optimizer state, learning-rate schedule.

pub mod schedule;

use crate::config::schema::{Optim, OptimizerName};
use crate::device::Device;
use crate::error::Result;
use crate::nn::params::{Grads, Params};
use crate::ops::optimizer::{Adam, Sgd, adam, sgd};
use crate::tensor::Tensor;
use crate::tensor::plan::Plan;

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPS: f64 = 1e-8;

/// The factor that brings a gradient of norm `norm` down to `max_norm`: min(1, max / (norm + 1e-6)).
/// `max_norm` 0: no clipping. Source: google-research/l2p `train_continual.py:306-313`.
pub fn clip_factor(norm: f64, max_norm: f64) -> f64 {
    if max_norm == 0.0 { 1.0 } else { (max_norm / (norm + 1e-6)).min(1.0) }
}

/// Moments over the flat trainable buffer, and the steps since they were zero.
#[derive(Debug)]
pub struct Optimizer {
    config: Optim,
    pub step: u64,
    /// First moment of Adam; momentum of SGD.
    pub m: Tensor,
    /// Second moment of Adam; empty for SGD.
    pub v: Tensor,
}

impl Optimizer {
    pub fn new(plan: &mut Plan, params: &Params, config: &Optim) -> Optimizer {
        plan.group("optimizer");
        let (len, dtype) = (params.trainable.len(), params.dtype());
        let m = plan.tensor("first moment", [len], dtype);
        let second = if config.optim == OptimizerName::Sgd { 0 } else { len };
        let v = plan.tensor("second moment", [second], dtype);
        Optimizer { config: config.clone(), step: 0, m, v }
    }

    /// As new: moments and step count zero.
    pub fn reset(&mut self) {
        self.step = 0;
        self.m.fill(0.0);
        self.v.fill(0.0);
    }

    /// One step with gradients of norm `grad_norm`.
    pub fn step(
        &mut self,
        dev: &Device,
        params: &mut Params,
        grads: &Grads,
        lr: f64,
        grad_norm: f64,
    ) -> Result<()> {
        self.step += 1;
        let grad_scale = clip_factor(grad_norm, self.config.grad_clip_max_norm);
        let (p, g) = (params.trainable.view_mut(), grads.trainable.view());
        match self.config.optim {
            OptimizerName::Sgd => {
                let with = Sgd { lr, momentum: self.config.sgd_momentum, grad_scale };
                sgd(dev, p, self.m.view_mut(), g, with)
            }
            name => {
                let decay = if name == OptimizerName::AdamW { self.config.weight_decay } else { 0.0 };
                let with =
                    Adam { lr, beta1: BETA1, beta2: BETA2, eps: EPS, decay, step: self.step, grad_scale };
                adam(dev, p, self.m.view_mut(), self.v.view_mut(), g, with)
            }
        }
    }
}
