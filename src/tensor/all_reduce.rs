//! x = the sum of x over all ranks: gradients and counts of a batch whose parts are on several GPUs.

use super::{DType, ViewMut};
use crate::device::{Memory, NcclComm};
use crate::error::{Error, Result};

/// Starts, after all that the compute stream has been given: each x = its sum over the ranks of the clique, in place.
/// F32 on the clique's GPU; every rank gives the same numbers of elements in the same order. Returns at once. Between
/// this and `NcclComm::finish` nothing touches the elements, and what else is launched may run meanwhile.
///
/// # Precision
/// The sum is in f32, in an order that NCCL chooses by size, number of ranks and what connects them. All ranks get the
/// same bits.
///
/// # Errors
/// `Error::Shape` for elements that are not F32, or in host memory; and as `NcclComm::start`.
pub fn start(clique: &NcclComm, buffers: &mut [ViewMut]) -> Result<()> {
    let mut ranges: Vec<(&Memory, usize, usize)> = Vec::with_capacity(buffers.len());
    for x in buffers.iter() {
        let (wanted, got) = ("F32 in GPU memory".into(), x.as_view().describe());
        let span = x.as_view().span().filter(|span| span.dtype == DType::F32);
        ranges.push(span.ok_or(Error::Shape { op: "all_reduce", arg: "x", wanted, got })?.bytes());
    }
    clique.start(&ranges)
}
