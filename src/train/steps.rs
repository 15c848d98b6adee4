//! The training steps of a task: its own batches, then those of the replay set of all tasks so far.

use super::batch::{Batch, Training};
use super::session::Session;
use crate::data::{Loader, Task};
use crate::device::range;
use crate::error::Result;
use crate::network::{StepStats, TaskView};
use crate::optim::schedule::LearningRate;
use std::cmp::Ordering;

/// Steps of all tasks; none of one whose images are gone.
pub fn total_steps(session: &Session) -> Result<u64> {
    steps_from(session, 0)
}

/// Steps of the tasks from the `first` on.
pub fn steps_from(session: &Session, first: usize) -> Result<u64> {
    let steps = |task: &Task| -> Result<u64> {
        if task.train.is_empty() {
            return Ok(0);
        }
        let review = session.review_loader(task)?;
        Ok((session.loader(task)?.steps() + review.as_ref().map_or(0, Loader::steps)) as u64)
    };
    session.train_tasks.iter().skip(first).map(steps).sum()
}

/// The training steps of one task, one at a time.
pub struct Steps {
    batches: Training,
    task: TaskView,
    /// What follows on the replay set of all tasks so far: batches, and the first step of them.
    review: Option<(Loader, usize)>,
    pub rate: LearningRate,
    pub done: usize,
    pub total: usize,
    /// Steps on the task's own batches, and the images of each.
    own: (usize, usize),
    /// Images of the last of the task's own steps.
    last: usize,
    /// Images of a step on kept ones.
    batch: usize,
    /// Steps of an epoch.
    pub epoch: usize,
}

/// A step that was made, and what has become known with it: of this step, of several, or nothing yet.
pub struct Done {
    pub stats: Vec<StepStats>,
    pub images: usize,
}

impl Steps {
    /// Those after the first `done`.
    pub fn from(session: &Session, task: &Task, done: usize) -> Result<Steps> {
        let (loader, config) = (session.loader(task)?, &session.learner.config);
        let (batch, epochs) = (session.ranks.batch, config.train.num_epochs);
        let rate = LearningRate::new(&config.optim, batch, loader.steps_per_epoch(), epochs);
        let (own, review) = (loader.steps(), session.review_loader(task)?);
        let total = own + review.as_ref().map_or(0, Loader::steps);
        let (task, own_batch) = (session.batch_view(task, &loader), loader.whole_batch());
        let (epoch, last) = (loader.steps_per_epoch(), loader.images_of(own.saturating_sub(1)));
        let review = review.map(|loader| (loader, done.saturating_sub(own)));
        let first = done.min(own);
        let batches = Training::start(
            loader,
            session.resident.as_ref(),
            session.dtype(),
            session.change.clone(),
            first..own,
        )?;
        Ok(Steps { batches, task, review, rate, done, total, own: (own, own_batch), last, batch, epoch })
    }

    /// Images of step `step`, from 1.
    pub fn images(&self, step: usize) -> usize {
        match step.cmp(&self.own.0) {
            Ordering::Less => self.own.1,
            Ordering::Equal => self.last,
            Ordering::Greater => self.batch,
        }
    }

    /// The next batch, and what became known of earlier steps on the way from a task's own images to the replay set.
    fn next_batch(&mut self, session: &mut Session) -> Result<Option<(Batch, Vec<StepStats>)>> {
        if let Some(batch) = self.batches.next() {
            return Ok(Some((batch?, Vec::new())));
        }
        let Some((loader, first)) = self.review.take() else { return Ok(None) };
        // Without a mask, which steps under way still have.
        let stats = session.learner.method.settle(&session.learner.dev)?;
        self.task.mask = vec![true; session.classes()];
        self.task.rank_fraction = session.rank_fraction(loader.whole_batch());
        let steps = first..loader.steps();
        self.batches = Training::start(loader, session.resident.as_ref(), session.dtype(), None, steps)?;
        let batch = self.batches.next().transpose()?;
        Ok(batch.map(|batch| (batch, stats)))
    }

    /// Makes the next step; `None` after the last.
    pub fn next(&mut self, session: &mut Session) -> Result<Option<Done>> {
        let phase = range(c"data");
        let Some((batch, mut stats)) = self.next_batch(session)? else { return Ok(None) };
        drop(phase);
        self.done += 1;
        let lr = self.rate.at(self.done);
        let images = self.images(self.done);
        let targets = batch.targets();
        session.learner.method.next_images(&batch.positions)?;
        stats.extend(session.learner.method.step(
            &session.learner.dev,
            batch.pixels(),
            targets.view(),
            &self.task,
            lr,
        )?);
        if self.done == self.total {
            stats.extend(session.learner.method.settle(&session.learner.dev)?);
        }
        Ok(Some(Done { stats, images }))
    }
}
