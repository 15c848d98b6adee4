//! Row normalisation on slices.

use super::args::Normalization;
use crate::ops::float::{Float, for_rows};
use crate::ops::sum::cpu::lanes;

/// (1 / length, d(1 / length) / d(Σx²)).
#[inline(always)]
fn inverse<T: Float>(x: &[T], form: Normalization) -> (T, T) {
    let squares = lanes(
        [x],
        #[inline(always)]
        |[x]| x * x,
    );
    match form {
        Normalization::Rsqrt => {
            let floor = T::of(1e-12);
            if squares > floor {
                let inv = T::ONE / squares.sqrt();
                (inv, T::of(-0.5) * inv * inv * inv)
            } else {
                (T::ONE / floor.sqrt(), T::ZERO)
            }
        }
        Normalization::Plus => {
            let norm = squares.sqrt();
            let inv = T::ONE / (norm + T::of(1e-10));
            let slope = if norm > T::ZERO { T::of(-0.5) * inv * inv / norm } else { T::ZERO };
            (inv, slope)
        }
    }
}

pub fn columns_in_place<T: Float>(x: &mut [T], c: usize) {
    let mut inverse = vec![T::ZERO; c];
    for row in x.chunks_exact(c) {
        inverse.iter_mut().zip(row).for_each(|(sum, &x)| *sum += x * x);
    }
    inverse.iter_mut().for_each(|sum| *sum = T::ONE / (sum.sqrt() + T::of(1e-10)));
    for row in x.chunks_exact_mut(c) {
        row.iter_mut().zip(&inverse).for_each(|(x, &inverse)| *x *= inverse);
    }
}

pub fn forward<T: Float>(y: &mut [T], x: &[T], c: usize, form: Normalization) {
    for_rows(
        y,
        c,
        #[inline(always)]
        |first, y| {
            for (i, y) in y.chunks_exact_mut(c).enumerate() {
                let x = &x[(first + i) * c..][..c];
                let (inv, _) = inverse(x, form);
                for j in 0..c {
                    y[j] = x[j] * inv;
                }
            }
        },
    );
}

pub fn backward_acc<T: Float>(dx: &mut [T], dy: &[T], x: &[T], c: usize, form: Normalization) {
    for_rows(
        dx,
        c,
        #[inline(always)]
        |first, dx| {
            for (i, dx) in dx.chunks_exact_mut(c).enumerate() {
                let row = first + i;
                let (x, dy) = (&x[row * c..][..c], &dy[row * c..][..c]);
                let (inv, slope) = inverse(x, form);
                let along = T::of(2.0)
                    * slope
                    * lanes(
                        [dy, x],
                        #[inline(always)]
                        |[dy, x]| dy * x,
                    );
                for j in 0..c {
                    dx[j] += dy[j] * inv + x[j] * along;
                }
            }
        },
    );
}
