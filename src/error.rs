//! The one error type. Every message is a sentence that names the thing, what was wanted, what was
//! found and, where it helps, what to do.

use std::path::{Path, PathBuf};

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// A tensor argument of an op has the wrong shape or element type.
    #[error("{op}: `{arg}` must be {wanted}, got {got}")]
    Shape { op: &'static str, arg: &'static str, wanted: String, got: String },

    /// A configuration value, a command-line value, or a combination of them. Exit code 2.
    #[error("{0}")]
    Config(String),

    /// A file that cannot be read, written or understood.
    #[error("{}: {what}", path.display())]
    File { path: PathBuf, what: String },

    /// The user asked the run to stop; everything is saved. Exit code 130.
    #[error("interrupted: {0}")]
    Interrupted(String),

    /// Anything else that stops a run, as a whole sentence.
    #[error("{0}")]
    Failed(String),
}

impl Error {
    /// A file error; `what` says what was wanted and found.
    pub fn file(path: impl AsRef<Path>, what: impl std::fmt::Display) -> Error {
        Error::File { path: path.as_ref().to_path_buf(), what: what.to_string() }
    }

    pub fn config(what: impl std::fmt::Display) -> Error {
        Error::Config(what.to_string())
    }

    pub fn failed(what: impl std::fmt::Display) -> Error {
        Error::Failed(what.to_string())
    }

    /// The process exit code the command-line contract assigns to this error.
    pub fn exit_code(&self) -> i32 {
        match self {
            Error::Config(_) => 2,
            Error::Interrupted(_) => 130,
            _ => 1,
        }
    }
}
