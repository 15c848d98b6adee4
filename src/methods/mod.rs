//! What learns. A method sees batches and answers with logits; the loop around it, the masks, the
//! metrics and the files are the same for all. A new method is one file and one line in [`build`].

mod adapt;
mod beside_steps;
mod gradient;
mod named;
mod ncm;
mod ranks;
pub mod ranpac;

pub use gradient::Gradient;
pub use named::Tensors;
pub use ncm::{ClassMeans, Ncm};
pub use ranks::Ranks;
pub use ranpac::Ranpac;

use crate::config::schema::{Config, Method as Name};
use crate::device::Device;
use crate::error::Result;
use crate::network::{Model, Pixels, StepStats, TaskView};
use crate::ops::match_prompts::Select;
use crate::prompts::PromptChoice;
use crate::tensor::plan::Plan;
use crate::tensor::{Tensor, View};

/// A look at the training images of a task beside its steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// Each image once, prepared as for a step.
    Augmented,
    /// Each image once, prepared like a test image.
    Plain,
    /// So many epochs of batches as those of steps, under the mask of the task's own classes.
    WarmUp { epochs: usize },
    /// The same, with images prepared as `ranpac.adapter_augment` says.
    Adapt { epochs: usize },
}

/// When a method looks at the images of a task beside its steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    BeforeSteps,
    AfterSteps,
}

/// A batch of a pass; on one of several ranks it may be empty.
#[derive(Debug, Clone, Copy)]
pub struct Shown<'a> {
    pub images: Pixels<'a>,
    /// (B) class ids.
    pub labels: View<'a>,
    /// (B) positions in the training set.
    pub positions: &'a [u32],
}

/// Something that learns a sequence of tasks.
pub trait Method: Send {
    /// The network behind it.
    fn model(&self) -> &Model;

    /// Before the first step of a task of these classes.
    fn begin_task(&mut self, task: &TaskView, classes: &[u32]) -> Result<()>;

    /// Before the first step of this process in a task: the classes, ascending, whose columns of the head keep their bits
    /// until this is called again, where the method learns a head by gradient. All others learn.
    ///
    /// # Errors
    /// `Error::Failed` for classes that the head has not.
    fn keep_classes(&mut self, _classes: &[u32]) -> Result<()> {
        Ok(())
    }

    /// Before each step: the positions of its images in the training set, for a method that knows something of each.
    ///
    /// # Errors
    /// `Error::Failed` if it knows nothing of one.
    fn next_images(&mut self, _positions: &[u32]) -> Result<()> {
        Ok(())
    }

    /// Learns from one batch. labels: (B) class ids. The answer is what is known by
    /// now of the steps so far: on the CPU this step; on a GPU, which works on while the next batch is made
    /// ready, several steps at a time.
    ///
    /// # Errors
    /// `Error::Failed` when the loss of a step is not a number; nothing has been learned since.
    fn step(
        &mut self,
        dev: &Device,
        images: Pixels,
        labels: View,
        task: &TaskView,
        lr: f64,
    ) -> Result<Vec<StepStats>>;

    /// Waits for the steps that have not been reported yet.
    fn settle(&mut self, _dev: &Device) -> Result<Vec<StepStats>> {
        Ok(Vec::new())
    }

    /// What the method wants to see of the images of task `task` at this moment: the batches of each pass are given to
    /// [`Method::observe`]. What it has seen is not saved before the pass is over; a run that goes on from before that
    /// begins the passes of this moment anew.
    ///
    /// # Errors
    /// `Error::Failed` if the device fails.
    fn passes(&self, _task: usize, _moment: Moment) -> Result<Vec<Pass>> {
        Ok(Vec::new())
    }

    /// Before the first batch of a pass: `steps` batches make an epoch of it.
    fn begin_pass(&mut self, _pass: Pass, _steps: usize) {}

    /// A batch of a pass that [`Method::passes`] asked for; all ranks are called as often.
    ///
    /// # Errors
    /// `Error::Failed` if the device fails.
    fn observe(&mut self, _dev: &Device, _pass: Pass, _shown: Shown, _task: &TaskView) -> Result<()> {
        Ok(())
    }

    /// After the last step of a task, and the passes behind it, and before it is tested. A run that goes on from a checkpoint behind that moment
    /// calls it again, and then nothing may change.
    ///
    /// # Errors
    /// `Error::Failed` if nothing can be made of what was learned.
    fn end_task(&mut self, _dev: &Device) -> Result<()> {
        Ok(())
    }

    /// Features of the frozen backbone, (B, C): no image's features ever change, so they are computed
    /// once per run.
    fn features(&mut self, dev: &Device, images: Pixels) -> Result<Tensor>;

    /// What selects prompts, (B, C): the frozen features, or what the patches of the model itself
    /// give (`prompt_pool.embedding_key`). Never changes, so it is computed once per run, unless the
    /// patch embedding learns.
    fn query(&mut self, dev: &Device, images: Pixels) -> Result<Tensor> {
        self.features(dev, images)
    }

    /// Chooses prompts for (B, C) queries; nothing where there is nothing to choose from.
    fn select(&mut self, dev: &Device, features: View, how: Select) -> Result<PromptChoice>;

    /// Logits (B, K) over all classes. `choice`: what `select` said; `features`: what `query` said of these
    /// images.
    fn logits(
        &mut self,
        dev: &Device,
        images: Pixels,
        features: View,
        choice: &PromptChoice,
    ) -> Result<Tensor>;

    /// Everything that learning has changed.
    fn state(&self) -> Result<Tensors>;

    /// Steps since the optimizer was made.
    fn optimizer_step(&self) -> u64;

    /// Puts a saved state back.
    ///
    /// # Errors
    /// `Error::Failed` if the tensors are not those of this method and configuration.
    fn restore(&mut self, tensors: &Tensors, optimizer_step: u64) -> Result<()>;

    /// Puts the state of a smaller method of the same kind back, one with fewer classes or prompts: what was saved
    /// is found by name and goes to the beginning of every axis, what is beyond keeps its fresh values, with moments
    /// of zero.
    ///
    /// # Errors
    /// `Error::Failed` if a tensor is missing or saved larger than here, or the backbone differs in shape.
    fn restore_grown(&mut self, tensors: &Tensors, optimizer_step: u64) -> Result<()>;
}

/// The method of a configuration around a model whose parameters are in place; it learns together with `ranks`.
pub fn build(config: &Config, model: Model, plan: &mut Plan, ranks: &Ranks) -> Box<dyn Method> {
    match config.method {
        Name::Ncm => Box::new(Ncm::new(model, ranks)),
        Name::Ranpac => Box::new(Ranpac::new(config, model, plan, ranks)),
        Name::L2p
        | Name::DualPrompt
        | Name::CodaPrompt
        | Name::SPrompts
        | Name::FineTune
        | Name::Linear
        | Name::Ewc
        | Name::Lwf
        | Name::Joint => Box::new(Gradient::new(config, model, plan, ranks)),
    }
}
