//! Into which parts a step is divided: `train.micro_batch`.

use super::kinds::{Field, KeyKind};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Images of a part of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum MicroBatch {
    Images(usize),
    Fitting(Auto),
}

/// The word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Auto {
    #[serde(rename = "auto")]
    Auto,
}

impl MicroBatch {
    pub const AUTO: MicroBatch = MicroBatch::Fitting(Auto::Auto);

    /// Images of a part of a step of `images`: all of them where nothing says otherwise.
    pub fn of(self, images: usize) -> usize {
        match self {
            MicroBatch::Images(n) => n.min(images),
            MicroBatch::Fitting(_) => images,
        }
    }
}

impl fmt::Display for MicroBatch {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            MicroBatch::Images(n) => write!(f, "{n}"),
            MicroBatch::Fitting(_) => f.write_str("auto"),
        }
    }
}

impl Field for MicroBatch {
    const KIND: KeyKind = KeyKind::SizeOrAuto;
}
