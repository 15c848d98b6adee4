//! From gradients to new parameters: clip factor, optimizer state, learning-rate schedule.

pub mod schedule;

use crate::config::schema::{Optim, OptimizerName};
use crate::device::Device;
use crate::error::Result;
use crate::nn::params::{Grads, Params};
pub use crate::ops::optimizer::clip_factor;
use crate::ops::optimizer::{Adam, Sgd, adam, sgd};
use crate::tensor::input::Input;
use crate::tensor::plan::Plan;
use crate::tensor::{Tensor, View};
use std::ops::Range;

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
    /// 1 / the scale of the loss.
    pub unscale: f64,
    /// See [`Adam::step_scalars`]; in host memory, and where the update reads it.
    step_scalars: Tensor,
    pace_input: Input,
}

impl Optimizer {
    pub fn new(plan: &mut Plan, params: &Params, config: &Optim) -> Optimizer {
        Optimizer::of_values(plan, params, config, params.trainable.len())
    }

    /// An optimizer without moments, for a network that only answers.
    pub fn none(plan: &mut Plan, params: &Params, config: &Optim) -> Optimizer {
        Optimizer::of_values(plan, params, config, 0)
    }

    fn of_values(plan: &mut Plan, params: &Params, config: &Optim, len: usize) -> Optimizer {
        plan.group("optimizer");
        let dtype = params.dtype();
        let m = plan.tensor("first moment", [len], dtype);
        let second = if config.optim == OptimizerName::Sgd { 0 } else { len };
        let v = plan.tensor("second moment", [second], dtype);
        let step_scalars = Tensor::zeros([4], plan.number());
        let pace_input = Input::new(plan, "step_scalars", [4], plan.number());
        Optimizer { config: config.clone(), step: 0, m, v, unscale: 1.0, step_scalars, pace_input }
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
        self.advance(dev, lr)?;
        self.update(dev, params, grads, squares)
    }

    fn adam(&self) -> Adam {
        let decay = if self.config.optim == OptimizerName::AdamW { self.config.weight_decay } else { 0.0 };
        Adam { beta1: BETA1, beta2: BETA2, eps: EPS, decay, max_norm: self.config.grad_clip_max_norm }
    }

    /// Begins the next step: brings its step_scalars where the update reads it.
    pub fn advance(&mut self, dev: &Device, lr: f64) -> Result<()> {
        self.step += 1;
        let step_scalars = self.adam().step_scalars(lr, self.step, self.unscale);
        self.step_scalars = Tensor::from_f64(&step_scalars, [4], self.step_scalars.dtype());
        self.pace_input.load(dev, self.step_scalars.view())
    }

    /// The update itself, of all that learns but frozen rows. On a GPU it only queues the work.
    pub fn update(&mut self, dev: &Device, params: &mut Params, grads: &Grads, squares: View) -> Result<()> {
        let learning = params.learning();
        let step_scalars = self.pace_input.view(dev, self.step_scalars.view());
        let with = self.adam();
        for Range { start, end } in learning {
            let n = [end - start];
            let p = params.trainable_mut().view_mut().part(start, n);
            let (g, m) = (grads.trainable.view().part(start, n), self.m.view_mut().part(start, n));
            match self.config.optim {
                OptimizerName::Sgd => {
                    let with = Sgd {
                        momentum: self.config.sgd_momentum,
                        nesterov: self.config.nesterov,
                        max_norm: with.max_norm,
                    };
                    sgd(dev, p, m, g, squares, step_scalars, with)?;
                }
                _ => {
                    let v = self.v.view_mut().part(start, n);
                    adam(dev, p, [m, v], g, squares, step_scalars, with)?;
                }
            }
        }
        params.refresh(dev)
    }
}
