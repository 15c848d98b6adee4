//! The endings of a fully connected layer, on slices.

use crate::ops::float::{Float, Shared, for_rows};
use crate::ops::gelu::{self, Form};

pub fn bias<T: Float>(y: &mut [T], bias: &[T]) {
    let n = bias.len();
    for_rows(
        y,
        n,
        #[inline(always)]
        |_, y| {
            for y in y.chunks_exact_mut(n) {
                for j in 0..n {
                    y[j] += bias[j];
                }
            }
        },
    );
}

pub fn bias_residual<T: Float>(y: &mut [T], residual: &[T], bias: &[T]) {
    let n = bias.len();
    for_rows(
        y,
        n,
        #[inline(always)]
        |first, y| {
            for (i, y) in y.chunks_exact_mut(n).enumerate() {
                let residual = &residual[(first + i) * n..][..n];
                for j in 0..n {
                    y[j] += bias[j] + residual[j];
                }
            }
        },
    );
}

/// y = gelu(y + bias); `pre`, where it is kept, receives y + bias.
pub fn bias_gelu<T: Float>(y: &mut [T], pre: Option<&mut [T]>, bias: &[T], form: Form) {
    let n = bias.len();
    let pre = pre.map(|pre| Shared(pre.as_mut_ptr()));
    for_rows(
        y,
        n,
        #[inline(always)]
        |first, y| {
            for (i, y) in y.chunks_exact_mut(n).enumerate() {
                y.iter_mut().zip(bias).for_each(|(y, &b)| *y += b);
                if let Some(pre) = pre {
                    // SAFETY: `y` and `pre` have the same shape, and each task takes its own rows.
                    let pre = unsafe { std::slice::from_raw_parts_mut(pre.at((first + i) * n), n) };
                    pre.copy_from_slice(y);
                }
                match form {
                    Form::Tanh => y.iter_mut().for_each(|y| *y = gelu::cpu::tanh_value(*y)),
                    Form::Erf => y.iter_mut().for_each(|y| *y = gelu::cpu::erf_value(*y)),
                }
            }
        },
    );
}
