//! Tensors: a buffer and a shape, contiguous and row-major. No strides, no autograd.
//!
//! [`Tensor`] owns its memory; [`View`] and [`ViewMut`] borrow a contiguous part of it, so that the
//! flat buffer of trainable parameters can be handed to ops range by range. All memory of a run
//! comes from a [`plan::Plan`].

pub mod all_reduce;
pub mod input;
pub(crate) mod memory;
mod on_device;
pub mod plan;
mod storage;
mod view;

pub use storage::Element;
pub use view::{View, ViewMut};

use crate::device::{Device, ElementType};
use crate::error::{Error, Result};
use half::{bf16, f16};
use memory::Memory;
use on_device::DeviceBuffer;
use std::fmt;
use storage::{Buffer, Slice, SliceMut, element, host, map, typed};

/// Element types that live in a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DType {
    F32,
    F64,
    /// 8 bits of exponent, 7 of mantissa.
    BF16,
    /// 5 bits of exponent, 10 of mantissa.
    F16,
    U32,
    U8,
}

impl DType {
    pub fn size_bytes(self) -> usize {
        match self {
            DType::F32 | DType::U32 => 4,
            DType::F64 => 8,
            DType::BF16 | DType::F16 => 2,
            DType::U8 => 1,
        }
    }

    /// The type of what is never kept in 16 bits, beside activations of this type.
    pub fn accum_dtype(self) -> DType {
        match self {
            DType::BF16 | DType::F16 => DType::F32,
            same => same,
        }
    }

    /// The form of kernels for activations of this type. Errors name the op and the argument.
    pub fn form(self, op: &'static str, arg: &'static str) -> Result<ElementType> {
        match self {
            DType::F32 => Ok(ElementType::F32),
            DType::BF16 => Ok(ElementType::Bf16),
            DType::F16 => Ok(ElementType::F16),
            _ => Err(Error::Shape { op, arg, wanted: "F32, BF16 or F16".into(), got: format!("{self:?}") }),
        }
    }
}

pub const MAX_RANK: usize = 7;

/// Up to seven extents, outermost first.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    dims: [usize; MAX_RANK],
    rank: usize,
}

impl Shape {
    /// Panics if there are more than [`MAX_RANK`] extents: that is a programming error.
    pub fn new(dims: &[usize]) -> Shape {
        assert!(dims.len() <= MAX_RANK, "a shape has at most {MAX_RANK} axes, got {dims:?}");
        let mut shape = Shape { dims: [1; MAX_RANK], rank: dims.len() };
        shape.dims[..dims.len()].copy_from_slice(dims);
        shape
    }

    pub fn dims(&self) -> &[usize] {
        &self.dims[..self.rank]
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.dims().iter().product()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:?}", self.dims())
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(dims: [usize; N]) -> Shape {
        Shape::new(&dims)
    }
}

impl From<&[usize]> for Shape {
    fn from(dims: &[usize]) -> Shape {
        Shape::new(dims)
    }
}

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
    fn hollow(shape: Shape, dtype: DType) -> Tensor {
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
        T::own(values, shape.into())
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

    /// Elements that it has memory for.
    pub fn capacity(&self) -> usize {
        host!(Buffer, &self.buffer, v => v.len(), d => d.len())
    }

    /// Of the memory that the tensor was made with.
    pub fn capacity_bytes(&self) -> usize {
        self.capacity() * self.dtype().size_bytes()
    }

    /// Changes the outermost extent, within the memory the tensor was made with.
    pub fn set_leading(&mut self, n: usize) {
        let old = self.shape;
        self.shape.dims[0] = n;
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
        T::slice(self.view())
    }

    pub fn as_mut_slice<T: Element>(&mut self) -> Option<&mut [T]> {
        T::slice_mut(self.view_mut())
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

/// Checks a shape; the error names the op, the argument, what was wanted and what was found.
pub fn expect_shape(op: &'static str, arg: &'static str, got: Shape, wanted: impl Into<Shape>) -> Result<()> {
    let wanted = wanted.into();
    if got == wanted {
        return Ok(());
    }
    Err(Error::Shape { op, arg, wanted: format!("{wanted:?}"), got: format!("{got:?}") })
}
