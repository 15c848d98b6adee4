//! What a run leaves behind: work directory, checkpoints, events, tables.

pub mod atomic;
pub mod checkpoint;
pub mod log;
mod manifest;
pub mod metrics;
pub mod progress;
mod proto;
pub mod report;
pub mod results;
pub mod seeds;
pub mod signal;
pub mod spread;
pub mod table;
pub mod tensorboard;
pub mod workdir;

pub use checkpoint::{State, Store, TensorData};
pub use metrics::Metrics;
pub use results::Results;
pub use workdir::Workdir;

/// A line on standard error. A closed pipe there is nobody's loss, and never a panic.
pub fn say(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{text}");
}
