//! Layer normalisation over the last axis: y = (x - mean) · rstd · scale + bias,
//! rstd = 1/√(var + eps) with the biased variance.
//! Source: Ba, Kiros & Hinton 2016, arXiv:1607.06450.

mod args;
mod cpu;
mod cuda;

use crate::device::{Device, range};
use crate::error::Result;
use crate::tensor::{View, ViewMut, expect_shape};
use args::OP;

/// Overwrites `y` and `stats`.
///
/// # Shapes
/// x, y: (rows, C); scale, bias: (C); stats: (rows, 2), mean and rstd, kept for backward.
///
/// # Precision
/// Two passes over the row: mean, then variance.
pub fn forward(
    dev: &Device,
    y: ViewMut,
    stats: ViewMut,
    x: View,
    scale: View,
    bias: View,
    eps: f64,
) -> Result<()> {
    let (rows, c) = (x.dims()[0], x.dims()[1]);
    expect_shape(OP, "y", y.shape(), [rows, c])?;
    expect_shape(OP, "stats", stats.shape(), [rows, 2])?;
    expect_shape(OP, "scale", scale.shape(), [c])?;
    expect_shape(OP, "bias", bias.shape(), [c])?;
    let _op = range(c"layer norm");
    match dev {
        Device::Cpu => float!("layer_norm", "y", y.dtype(), T => {
            let (scale, bias) = (scale.get::<T>(OP, "scale")?, bias.get::<T>(OP, "bias")?);
            let (y, stats) = (y.get::<T>(OP, "y")?, stats.get::<T>(OP, "stats")?);
            cpu::forward(y, stats, x.get::<T>(OP, "x")?, scale, bias, eps);
            Ok(())
        }),
        Device::Cuda(gpu) => cuda::forward(gpu, y, stats, x, (scale, bias), eps),
    }
}

/// y = (x - mean) · rstd · scale + bias from the kept statistics, for a backward pass that needs it
/// again. Overwrites `y`.
pub fn recompute(dev: &Device, y: ViewMut, x: View, stats: View, scale: View, bias: View) -> Result<()> {
    let (rows, c) = (x.dims()[0], x.dims()[1]);
    expect_shape(OP, "y", y.shape(), [rows, c])?;
    expect_shape(OP, "stats", stats.shape(), [rows, 2])?;
    expect_shape(OP, "scale", scale.shape(), [c])?;
    expect_shape(OP, "bias", bias.shape(), [c])?;
    let _op = range(c"layer norm");
    match dev {
        Device::Cpu => float!("layer_norm", "y", y.dtype(), T => {
            let (scale, bias) = (scale.get::<T>(OP, "scale")?, bias.get::<T>(OP, "bias")?);
            let stats = stats.get::<T>(OP, "stats")?;
            cpu::recompute(y.get::<T>(OP, "y")?, x.get::<T>(OP, "x")?, stats, scale, bias);
            Ok(())
        }),
        Device::Cuda(gpu) => cuda::recompute(gpu, y, x, stats, (scale, bias)),
    }
}

/// dx += dL/dx. Adds, because x also feeds the residual stream.
/// With g = dy · scale and x̂ = (x - mean) · rstd: dx = rstd · (g - mean(g) - x̂ · mean(g x̂)).
///
/// # Shapes
/// dx, dy, x: (rows, C); stats: (rows, 2); scale: (C).
pub fn backward_input_acc(
    dev: &Device,
    dx: ViewMut,
    dy: View,
    x: View,
    stats: View,
    scale: View,
) -> Result<()> {
    let (rows, c) = (x.dims()[0], x.dims()[1]);
    expect_shape(OP, "dx", dx.shape(), [rows, c])?;
    expect_shape(OP, "dy", dy.shape(), [rows, c])?;
    expect_shape(OP, "stats", stats.shape(), [rows, 2])?;
    expect_shape(OP, "scale", scale.shape(), [c])?;
    let _op = range(c"layer norm, backward");
    match dev {
        Device::Cpu => float!("layer_norm", "dx", dx.dtype(), T => {
            let (stats, scale) = (stats.get::<T>(OP, "stats")?, scale.get::<T>(OP, "scale")?);
            let (dy, x) = (dy.get::<T>(OP, "dy")?, x.get::<T>(OP, "x")?);
            cpu::backward_input_acc(dx.get::<T>(OP, "dx")?, dy, x, stats, scale);
            Ok(())
        }),
        Device::Cuda(gpu) => cuda::backward_input_acc(gpu, dx, dy, x, stats, scale),
    }
}

/// dscale += Σ_rows dy · x̂, dbias += Σ_rows dy. dscale, dbias: (C).
pub fn backward_params_acc(
    dev: &Device,
    dscale: ViewMut,
    dbias: ViewMut,
    dy: View,
    x: View,
    stats: View,
) -> Result<()> {
    let (rows, c) = (x.dims()[0], x.dims()[1]);
    expect_shape(OP, "dscale", dscale.shape(), [c])?;
    expect_shape(OP, "dbias", dbias.shape(), [c])?;
    expect_shape(OP, "dy", dy.shape(), [rows, c])?;
    expect_shape(OP, "stats", stats.shape(), [rows, 2])?;
    let _op = range(c"layer norm, backward");
    match dev {
        Device::Cpu => float!("layer_norm", "dscale", dscale.dtype(), T => {
            let (dy, x) = (dy.get::<T>(OP, "dy")?, x.get::<T>(OP, "x")?);
            let stats = stats.get::<T>(OP, "stats")?;
            let (dscale, dbias) = (dscale.get::<T>(OP, "dscale")?, dbias.get::<T>(OP, "dbias")?);
            cpu::backward_params_acc(dscale, dbias, dy, x, stats);
            Ok(())
        }),
        Device::Cuda(gpu) => cuda::backward_params_acc(gpu, dscale, dbias, dy, x, stats),
    }
}
