//! Shapes: the sizes of a tensor, outermost first.

use crate::error::{Error, Result};
use std::fmt;

pub const MAX_RANK: usize = 7;

/// Up to seven sizes, outermost first.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    dims: [usize; MAX_RANK],
    rank: usize,
}

impl Shape {
    /// Panics if there are more than [`MAX_RANK`] sizes: that is a programming error.
    pub fn new(dims: &[usize]) -> Shape {
        assert!(dims.len() <= MAX_RANK, "a shape has at most {MAX_RANK} axes, got {dims:?}");
        let mut shape = Shape { dims: [1; MAX_RANK], rank: dims.len() };
        shape.dims[..dims.len()].copy_from_slice(dims);
        shape
    }

    pub fn dims(&self) -> &[usize] {
        &self.dims[..self.rank]
    }

    /// Changes the outermost size.
    pub(super) fn set_leading(&mut self, n: usize) {
        self.dims[0] = n;
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

/// Checks a shape; the error names the op, the argument, what was wanted and what was found.
pub fn expect_shape(op: &'static str, arg: &'static str, got: Shape, wanted: impl Into<Shape>) -> Result<()> {
    let wanted = wanted.into();
    if got == wanted {
        return Ok(());
    }
    Err(Error::Shape { op, arg, wanted: format!("{wanted:?}"), got: format!("{got:?}") })
}
