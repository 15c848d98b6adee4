//! Sums over ranks in rank order.

use super::coordinator::Coordinator;
use crate::error::Result;
use std::ops::{AddAssign, Range};

/// Bytes of a buffer that are exchanged in one call, which bounds the extra memory of a sum.
const BLOCK: usize = 1 << 20;

/// A kind of number that ranks add.
pub trait Addend: bytemuck::Pod + AddAssign {
    const NAME: &str;
}

impl Addend for f32 {
    const NAME: &str = "f32";
}

impl Addend for f64 {
    const NAME: &str = "f64";
}

/// See [`super::Comm::sum_f32`].
pub fn all_ranks<T: Addend>(
    coordinator: &Coordinator,
    local: usize,
    what: &str,
    buffer: &mut [T],
) -> Result<()> {
    let purpose = format!("adding {} {} values of `{what}`", buffer.len(), T::NAME);
    for block in buffer.chunks_mut(BLOCK / size_of::<T>()) {
        if coordinator.topology().processes() == 1 {
            add_in_parts(coordinator, local, &purpose, block)?;
        } else {
            // Process 0 adds: sending the values of all ranks to all would cost as many times the bytes.
            let bytes = bytemuck::cast_slice(block).to_vec();
            let sum = coordinator.exchange(local, &purpose, bytes, |all| vec![added::<T>(all)])?;
            bytemuck::cast_slice_mut(block).copy_from_slice(&sum[0]);
        }
    }
    Ok(())
}

/// Every rank adds its part of the block, then all ranks gather the parts.
fn add_in_parts<T: Addend>(
    coordinator: &Coordinator,
    local: usize,
    purpose: &str,
    block: &mut [T],
) -> Result<()> {
    let ranks = coordinator.topology().size();
    let part = |rank: usize| block_part(block.len(), rank, ranks);
    let (mine, all_parts) = (part(local), (0..ranks).map(part).collect::<Vec<_>>());
    let all = coordinator.exchange(local, purpose, bytemuck::cast_slice(block).to_vec(), |all| all)?;
    let bytes = mine.start * size_of::<T>()..mine.end * size_of::<T>();
    let mine = &mut block[mine];
    bytemuck::cast_slice_mut(mine).copy_from_slice(&all[0][bytes.clone()]);
    for other in &all[1..] {
        add(mine, &other[bytes.clone()]);
    }
    drop(all);
    let sums = coordinator.exchange(local, purpose, bytemuck::cast_slice(mine).to_vec(), |all| all)?;
    for (part, sum) in all_parts.into_iter().zip(sums.iter()) {
        bytemuck::cast_slice_mut(&mut block[part]).copy_from_slice(sum);
    }
    Ok(())
}

fn block_part(length: usize, rank: usize, ranks: usize) -> Range<usize> {
    length * rank / ranks..length * (rank + 1) / ranks
}

fn added<T: Addend>(all: Vec<Vec<u8>>) -> Vec<u8> {
    let mut all = all.into_iter();
    let first = all.next().unwrap_or_default();
    let mut sum = vec![T::zeroed(); first.len() / size_of::<T>()];
    bytemuck::cast_slice_mut(&mut sum).copy_from_slice(&first);
    for other in all {
        add(&mut sum, &other);
    }
    bytemuck::cast_slice(&sum).to_vec()
}

/// `into` += the numbers in `bytes`, which need not be aligned.
fn add<T: Addend>(into: &mut [T], bytes: &[u8]) {
    for (sum, bytes) in into.iter_mut().zip(bytes.chunks_exact(size_of::<T>())) {
        *sum += bytemuck::pod_read_unaligned::<T>(bytes);
    }
}
