//! What `precision` means on a device.

use crate::config::schema::Precision;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::ops::matmul::bf16::Arithmetic;

/// The precision in which a device trains.
///
/// # Errors
/// `Error::Config` for one that the device has not.
pub fn precision(wanted: Precision, dev: &Device) -> Result<Precision> {
    precision_on(wanted, dev.gpu().is_some())
}

/// [`precision`] of a GPU, or of a CPU.
///
/// # Errors
/// As [`precision`].
pub fn precision_on(wanted: Precision, gpu: bool) -> Result<Precision> {
    match (wanted, gpu) {
        (Precision::Auto, true) => Ok(Precision::Bf16),
        (Precision::Auto, false) => Ok(Precision::F32),
        (Precision::F64, true) => {
            Err(Error::config("precision: a GPU computes in `f32`, `bf16` or `f16`; found `f64`"))
        }
        (Precision::Bf16, false) => Arithmetic::of_process().map(|_| Precision::Bf16),
        (Precision::F16, false) => {
            Err(Error::config("precision: the CPU computes in `f32`, `f64` or `bf16`; found `f16`"))
        }
        (same, _) => Ok(same),
    }
}

/// The precision in which a finished run is read: its own, or f32 on a CPU where that is 16 bits.
pub fn reading_precision(of_run: Precision, dev: &Device) -> Precision {
    precision(of_run, dev).unwrap_or(if dev.gpu().is_some() { Precision::Bf16 } else { Precision::F32 })
}

/// What multiplies in bf16 on a CPU; `None` elsewhere and in other precisions.
pub fn bf16_arithmetic(precision: Precision, dev: &Device) -> Option<String> {
    let on_cpu = precision == Precision::Bf16 && dev.gpu().is_none();
    on_cpu.then(Arithmetic::of_process)?.ok().map(|arithmetic| arithmetic.word().to_string())
}
