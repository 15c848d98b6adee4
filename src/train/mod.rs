//! A whole run: backbone, tasks, steps, evaluation, floors, files.

pub mod backbone;
pub mod batch;
pub mod evaluate;
pub mod floors;
pub mod forecast;
pub mod leak;
pub mod pretrain;
pub mod report;
pub mod run;
mod saved;
pub mod seeds;
mod session;
mod warp;

pub use run::{Options, train};
pub use saved::Saved;
pub use session::{Session, reading_precision};
