//! Memory for large buffers: aligned to a cache line, so that no vector of a row lies across two, and backed by
//! large pages. Reading a matrix of 12 kB rows by columns touches a new 4 KiB page in every row; with pages of 2 MiB
//! the address translations stay in the processor's cache.

use bytemuck::Pod;
use std::ops::{Deref, DerefMut};

/// Bytes of a cache line.
pub const LINE: usize = 64;

/// A buffer of this size certainly contains a whole large page.
const LARGE_FROM_BYTES: usize = 4 << 20;

/// A slice that owns its memory.
#[derive(Debug)]
pub struct Memory<T> {
    values: Vec<T>,
    /// Elements of `values` before the first that is used, and how many are.
    skip: usize,
    len: usize,
}

impl<T: Pod> Memory<T> {
    /// Zeros, aligned to a cache line.
    pub fn zeros(len: usize) -> Memory<T> {
        let spare = if len == 0 { 0 } else { LINE / size_of::<T>() };
        let values = large(vec![T::zeroed(); len + spare]);
        let skip = values.as_ptr().align_offset(LINE).min(spare);
        Memory { values, skip, len }
    }
}

/// Takes over the memory of the vector, without alignment.
impl<T> From<Vec<T>> for Memory<T> {
    fn from(values: Vec<T>) -> Memory<T> {
        Memory { skip: 0, len: values.len(), values }
    }
}

impl<T: Pod> Clone for Memory<T> {
    fn clone(&self) -> Memory<T> {
        let mut copy = Memory::zeros(self.len());
        copy.copy_from_slice(self);
        copy
    }
}

impl<T> Deref for Memory<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.values[self.skip..self.skip + self.len]
    }
}

impl<T> DerefMut for Memory<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.values[self.skip..self.skip + self.len]
    }
}

/// Asks the system to back `values`, which must not have been written to yet, with large pages. This is advice:
/// where the system does not follow it, nothing changes.
#[cfg(target_os = "linux")]
fn large<T>(mut values: Vec<T>) -> Vec<T> {
    use rustix::mm::{Advice, madvise};
    let bytes = std::mem::size_of_val(values.as_slice());
    if bytes < LARGE_FROM_BYTES {
        return values;
    }
    let page = rustix::param::page_size();
    let start = values.as_mut_ptr().cast::<u8>();
    let skip = start.align_offset(page);
    let len = (bytes - skip) / page * page;
    // SAFETY: the whole pages between `start + skip` and the end belong to `values`, and this advice
    // does not change what they hold.
    let _ = unsafe { madvise(start.add(skip).cast(), len, Advice::LinuxHugepage) };
    values
}

#[cfg(not(target_os = "linux"))]
fn large<T>(values: Vec<T>) -> Vec<T> {
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_begins_at_a_line_and_is_zero() {
        for len in [0, 1, 15, 16, 1000, 5 << 20] {
            let mut memory = Memory::<f32>::zeros(len);
            assert_eq!(memory.len(), len);
            assert!(memory.iter().all(|&v| v == 0.0));
            assert!(len == 0 || memory.as_ptr().addr().is_multiple_of(LINE));
            memory.fill(2.0);
            let copy = memory.clone();
            assert!(copy.len() == len && copy.iter().all(|&v| v == 2.0));
            assert!(len == 0 || copy.as_ptr().addr().is_multiple_of(LINE));
        }
        assert_eq!(&*Memory::from(vec![1_u8, 2, 3]), [1, 2, 3]);
    }
}
