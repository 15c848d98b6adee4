//! Errors of the driver as text.

use cudarc::driver::result::DriverError;

/// The text and the name of an error, such as `out of memory (CUDA_ERROR_OUT_OF_MEMORY)`.
pub fn describe(error: DriverError) -> String {
    let name = error.error_name().map(|n| n.to_string_lossy().into_owned());
    let text = error.error_string().map(|t| t.to_string_lossy().into_owned());
    format!(
        "{} ({})",
        text.unwrap_or_else(|_| "unknown error".into()),
        name.unwrap_or_else(|_| "no name".into())
    )
}
