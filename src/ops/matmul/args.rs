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
