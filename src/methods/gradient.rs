//! Everything that learns by gradient: L2P, DualPrompt, full fine-tuning, a linear head. What differs
//! is which parameters the configuration freezes and which prompts the model has.

use super::{Method, Tensors, put_back, saved, take};
use crate::config::schema::Config;
use crate::device::Device;
use crate::error::Result;
use crate::l2p::{Model, StepStats, TaskView};
use crate::ops::match_prompts::Select;
use crate::optim::Optimizer;
use crate::tensor::plan::Plan;
use crate::tensor::{Tensor, View};

#[derive(Debug)]
pub struct Gradient {
    model: Model,
    optimizer: Optimizer,
    reinit_optimizer: bool,
}

impl Gradient {
    pub fn new(config: &Config, model: Model, plan: &mut Plan) -> Gradient {
        let optimizer = Optimizer::new(plan, &model.params, &config.optim);
        Gradient { model, optimizer, reinit_optimizer: config.optim.reinit_optimizer }
    }
}

impl Method for Gradient {
    fn model(&self) -> &Model {
        &self.model
    }

    fn begin_task(&mut self, task: &TaskView) -> Result<()> {
        if self.reinit_optimizer {
            self.optimizer.reset();
        }
        self.model.begin_task(task.index)
    }

    fn step(
        &mut self,
        dev: &Device,
        images: View,
        labels: View,
        task: &TaskView,
        lr: f64,
    ) -> Result<StepStats> {
        let stats = self.model.step(dev, images, labels, task)?;
        if !stats.loss.is_finite() || !stats.grad_norm.is_finite() {
            return Err(crate::error::Error::failed(format!(
                "the loss of task {} is {} with gradient norm {}; a smaller optim.learning_rate (now {lr}) \
                 or other data may help; the last checkpoint is intact",
                task.index, stats.loss, stats.grad_norm
            )));
        }
        let model = &mut self.model;
        self.optimizer.step(dev, &mut model.params, &model.grads, model.report.squares(), lr)?;
        Ok(stats)
    }

    fn features(&mut self, dev: &Device, images: View) -> Result<Tensor> {
        self.model.features(dev, images)
    }

    fn query(&mut self, dev: &Device, images: View) -> Result<Tensor> {
        Ok(self.model.query(dev, images)?.clone())
    }

    fn select(&mut self, dev: &Device, features: View, how: Select) -> Result<Vec<u32>> {
        if self.model.setup.pool.is_none() {
            return Ok(Vec::new());
        }
        let ids = self.model.select(dev, features, how)?;
        Ok(ids.as_slice::<u32>().unwrap_or_default().to_vec())
    }

    fn logits(&mut self, dev: &Device, images: View, _features: View, ids: &[u32]) -> Result<Tensor> {
        Ok(self.model.logits_with(dev, images, ids)?.clone())
    }

    fn state(&self) -> Tensors {
        vec![
            saved("trainable", &self.model.params.trainable),
            saved("first moment", &self.optimizer.m),
            saved("second moment", &self.optimizer.v),
        ]
    }

    fn optimizer_step(&self) -> u64 {
        self.optimizer.step
    }

    fn restore(&mut self, tensors: &Tensors, optimizer_step: u64) -> Result<()> {
        self.optimizer.step = optimizer_step;
        for (name, tensor) in [
            ("trainable", &mut self.model.params.trainable),
            ("first moment", &mut self.optimizer.m),
            ("second moment", &mut self.optimizer.v),
        ] {
            let len = tensor.len();
            put_back(tensor, take(tensors, name, len)?, name)?;
        }
        Ok(())
    }
}
