//! Online EWC: parameters are held near those at the end of the last task, each by its importance for the tasks so far.
//! Source: Kirkpatrick et al. 2017, arXiv:1612.00796; Schwarz et al. 2018, arXiv:1805.06370, section 4;
//! aimagelab/mammoth @ e75a491, `models/ewc_on.py`.
//!
//! With the importance F and the parameters w* at the end of the last task, lambda Σ F (w - w*)² is added to the loss. At the
//! end of a task F = gamma F + F_new. Departures of the named code from the papers, which are kept: the penalty has no
//! factor 1/2, and in F_new = (1 / (batches · batch size)) Σ_i p(y_i | x_i) (∂ log p(y_i | x_i) / ∂w)², over the images i with
//! their true labels, each square is weighted with the probability of the label, and a short last batch counts as a whole
//! one. `ewc.fisher = "empirical"` is the empirical Fisher information as papers have it: (1 / images) Σ_i (∂ log p / ∂w)².

use super::settings::Sizes;
use crate::config::schema::{self, Fisher};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::nn::params::{Grads, Params};
use crate::ops::axpy::{axpy, scale_in_place};
use crate::ops::{anchor, sum};
use crate::tensor::plan::Plan;
use crate::tensor::{DType, Tensor, View, ViewMut};

#[derive(Debug)]
pub struct Ewc {
    config: schema::Ewc,
    /// F and w*, as long as all that learns.
    importance: Tensor,
    anchor: Tensor,
    /// The sum of F_new over the images of the task that ends, before its divisor.
    fresh: Tensor,
    /// (1) u32: tasks whose importance is in F.
    tasks: Tensor,
}

impl Ewc {
    pub(super) fn new(plan: &mut Plan, config: &schema::Ewc, params: &Params, sizes: Sizes) -> Ewc {
        let n = if sizes.training { params.trainable.len() } else { 0 };
        let mut all = |name: &str| plan.tensor(name, [n], params.dtype());
        Ewc {
            importance: all("importance of parameters"),
            anchor: all("parameters of the last task"),
            fresh: all("importance in the task that ends"),
            tasks: Tensor::zeros([1], DType::U32),
            config: config.clone(),
        }
    }

    /// lambda
    pub(super) fn weight(&self) -> f64 {
        self.config.lambda
    }

    pub(super) fn on_parameters(
        &self,
        dev: &Device,
        mut out: ViewMut,
        p: &Params,
        grads: &mut Grads,
        scale: f64,
    ) -> Result<()> {
        if self.ended()? == 0 {
            out.fill(0.0);
            return Ok(());
        }
        let (w, anchor, importance) = (p.trainable.view(), self.anchor.view(), self.importance.view());
        anchor::penalty(dev, out, w, anchor, importance)?;
        let weight = self.config.lambda * scale;
        anchor::backward_acc(dev, grads.trainable.view_mut(), w, anchor, importance, weight)
    }

    /// Tasks whose importance is known.
    pub fn ended(&self) -> Result<usize> {
        Ok(self.tasks.view().get::<u32>("ewc", "tasks")?[0] as usize)
    }

    /// Adds the square of the gradient of one image, -∂ log p / ∂w, with p = e^-loss the probability of its label.
    /// loss: (1). `unscale`: what gradients are multiplied by to be those of the loss.
    pub fn add_image(&mut self, dev: &Device, grads: &Grads, loss: View, unscale: f64) -> Result<()> {
        let loss = (self.config.fisher == Fisher::Weighted).then_some(loss);
        anchor::add_squares(dev, self.fresh.view_mut(), grads.trainable.view(), loss, unscale * unscale)
    }

    /// Looks whether all that was added so far are numbers. `squares`: (1), room for a sum.
    ///
    /// # Errors
    /// `Error::Failed` if one is not.
    pub fn check(&self, dev: &Device, mut squares: ViewMut) -> Result<()> {
        squares.fill(0.0);
        sum::squares_acc(dev, squares.reborrow(), self.fresh.view())?;
        if squares.as_view().read_f64()?[0].is_finite() {
            return Ok(());
        }
        Err(Error::failed(
            "ewc: the loss of a training image is no number at the end of a task, nor would the importance of parameters \
             be; a smaller optim.learning_rate may help",
        ))
    }

    /// The sum over images of the task that ends; ranks add theirs.
    pub fn fresh_mut(&mut self) -> &mut Tensor {
        &mut self.fresh
    }

    /// Ends a task of so many images, which came in so many batches of `batch` images, the last one perhaps shorter, with
    /// the parameters as they are.
    pub fn end_task(
        &mut self,
        dev: &Device,
        p: &Params,
        images: usize,
        batches: usize,
        batch: usize,
    ) -> Result<()> {
        let divisor = match self.config.fisher {
            Fisher::Weighted => batches * batch,
            Fisher::Empirical => images,
        };
        scale_in_place(dev, self.importance.view_mut(), self.config.gamma)?;
        axpy(dev, self.importance.view_mut(), self.fresh.view(), 1.0 / divisor.max(1) as f64)?;
        self.fresh.fill(0.0);
        self.anchor.view_mut().copy_from(p.trainable.view())?;
        let ended = self.ended()? as u32 + 1;
        self.tasks.view_mut().write(&[ended])
    }

    pub(super) fn of_parameters(&self) -> [(&'static str, &Tensor); 2] {
        [("importance", &self.importance), ("anchor", &self.anchor)]
    }

    pub(super) fn of_parameters_mut(&mut self) -> [(&'static str, &mut Tensor); 2] {
        [("importance", &mut self.importance), ("anchor", &mut self.anchor)]
    }

    pub(super) fn tasks(&self) -> &Tensor {
        &self.tasks
    }

    pub(super) fn tasks_mut(&mut self) -> &mut Tensor {
        &mut self.tasks
    }
}
