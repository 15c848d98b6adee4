//! Whether the driver can load what nvcc has compiled.

use crate::error::{Error, Result};

/// `toolkit`: the version of nvcc, such as `13.0`. Machine code needs a driver of the same major version of CUDA or
/// a newer one; PTX, which the driver translates for devices without machine code, also of the minor version.
/// `driver`: 13000 for CUDA 13.0.
///
/// # Errors
/// `Error::Failed` naming both versions.
pub fn check(driver: i32, toolkit: Option<&str>, compute_capability: (i32, i32)) -> Result<()> {
    let Some(toolkit) = toolkit.and_then(two_numbers) else { return Ok(()) };
    let (has, (major, minor)) = ((driver / 1000, driver % 1000 / 10), compute_capability);
    // Of the targets in build.rs, sm_80 runs on all of 8.x and sm_90a on 9.0.
    let machine_code = major == 8 || compute_capability == (9, 0);
    let needs = if machine_code { (toolkit.0, 0) } else { toolkit };
    if has >= needs {
        return Ok(());
    }
    let number = if needs.0 >= 13 { " (580 or newer)" } else { "" };
    Err(Error::failed(format!(
        "the NVIDIA driver knows CUDA {}.{}; for a GPU of compute capability {major}.{minor} the kernels in this \
         program need a driver for CUDA {}.{}{number}",
        has.0, has.1, needs.0, needs.1
    )))
}

fn two_numbers(text: &str) -> Option<(i32, i32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_minor_version_counts_only_where_the_driver_translates() {
        for (driver, capability, suffices) in [
            (13000, (8, 6), true),
            (13000, (9, 0), true),
            (13000, (10, 0), false),
            (13000, (12, 0), false),
            (13010, (12, 0), true),
            (14000, (10, 0), true),
            (12090, (8, 0), false),
            (12090, (9, 0), false),
        ] {
            let found = check(driver, Some("13.1"), capability);
            assert_eq!(found.is_ok(), suffices, "{driver} {capability:?}: {found:?}");
        }
        assert!(check(11040, None, (8, 0)).is_ok());
    }
}
