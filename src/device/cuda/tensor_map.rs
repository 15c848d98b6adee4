//! Tensor maps: how the tensor memory accelerator of compute capability 9.0 reads a matrix.

use super::Gpu;
use crate::device::{Argument, Cell, ElementType};
use crate::error::{Error, Result};
use cudarc::driver::sys;
use std::ffi::c_void;

/// A matrix of 16-bit numbers in global memory, read in boxes of 64 columns. In shared memory a row of a box takes 128 bytes,
/// whose chunks of 16 bytes are permuted by the row (the 128-byte swizzle). Beyond the matrix a box holds zeros.
///
/// Source: CUDA Driver API 13.0, `cuTensorMapEncodeTiled`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TensorMap(pub(super) [u64; 16]);

impl Argument for TensorMap {
    fn argument(&self) -> (&'static str, Cell) {
        ("map", Cell::Map(*self))
    }
}

/// A matrix for [`TensorMap::new`]: `rows` x `cols` from `address` on, with rows `stride` elements apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MappedMatrix {
    pub address: u64,
    pub rows: usize,
    pub cols: usize,
    pub stride: usize,
}

impl MappedMatrix {
    /// Whether there can be a map: addresses and distances of rows are multiples of 16 bytes, below 2^40, and there is a row
    /// and a column.
    pub fn has_map(&self) -> bool {
        let side = |n: usize| n > 0 && n <= i32::MAX as usize;
        let stride = self.stride.is_multiple_of(8) && self.stride < 1 << 39 && self.stride >= self.cols;
        self.address.is_multiple_of(16) && side(self.rows) && side(self.cols) && (stride || self.rows == 1)
    }
}

/// The driver wants the place of a map to be aligned.
#[repr(C, align(128))]
struct Place([u64; 16]);

impl TensorMap {
    /// The map of a matrix in boxes of 64 columns x `box_rows` rows, at most 256.
    ///
    /// # Errors
    /// `Error::Failed` for a matrix that has no map.
    pub fn new(gpu: &Gpu, form: ElementType, matrix: MappedMatrix, box_rows: u32) -> Result<TensorMap> {
        let dtype = match form {
            ElementType::Bf16 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            ElementType::F16 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
            ElementType::F32 => return Err(Error::failed("a tensor map of 32-bit numbers")),
        };
        if !matrix.has_map() {
            return Err(Error::failed(format!("no tensor map of {matrix:?}")));
        }
        let sizes = [matrix.cols as u64, matrix.rows as u64];
        // Of a single row the distance to the next one says nothing.
        let stride =
            if matrix.rows == 1 { matrix.cols.next_multiple_of(8) } else { matrix.stride } as u64 * 2;
        let (bounds, steps, mut place) = ([64, box_rows], [1, 1], Place([0; 16]));
        gpu.bind()?;
        // SAFETY: `place` holds a map, and the arrays one entry for each of two dimensions; the driver reads no tensor.
        let status = unsafe {
            sys::cuTensorMapEncodeTiled(
                (&raw mut place).cast(),
                dtype,
                2,
                matrix.address as *mut c_void,
                sizes.as_ptr(),
                &raw const stride,
                bounds.as_ptr(),
                steps.as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        };
        status.result().map_err(|e| gpu.failed(format!("no tensor map of {matrix:?}"), e))?;
        Ok(TensorMap(place.0))
    }
}
