//! What can answer: a backbone with its prompts, head and preprocessing, without data and without tasks.

pub mod backbone;
mod locate;
mod run_dir;

pub use locate::locate_backbone;
pub use run_dir::Saved;
