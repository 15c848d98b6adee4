//! Relu on slices.

use crate::ops::float::{Float, for_rows};

pub fn forward_in_place<T: Float>(x: &mut [T], keep: Option<&[T]>) {
    for_rows(
        x,
        1,
        #[inline(always)]
        |first, x| {
            for x in x.iter_mut().filter(|x| **x <= T::ZERO) {
                *x = T::ZERO;
            }
            if let Some(keep) = keep {
                x.iter_mut().zip(&keep[first..]).for_each(|(x, &keep)| *x *= keep);
            }
        },
    );
}

pub fn backward_in_place<T: Float>(dx: &mut [T], y: &[T], factor: f64) {
    let factor = T::of(factor);
    for_rows(
        dx,
        1,
        #[inline(always)]
        |first, dx| {
            for (dx, &y) in dx.iter_mut().zip(&y[first..]) {
                *dx = if y > T::ZERO { factor * *dx } else { T::ZERO };
            }
        },
    );
}
