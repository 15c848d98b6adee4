//! How far results of a device may be from the CPU's in f64.

use crate::tensor::DType;

/// How much worse than the CPU in f32 an f32 form may be, beyond its [`limit`].
pub const TIMES: f64 = 4.0;

/// Errors are counted in steps of the form's precision at the largest value. Results of the 16-bit forms
/// are rounded when they are stored, and the probabilities of attention once on the way; f32 forms
/// differ from f64 by their sums of up to 700 terms, and where the CPU in f32 is as far off (differences
/// to a mean of 1000) by some times its error. A gradient goes through one such stage more and may be off by twice as much.
pub fn limit(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 25.0 * f64::from(f32::EPSILON),
        DType::BF16 => 1.5 / 128.0,
        _ => 1.7 / 1024.0,
    }
}
