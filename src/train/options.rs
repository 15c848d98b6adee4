//! How a run is started.

use crate::comm::Launch;
use crate::device::Choice;
use crate::output::progress::Listener;
use std::path::PathBuf;

/// How a run is started.
#[derive(Debug, Clone)]
pub struct Options {
    pub workdir: PathBuf,
    pub resume: bool,
    pub quiet: bool,
    /// Phases and ops are timed.
    pub profile: bool,
    /// One device for each rank of this process.
    pub choices: Vec<Choice>,
    /// This process among those that were launched together.
    pub launch: Launch,
    /// Hears of every step and every test.
    pub listener: Option<Listener>,
}
