//! Tensor maps: how the tensor memory accelerator of compute capability 9.0 reads a matrix.

/// A matrix of 16-bit numbers in global memory, read in boxes of 64 columns; made by
/// [`Gpu::tensor_map`](super::Gpu::tensor_map). In shared memory a row of a box takes 128 bytes, whose chunks of 16 bytes
/// are permuted by the row (the 128-byte swizzle). Beyond the matrix a box holds zeros.
///
/// Source: CUDA Driver API 13.0, `cuTensorMapEncodeTiled`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TensorMap(pub(super) [u64; 16]);

/// A matrix that a map is made of: `rows` x `cols` from `address` on, with rows `stride` elements apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MappedMatrix {
    pub address: u64,
    pub rows: usize,
    pub cols: usize,
    pub stride: usize,
}

impl MappedMatrix {
    /// Whether there can be a map: addresses and distances of rows are multiples of 16 bytes, distances are below 2^40 bytes,
    /// and there is a row and a column.
    pub fn has_map(&self) -> bool {
        let side = |n: usize| n > 0 && n <= i32::MAX as usize;
        let stride = self.stride.is_multiple_of(8) && self.stride < 1 << 39 && self.stride >= self.cols;
        self.address.is_multiple_of(16) && side(self.rows) && side(self.cols) && (stride || self.rows == 1)
    }
}
