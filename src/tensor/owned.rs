//! Tensors that own their memory.

use super::dtype::{DType, Element, typed};
use super::memory::Memory;
use super::on_device::DeviceBuffer;
use super::shape::Shape;
use super::storage::{Buffer, Slice, SliceMut, element, host, map};
use super::view::{View, ViewMut};
use crate::device::Device;
use crate::error::Result;
use half::{bf16, f16};
use std::fmt;

/// An owned tensor. The buffer may be longer than the shape needs: a workspace made for a batch of
/// `B` also serves smaller batches, see [`Tensor::set_leading`].
#[derive(Clone)]
pub struct Tensor {
    buffer: Buffer,
    shape: Shape,
}

impl Tensor {
    pub fn zeros(shape: impl Into<Shape>, dtype: DType) -> Tensor {
        let shape = shape.into();
        let len = shape.len();
        let buffer = match dtype {
            DType::F32 => Buffer::F32(Memory::zeros(len)),
            DType::F64 => Buffer::F64(Memory::zeros(len)),
            DType::BF16 => Buffer::BF16(Memory::zeros(len)),
            DType::F16 => Buffer::F16(Memory::zeros(len)),
            DType::U32 => Buffer::U32(Memory::zeros(len)),
            DType::U8 => Buffer::U8(Memory::zeros(len)),
        };
        Tensor { buffer, shape }
    }

    /// A shape without memory behind it, for plans that only count.
    pub(super) fn hollow(shape: Shape, dtype: DType) -> Tensor {
        Tensor { shape, ..Tensor::zeros([0], dtype) }
    }

    /// Zeros in the memory of a device.
    ///
    /// # Errors
    /// `Error::Failed` if a GPU has too little memory, or for F64 on a GPU.
    pub fn zeros_on(dev: &Device, shape: impl Into<Shape>, dtype: DType) -> Result<Tensor> {
        let shape = shape.into();
        match dev.gpu() {
            None => Ok(Tensor::zeros(shape, dtype)),
            Some(gpu) => {
                let buffer = DeviceBuffer::new(gpu, shape.len(), dtype)?;
                buffer.span(shape.len()).fill(0.0)?;
                Ok(Tensor { buffer: Buffer::Device(buffer), shape })
            }
        }
    }

    /// A copy in the memory of a device.
    ///
    /// # Errors
    /// As [`Tensor::zeros_on`].
    pub fn to(&self, dev: &Device) -> Result<Tensor> {
        match dev.gpu() {
            None => self.view().to_host(),
            Some(gpu) => {
                let buffer = Buffer::Device(DeviceBuffer::new(gpu, self.len(), self.dtype())?);
                let mut copy = Tensor { buffer, shape: self.shape };
                copy.view_mut().copy_from(self.view())?;
                Ok(copy)
            }
        }
    }

    /// Panics if the number of values does not fit the shape: that is a programming error.
    pub fn from_vec<T: Element>(values: Vec<T>, shape: impl Into<Shape>) -> Tensor {
        let shape = shape.into();
        assert_eq!(values.len(), shape.len(), "{} values for shape {shape:?}", values.len());
        Tensor { buffer: Buffer::from_vec(values), shape }
    }

    /// A tensor of the given type in host memory from f64 values, rounded once.
    pub fn from_f64(values: &[f64], shape: impl Into<Shape>, dtype: DType) -> Tensor {
        typed!(dtype, T => Tensor::from_vec(values.iter().map(|&v| T::narrow(v)).collect(), shape))
    }

    pub fn shape(&self) -> Shape {
        self.shape
    }

    pub fn dims(&self) -> &[usize] {
        self.shape.dims()
    }

    pub fn len(&self) -> usize {
        self.shape.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn dtype(&self) -> DType {
        host!(Buffer, &self.buffer, v => element(v), d => d.dtype)
    }

    /// The number of elements that the memory holds.
    pub fn capacity(&self) -> usize {
        host!(Buffer, &self.buffer, v => v.len(), d => d.len())
    }

    /// The size of the memory in bytes.
    pub fn capacity_bytes(&self) -> usize {
        self.capacity() * self.dtype().size_bytes()
    }

    /// Changes the outermost size, within the memory that the tensor was made with.
    pub fn set_leading(&mut self, n: usize) {
        let old = self.shape;
        self.shape.set_leading(n);
        assert!(
            self.shape.len() <= self.capacity(),
            "a tensor made for {} elements cannot become {:?} (was {old:?})",
            self.capacity(),
            self.shape
        );
    }

    /// The same memory as another shape of at most as many elements.
    pub fn reshape(&mut self, shape: impl Into<Shape>) {
        let shape = shape.into();
        assert!(shape.len() <= self.capacity(), "{shape:?} does not fit {} elements", self.capacity());
        self.shape = shape;
    }

    pub fn view(&self) -> View<'_> {
        let len = self.len();
        let data = map!(Buffer => Slice, &self.buffer, v => &v[..len], d => d.span(len));
        View { data, shape: self.shape }
    }

    pub fn view_mut(&mut self) -> ViewMut<'_> {
        let len = self.len();
        let data = map!(Buffer => SliceMut, &mut self.buffer, v => &mut v[..len], d => d.span(len));
        ViewMut { data, shape: self.shape }
    }

    /// The values as a slice; `None` if the element type is another, or they are on a GPU.
    pub fn as_slice<T: Element>(&self) -> Option<&[T]> {
        self.view().data.typed()
    }

    pub fn as_mut_slice<T: Element>(&mut self) -> Option<&mut [T]> {
        self.view_mut().data.typed()
    }

    /// The values widened to f64, for checks, files and prints.
    pub fn to_f64(&self) -> Vec<f64> {
        self.view().to_f64()
    }

    pub fn fill(&mut self, value: f64) {
        self.view_mut().fill(value);
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Tensor({:?}, {:?})", self.dtype(), self.shape)
    }
}

impl View<'_> {
    /// The values as a tensor in host memory.
    ///
    /// # Errors
    /// `Error::Failed` if the GPU has failed.
    pub fn to_host(self) -> Result<Tensor> {
        let shape = self.shape;
        host!(Slice, self.data,
            s => Ok(Tensor::from_vec(s.to_vec(), shape)),
            d => typed!(d.dtype, T => Ok(Tensor::from_vec(d.read::<T>()?, shape))))
    }
}
