//! Why a run cannot go on: one sentence, the same on every rank.

use crate::error::Error;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Failure {
    /// The sentence, which names the rank.
    text: String,
    /// The sentence of the rank itself.
    cause: String,
    /// Whether it is a matter of configuration, which has an exit code of its own.
    usage: bool,
}

impl Failure {
    /// What the ranks can see together: a rank that vanished, hangs, or is in another call.
    pub fn seen(text: String) -> Failure {
        Failure { cause: text.clone(), text, usage: false }
    }

    /// What a rank, by name, said of itself.
    pub fn of_rank(name: &str, why: &Error) -> Failure {
        let cause = why.to_string();
        Failure { text: format!("{name}: {cause}"), cause, usage: matches!(why, Error::Config(_)) }
    }

    /// As what every call returns. A rank that was interrupted alone is a failure to the others.
    pub fn error(&self) -> Error {
        if self.usage { Error::config(&self.text) } else { Error::failed(&self.text) }
    }

    /// Whether `error` says the same of the rank that returned it.
    pub fn is_only(&self, error: &Error) -> bool {
        error.to_string() == self.cause
    }
}
