//! The sentences that a check collects, so that everything that is wrong is reported at once.

use crate::error::{Error, Result};

/// The largest size that is accepted: a larger one is a typing error.
pub(super) const MAX_SIZE: usize = 65_536;

/// What is wrong so far, a sentence each.
#[derive(Default)]
pub(super) struct Complaints(Vec<String>);

impl Complaints {
    pub(super) fn add(&mut self, what: String) {
        self.0.push(what);
    }

    pub(super) fn unless(&mut self, fine: bool, what: impl FnOnce() -> String) {
        if !fine {
            self.0.push(what());
        }
    }

    pub(super) fn float(&mut self, key: &str, value: f64, wanted: &str, fine: impl Fn(f64) -> bool) {
        self.unless(value.is_finite() && fine(value), || format!("{key} must be {wanted}, found {value}"));
    }

    pub(super) fn ascending(&mut self, key: &str, idx: &[usize]) {
        self.unless(idx.is_sorted_by(|a, b| a < b), || {
            format!("{key} must name each layer once, in ascending order, found {idx:?}")
        });
        self.unless(idx.iter().all(|l| *l <= MAX_SIZE), || {
            format!("{key} must be at most {MAX_SIZE}, found {idx:?}")
        });
    }

    pub(super) fn into_result(self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(Error::config(self.0.join("\n"))) }
    }
}
