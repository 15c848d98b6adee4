//! Tensor maps: how the tensor memory accelerator of compute capability 9.0 reads matrices.

/// A matrix of 16-bit numbers, or one for each image, in global memory, read in boxes of 64 columns; made by
/// [`Gpu::tensor_map`](super::Gpu::tensor_map). In shared memory a row of a box takes 128 bytes, whose chunks of 16 bytes
/// are permuted by the row (the 128-byte swizzle). Beyond the matrix a box holds zeros, also where that of the next image
/// begins.
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
    /// Of how many matrices, `rows * stride` elements apart, this is the first. A map of images has three dimensions, the
    /// third one in boxes of one image; without them it has two.
    pub images: Option<usize>,
}

impl MappedMatrix {
    /// Whether there can be a map: addresses and distances of rows are multiples of 16 bytes, distances are below 2^40 bytes,
    /// and there is an image, a row and a column.
    pub fn has_map(&self) -> bool {
        let side = |n: usize| n > 0 && n <= i32::MAX as usize;
        let stride = self.stride.is_multiple_of(8) && self.stride >= self.cols;
        let (images, rows) = (self.images.unwrap_or(1), if self.images.is_some() { self.rows } else { 1 });
        let near = self.stride.checked_mul(rows).is_some_and(|distance| distance < 1 << 39);
        let single = self.rows == 1 && images == 1;
        let sides = side(images) && side(self.rows) && side(self.cols);
        self.address.is_multiple_of(16) && sides && ((stride && near) || single)
    }
}
