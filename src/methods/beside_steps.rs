//! What methods that learn by gradient learn beside their steps, from passes over the images of a task: the centres of
//! S-Prompts, the importance of parameters of EWC, the teacher of LwF and the head that it is taught with.

use super::named;
use super::{Moment, Pass, Ranks, Shown, Tensors};
use crate::config::schema::{Config, Optim};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::network::regularizer::Regularizer;
use crate::network::{Model, Objective, Pixels, TaskView};
use crate::ops::axpy::axpy;
use crate::optim::schedule;
use crate::output::checkpoint::TensorData;
use crate::tensor::View;

/// The teacher's images and answers in checkpoints.
const POSITIONS: &str = "state/positions of taught images";
const ANSWERS: &str = "state/answers of the teacher";

/// What a pass has shown so far of the task that ends.
#[derive(Debug)]
pub(super) struct BesideSteps {
    ranks: Ranks,
    optim: Optim,
    /// Batches on all ranks together, and images on this one.
    batches: usize,
    images: usize,
}

impl BesideSteps {
    pub fn new(config: &Config, ranks: &Ranks) -> BesideSteps {
        BesideSteps { ranks: ranks.clone(), optim: config.optim.clone(), batches: 0, images: 0 }
    }

    /// See [`super::Method::passes`].
    pub fn passes(&self, model: &Model, task: usize, moment: Moment) -> Result<Vec<Pass>> {
        let mut passes = Vec::new();
        match (&model.regularizer, moment) {
            (Regularizer::None, Moment::AfterSteps) if model.prompts.wants_queries(task)? => {
                passes.push(Pass::Augmented);
            }
            (Regularizer::Ewc(ewc), Moment::AfterSteps) if ewc.ended()? <= task => {
                passes.push(Pass::Augmented);
            }
            (Regularizer::Lwf(lwf), Moment::BeforeSteps) => {
                let (old, new) = lwf.has_old_and_new()?;
                let epochs = lwf.warmup_epochs();
                if old && new && epochs > 0 {
                    passes.push(Pass::WarmUp { epochs });
                }
                if old {
                    passes.push(Pass::Plain);
                }
            }
            _ => {}
        }
        Ok(passes)
    }

    /// See [`super::Method::observe`].
    pub fn observe(
        &mut self,
        model: &mut Model,
        dev: &Device,
        pass: Pass,
        shown: Shown,
        task: &TaskView,
    ) -> Result<()> {
        match (pass, &model.regularizer) {
            (Pass::Augmented, Regularizer::Ewc(_)) => self.weigh_parameters(model, dev, shown, task),
            (Pass::Augmented, _) => {
                let labels = shown.labels.get::<u32>("passes", "labels")?;
                let (queries, _) = self.ranks.features_of_step(dev, model, shown.images, labels)?;
                model.prompts.collect(&queries);
                Ok(())
            }
            (Pass::WarmUp { .. }, _) => self.learn_head(model, dev, shown, task),
            (Pass::Adapt { .. }, _) => Err(Error::failed("adapters are learned by RanPAC alone")),
            (Pass::Plain, _) => self.ask_teacher(model, dev, shown),
        }
    }

    /// Adds the squared gradients of images, one by one.
    fn weigh_parameters(
        &mut self,
        model: &mut Model,
        dev: &Device,
        shown: Shown,
        task: &TaskView,
    ) -> Result<()> {
        self.batches += 1;
        let unscale = 1.0 / model.setup.loss_scale();
        for i in 0..shown.labels.len() {
            let label = shown.labels.part(i, [1]);
            gradient(model, dev, shown.images.part(i..i + 1), label, task, Objective::CrossEntropy)?;
            let Model { regularizer, grads, report, .. } = &mut *model;
            if let Some(ewc) = regularizer.ewc() {
                ewc.add_image(dev, grads, report.ce_loss(), unscale)?;
            }
            self.images += 1;
        }
        let Model { regularizer, report, .. } = &mut *model;
        regularizer.ewc().map_or(Ok(()), |ewc| ewc.check(dev, report.squares_mut()))
    }

    /// A step of SGD without momentum, of the head alone.
    fn learn_head(&mut self, model: &mut Model, dev: &Device, shown: Shown, task: &TaskView) -> Result<()> {
        gradient(model, dev, shown.images, shown.labels, task, Objective::CrossEntropyOfHead)?;
        if !self.ranks.is_alone() {
            self.ranks.scale_by_rank_fraction(dev, model, task.rank_fraction)?;
            self.ranks.sum(model)?;
        }
        let loss = model.step_stats()?.ce_loss;
        if !loss.is_finite() {
            return Err(Error::failed(format!(
                "the loss of the head before task {} is {loss}; a smaller optim.learning_rate may help",
                task.index + 1
            )));
        }
        let rate = schedule::base(&self.optim, self.ranks.batch) / model.setup.loss_scale();
        for id in [model.head.kernel, model.head.bias] {
            let Model { params, grads, .. } = &mut *model;
            if params.spec(id).trainable
                && let Some(grad) = grads.get(params, id)
            {
                axpy(dev, params.get_mut(id), grad, -rate)?;
            }
        }
        Ok(())
    }

    /// The answers of the network as it is, of the images of all ranks.
    fn ask_teacher(&mut self, model: &mut Model, dev: &Device, shown: Shown) -> Result<()> {
        let own = match shown.positions.len() {
            0 => Vec::new(),
            _ => {
                let choice = model.prompts.empty_choice();
                model.logits_with(dev, shown.images, &choice)?.view().read_f64()?
            }
        };
        let answers = self.ranks.gather("answers of the teacher", &own)?;
        let positions = self.ranks.gather("positions of images", shown.positions)?;
        model.regularizer.lwf().map_or(Ok(()), |lwf| lwf.teach(&positions, &answers))
    }

    /// See [`super::Method::end_task`].
    pub fn end_task(&mut self, model: &mut Model, dev: &Device) -> Result<()> {
        let (batches, own) = (std::mem::take(&mut self.batches), std::mem::take(&mut self.images));
        let Model { regularizer, params, prompts, .. } = model;
        match regularizer {
            Regularizer::None => prompts.end_task(),
            // A run that was stopped in the tests after a task ends the task a second time.
            Regularizer::Ewc(_) if batches == 0 => Ok(()),
            Regularizer::Ewc(ewc) => {
                let mut images = vec![own as f64];
                if !self.ranks.is_alone() {
                    self.ranks.sum_tensor("importance of parameters", ewc.fresh_mut())?;
                    self.ranks.comm.sum_f64("images of a task", &mut images)?;
                }
                ewc.end_task(dev, params, images[0] as usize, batches, self.ranks.batch)
            }
            Regularizer::Lwf(lwf) => {
                lwf.end_task();
                Ok(())
            }
        }
    }

    /// What is saved beside tensors of a fixed size.
    pub fn state(&self, model: &Model, all: &mut Tensors) {
        let Regularizer::Lwf(lwf) = &model.regularizer else { return };
        let (positions, answers) = lwf.taught();
        if !positions.is_empty() {
            let (n, k) = (positions.len(), model.setup.classes);
            all.push((POSITIONS.into(), vec![n], TensorData::U32(positions.to_vec())));
            all.push((ANSWERS.into(), vec![n, k], TensorData::F64(answers.to_vec())));
        }
    }

    pub fn put_back(&mut self, model: &mut Model, tensors: &Tensors) -> Result<()> {
        let (classes, training) = (model.setup.classes, model.setup.training);
        let Some(lwf) = model.regularizer.lwf() else { return Ok(()) };
        lwf.end_task();
        // A network that only answers needs no teacher, and one with more classes has another one.
        let saved = tensors.iter().find(|(name, ..)| name == ANSWERS);
        if !training || saved.is_none_or(|(_, shape, _)| shape.get(1) != Some(&classes)) {
            return Ok(());
        }
        let positions: Vec<u32> = named::values(tensors, POSITIONS)?.iter().map(|&p| p as u32).collect();
        lwf.teach(&positions, &named::values(tensors, ANSWERS)?)
    }
}

/// Forward and backward of a batch, without an update.
fn gradient(
    model: &mut Model,
    dev: &Device,
    images: Pixels,
    labels: View,
    task: &TaskView,
    objective: Objective,
) -> Result<()> {
    model.prepare_step(dev, images, labels, task)?;
    model.queue_query(dev, labels.len())?;
    model.queue_gradient_of(dev, labels, task, objective)
}
