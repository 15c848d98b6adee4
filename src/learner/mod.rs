//! What can answer: a backbone with its prompts, head and preprocessing, without data and without tasks.

pub mod backbone;
mod run_dir;

pub use run_dir::{Saved, locate_backbone};
