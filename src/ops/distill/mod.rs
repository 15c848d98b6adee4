//! How far the answers of a network are from those that a teacher gave: the cross-entropy of both at a temperature.
//! Source: Hinton et al. 2015, arXiv:1503.02531; Li & Hoiem 2016, arXiv:1606.09282; aimagelab/mammoth @ e75a491,
//! `models/lwf.py`, which has no factor T².
//!
//! With a = softmax(t / T) and b = softmax(z / T) over the classes of the mask: D = -(1 / B) Σ_i Σ_k a_ik log b_ik. Names:
//! logits z (B, K), the teacher's t (B, K).

mod cpu;
mod cuda;

use crate::device::{Device, range};
use crate::error::Result;
use crate::tensor::{View, ViewMut, expect_shape};

const OP: &str = "distill";

/// Overwrites `out` (1) with D, and adds its gradient, times a weight, to `dlogits` (B, K); `with`: temperature and weight.
///
/// # Shapes
/// out: F64 on the CPU, F32 on a GPU; mask: (K) u32, not 0 for the classes that both are compared in; without any, D is 0.
///
/// # Errors
/// `Error::Shape` naming the argument.
pub fn forward_backward_acc(
    dev: &Device,
    out: ViewMut,
    dlogits: ViewMut,
    logits: View,
    teacher: View,
    mask: View,
    with: (f64, f64),
) -> Result<()> {
    let k = logits.dims()[1];
    expect_shape(OP, "out", out.shape(), [1])?;
    expect_shape(OP, "dlogits", dlogits.shape(), logits.shape())?;
    expect_shape(OP, "teacher", teacher.shape(), logits.shape())?;
    expect_shape(OP, "mask", mask.shape(), [k])?;
    let _op = range(c"distill");
    match dev {
        Device::Cpu => float!("distill", "logits", logits.dtype(), T => {
            let (z, t) = (logits.get::<T>(OP, "logits")?, teacher.get::<T>(OP, "teacher")?);
            let mask = mask.get::<u32>(OP, "mask")?;
            let d = dlogits.get::<T>(OP, "dlogits")?;
            out.get::<f64>(OP, "out")?[0] = cpu::forward_backward_acc(d, z, t, mask, with);
            Ok(())
        }),
        Device::Cuda(gpu) => cuda::forward_backward_acc(gpu, out, dlogits, logits, teacher, mask, with),
    }
}
