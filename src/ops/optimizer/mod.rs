//! One optimizer step over the flat buffer of what learns. Formulas as the official code's flax
//! 0.3.5 defines them (equal to optax to 1e-15); `step` counts from 1 since the optimizer was made.

mod cpu;

use crate::device::Device;
use crate::error::Result;
use crate::tensor::{View, ViewMut, expect_shape};

const OP: &str = "optimizer";

/// Adam (Kingma & Ba 2015, arXiv:1412.6980), eps outside the root of the corrected second moment:
/// m = β₁m + (1-β₁)g, v = β₂v + (1-β₂)g², p -= lr (m/(1-β₁ᵗ)) / (√(v/(1-β₂ᵗ)) + eps) + lr·decay·p.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adam {
    pub lr: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    /// Decoupled weight decay (AdamW, Loshchilov & Hutter 2019, arXiv:1711.05101).
    pub decay: f64,
    pub step: u64,
    /// Every gradient is multiplied by this first: the clip factor.
    pub grad_scale: f64,
}

/// p, m, v, g: the same length. Updates p, m, v.
pub fn adam(dev: &Device, p: ViewMut, m: ViewMut, v: ViewMut, g: View, with: Adam) -> Result<()> {
    expect_shape(OP, "m", m.shape(), p.shape())?;
    expect_shape(OP, "v", v.shape(), p.shape())?;
    expect_shape(OP, "g", g.shape(), p.shape())?;
    match dev {
        Device::Cpu => float!("optimizer", "p", p.dtype(), T => {
            let (m, v) = (m.get::<T>(OP, "m")?, v.get::<T>(OP, "v")?);
            cpu::adam(p.get::<T>(OP, "p")?, m, v, g.get::<T>(OP, "g")?, with);
            Ok(())
        }),
        Device::Cuda(_) => super::no_kernels(OP),
    }
}

/// SGD with Nesterov momentum: u = μu + g, p -= lr (g + μu).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sgd {
    pub lr: f64,
    pub momentum: f64,
    pub grad_scale: f64,
}

/// p, u, g: the same length. Updates p and u.
pub fn sgd(dev: &Device, p: ViewMut, u: ViewMut, g: View, with: Sgd) -> Result<()> {
    expect_shape(OP, "u", u.shape(), p.shape())?;
    expect_shape(OP, "g", g.shape(), p.shape())?;
    match dev {
        Device::Cpu => float!("optimizer", "p", p.dtype(), T => {
            cpu::sgd(p.get::<T>(OP, "p")?, u.get::<T>(OP, "u")?, g.get::<T>(OP, "g")?, with);
            Ok(())
        }),
        Device::Cuda(_) => super::no_kernels(OP),
    }
}
