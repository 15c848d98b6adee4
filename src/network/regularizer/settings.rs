//! What regularizers read of a configuration, and the network that one is for.

use crate::config::schema::{self, Config, Method};
use crate::tensor::DType;

/// The sections of a configuration that regularizers read.
#[derive(Debug, Clone, Default)]
pub enum Settings {
    /// Another method.
    #[default]
    None,
    Ewc(schema::Ewc),
    Lwf(schema::Lwf),
}

impl Settings {
    pub fn of(config: &Config) -> Settings {
        match config.method {
            Method::Ewc => Settings::Ewc(config.ewc.clone()),
            Method::Lwf => Settings::Lwf(config.lwf.clone()),
            _ => Settings::None,
        }
    }
}

/// The network that a regularizer is for.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Images of the largest batch, and classes.
    pub batch: usize,
    pub classes: usize,
    /// Whether gradients will be asked for.
    pub training: bool,
    /// Type of logits and of parameters that learn.
    pub dtype: DType,
}
