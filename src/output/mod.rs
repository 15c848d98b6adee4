//! The files of a run (work directory, checkpoints, events, tables) and its messages.

pub mod answers;
pub mod atomic;
pub mod checkpoint;
mod console;
pub mod log;
mod manifest;
pub mod metrics;
pub mod nullable;
pub mod progress;
pub mod report;
pub mod results;
pub mod seeds;
pub mod signal;
pub mod spread;
pub mod table;
pub mod tensorboard;
mod tf_record;
pub mod times;
pub mod workdir;

pub use checkpoint::{State, Store, TensorData};
pub use console::say;
pub use metrics::Metrics;
pub use results::Results;
pub use workdir::Workdir;
