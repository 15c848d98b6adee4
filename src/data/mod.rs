//! Data sets, tasks, preprocessing and batches.
pub mod loader;
