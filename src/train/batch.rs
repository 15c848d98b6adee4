//! Batches of images, prepared by the host or resident on the device, behind one type.

use crate::data::{DataSet, Loader, Prefetch, Preprocess, Reader, Subset};
use crate::device::Device;
use crate::error::Result;
use crate::learner::ready;
use crate::network::Pixels;
use crate::ops::preprocess::Resident;
use crate::tensor::plan::Plan;
use crate::tensor::{DType, Tensor};
use std::ops::Range;
use std::sync::Arc;

/// Images and their class ids.
#[derive(Debug)]
pub struct Batch {
    images: Source,
    pub labels: Vec<u32>,
    /// Of training images, (B): where they are in the training set.
    pub positions: Vec<u32>,
    /// (B, K) if images are mixed in this run, otherwise empty.
    soft_labels: Vec<f32>,
}

#[derive(Debug)]
enum Source {
    Ready(Tensor),
    Resident { set: Arc<Resident>, indices: Vec<u32>, first: Option<u64> },
}

impl Batch {
    /// The targets of the loss: class ids (B), or soft labels (B, K) of mixed images.
    pub fn targets(&self) -> Tensor {
        let images = self.labels.len();
        match self.soft_labels.len() {
            0 => Tensor::from_vec(self.labels.clone(), [images]),
            n => Tensor::from_vec(self.soft_labels.clone(), [images, n / images]),
        }
    }

    /// What the network takes.
    pub fn pixels(&self) -> Pixels<'_> {
        match &self.images {
            Source::Ready(images) => Pixels::Ready(images.view()),
            Source::Resident { set, indices, first } => Pixels::Resident { set, indices, first: *first },
        }
    }
}

/// A data set in the memory of a GPU, as its files hold it.
#[derive(Debug, Clone)]
pub struct ResidentData {
    train: Arc<Resident>,
    test: Arc<Resident>,
}

impl ResidentData {
    /// Copies the data set, if its images have one size and lie in memory, and there is a GPU with room for them
    /// that can do all of `preprocess`. Otherwise the host prepares each batch.
    ///
    /// # Errors
    /// `Error::Failed` if the GPU has failed.
    pub fn new(
        plan: &mut Plan,
        data: &DataSet,
        preprocess: &Preprocess,
        seed: u64,
    ) -> Result<Option<ResidentData>> {
        let Device::Cuda(gpu) = plan.device().clone() else { return Ok(None) };
        if !preprocess.on_device() {
            return Ok(None);
        }
        let (Some(train), Some(test)) = (data.train.in_one_piece(), data.test.in_one_piece()) else {
            return Ok(None);
        };
        let bytes = train.bytes.len() + test.bytes.len();
        if bytes > gpu.free_bytes()? / 4 * 3 {
            return Ok(None);
        }
        plan.group("data set");
        let mut keep = |name, images| Resident::new(plan, name, images, preprocess, seed).map(Arc::new);
        let (train, test) = (keep("training images", train)?, keep("test images", test)?);
        Ok(Some(ResidentData { train, test }))
    }
}

/// Images without augmentation.
///
/// # Errors
/// As [`Reader::fill_eval`].
pub fn eval(
    reader: &Reader,
    resident: Option<&ResidentData>,
    dtype: DType,
    which: Subset,
    indices: &[u32],
) -> Result<Batch> {
    let on_device = resident.and_then(|resident| match which {
        Subset::Train => Some(resident.train.clone()),
        Subset::Test => Some(resident.test.clone()),
        // Rarely there, and then of files.
        Subset::Validation => None,
    });
    let Some(set) = on_device else {
        let mut pixels = vec![0.0; indices.len() * reader.preprocess().output_len()];
        let mut labels = vec![0; indices.len()];
        reader.fill_eval(which, indices, &mut pixels, &mut labels)?;
        let images = Source::Ready(ready(dtype, reader.preprocess().input_size(), &pixels));
        return Ok(Batch { images, labels, positions: Vec::new(), soft_labels: Vec::new() });
    };
    let labels = reader.labels(which, indices)?;
    let images = Source::Resident { set, indices: indices.to_vec(), first: None };
    Ok(Batch { images, labels, positions: Vec::new(), soft_labels: Vec::new() })
}

/// Changes the images (B, S, S, 3) and the labels (B) of the batch of a step, counted from 0.
pub type BatchChange = Arc<dyn Fn(usize, &mut [f32], &mut [u32]) + Send + Sync>;

/// The training batches of a task, in order.
pub enum Training {
    Ready {
        prepared: Prefetch,
        dtype: DType,
        side: usize,
        change: Option<BatchChange>,
    },
    Resident {
        set: Arc<Resident>,
        loader: Box<Loader>,
        steps: Range<usize>,
    },
    /// Training images as test images are prepared.
    Plain {
        reader: Reader,
        loader: Box<Loader>,
        dtype: DType,
        steps: Range<usize>,
    },
}

impl Training {
    /// The images of the batches of `loader`, prepared like test images.
    pub fn plain(loader: Loader, reader: Reader, dtype: DType) -> Training {
        let steps = 0..loader.steps();
        Training::Plain { reader, loader: Box::new(loader), dtype, steps }
    }

    /// # Errors
    /// As [`Prefetch::start`].
    pub fn start(
        loader: Loader,
        resident: Option<&ResidentData>,
        dtype: DType,
        change: Option<BatchChange>,
        steps: Range<usize>,
    ) -> Result<Training> {
        if let Some(resident) = resident {
            return Ok(Training::Resident { set: resident.train.clone(), loader: Box::new(loader), steps });
        }
        let side = loader.preprocess().input_size();
        Ok(Training::Ready { prepared: Prefetch::start(Arc::new(loader), steps)?, dtype, side, change })
    }
}

impl Iterator for Training {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Result<Batch>> {
        match self {
            Training::Ready { prepared, dtype, side, change } => {
                let batch = prepared.next()?;
                Some(batch.map(|mut batch| {
                    if let Some(change) = change {
                        change(batch.step, &mut batch.images, &mut batch.labels);
                    }
                    let images = Source::Ready(ready(*dtype, *side, &batch.images));
                    let (labels, soft_labels) = (batch.labels.clone(), batch.soft_labels.clone());
                    let positions = batch.positions.clone();
                    prepared.recycle(batch);
                    Batch { images, labels, positions, soft_labels }
                }))
            }
            Training::Resident { set, loader, steps } => {
                let step = steps.next()?;
                let (indices, first) = (loader.batch_indices(step), Some(loader.first_number(step)));
                let labels = loader.reader().labels(Subset::Train, &indices);
                let positions = indices.clone();
                let images = Source::Resident { set: set.clone(), indices, first };
                Some(labels.map(|labels| Batch { images, labels, positions, soft_labels: Vec::new() }))
            }
            Training::Plain { reader, loader, dtype, steps } => {
                let positions = loader.batch_indices(steps.next()?);
                let batch = eval(reader, None, *dtype, Subset::Train, &positions);
                Some(batch.map(|batch| Batch { positions, ..batch }))
            }
        }
    }
}
