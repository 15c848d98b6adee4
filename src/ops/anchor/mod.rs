//! Parameters held near an anchor, each by its importance (elastic weight consolidation): penalty Σ F (p - a)².
//! Source: Kirkpatrick et al. 2017, arXiv:1612.00796; online, as aimagelab/mammoth @ e75a491, `models/ewc_on.py`, which
//! has no factor 1/2.
//!
//! Names: parameters p, anchor a, importance F, gradients g, all (n).

mod cpu;
mod cuda;

use crate::device::{Device, range};
use crate::error::Result;
use crate::ops::float::Float as _;
use crate::tensor::{View, ViewMut, expect_shape};

const OP: &str = "anchor";

/// Overwrites `out` (1) with Σ F (p - a)²: F64 on the CPU, F32 on a GPU.
///
/// # Errors
/// `Error::Shape` naming the argument.
pub fn penalty(dev: &Device, out: ViewMut, p: View, anchor: View, importance: View) -> Result<()> {
    expect_shape(OP, "out", out.shape(), [1])?;
    expect_shape(OP, "anchor", anchor.shape(), p.shape())?;
    expect_shape(OP, "importance", importance.shape(), p.shape())?;
    let _op = range(c"anchor");
    match dev {
        Device::Cpu => float!("anchor", "p", p.dtype(), T => {
            let of = (p.get::<T>(OP, "p")?, anchor.get::<T>(OP, "anchor")?);
            out.get::<f64>(OP, "out")?[0] = cpu::penalty(of.0, of.1, importance.get::<T>(OP, "importance")?);
            Ok(())
        }),
        Device::Cuda(gpu) => cuda::penalty(gpu, out, p, anchor, importance),
    }
}

/// dp += 2 scale F (p - a).
///
/// # Errors
/// Those of [`penalty`].
pub fn backward_acc(
    dev: &Device,
    dp: ViewMut,
    p: View,
    anchor: View,
    importance: View,
    scale: f64,
) -> Result<()> {
    expect_shape(OP, "dp", dp.shape(), p.shape())?;
    expect_shape(OP, "anchor", anchor.shape(), p.shape())?;
    expect_shape(OP, "importance", importance.shape(), p.shape())?;
    let _op = range(c"anchor, backward");
    match dev {
        Device::Cpu => float!("anchor", "p", p.dtype(), T => {
            let of = (p.get::<T>(OP, "p")?, anchor.get::<T>(OP, "anchor")?);
            let importance = importance.get::<T>(OP, "importance")?;
            cpu::backward_acc(dp.get::<T>(OP, "dp")?, of.0, of.1, importance, T::of(2.0 * scale));
            Ok(())
        }),
        Device::Cuda(gpu) => cuda::backward_acc(gpu, dp, p, anchor, importance, 2.0 * scale),
    }
}

/// F += factor g², or with a `loss` (1), of the type of [`penalty`], F += factor e^-loss g².
///
/// # Errors
/// Those of [`penalty`].
pub fn add_squares(
    dev: &Device,
    importance: ViewMut,
    g: View,
    loss: Option<View>,
    factor: f64,
) -> Result<()> {
    expect_shape(OP, "importance", importance.shape(), g.shape())?;
    if let Some(loss) = &loss {
        expect_shape(OP, "loss", loss.shape(), [1])?;
    }
    let _op = range(c"anchor");
    match dev {
        Device::Cpu => float!("anchor", "g", g.dtype(), T => {
            let loss = loss.map(|loss| loss.get::<f64>(OP, "loss")).transpose()?;
            let weight = T::of(loss.map_or(factor, |loss| factor * (-loss[0]).exp()));
            cpu::add_squares(importance.get::<T>(OP, "importance")?, g.get::<T>(OP, "g")?, weight);
            Ok(())
        }),
        Device::Cuda(gpu) => cuda::add_squares(gpu, importance, g, loss, factor),
    }
}
