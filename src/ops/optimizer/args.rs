//! The arguments of `optimizer`.

pub(super) const OP: &str = "optimizer";

/// Adam (Kingma & Ba 2015, arXiv:1412.6980), eps outside the root of the corrected second moment:
/// m = β₁m + (1-β₁)g, v = β₂v + (1-β₂)g², p -= lr (m/(1-β₁ᵗ)) / (√(v/(1-β₂ᵗ)) + eps) + lr·decay·p.
///
/// Every gradient is multiplied by the [`clip_factor`] first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adam {
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    /// Decoupled weight decay (AdamW, Loshchilov & Hutter 2019, arXiv:1711.05101).
    pub decay: f64,
    /// Largest norm of a gradient; 0: any.
    pub max_norm: f64,
}

impl Adam {
    /// What step t of a run at rate `lr` needs beside the constants; `unscale` undoes a scale of the loss.
    pub fn step_scalars(&self, lr: f64, t: u64, unscale: f64) -> [f64; 4] {
        [lr, 1.0 - self.beta1.powf(t as f64), 1.0 - self.beta2.powf(t as f64), unscale]
    }
}

/// SGD with momentum: u = μu + g, p -= lr u, or with Nesterov's p -= lr (g + μu). Gradients are clipped as for [`Adam`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sgd {
    pub momentum: f64,
    pub nesterov: bool,
    pub max_norm: f64,
}
