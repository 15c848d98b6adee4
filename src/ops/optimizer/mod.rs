//! One optimizer step over the flat buffer of what learns. Formulas as the official code's flax
//! 0.3.5 defines them (equal to optax to 1e-15); `step` counts from 1 since the optimizer was made.

mod args;
mod cpu;
mod cuda;

pub use args::{Adam, Sgd};

use crate::device::{Device, range};
use crate::error::Result;
use crate::tensor::{View, ViewMut, expect_shape};
use args::OP;

/// The factor that brings a gradient of norm `norm` down to `max_norm`: min(1, max / (norm + 1e-6)).
/// `max_norm` 0: no clipping. Source: google-research/l2p `train_continual.py:306-313`.
pub fn clip_factor(norm: f64, max_norm: f64) -> f64 {
    if max_norm == 0.0 { 1.0 } else { (max_norm / (norm + 1e-6)).min(1.0) }
}

/// unscale · clip factor; `None` if the gradients are not finite, and nothing is updated.
fn grad_scale(squares: f64, unscale: f64, max_norm: f64) -> Option<f64> {
    let norm = squares.sqrt() * unscale;
    norm.is_finite().then(|| clip_factor(norm, max_norm) * unscale)
}

/// Updates p, m, v with the gradients g, unless they are not finite.
///
/// # Shapes
/// p, m, v, g: the same length; squares: (1), Σ g² over all gradients that are clipped together; step_scalars: (4),
/// see [`Adam::step_scalars`]. The last two are F64 on the CPU, F32 on a GPU.
pub fn adam(
    dev: &Device,
    p: ViewMut,
    [m, v]: [ViewMut; 2],
    g: View,
    squares: View,
    step_scalars: View,
    with: Adam,
) -> Result<()> {
    expect_shape(OP, "m", m.shape(), p.shape())?;
    expect_shape(OP, "v", v.shape(), p.shape())?;
    expect_shape(OP, "g", g.shape(), p.shape())?;
    expect_shape(OP, "squares", squares.shape(), [1])?;
    expect_shape(OP, "step_scalars", step_scalars.shape(), [4])?;
    let _op = range(c"optimizer");
    match dev {
        Device::Cpu => float!("optimizer", "p", p.dtype(), T => {
            let (m, v) = (m.get::<T>(OP, "m")?, v.get::<T>(OP, "v")?);
            let (squares, step_scalars) = (squares.get::<f64>(OP, "squares")?, step_scalars.get::<f64>(OP, "step_scalars")?);
            if let Some(scale) = grad_scale(squares[0], step_scalars[3], with.max_norm) {
                cpu::adam(p.get::<T>(OP, "p")?, m, v, g.get::<T>(OP, "g")?, step_scalars, scale, with);
            }
            Ok(())
        }),
        Device::Cuda(gpu) => cuda::adam(gpu, p, [m, v], g, squares, step_scalars, with),
    }
}

/// Updates p and u. Shapes as for [`adam`]; of `step_scalars` the first and the last are used.
pub fn sgd(
    dev: &Device,
    p: ViewMut,
    u: ViewMut,
    g: View,
    squares: View,
    step_scalars: View,
    with: Sgd,
) -> Result<()> {
    expect_shape(OP, "u", u.shape(), p.shape())?;
    expect_shape(OP, "g", g.shape(), p.shape())?;
    expect_shape(OP, "squares", squares.shape(), [1])?;
    expect_shape(OP, "step_scalars", step_scalars.shape(), [4])?;
    let _op = range(c"optimizer");
    match dev {
        Device::Cpu => float!("optimizer", "p", p.dtype(), T => {
            let (squares, step_scalars) = (squares.get::<f64>(OP, "squares")?, step_scalars.get::<f64>(OP, "step_scalars")?);
            if let Some(scale) = grad_scale(squares[0], step_scalars[3], with.max_norm) {
                cpu::sgd(p.get::<T>(OP, "p")?, u.get::<T>(OP, "u")?, g.get::<T>(OP, "g")?, step_scalars, scale, with);
            }
            Ok(())
        }),
        Device::Cuda(gpu) => cuda::sgd(gpu, p, u, g, squares, step_scalars, with),
    }
}
