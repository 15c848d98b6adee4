//! x = the sum of x over all ranks: gradients and counts of a batch that is spread over several GPUs.

use super::dtype::DType;
use super::view::ViewMut;
use crate::device::{GpuMemory, NcclComm};
use crate::error::{Error, Result};

/// Queues x = the sum of x over the ranks of `comm`, in place, behind everything that is on the compute stream. F32 on
/// the GPU of `comm`; every rank passes the same numbers of elements in the same order. Returns at once. Nothing may
/// touch the elements before `NcclComm::finish`; other kernels may run meanwhile.
///
/// # Precision
/// The sum is in f32, in an order that NCCL chooses by size, number of ranks and their connections. All ranks get the
/// same bits.
///
/// # Errors
/// `Error::Shape` for elements that are not F32, or in host memory; and as `NcclComm::start`.
pub fn start(comm: &NcclComm, buffers: &mut [ViewMut]) -> Result<()> {
    let mut ranges: Vec<(&GpuMemory, usize, usize)> = Vec::with_capacity(buffers.len());
    for x in buffers.iter() {
        let (wanted, got) = ("F32 in GPU memory".into(), x.as_view().describe());
        let span = x.as_view().span().filter(|span| span.dtype == DType::F32);
        ranges.push(span.ok_or(Error::Shape { op: "all_reduce", arg: "x", wanted, got })?.bytes());
    }
    comm.start(&ranges)
}
