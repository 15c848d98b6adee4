//! Tensors: a buffer and a shape, contiguous and row-major. No strides, no autograd.
//!
//! [`Tensor`] owns its memory; [`View`] and [`ViewMut`] borrow a contiguous part of it, so that the
//! flat buffer of trainable parameters can be handed to ops range by range. All memory of a run
//! comes from a [`plan::Plan`].

mod pages;
pub mod plan;

use crate::error::{Error, Result};
use std::fmt;

/// Element types that live in a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DType {
    F32,
    F64,
    U32,
}

impl DType {
    pub fn size_bytes(self) -> usize {
        match self {
            DType::F32 | DType::U32 => 4,
            DType::F64 => 8,
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

/// Memory on a device, of one element type.
#[derive(Debug, Clone)]
enum Buffer {
    F32(Vec<f32>),
    F64(Vec<f64>),
    U32(Vec<u32>),
}

/// Borrowed memory; see [`View`].
#[derive(Debug, Clone, Copy)]
enum Slice<'a> {
    F32(&'a [f32]),
    F64(&'a [f64]),
    U32(&'a [u32]),
}

#[derive(Debug)]
enum SliceMut<'a> {
    F32(&'a mut [f32]),
    F64(&'a mut [f64]),
    U32(&'a mut [u32]),
}

/// Rust types that can be elements.
pub trait Element: Copy + Send + Sync + Default + fmt::Debug + 'static {
    const DTYPE: DType;
    #[doc(hidden)]
    fn slice<'a>(view: View<'a>) -> Option<&'a [Self]>;
    #[doc(hidden)]
    fn slice_mut<'a>(view: ViewMut<'a>) -> Option<&'a mut [Self]>;
    #[doc(hidden)]
    fn own(values: Vec<Self>, shape: Shape) -> Tensor;
}

macro_rules! element {
    ($ty:ty, $variant:ident) => {
        impl Element for $ty {
            const DTYPE: DType = DType::$variant;
            fn slice<'a>(view: View<'a>) -> Option<&'a [Self]> {
                match view.data {
                    Slice::$variant(s) => Some(s),
                    _ => None,
                }
            }
            fn slice_mut<'a>(view: ViewMut<'a>) -> Option<&'a mut [Self]> {
                match view.data {
                    SliceMut::$variant(s) => Some(s),
                    _ => None,
                }
            }
            fn own(values: Vec<Self>, shape: Shape) -> Tensor {
                assert_eq!(values.len(), shape.len(), "{} values for shape {shape:?}", values.len());
                Tensor { buffer: Buffer::$variant(values), shape }
            }
        }
    };
}
element!(f32, F32);
element!(f64, F64);
element!(u32, U32);

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
            DType::F32 => Buffer::F32(pages::large(vec![0.0; len])),
            DType::F64 => Buffer::F64(pages::large(vec![0.0; len])),
            DType::U32 => Buffer::U32(pages::large(vec![0; len])),
        };
        Tensor { buffer, shape }
    }

    /// Panics if the number of values does not fit the shape: that is a programming error.
    pub fn from_vec<T: Element>(values: Vec<T>, shape: impl Into<Shape>) -> Tensor {
        T::own(values, shape.into())
    }

    /// A float tensor of the given type from f64 values, rounded once.
    pub fn from_f64(values: &[f64], shape: impl Into<Shape>, dtype: DType) -> Tensor {
        match dtype {
            DType::F64 => Tensor::from_vec(values.to_vec(), shape),
            DType::F32 => Tensor::from_vec(values.iter().map(|&v| v as f32).collect(), shape),
            DType::U32 => Tensor::from_vec(values.iter().map(|&v| v as u32).collect(), shape),
        }
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
        match self.buffer {
            Buffer::F32(_) => DType::F32,
            Buffer::F64(_) => DType::F64,
            Buffer::U32(_) => DType::U32,
        }
    }

    fn capacity(&self) -> usize {
        match &self.buffer {
            Buffer::F32(v) => v.len(),
            Buffer::F64(v) => v.len(),
            Buffer::U32(v) => v.len(),
        }
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
        let data = match &self.buffer {
            Buffer::F32(v) => Slice::F32(&v[..len]),
            Buffer::F64(v) => Slice::F64(&v[..len]),
            Buffer::U32(v) => Slice::U32(&v[..len]),
        };
        View { data, shape: self.shape }
    }

    pub fn view_mut(&mut self) -> ViewMut<'_> {
        let len = self.len();
        let data = match &mut self.buffer {
            Buffer::F32(v) => SliceMut::F32(&mut v[..len]),
            Buffer::F64(v) => SliceMut::F64(&mut v[..len]),
            Buffer::U32(v) => SliceMut::U32(&mut v[..len]),
        };
        ViewMut { data, shape: self.shape }
    }

    /// The values as a slice; `None` if the element type is another.
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

/// A borrowed, contiguous, read-only tensor.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    data: Slice<'a>,
    shape: Shape,
}

impl<'a> View<'a> {
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
        match self.data {
            Slice::F32(_) => DType::F32,
            Slice::F64(_) => DType::F64,
            Slice::U32(_) => DType::U32,
        }
    }

    /// The elements `start..start + shape.len()` as a tensor of that shape.
    pub fn part(self, start: usize, shape: impl Into<Shape>) -> View<'a> {
        let shape = shape.into();
        let range = start..start + shape.len();
        let data = match self.data {
            Slice::F32(s) => Slice::F32(&s[range]),
            Slice::F64(s) => Slice::F64(&s[range]),
            Slice::U32(s) => Slice::U32(&s[range]),
        };
        View { data, shape }
    }

    /// The same elements in another shape.
    pub fn reshaped(self, shape: impl Into<Shape>) -> View<'a> {
        let shape = shape.into();
        assert_eq!(shape.len(), self.len(), "{:?} cannot become {shape:?}", self.shape);
        View { shape, ..self }
    }

    pub fn to_f64(self) -> Vec<f64> {
        match self.data {
            Slice::F32(s) => s.iter().map(|&v| f64::from(v)).collect(),
            Slice::F64(s) => s.to_vec(),
            Slice::U32(s) => s.iter().map(|&v| f64::from(v)).collect(),
        }
    }

    /// The elements, for an op that has checked the type. Errors name the op and the argument.
    pub fn get<T: Element>(self, op: &'static str, arg: &'static str) -> Result<&'a [T]> {
        let got = self.dtype();
        T::slice(self).ok_or_else(|| Error::Shape {
            op,
            arg,
            wanted: format!("{:?}", T::DTYPE),
            got: format!("{got:?}"),
        })
    }
}

/// A borrowed, contiguous tensor to write.
#[derive(Debug)]
pub struct ViewMut<'a> {
    data: SliceMut<'a>,
    shape: Shape,
}

impl<'a> ViewMut<'a> {
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
        self.as_view().dtype()
    }

    /// A shorter borrow of the same elements.
    pub fn reborrow(&mut self) -> ViewMut<'_> {
        let data = match &mut self.data {
            SliceMut::F32(s) => SliceMut::F32(s),
            SliceMut::F64(s) => SliceMut::F64(s),
            SliceMut::U32(s) => SliceMut::U32(s),
        };
        ViewMut { data, shape: self.shape }
    }

    pub fn as_view(&self) -> View<'_> {
        let data = match &self.data {
            SliceMut::F32(s) => Slice::F32(s),
            SliceMut::F64(s) => Slice::F64(s),
            SliceMut::U32(s) => Slice::U32(s),
        };
        View { data, shape: self.shape }
    }

    /// The elements `start..start + shape.len()` as a tensor of that shape.
    pub fn part(self, start: usize, shape: impl Into<Shape>) -> ViewMut<'a> {
        let shape = shape.into();
        let range = start..start + shape.len();
        let data = match self.data {
            SliceMut::F32(s) => SliceMut::F32(&mut s[range]),
            SliceMut::F64(s) => SliceMut::F64(&mut s[range]),
            SliceMut::U32(s) => SliceMut::U32(&mut s[range]),
        };
        ViewMut { data, shape }
    }

    /// The same elements in another shape.
    pub fn reshaped(self, shape: impl Into<Shape>) -> ViewMut<'a> {
        let shape = shape.into();
        assert_eq!(shape.len(), self.len(), "{:?} cannot become {shape:?}", self.shape);
        ViewMut { shape, ..self }
    }

    pub fn fill(&mut self, value: f64) {
        match &mut self.data {
            SliceMut::F32(s) => s.fill(value as f32),
            SliceMut::F64(s) => s.fill(value),
            SliceMut::U32(s) => s.fill(value as u32),
        }
    }

    /// The elements, for an op that has checked the type. Errors name the op and the argument.
    pub fn get<T: Element>(self, op: &'static str, arg: &'static str) -> Result<&'a mut [T]> {
        let got = self.dtype();
        T::slice_mut(self).ok_or_else(|| Error::Shape {
            op,
            arg,
            wanted: format!("{:?}", T::DTYPE),
            got: format!("{got:?}"),
        })
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
