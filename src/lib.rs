//! l2p-engine: Learning to Prompt for continual learning, from the tensor up.
//!
//! Modules from the bottom up; `docs/architecture.md` has the arrows between them and
//! `tests/layers/main.rs` enforces them.

pub mod error;
pub mod onnx;
mod pickle;
mod protobuf;
pub mod rng;

pub mod device;
pub mod ops;
pub mod tensor;

pub mod comm;
pub mod config;
pub mod data;
pub mod import;
pub mod output;

pub mod cli;
pub mod learner;
pub mod methods;
pub mod network;
pub mod nn;
pub mod optim;
pub mod prompts;
pub mod self_check;
pub mod serve;
pub mod train;

pub mod testing;

pub use error::{Error, Result};
