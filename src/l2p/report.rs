//! What a training step reports.

use crate::tensor::plan::Plan;
use crate::tensor::{Tensor, View, ViewMut};

/// What a training step reports.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct StepStats {
    /// ce_loss - λ · pull + l2 penalty.
    pub loss: f64,
    pub ce_loss: f64,
    pub pull: f64,
    /// Norm of the gradients in the clip scope, before clipping.
    pub grad_norm: f64,
    /// Images answered right among the classes of the mask.
    pub correct: usize,
}

/// The numbers of a step where the device writes them: loss, right answers, pull term, Σ p² of what decays,
/// Σ g² of what is clipped.
#[derive(Debug)]
pub struct Report(Tensor);

impl Report {
    pub const LEN: usize = 5;

    pub fn new(plan: &mut Plan) -> Report {
        plan.group("numbers");
        let dtype = plan.number();
        Report(plan.tensor("report", [Report::LEN], dtype))
    }

    pub fn outcome(&mut self) -> ViewMut<'_> {
        self.0.view_mut().part(0, [2])
    }

    pub fn pull_mut(&mut self) -> ViewMut<'_> {
        self.0.view_mut().part(2, [1])
    }

    pub fn decayed_mut(&mut self) -> ViewMut<'_> {
        self.0.view_mut().part(3, [1])
    }

    pub fn squares_mut(&mut self) -> ViewMut<'_> {
        self.0.view_mut().part(4, [1])
    }

    /// (1): Σ g² over the clip scope.
    pub fn squares(&self) -> View<'_> {
        self.0.view().part(4, [1])
    }

    /// (5)
    pub fn view(&self) -> View<'_> {
        self.0.view()
    }
}

impl StepStats {
    /// From the numbers of a [`Report`].
    pub fn of(values: &[f64], pull_weight: f64, decay: f64, loss_scale: f64) -> StepStats {
        let (ce_loss, pull, penalty) = (values[0], values[2], 0.5 * decay * values[3]);
        StepStats {
            loss: ce_loss - pull_weight * pull + penalty,
            ce_loss,
            pull,
            grad_norm: values[4].sqrt() / loss_scale,
            correct: values[1] as usize,
        }
    }
}
