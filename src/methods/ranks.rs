//! The ranks that learn together: which images of a step are whose, and one gradient from all of them.
//!
//! Every rank has the whole network and takes a slice of each step's images. With n_r of n images on rank r,
//! gradient = Σ_r n_r / n · gradient_r, and likewise loss and pull term; so a step is that of one rank with all n
//! images, to rounding. The sum runs in rank order on the CPU, and in NCCL's order on GPUs; all ranks get the same
//! bits.

use crate::comm::Comm;
use crate::device::{Device, Event, NcclComm, NcclId, StreamKind};
use crate::error::{Error, Result};
use crate::network::{Model, Pixels};
use crate::ops::axpy::scale_in_place;
use crate::tensor::{DType, Tensor, all_reduce};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

/// Bytes of all ranks in one message of a gathering.
const MESSAGE: usize = 256 << 20;

/// The ranks of a run, seen from one of them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Ranks {
    pub comm: Comm,
    /// Images per step on all ranks together.
    pub batch: usize,
    /// The GPUs' own way to each other.
    clique: Option<Arc<NcclComm>>,
}

impl Ranks {
    /// One rank that takes all `batch` images.
    pub fn alone(batch: usize) -> Ranks {
        Ranks { comm: Comm::alone(), batch, clique: None }
    }

    /// Joins the others; all ranks call it at the same time, with devices of one kind.
    ///
    /// # Errors
    /// `Error::Config` if there are more ranks than images in a step; `Error::Failed` if devices differ in kind or
    /// NCCL is missing or fails.
    pub fn join(comm: &Comm, dev: &Device, batch: usize) -> Result<Ranks> {
        if comm.is_alone() {
            return Ok(Ranks::alone(batch));
        }
        if batch < comm.size() {
            return Err(Error::config(format!(
                "a step of {batch} images cannot be shared by {} ranks; wanted at least one image each",
                comm.size()
            )));
        }
        let kind = |dev: &Device| if dev.gpu().is_some() { "a GPU" } else { "the CPU" };
        let kinds = comm.all_gather("kinds of devices", kind(dev).as_bytes().to_vec())?;
        if let Some(other) = kinds.iter().position(|k| *k != kinds[0]) {
            let word = |r: usize| String::from_utf8_lossy(&kinds[r]).into_owned();
            return Err(Error::failed(format!(
                "rank 0 computes on {}, rank {other} on {}; wanted devices of one kind",
                word(0),
                word(other)
            )));
        }
        if let Device::Cuda(gpu) = dev {
            let id = if comm.is_first() { NcclId::new()?.bytes().to_vec() } else { Vec::new() };
            let id = comm.broadcast("NCCL id", id)?;
            let id: [u8; 128] = id.try_into().map_err(|_| Error::failed("rank 0 has sent no NCCL id"))?;
            let clique = NcclComm::join(gpu, &id.into(), comm.rank(), comm.size(), || comm.check())?;
            let watch = clique.watch();
            comm.on_failure(move || watch.abort("another rank has failed"));
            return Ok(Ranks { comm: comm.clone(), batch, clique: Some(Arc::new(clique)) });
        }
        Ok(Ranks { comm: comm.clone(), batch, clique: None })
    }

    pub fn is_alone(&self) -> bool {
        self.comm.is_alone()
    }

    /// The rows of a step of `images` images that are this rank's.
    pub fn rows(&self, images: usize) -> Range<usize> {
        let bound = |r: usize| images * r / self.comm.size();
        bound(self.comm.rank())..bound(self.comm.rank() + 1)
    }

    /// What of `n` things, taken in whole units of `unit`, is this rank's: nearly equal shares.
    pub fn share_of(&self, n: usize, unit: usize) -> Range<usize> {
        let (rank, size, units) = (self.comm.rank(), self.comm.size(), n.div_ceil(unit.max(1)));
        let bound = |r: usize| (units * r / size * unit.max(1)).min(n);
        bound(rank)..bound(rank + 1)
    }

    /// Everyone's values, one after the other in rank order.
    pub fn gather<T: bytemuck::Pod>(&self, what: &'static str, values: &[T]) -> Result<Vec<T>> {
        if self.is_alone() {
            return Ok(values.to_vec());
        }
        let piece = MESSAGE / self.comm.size();
        let all = self.comm.all_gather_in_pieces(what, bytemuck::cast_slice(values), piece)?;
        Ok(all.iter().flat_map(|bytes| bytemuck::pod_collect_to_vec(bytes)).collect::<Vec<T>>())
    }

    /// The queries, which are features of what does not learn, and the labels of a step, of the images of all ranks in the order of one: what is made of
    /// them has the same bits for any number of ranks.
    pub(super) fn features_of_step(
        &self,
        dev: &Device,
        model: &mut Model,
        images: Pixels,
        labels: &[u32],
    ) -> Result<(Vec<f64>, Vec<u32>)> {
        // What is left of a task may be too few images for every rank to have one.
        let features = match labels.len() {
            0 => Vec::new(),
            _ => model.query(dev, images)?.view().read_f64()?,
        };
        Ok((self.gather("features of a step", &features)?, self.gather("labels of a step", labels)?))
    }

    /// The device's way to the other ranks, if they compute on GPUs.
    pub(super) fn clique(&self) -> Option<&NcclComm> {
        self.clique.as_deref()
    }

    /// Multiplies gradients and means of a step by this rank's share of its images, so that their sum over ranks is
    /// that of the step.
    pub(super) fn scale_by_rank_fraction(
        &self,
        dev: &Device,
        model: &mut Model,
        rank_fraction: f64,
    ) -> Result<()> {
        scale_in_place(dev, model.grads.trainable.view_mut(), rank_fraction)?;
        if let Some(frozen) = &mut model.grads.frozen {
            scale_in_place(dev, frozen.view_mut(), rank_fraction)?;
        }
        model.report.scale_by_rank_fraction(dev, rank_fraction)
    }

    /// Sums weighed gradients and report over ranks, and waits for that.
    pub(super) fn sum(&self, model: &mut Model) -> Result<()> {
        self.sum_tensor("gradients", &mut model.grads.trainable)?;
        if let Some(frozen) = &mut model.grads.frozen {
            self.sum_tensor("frozen gradients", frozen)?;
        }
        self.sum_tensor("numbers of a step", model.report.tensor_mut())
    }

    /// Seconds that the sum of `gradient` (f32) over all ranks takes by itself. For benchmarks.
    pub fn time_sum(&self, dev: &Device, gradient: &mut Tensor) -> Result<f64> {
        self.comm.any("the start of a sum", false)?;
        let Some(gpu) = dev.gpu() else {
            let start = Instant::now();
            self.sum_tensor("gradients", gradient)?;
            return Ok(start.elapsed().as_secs_f64());
        };
        let (start, end) = (Event::timed(gpu)?, Event::timed(gpu)?);
        start.record(StreamKind::Compute)?;
        self.sum_tensor("gradients", gradient)?;
        end.record(StreamKind::Compute)?;
        Ok(end.ms_since(&start)? / 1e3)
    }

    /// tensor = its sum over ranks. On GPUs it is queued, as what follows on the compute stream.
    pub(super) fn sum_tensor(&self, what: &'static str, tensor: &mut Tensor) -> Result<()> {
        let view = tensor.view_mut();
        if let Some(clique) = self.clique() {
            all_reduce::start(clique, &mut [view])?;
            return clique.finish();
        }
        match view.dtype() {
            DType::F64 => self.comm.sum_f64(what, view.get::<f64>("all_reduce", "buffer")?),
            _ => self.comm.sum_f32(what, view.get::<f32>("all_reduce", "buffer")?),
        }
    }
}
