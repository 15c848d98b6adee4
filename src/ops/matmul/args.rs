//! The arguments of `matmul`.

/// Where a matrix lies in a tensor: element (i, j) is at `offset + i * stride + j`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    pub rows: usize,
    pub cols: usize,
    pub offset: usize,
    pub stride: usize,
}

impl Layout {
    pub fn dense(rows: usize, cols: usize) -> Layout {
        Layout { rows, cols, offset: 0, stride: cols }
    }

    /// The columns `start..start + cols` of this matrix.
    pub fn columns(self, start: usize, cols: usize) -> Layout {
        Layout { cols, offset: self.offset + start, ..self }
    }

    pub(super) fn end(&self) -> usize {
        if self.rows == 0 || self.cols == 0 {
            return 0;
        }
        self.offset + (self.rows - 1) * self.stride + self.cols
    }
}

/// Whether a product replaces its destination or is added to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    Set,
    Add,
}

/// What y holds before the products are added.
#[derive(Debug, Clone, Copy)]
pub enum Start<'a, T> {
    Zero,
    /// bias: (n)
    Bias(&'a [T]),
    /// bias: (n), residual: (B·R, n)
    Residual(&'a [T], &'a [T]),
    /// y itself.
    Own,
}

impl<T> Start<'_, T> {
    /// Panics unless bias and residual go with a y of `len` elements in rows of n.
    pub(super) fn check(&self, n: usize, len: usize) {
        match self {
            Start::Zero | Start::Own => {}
            Start::Bias(bias) => assert_eq!(bias.len(), n),
            Start::Residual(bias, residual) => assert_eq!((bias.len(), residual.len()), (n, len)),
        }
    }
}
