//! How much of each component an image uses (CODA-Prompt): the cosine of its query, weighed by the component's
//! attention vector, and the component's key.
//! Source: Smith et al. 2023, arXiv:2211.13218, equations 5 and 6; GT-RIPL/CODA-Prompt @ 6417d4f, `models/zoo.py`.
//!
//! With u(x) = x / max(‖x‖, 1e-12): w[b, m] = Σ_j u(q[b] ∘ A[m])[j] · u(K[m])[j]. Names: query q (B, C), attention
//! A (M, C), key K (M, C), weights w (B, M). A component of zeros has weight 0 and gradients of zeros.

mod args;
mod cpu;
mod cuda;

use crate::device::{Device, range};
use crate::error::Result;
use crate::tensor::{View, ViewMut, expect_shape};
use args::OP;

/// Overwrites `weights` (B, M).
///
/// # Errors
/// `Error::Shape` naming the argument.
pub fn forward(dev: &Device, weights: ViewMut, query: View, attention: View, key: View) -> Result<()> {
    let (b, m, c) = (query.dims()[0], attention.dims()[0], query.dims()[1]);
    expect_shape(OP, "weights", weights.shape(), [b, m])?;
    expect_shape(OP, "attention", attention.shape(), [m, c])?;
    expect_shape(OP, "key", key.shape(), [m, c])?;
    let _op = range(c"component weights");
    match dev {
        Device::Cpu => float!("component_weights", "weights", weights.dtype(), T => {
            let (query, attention) = (query.get::<T>(OP, "query")?, attention.get::<T>(OP, "attention")?);
            cpu::forward(weights.get::<T>(OP, "weights")?, query, attention, key.get::<T>(OP, "key")?, c);
            Ok(())
        }),
        Device::Cuda(gpu) => cuda::forward(gpu, weights, query, attention, key),
    }
}

/// dattention += dL/dA, dkey += dL/dK from `dweights` (B, M). Queries are constants: they have no gradient.
///
/// # Errors
/// Those of [`forward`].
pub fn backward_acc(
    dev: &Device,
    dattention: ViewMut,
    dkey: ViewMut,
    dweights: View,
    query: View,
    attention: View,
    key: View,
) -> Result<()> {
    let (b, m, c) = (query.dims()[0], attention.dims()[0], query.dims()[1]);
    expect_shape(OP, "dattention", dattention.shape(), [m, c])?;
    expect_shape(OP, "dkey", dkey.shape(), [m, c])?;
    expect_shape(OP, "dweights", dweights.shape(), [b, m])?;
    expect_shape(OP, "attention", attention.shape(), [m, c])?;
    expect_shape(OP, "key", key.shape(), [m, c])?;
    let _op = range(c"component weights, backward");
    match dev {
        Device::Cpu => float!("component_weights", "dweights", dweights.dtype(), T => {
            let out = [dattention.get::<T>(OP, "dattention")?, dkey.get::<T>(OP, "dkey")?];
            let of = cpu::Inputs {
                query: query.get::<T>(OP, "query")?,
                attention: attention.get::<T>(OP, "attention")?,
                key: key.get::<T>(OP, "key")?,
                c,
            };
            cpu::backward_acc(out, dweights.get::<T>(OP, "dweights")?, &of);
            Ok(())
        }),
        Device::Cuda(gpu) => cuda::backward_acc(gpu, [dattention, dkey], dweights, query, attention, key),
    }
}
