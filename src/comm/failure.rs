//! The failure of a run: one sentence, the same on every rank.

use crate::error::Error;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Failure {
    /// The sentence, which names the rank.
    text: String,
    /// The sentence without the name of the rank.
    cause: String,
    /// Whether it is an [`Error::Config`], which has its own exit code.
    usage: bool,
}

impl Failure {
    /// A failure found by the coordinator: a rank has vanished, hangs, or is in another call.
    pub fn observed(text: String) -> Failure {
        Failure { cause: text.clone(), text, usage: false }
    }

    /// The error that the rank called `name` returned.
    pub fn of_rank(name: &str, why: &Error) -> Failure {
        let cause = why.to_string();
        Failure { text: format!("{name}: {cause}"), cause, usage: matches!(why, Error::Config(_)) }
    }

    /// The error that every call returns. An interruption of one rank alone is a failure for the others.
    pub fn error(&self) -> Error {
        if self.usage { Error::config(&self.text) } else { Error::failed(&self.text) }
    }

    /// Whether `error` has the same text as the cause of this failure.
    pub fn has_cause(&self, error: &Error) -> bool {
        error.to_string() == self.cause
    }
}
