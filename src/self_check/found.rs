//! What a child found out about one piece of work.

use serde::{Deserialize, Serialize};

/// How a kernel was found not to be usable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// It gave something else than the CPU, or wrote beside its output.
    Values,
    /// The same launch gave other bits.
    Repetition,
    /// The same launch within a graph gave other bits.
    Graph,
    /// The driver reported an error, or the process ended.
    Fault,
    /// It did not end in time.
    Hang,
    /// Another form of the kernel does the same work in much less time.
    Slow,
}

impl Stage {
    /// In a table.
    pub fn word(self) -> &'static str {
        match self {
            Stage::Values => "wrong values",
            Stage::Repetition => "not repeatable",
            Stage::Graph => "wrong in a graph",
            Stage::Fault => "fault",
            Stage::Hang => "hangs",
            Stage::Slow => "slow",
        }
    }
}

/// What was wrong, and which kernels had been launched for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    pub stage: Stage,
    pub kernels: Vec<String>,
    /// What was compared, wanted and found.
    pub text: String,
}

/// One pass of an op: which kernels it launches and how long it takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PassFound {
    /// `forward` or `backward`.
    pub pass: String,
    pub kernels: Vec<String>,
    /// The shortest of all repetitions, in microseconds on the device.
    pub us: f64,
    /// How often it was repeated, replays of a graph not counted.
    pub repeats: usize,
    /// Whether it was also replayed as a graph.
    pub graph: bool,
}

/// One piece of work.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Found {
    pub passes: Vec<PassFound>,
    pub failure: Option<Failure>,
}
