//! Shared by the integration tests: NumPy archives, and the official implementation's names.
#![allow(dead_code)]

pub mod golden_methods;
pub mod http;
pub mod lanes;
pub mod npz;
pub mod official;
pub mod pictures;
pub mod process;
pub mod server;
pub mod signals;

use std::path::{Path, PathBuf};

/// The folder of golden cases: `L2P_GOLDEN_DIR`, or the copies in this project.
pub fn golden_dir() -> PathBuf {
    match std::env::var_os("L2P_GOLDEN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden"),
    }
}

/// Whether the golden cases are the copies in this project, of which the tests also know how many there are.
pub fn own_golden() -> bool {
    std::env::var_os("L2P_GOLDEN_DIR").is_none()
}

pub fn json(name: &str) -> serde_json::Value {
    let path = golden_dir().join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Largest |a - b|, relative to the largest |b|; NaN counts as infinitely wrong.
pub fn relative_error(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len(), "lengths differ");
    let scale = b.iter().fold(0f64, |m, v| m.max(v.abs()));
    absolute_error(a, b) / if scale > 0.0 { scale } else { 1.0 }
}

/// Largest |a - b|; NaN counts as infinitely wrong.
pub fn absolute_error(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len(), "lengths differ");
    a.iter().zip(b).fold(0f64, |worst, (a, b)| {
        let error = (a - b).abs();
        if error <= worst {
            worst
        } else if error.is_nan() {
            f64::INFINITY
        } else {
            error
        }
    })
}
