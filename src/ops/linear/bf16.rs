//! Fully connected layers on the CPU whose kernel is packed in bf16.

use super::cpu::{CpuEpilogue, gelu_in_place};
use crate::error::Result;
use crate::ops::float::{Shared, simd};
use crate::ops::gelu::{self, GeluForm};
use crate::ops::matmul::Write;
use crate::ops::matmul::bf16::Arithmetic;
use crate::ops::matmul::bf16::cpu::{Bf16Matrix, product};
use crate::ops::matmul::strassen::Start;

/// y = ending(x W + b).
pub fn forward(
    y: &mut [f32],
    x: &[f32],
    w: &Bf16Matrix,
    bias: &[f32],
    ending: CpuEpilogue<f32>,
) -> Result<()> {
    let (arithmetic, n) = (Arithmetic::of_process()?, w.columns.len());
    match ending {
        CpuEpilogue::Plain => product(y, x, w, arithmetic, Start::Bias(bias), |_, _| ()),
        CpuEpilogue::Residual(residual) => {
            product(y, x, w, arithmetic, Start::Residual(bias, residual), |_, _| ());
        }
        CpuEpilogue::Gelu { pre, form } => {
            let pre = pre.map(|pre| Shared(pre.as_mut_ptr()));
            product(y, x, w, arithmetic, Start::Bias(bias), |first, y| {
                // SAFETY: `pre` has the shape of y, and each group takes its own rows.
                let pre =
                    pre.map(|pre| unsafe { std::slice::from_raw_parts_mut(pre.at(first * n), y.len()) });
                simd(
                    #[inline(always)]
                    || gelu_in_place(y, pre, form),
                );
            });
        }
    }
    Ok(())
}

/// dx = dy Wᵀ, or dx +=. `w`: Wᵀ.
pub fn backward_input(dx: &mut [f32], dy: &[f32], w: &Bf16Matrix, write: Write) -> Result<()> {
    let start = if write == Write::Add { Start::Own } else { Start::Zero };
    product(dx, dy, w, Arithmetic::of_process()?, start, |_, _| ());
    Ok(())
}

/// dx = (dy Wᵀ) ∘ gelu'(pre). `w`: Wᵀ.
pub fn backward_input_gelu(
    dx: &mut [f32],
    dy: &[f32],
    w: &Bf16Matrix,
    pre: &[f32],
    form: GeluForm,
) -> Result<()> {
    let n = w.columns.len();
    product(dx, dy, w, Arithmetic::of_process()?, Start::Zero, |first, dx| {
        let pre = &pre[first * n..][..dx.len()];
        simd(
            #[inline(always)]
            || gelu::cpu::times_slope(dx, pre, form),
        );
    });
    Ok(())
}
