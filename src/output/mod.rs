//! What a run leaves behind: work directory, checkpoints, events, tables.

pub mod atomic;
pub mod checkpoint;
pub mod log;
mod manifest;
pub mod metrics;
pub mod progress;
mod proto;
pub mod results;
pub mod signal;
pub mod table;
pub mod tensorboard;
pub mod workdir;

pub use checkpoint::{State, Store, TensorData};
pub use metrics::Metrics;
pub use results::Results;
pub use workdir::Workdir;
