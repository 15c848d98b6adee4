//! Optimizer steps on slices.

use super::args::{Adam, Sgd};
use crate::ops::float::{Float, Shared, for_rows};

pub fn adam<T: Float>(
    p: &mut [T],
    m: &mut [T],
    v: &mut [T],
    g: &[T],
    step_scalars: &[f64],
    grad_scale: f64,
    with: Adam,
) {
    let (beta1, beta2) = (T::of(with.beta1), T::of(with.beta2));
    let (correct1, correct2) = (T::of(step_scalars[1]), T::of(step_scalars[2]));
    let (lr, eps, decay) = (T::of(step_scalars[0]), T::of(with.eps), T::of(step_scalars[0] * with.decay));
    let scale = T::of(grad_scale);
    let (m, v) = (Shared(m.as_mut_ptr()), Shared(v.as_mut_ptr()));
    for_rows(
        p,
        1,
        #[inline(always)]
        |first, p| {
            // SAFETY: m and v are as long as p, and each task takes its own range.
            let m = unsafe { std::slice::from_raw_parts_mut(m.at(first), p.len()) };
            let v = unsafe { std::slice::from_raw_parts_mut(v.at(first), p.len()) };
            let g = &g[first..first + p.len()];
            for i in 0..p.len() {
                let g = g[i] * scale;
                m[i] = beta1 * m[i] + (T::ONE - beta1) * g;
                v[i] = beta2 * v[i] + (T::ONE - beta2) * g * g;
                let update = (m[i] / correct1) / ((v[i] / correct2).sqrt() + eps);
                p[i] = p[i] - lr * update - decay * p[i];
            }
        },
    );
}

pub fn sgd<T: Float>(p: &mut [T], u: &mut [T], g: &[T], step_scalars: &[f64], grad_scale: f64, with: Sgd) {
    let (lr, momentum, scale) = (T::of(step_scalars[0]), T::of(with.momentum), T::of(grad_scale));
    let u = Shared(u.as_mut_ptr());
    for_rows(
        p,
        1,
        #[inline(always)]
        |first, p| {
            // SAFETY: u is as long as p, and each task takes its own range.
            let u = unsafe { std::slice::from_raw_parts_mut(u.at(first), p.len()) };
            let g = &g[first..first + p.len()];
            for i in 0..p.len() {
                let g = g[i] * scale;
                u[i] = momentum * u[i] + g;
                p[i] -= lr * if with.nesterov { g + momentum * u[i] } else { u[i] };
            }
        },
    );
}
