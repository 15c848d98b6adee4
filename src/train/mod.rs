//! A whole run: data, tasks, steps, evaluation, baselines, files.

pub mod add_classes;
pub mod adopt;
mod affine_augment;
pub mod baseline_runs;
pub mod baselines;
pub mod batch;
pub mod batch_composition;
pub mod evaluate;
pub mod find_rate;
pub mod forecast;
pub mod learn;
mod options;
pub mod pretrain;
mod record;
pub mod report;
pub mod reproduce;
pub mod run;
pub mod scores;
pub mod seeds;
pub mod session;
mod share;
mod steps;

pub use options::Options;
pub use run::train;
pub use session::Session;
