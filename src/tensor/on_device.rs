//! Buffers and ranges of elements in the memory of a GPU.

use super::dtype::{DType, Element, typed};
use crate::device::{Gpu, GpuMemory, Pinned, StreamKind};
use crate::error::{Error, Result};
use half::{bf16, f16};
use std::ops::Range;
use std::sync::Arc;

/// Owned device memory of one element type.
#[derive(Debug)]
pub(super) struct DeviceBuffer {
    pub memory: GpuMemory,
    pub dtype: DType,
}

impl DeviceBuffer {
    /// Memory with undefined contents.
    pub fn new(gpu: &Arc<Gpu>, len: usize, dtype: DType) -> Result<DeviceBuffer> {
        if dtype == DType::F64 {
            return Err(Error::failed(format!("{}: F64 tensors live on the CPU only", gpu.name())));
        }
        Ok(DeviceBuffer { memory: gpu.allocate(len * dtype.size_bytes())?, dtype })
    }

    pub fn len(&self) -> usize {
        self.memory.bytes() / self.dtype.size_bytes()
    }

    pub fn span(&self, len: usize) -> Span<'_> {
        assert!(len <= self.len(), "{len} of {} elements", self.len());
        Span { memory: &self.memory, dtype: self.dtype, start: 0, len }
    }
}

impl Clone for DeviceBuffer {
    /// Panics if the GPU has too little memory for the copy.
    fn clone(&self) -> DeviceBuffer {
        let copy = DeviceBuffer::new(self.memory.gpu(), self.len(), self.dtype);
        let copied = copy.and_then(|to| {
            to.span(self.len()).copy(self.span(self.len()))?;
            Ok(to)
        });
        copied.unwrap_or_else(|e| panic!("{e}"))
    }
}

/// A range of elements in device memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span<'a> {
    pub memory: &'a GpuMemory,
    pub dtype: DType,
    /// In elements.
    start: usize,
    len: usize,
}

impl<'a> Span<'a> {
    pub fn part(self, range: Range<usize>) -> Span<'a> {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {} elements", self.len);
        Span { start: self.start + range.start, len: range.len(), ..self }
    }

    fn byte(self) -> usize {
        self.start * self.dtype.size_bytes()
    }

    pub fn address(self) -> u64 {
        self.memory.address(self.byte())
    }

    /// The memory, the first byte in it, and the number of bytes.
    pub fn bytes(self) -> (&'a GpuMemory, usize, usize) {
        (self.memory, self.byte(), self.len * self.dtype.size_bytes())
    }

    /// Sets the elements from the host.
    pub fn write<T: Element>(self, values: &[T]) -> Result<()> {
        self.memory.write(self.byte(), bytemuck::cast_slice(values))
    }

    /// Starts setting the elements from the host.
    pub fn upload<T: Element>(self, values: &[T], staging: &mut Pinned, stream: StreamKind) -> Result<()> {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        staging.bytes_mut()?[..bytes.len()].copy_from_slice(bytes);
        staging.upload(self.memory, self.byte(), bytes.len(), stream)
    }

    /// Starts copying the elements to the front of pinned memory.
    pub fn download(self, to: &mut Pinned, stream: StreamKind) -> Result<()> {
        to.download(self.memory, self.byte(), self.len * self.dtype.size_bytes(), stream)
    }

    /// Sets the elements from another range of the same type.
    pub fn copy(self, from: Span) -> Result<()> {
        self.memory.copy(self.byte(), from.memory, from.byte(), self.len * self.dtype.size_bytes())
    }

    /// The elements. Waits until the device has computed them.
    pub fn read<T: Element>(self) -> Result<Vec<T>> {
        let mut values = vec![T::default(); self.len];
        self.memory.read(self.byte(), bytemuck::cast_slice_mut(&mut values))?;
        Ok(values)
    }

    pub fn read_f64(self) -> Result<Vec<f64>> {
        typed!(self.dtype, T => Ok(self.read::<T>()?.into_iter().map(Element::wide).collect()))
    }

    pub fn fill(self, value: f64) -> Result<()> {
        typed!(self.dtype, T => {
            self.memory.fill(self.byte(), bytemuck::bytes_of(&T::narrow(value)), self.len)
        })
    }
}
