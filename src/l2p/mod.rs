//! Learning to Prompt and DualPrompt: prompts, selection, the prompted network, its loss.

pub mod layout;
pub mod model;
pub mod pixels;
pub mod pool;
pub mod prompts;
pub mod report;
pub mod setup;
mod workspace;

pub use model::{Model, TaskView};
pub use pixels::Pixels;
pub use report::StepStats;
pub use setup::Setup;
