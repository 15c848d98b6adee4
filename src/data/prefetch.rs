//! A thread that prepares the next batches while the current one is computed. The batches are those
//! of [`Loader::fill_train`]; only the time at which they are made differs.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::thread::JoinHandle;

use super::loader::Loader;
use crate::error::{Error, Result};

/// Batches prepared ahead of the one in use.
const DEPTH: usize = 2;

/// The images of one training step.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HostBatch {
    pub step: usize,
    /// (B, S, S, 3).
    pub images: Vec<f32>,
    /// (B): engine class ids.
    pub labels: Vec<u32>,
    /// (B): positions in the training set.
    pub positions: Vec<u32>,
    /// (B, K) if images are mixed in this run, otherwise empty: the share of each class.
    pub soft_labels: Vec<f32>,
}

/// Iterates over the batches of a range of steps; dropping it stops the thread.
#[derive(Debug)]
pub struct Prefetch {
    /// `None` once the last batch or an error was handed out.
    batches: Option<Receiver<Result<HostBatch>>>,
    used: Sender<HostBatch>,
    thread: Option<JoinHandle<()>>,
    /// The next step to hand out.
    steps: Range<usize>,
}

impl Prefetch {
    /// Starts with the first of `steps`.
    ///
    /// # Errors
    /// `Error::Failed` when the system gives no thread.
    pub fn start(loader: Arc<Loader>, steps: Range<usize>) -> Result<Prefetch> {
        let (batch_sender, batches) = sync_channel(DEPTH);
        let (used, used_receiver) = channel::<HostBatch>();
        let todo = steps.clone();
        let work = move || {
            for step in todo {
                let mut batch = used_receiver.try_recv().unwrap_or_default();
                batch.step = step;
                let rows = loader.rows_of(step).len();
                batch.images.resize(rows * loader.preprocess().output_len(), 0.0);
                batch.labels.resize(rows, 0);
                batch.positions = loader.batch_indices(step);
                let filled = loader.fill_train(step, &mut batch.images, &mut batch.labels);
                let result = filled
                    .and_then(|()| loader.soft_labels(step))
                    .map(|soft_labels| batch.soft_labels = soft_labels);
                let stop = result.is_err();
                // Sending fails when the receiver was dropped; then no more batches are needed.
                if batch_sender.send(result.map(|()| batch)).is_err() || stop {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("loader".into())
            .spawn(work)
            .map_err(|e| Error::failed(format!("cannot start the loader thread: {e}")))?;
        Ok(Prefetch { batches: Some(batches), used, thread: Some(thread), steps })
    }

    /// Gives the memory of a batch back for a later one.
    pub fn recycle(&self, batch: HostBatch) {
        // Sending fails after the last batch, when the loader thread has ended.
        let _ = self.used.send(batch);
    }
}

impl Iterator for Prefetch {
    type Item = Result<HostBatch>;

    fn next(&mut self) -> Option<Result<HostBatch>> {
        let batches = self.batches.as_ref()?;
        let Some(step) = self.steps.next() else {
            self.batches = None;
            return None;
        };
        let result = batches
            .recv()
            .unwrap_or_else(|_| Err(Error::failed(format!("the loader thread stopped before step {step}"))));
        if result.is_err() {
            self.batches = None;
        }
        Some(result)
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        // A thread that waits to send must see the receiver gone before it is joined.
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported as a missing batch.
            let _ = thread.join();
        }
    }
}
