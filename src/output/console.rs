//! Lines for people.

use std::io::Write;

/// A line on standard error. Where standard error cannot be written to, nothing happens: the results of a run
/// are in its files.
pub fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
