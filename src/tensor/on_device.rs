//! Tensors in the memory of a GPU.

use super::storage::{Element, typed};
use super::{DType, Shape, Tensor, View, ViewMut};
use crate::device::{Argument, Cell, Gpu, Memory, Pinned, StreamKind};
use crate::error::{Error, Result};
use half::{bf16, f16};
use std::ops::Range;
use std::sync::Arc;

/// Owned device memory of one element type.
#[derive(Debug)]
pub(super) struct DeviceBuffer {
    pub memory: Memory,
    pub dtype: DType,
}

impl DeviceBuffer {
    /// Not initialised.
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
    /// Panics where there is no memory for a second one.
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
    pub memory: &'a Memory,
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

    /// The memory, and where in it how many bytes lie.
    pub fn bytes(self) -> (&'a Memory, usize, usize) {
        (self.memory, self.byte(), self.len * self.dtype.size_bytes())
    }

    /// Sets the elements from the host.
    pub fn write<T: Element>(self, values: &[T]) -> Result<()> {
        self.memory.write(self.byte(), bytemuck::cast_slice(values))
    }

    /// Starts setting the elements from the host.
    pub fn upload<T: Element>(self, values: &[T], staging: &mut Pinned, lane: StreamKind) -> Result<()> {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        staging.bytes_mut()?[..bytes.len()].copy_from_slice(bytes);
        staging.upload(self.memory, self.byte(), bytes.len(), lane)
    }

    /// Starts copying the elements to the front of pinned memory.
    pub fn download(self, to: &mut Pinned, lane: StreamKind) -> Result<()> {
        to.download(self.memory, self.byte(), self.len * self.dtype.size_bytes(), lane)
    }

    /// Sets the elements from another range of the same type.
    pub fn copy(self, from: Span) -> Result<()> {
        self.memory.copy(self.byte(), from.memory, from.byte(), self.len * self.dtype.size_bytes())
    }

    /// The elements, when the device has computed them.
    pub fn read<T: Element>(self) -> Result<Vec<T>> {
        let mut values = vec![T::default(); self.len];
        self.memory.read(self.byte(), bytemuck::cast_slice_mut(&mut values))?;
        Ok(values)
    }

    pub fn read_f64(self) -> Result<Vec<f64>> {
        typed!(self.dtype, T => Ok(self.read::<T>()?.into_iter().map(Element::wide).collect()))
    }

    pub fn read_tensor(self, shape: Shape) -> Result<Tensor> {
        typed!(self.dtype, T => Ok(Tensor::from_vec(self.read::<T>()?, shape)))
    }

    pub fn fill(self, value: f64) -> Result<()> {
        typed!(self.dtype, T => {
            self.memory.fill(self.byte(), bytemuck::bytes_of(&T::narrow(value)), self.len)
        })
    }
}

fn argument(dtype: DType, span: Option<Span>) -> (&'static str, Cell) {
    let kind = match dtype {
        DType::F32 => "*f32",
        DType::F64 => "*f64",
        DType::BF16 => "*bf16",
        DType::F16 => "*f16",
        DType::U32 => "*u32",
        DType::U8 => "*u8",
    };
    (kind, span.map_or(Cell::HostMemory, |s| Cell::Pointer(s.address())))
}

/// The address of the first element.
impl Argument for View<'_> {
    fn argument(&self) -> (&'static str, Cell) {
        argument(self.dtype(), self.span())
    }
}

impl Argument for ViewMut<'_> {
    fn argument(&self) -> (&'static str, Cell) {
        argument(self.dtype(), self.as_view().span())
    }
}
