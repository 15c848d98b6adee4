//! Borrowed tensors.

use super::dtype::{DType, Element};
use super::on_device::Span;
use super::shape::Shape;
use super::storage::{Slice, SliceMut, element, host, map};
use crate::device::{Pinned, StreamKind};
use crate::error::{Error, Result};

/// A borrowed, contiguous, read-only tensor.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    pub(super) data: Slice<'a>,
    pub(super) shape: Shape,
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
        host!(Slice, self.data, s => element(s), d => d.dtype)
    }

    /// The elements `start..start + shape.len()` as a tensor of that shape.
    pub fn part(self, start: usize, shape: impl Into<Shape>) -> View<'a> {
        let shape = shape.into();
        let range = start..start + shape.len();
        View { data: map!(Slice => Slice, self.data, s => &s[range], d => d.part(range)), shape }
    }

    /// The rows `rows` of the outermost axis.
    pub fn rows(self, rows: std::ops::Range<usize>) -> View<'a> {
        let mut shape = self.shape;
        shape.set_leading(rows.len());
        self.part(rows.start * (self.len() / self.dims()[0].max(1)), shape)
    }

    /// The same elements in another shape.
    pub fn reshaped(self, shape: impl Into<Shape>) -> View<'a> {
        let shape = shape.into();
        assert_eq!(shape.len(), self.len(), "{:?} cannot become {shape:?}", self.shape);
        View { shape, ..self }
    }

    /// The values widened to f64, for checks, files and prints. On a GPU it waits until they are computed.
    ///
    /// Panics if the GPU has failed; [`View::read_f64`] returns the error instead.
    pub fn to_f64(self) -> Vec<f64> {
        host!(Slice, self.data,
            s => s.iter().map(|v| v.wide()).collect(),
            d => d.read_f64().unwrap_or_else(|e| panic!("{e}")))
    }

    /// As [`View::to_f64`].
    ///
    /// # Errors
    /// `Error::Failed` if the GPU has failed.
    pub fn read_f64(self) -> Result<Vec<f64>> {
        self.span().map_or_else(|| Ok(self.to_f64()), Span::read_f64)
    }

    /// A copy of the values. On a GPU it waits until they are computed.
    ///
    /// # Errors
    /// `Error::Failed` if the element type is another, or the GPU has failed.
    pub fn read<T: Element>(self) -> Result<Vec<T>> {
        if self.dtype() != T::DTYPE {
            return Err(Error::failed(format!("reading {:?} from a tensor of {:?}", T::DTYPE, self.dtype())));
        }
        match self.span() {
            Some(span) => span.read(),
            None => Ok(self.data.typed::<T>().unwrap_or_default().to_vec()),
        }
    }

    /// The elements in host memory, for an op that has checked the type. Errors name the op and the
    /// argument.
    pub fn get<T: Element>(self, op: &'static str, arg: &'static str) -> Result<&'a [T]> {
        let got = self.describe();
        self.data.typed().ok_or_else(|| Error::Shape { op, arg, wanted: format!("{:?}", T::DTYPE), got })
    }

    pub(super) fn describe(&self) -> String {
        let place = if self.span().is_some() { " in GPU memory" } else { "" };
        format!("{:?}{place}", self.dtype())
    }

    /// Starts a copy from the GPU to the front of pinned memory.
    ///
    /// # Errors
    /// `Error::Failed` for a tensor in host memory, or if the GPU has failed.
    pub fn download(self, to: &mut Pinned, stream: StreamKind) -> Result<()> {
        let Some(span) = self.span() else { return Err(Error::failed("a download from host memory")) };
        span.download(to, stream)
    }

    pub fn is_on_gpu(&self) -> bool {
        self.span().is_some()
    }

    pub(super) fn span(&self) -> Option<Span<'a>> {
        host!(Slice, self.data, _ => None, d => Some(d))
    }
}

/// A borrowed, contiguous tensor to write.
#[derive(Debug)]
pub struct ViewMut<'a> {
    pub(super) data: SliceMut<'a>,
    pub(super) shape: Shape,
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
        ViewMut { data: map!(SliceMut => SliceMut, &mut self.data, s => s, d => *d), shape: self.shape }
    }

    pub fn as_view(&self) -> View<'_> {
        View { data: map!(SliceMut => Slice, &self.data, s => s, d => *d), shape: self.shape }
    }

    /// The elements `start..start + shape.len()` as a tensor of that shape.
    pub fn part(self, start: usize, shape: impl Into<Shape>) -> ViewMut<'a> {
        let shape = shape.into();
        let range = start..start + shape.len();
        ViewMut { data: map!(SliceMut => SliceMut, self.data, s => &mut s[range], d => d.part(range)), shape }
    }

    /// The same elements in another shape.
    pub fn reshaped(self, shape: impl Into<Shape>) -> ViewMut<'a> {
        let shape = shape.into();
        assert_eq!(shape.len(), self.len(), "{:?} cannot become {shape:?}", self.shape);
        ViewMut { shape, ..self }
    }

    /// Sets all elements. The failure of a GPU is returned by the next call that can return an error.
    pub fn fill(&mut self, value: f64) {
        host!(SliceMut, &mut self.data, s => s.fill(Element::narrow(value)), d => {
            let _ = d.fill(value);
        });
    }

    /// Sets the elements from host memory.
    ///
    /// # Errors
    /// As [`ViewMut::copy_from`].
    pub fn write<T: Element>(&mut self, values: &[T]) -> Result<()> {
        if self.len() != values.len() || self.dtype() != T::DTYPE {
            return Err(Error::failed(format!(
                "{} values of {:?} for a tensor of {:?} {:?}",
                values.len(),
                T::DTYPE,
                self.dtype(),
                self.shape
            )));
        }
        match self.as_view().span() {
            Some(span) => span.write(values),
            None => {
                self.reborrow().get::<T>("write", "values")?.copy_from_slice(values);
                Ok(())
            }
        }
    }

    /// Starts a copy from host memory to the GPU through pinned memory, which must stay untouched until the
    /// copy is done.
    ///
    /// # Errors
    /// As [`ViewMut::copy_from`].
    pub fn upload(&mut self, from: View, staging: &mut Pinned, stream: StreamKind) -> Result<()> {
        let Some(to) = self.as_view().span() else { return self.copy_from(from) };
        if self.len() != from.len() || self.dtype() != from.dtype() {
            return self.copy_from(from);
        }
        host!(Slice, from.data, s => to.upload(s, staging, stream), d => to.copy(d))
    }

    /// Copies the elements of a tensor of the same length and type, in host or device memory. It waits between
    /// host and device; within a GPU the copy is queued.
    ///
    /// # Errors
    /// `Error::Failed` if lengths or types differ, or a GPU has failed.
    pub fn copy_from(&mut self, from: View) -> Result<()> {
        if self.len() != from.len() || self.dtype() != from.dtype() {
            return Err(Error::failed(format!(
                "a copy of {:?} {:?} to {:?} {:?}",
                from.dtype(),
                from.shape(),
                self.dtype(),
                self.shape
            )));
        }
        match (self.as_view().span(), from.span()) {
            (Some(to), Some(from)) => to.copy(from),
            (Some(to), None) => host!(Slice, from.data, s => to.write(s), _ => Ok(())),
            (None, _) => host!(SliceMut, &mut self.data, s => {
                match from.span() {
                    Some(span) => s.copy_from_slice(&span.read()?),
                    None => s.copy_from_slice(from.get("copy", "from")?),
                }
                Ok(())
            }, _ => Ok(())),
        }
    }

    /// The elements in host memory, for an op that has checked the type. Errors name the op and the
    /// argument.
    pub fn get<T: Element>(self, op: &'static str, arg: &'static str) -> Result<&'a mut [T]> {
        let got = self.as_view().describe();
        self.data.typed().ok_or_else(|| Error::Shape { op, arg, wanted: format!("{:?}", T::DTYPE), got })
    }
}
