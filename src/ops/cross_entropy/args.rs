//! The arguments of `cross_entropy`.

use crate::error::Result;
use crate::tensor::View;

pub(super) const OP: &str = "cross_entropy";

/// What one batch says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossOutcome {
    /// Mean loss over the batch.
    pub loss: f64,
    /// Images whose largest allowed logit is the label's; ties to the lower class.
    pub correct: usize,
}

impl LossOutcome {
    /// What `forward_backward` has written, once it is computed.
    pub fn read(outcome: View) -> Result<LossOutcome> {
        let values = outcome.read_f64()?;
        Ok(LossOutcome { loss: values[0], correct: values[1] as usize })
    }
}

/// What the images of a batch are.
#[derive(Debug, Clone, Copy)]
pub(super) enum Labels<'a> {
    /// (B).
    Classes(&'a [u32]),
    /// (B, K).
    Soft(&'a [f32]),
}
