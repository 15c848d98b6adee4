//! Encodes tensor maps.

use super::Gpu;
use crate::device::{ElementType, MappedMatrix, TensorMap};
use crate::error::{Error, Result};
use cudarc::driver::sys;
use std::ffi::c_void;

/// The driver wants the place of a map to be aligned.
#[repr(C, align(128))]
struct Place([u64; 16]);

impl Gpu {
    /// The map of a matrix, or of those of images, in boxes of 64 columns x `box_rows` rows, at most 256.
    ///
    /// # Errors
    /// `Error::Failed` for a matrix that has no map.
    pub fn tensor_map(&self, form: ElementType, matrix: MappedMatrix, box_rows: u32) -> Result<TensorMap> {
        let dtype = match form {
            ElementType::Bf16 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            ElementType::F16 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
            ElementType::F32 => return Err(Error::failed("a tensor map of 32-bit numbers")),
        };
        if !matrix.has_map() {
            return Err(Error::failed(format!("no tensor map of {matrix:?}")));
        }
        let images = matrix.images.unwrap_or(1);
        let sizes = [matrix.cols as u64, matrix.rows as u64, images as u64];
        // Of a single row the distance to the next one says nothing.
        let single = matrix.rows == 1 && images == 1;
        let stride = if single { matrix.cols.next_multiple_of(8) } else { matrix.stride } as u64 * 2;
        let (rank, rows) = if matrix.images.is_some() { (3, matrix.rows as u64) } else { (2, 1) };
        let strides = [stride, stride * rows];
        let (bounds, steps, mut place) = ([64, box_rows, 1], [1, 1, 1], Place([0; 16]));
        self.bind()?;
        // SAFETY: `place` holds a map, and the arrays one entry for each of three dimensions; the driver reads no tensor.
        let status = unsafe {
            sys::cuTensorMapEncodeTiled(
                (&raw mut place).cast(),
                dtype,
                rank,
                matrix.address as *mut c_void,
                sizes.as_ptr(),
                strides.as_ptr(),
                bounds.as_ptr(),
                steps.as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        };
        status.result().map_err(|e| self.failed(format!("no tensor map of {matrix:?}"), e))?;
        Ok(TensorMap(place.0))
    }
}
