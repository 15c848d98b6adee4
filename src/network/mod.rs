//! The prompted network: query pass, prompted pass, head, loss, and all of it backwards.

mod cosine_head;
pub mod layout;
pub mod model;
pub mod pixels;
pub mod regularizer;
pub mod report;
pub mod setup;
mod workspace;

pub use model::{AnswerGraph, Model, Objective, TaskView};
pub use pixels::Pixels;
pub use report::StepStats;
pub use setup::Setup;
