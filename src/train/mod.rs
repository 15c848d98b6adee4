//! A whole run: backbone, tasks, steps, evaluation, baselines, files.

mod affine_augment;
pub mod baselines;
pub mod batch;
pub mod batch_composition;
pub mod evaluate;
pub mod forecast;
pub mod pretrain;
pub mod report;
pub mod run;
pub mod seeds;
pub mod session;

pub use run::{Options, train};
pub use session::{Session, reading_precision};
