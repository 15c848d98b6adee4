//! Batches as a pure function of (seed, task, step): shuffle, repeat, batch without remainder.
//! Source: clu 0.0.6, `deterministic_data.py`, as google-research/l2p @ dd8836e uses it; there a
//! buffer of 10,000 images is shuffled, here the whole epoch.
//!
//! Position p = step * B + i of a task's stream belongs to epoch p / n and is image
//! permutation[epoch][p % n] of the task's n training images. Batches cross epochs, and no image of
//! an epoch is skipped. (An ordered task has one permutation, the order in which it is given.) The permutation of an
//! epoch comes from stream `Shuffle`, index task << 32 | epoch; box, flip and the like of position p from stream
//! `Augment`, index task << 40 | p; the mixing of a step's images from stream `Mix`, index task << 40 | step.
//! Several ranks share a step: each makes some of its rows, and they are those that one rank would make.
//!
//! With replay the last R of the B rows of a batch are replayed images, as there: the task's own stream advances by B - R
//! a step, and row i >= B - R is position step * R + i - (B - R) of passes over the replay set, each in an order of its
//! own from stream `Rehearse`. (There they are drawn from the buffer for each batch.) Box and flip go by step * B + i.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use super::image_set::DataSet;
use super::mix::{Mix, MixRule};
use super::parts::Subset;
use super::preprocess::Preprocess;
use super::reader::Reader;
use super::tasks::{Split, Task};
use crate::error::{Error, Result};
use crate::rng::{Rng, Stream};

/// Steps of a task: floor(floor(n_train * epochs / batch) / epochs) * epochs, so that every epoch has
/// as many. Source: google-research/l2p @ dd8836e, `train_continual.py`, lines 603-607.
///
/// # Errors
/// `Error::Config` when that is 0.
pub fn steps_per_task(n_train: usize, epochs: usize, batch: usize) -> Result<usize> {
    if epochs == 0 || batch == 0 {
        return Err(Error::config(format!(
            "train.num_epochs and train.per_device_batch_size must be at least 1, got {epochs} and {batch}"
        )));
    }
    let batches = n_train.checked_mul(epochs).map(|images| images / batch);
    match batches.map(|n| n / epochs * epochs) {
        Some(0) => Err(Error::config(format!(
            "a task with {n_train} training images does not fill one batch of {batch} per epoch; use a smaller train.per_device_batch_size or data.partial_batch = true"
        ))),
        Some(steps) => Ok(steps),
        None => Err(Error::config(format!("train.num_epochs = {epochs} is too large"))),
    }
}

/// Images of a step of a task with `n_train` images: `batch`, or all of them where `partial` (`data.partial_batch`)
/// lets a smaller task have a smaller batch. The official code has no step then.
pub fn task_batch(n_train: usize, batch: usize, partial: bool) -> usize {
    if partial && n_train > 0 { batch.min(n_train) } else { batch }
}

/// The batches of one task.
#[derive(Debug)]
pub struct Loader {
    reader: Reader,
    mix: Option<MixRule>,
    /// Position of the task, for the random streams.
    task: u64,
    train: Passes,
    /// Images of other tasks, and how many of them each batch has.
    replay: Option<(Passes, usize)>,
    seed: u64,
    /// Images of a step, replayed ones included.
    batch: usize,
    /// Those of the B images of a step that are made here.
    rows: Range<usize>,
    epochs: usize,
    steps: usize,
    /// The last step has what is left of the first pass, and none follows.
    once: bool,
}

/// Images again and again, each time in another order.
#[derive(Debug)]
struct Passes {
    images: Vec<u32>,
    /// They are not shuffled.
    ordered: bool,
    seed: u64,
    stream: Stream,
    task: u64,
    /// The pass used last and its order.
    last: Mutex<Option<(usize, Arc<Vec<u32>>)>>,
}

impl Passes {
    /// Appends what stands at these positions.
    fn append(&self, positions: Range<usize>, to: &mut Vec<u32>) {
        let (n, mut position) = (self.images.len(), positions.start);
        while position < positions.end {
            let order = self.order(position / n);
            let rest = &order[position % n..];
            let taken = rest.len().min(positions.end - position);
            to.extend_from_slice(&rest[..taken]);
            position += taken;
        }
    }

    fn order(&self, pass: usize) -> Arc<Vec<u32>> {
        // A panic elsewhere cannot leave the cache half-written: the pair is replaced as a whole.
        let mut cached = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some((of, order)) = &*cached
            && *of == pass
        {
            return order.clone();
        }
        let mut order = self.images.clone();
        if !self.ordered {
            Rng::new(self.seed, self.stream, self.task << 32 | pass as u64).shuffle(&mut order);
        }
        let order = Arc::new(order);
        *cached = Some((pass, order.clone()));
        order
    }
}

impl Loader {
    /// Batches of `batch` images of `task` for `epochs` epochs.
    ///
    /// # Errors
    /// As [`steps_per_task`].
    pub fn new(
        data: Arc<DataSet>,
        split: &Split,
        task: &Task,
        preprocess: Preprocess,
        seed: u64,
        batch: usize,
        epochs: usize,
    ) -> Result<Loader> {
        let (steps, index) = (steps_per_task(task.train.len(), epochs, batch)?, task.index as u64);
        let (images, ordered, last) = (task.train.clone(), task.ordered, Mutex::new(None));
        Ok(Loader {
            mix: preprocess.mix(),
            reader: Reader::new(data, split, preprocess),
            task: index,
            train: Passes { images, ordered, seed, stream: Stream::Shuffle, task: index, last },
            replay: None,
            seed,
            batch,
            rows: 0..batch,
            epochs,
            steps,
            once: false,
        })
    }

    /// One pass in which every image comes once: the last step has the rest.
    pub fn each_once(mut self) -> Loader {
        (self.epochs, self.once) = (1, true);
        self.steps = self.train.images.len().div_ceil(self.batch);
        self
    }

    /// The same steps, of which only these rows of each batch are made.
    pub fn only(mut self, rows: Range<usize>) -> Loader {
        self.rows = rows.start.min(self.batch)..rows.end.min(self.batch);
        self
    }

    /// With so many of the images of `replay`, if there are any, behind those of each batch.
    pub fn with_replay(mut self, replay: &Task, images: usize) -> Loader {
        if !replay.train.is_empty() && self.replay.is_none() {
            let (ordered, stream, last) = (false, Stream::Rehearse, Mutex::new(None));
            let passes = Passes {
                images: replay.train.clone(),
                ordered,
                seed: self.seed,
                stream,
                task: self.task,
                last,
            };
            self.replay = Some((passes, images));
            self.batch += images;
            self.rows = 0..self.batch;
        }
        self
    }

    /// B, images per step, wherever they are made.
    pub fn whole_batch(&self) -> usize {
        self.batch
    }

    /// Those of its rows that are made here.
    pub fn rows(&self) -> Range<usize> {
        self.rows.clone()
    }

    /// How many rows of a batch, the first ones, are images of the task itself; the others are replayed.
    pub fn own_rows(&self) -> usize {
        self.batch - self.replay.as_ref().map_or(0, |(_, images)| *images)
    }

    /// Steps of the task.
    pub fn steps(&self) -> usize {
        self.steps
    }

    pub fn steps_per_epoch(&self) -> usize {
        self.steps / self.epochs
    }

    /// Images of a step, wherever they are made: B, or what is left of a single pass.
    pub fn images_of(&self, step: usize) -> usize {
        let left = self.train.images.len().saturating_sub(step * self.batch);
        if self.once { self.batch.min(left) } else { self.batch }
    }

    /// Those rows of a step that are made here.
    pub fn rows_of(&self, step: usize) -> Range<usize> {
        let images = self.images_of(step);
        self.rows.start.min(images)..self.rows.end.min(images)
    }

    /// The images of the data set, in any order.
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    pub fn preprocess(&self) -> &Preprocess {
        self.reader.preprocess()
    }

    /// Positions in `DataSet::train` of the images of a step, counted from 0 within the task. Steps
    /// past `steps()` continue the stream.
    pub fn batch_indices(&self, step: usize) -> Vec<u32> {
        self.row_indices(step, &self.rows_of(step))
    }

    /// The same for some rows of the batch.
    fn row_indices(&self, step: usize, rows: &Range<usize>) -> Vec<u32> {
        let (own, mut indices) = (self.own_rows(), Vec::with_capacity(rows.len()));
        let first = step * own;
        self.train.append(first + rows.start.min(own)..first + rows.end.min(own), &mut indices);
        if let Some((replay, each)) = &self.replay {
            let behind = |row: usize| step * each + row.max(own) - own;
            replay.append(behind(rows.start)..behind(rows.end), &mut indices);
        }
        indices
    }

    /// Number of the random stream from which the first image of a step draws box and flip; the others
    /// follow one by one.
    pub fn first_number(&self, step: usize) -> u64 {
        self.number(step, &self.rows_of(step))
    }

    fn number(&self, step: usize, rows: &Range<usize>) -> u64 {
        self.task << 40 | (step * self.batch + rows.start) as u64
    }

    /// How the images of a step are mixed, if they are.
    pub fn mix(&self, step: usize) -> Option<Mix> {
        let mut rng = Rng::new(self.seed, Stream::Mix, self.task << 40 | step as u64);
        self.mix.as_ref()?.draw(&mut rng, self.batch, self.preprocess().input_size())
    }

    /// The soft labels (B, K) of the images of a step; empty where no step is ever mixed.
    ///
    /// # Errors
    /// `Error::Shape` for an image that is not there.
    pub fn soft_labels(&self, step: usize) -> Result<Vec<f32>> {
        if self.mix.is_none() {
            return Ok(Vec::new());
        }
        let mix = self.mix(step).unwrap_or_else(|| Mix::nothing(self.batch));
        let classes = self.reader.classes();
        let all = self.reader.labels(Subset::Train, &self.row_indices(step, &(0..self.batch)))?;
        let rows = self.rows.start * classes..self.rows.end * classes;
        Ok(mix.soft_labels(&all, classes)[rows].to_vec())
    }

    /// Training images of a step, mixed where [`Loader::mix`] says so, and their engine class ids. Overwrites
    /// both.
    ///
    /// # Shapes
    /// out: (B, S, S, 3); labels: (B).
    ///
    /// # Errors
    /// `Error::Shape`, naming the argument; `Error::File` for an image file that cannot be decoded.
    pub fn fill_train(&self, step: usize, out: &mut [f32], labels: &mut [u32]) -> Result<()> {
        let Some(mix) = self.mix(step) else {
            return self.fill_rows(step, &self.rows_of(step), out, labels);
        };
        let size = self.preprocess().input_size();
        if self.rows.len() == self.batch {
            self.fill_rows(step, &self.rows, out, labels)?;
            mix.images(out, size);
            return Ok(());
        }
        // An image may be mixed with one of another rank.
        let rows =
            self.rows.start * self.preprocess().output_len()..self.rows.end * self.preprocess().output_len();
        let mut images = vec![0.0; self.batch * self.preprocess().output_len()];
        let mut all = vec![0; self.batch];
        self.fill_rows(step, &(0..self.batch), &mut images, &mut all)?;
        mix.images(&mut images, size);
        out.copy_from_slice(&images[rows]);
        labels.copy_from_slice(&all[self.rows.clone()]);
        Ok(())
    }

    /// These rows of a step's batch, not mixed.
    fn fill_rows(&self, step: usize, rows: &Range<usize>, out: &mut [f32], labels: &mut [u32]) -> Result<()> {
        let (indices, first) = (self.row_indices(step, rows), self.number(step, rows));
        self.reader.fill(Subset::Train, &indices, out, labels, |i, view, out| {
            let mut rng = Rng::new(self.seed, Stream::Augment, first + i as u64);
            self.preprocess().train(view, &mut rng, out);
        })
    }
}
