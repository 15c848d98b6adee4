//! From gradients to new parameters: clip factor, optimizer state, learning-rate schedule.

pub mod schedule;

use crate::config::schema::{Optim, OptimizerName};
use crate::device::Device;
use crate::error::Result;
use crate::nn::params::{Grads, Params, is_backbone};
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
    /// Where parameters with the same factor of the learning rate end in the flat buffer, and that factor; ascending.
    rates: Vec<(usize, f64)>,
    /// Four for each of `rates`, see [`Adam::step_scalars`]; in host memory, and where the update reads them.
    step_scalars: Tensor,
    pace_input: Input,
}

/// The factor of the learning rate of a parameter: decay^(L + 1 - d), where L blocks are numbered from 0; d is 0 for what
/// comes before the blocks, i + 1 in block i, and L + 1 for the last norm and the head.
/// Source: BEiT (arXiv:2106.08254), `optim_factory.py` of its code, `get_num_layer_for_vit`.
fn layer_rate(name: &str, layers: usize, decay: f64) -> f64 {
    let block = || name.strip_prefix("block_")?.split('/').next()?.parse::<usize>().ok();
    let below = match block() {
        Some(block) => layers - block,
        None if name.starts_with("norm/") || !is_backbone(name) => 0,
        None => layers + 1,
    };
    decay.powi(below as i32)
}

impl Optimizer {
    pub fn new(plan: &mut Plan, params: &Params, config: &Optim) -> Optimizer {
        let all = params.trainable.len();
        Optimizer::of_values(plan, params, config, all, vec![(all, 1.0)])
    }

    /// An optimizer whose learning rate falls by a factor of `decay` from each of `layers` blocks to the one before.
    pub fn with_layer_decay(
        plan: &mut Plan,
        params: &Params,
        config: &Optim,
        layers: usize,
        decay: f64,
    ) -> Optimizer {
        let mut rates: Vec<(usize, f64)> = Vec::new();
        for spec in params.specs.iter().filter(|spec| spec.trainable) {
            let (end, rate) = (spec.offset + spec.shape.len(), layer_rate(&spec.name, layers, decay));
            match rates.last_mut().filter(|last| last.1 == rate) {
                Some(last) => last.0 = end,
                None => rates.push((end, rate)),
            }
        }
        Optimizer::of_values(plan, params, config, params.trainable.len(), rates)
    }

    /// An optimizer without moments, for a network that only answers.
    pub fn none(plan: &mut Plan, params: &Params, config: &Optim) -> Optimizer {
        Optimizer::of_values(plan, params, config, 0, Vec::new())
    }

    fn of_values(
        plan: &mut Plan,
        params: &Params,
        config: &Optim,
        len: usize,
        rates: Vec<(usize, f64)>,
    ) -> Optimizer {
        plan.group("optimizer");
        let dtype = params.dtype();
        let m = plan.tensor("first moment", [len], dtype);
        let second = if config.optim == OptimizerName::Sgd { 0 } else { len };
        let v = plan.tensor("second moment", [second], dtype);
        let shape = [4 * rates.len()];
        let step_scalars = Tensor::zeros(shape, plan.number());
        let pace_input = Input::new(plan, "step_scalars", shape, plan.number());
        Optimizer { config: config.clone(), step: 0, m, v, unscale: 1.0, rates, step_scalars, pace_input }
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
        let of_rate = |(_, rate): &(usize, f64)| self.adam().step_scalars(lr * rate, self.step, self.unscale);
        let step_scalars: Vec<f64> = self.rates.iter().flat_map(of_rate).collect();
        self.step_scalars = Tensor::from_f64(&step_scalars, [step_scalars.len()], self.step_scalars.dtype());
        self.pace_input.load(dev, self.step_scalars.view())
    }

    /// The update itself, of all that learns but frozen rows. On a GPU it only queues the work.
    pub fn update(&mut self, dev: &Device, params: &mut Params, grads: &Grads, squares: View) -> Result<()> {
        let learning = params.learning();
        let step_scalars = self.pace_input.view(dev, self.step_scalars.view());
        let with = self.adam();
        let starts = std::iter::once(0).chain(self.rates.iter().map(|rate| rate.0));
        let parts = starts.zip(&self.rates).enumerate().flat_map(|(i, (start, &(end, _)))| {
            let both = move |r: &Range<usize>| (i, r.start.max(start)..r.end.min(end));
            learning.iter().map(both).filter(|(_, part)| !part.is_empty())
        });
        for (i, Range { start, end }) in parts {
            let (n, step_scalars) = ([end - start], step_scalars.part(4 * i, [4]));
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

#[cfg(test)]
mod tests {
    use super::layer_rate;

    #[test]
    fn the_rate_falls_from_the_head_to_the_patches() {
        let rates = |names: &[&str]| names.iter().map(|name| layer_rate(name, 3, 0.5)).collect::<Vec<_>>();
        assert_eq!(rates(&["head/kernel", "norm/bias"]), [1.0; 2]);
        assert_eq!(
            rates(&["block_2/fc1/kernel", "block_1/ln1/scale", "block_0/qkv/bias"]),
            [0.5, 0.25, 0.125]
        );
        assert_eq!(rates(&["cls", "pos_embedding", "embedding/kernel"]), [0.0625; 3]);
    }
}
