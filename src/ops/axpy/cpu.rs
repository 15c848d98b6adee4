//! Scaled sums on slices.

use crate::ops::float::{Float, for_rows};

pub fn axpy<T: Float>(y: &mut [T], x: &[T], a: f64) {
    let a = T::of(a);
    for_rows(
        y,
        1,
        #[inline(always)]
        |first, y| {
            for (y, &x) in y.iter_mut().zip(&x[first..]) {
                *y += a * x;
            }
        },
    );
}

pub fn scale_in_place<T: Float>(x: &mut [T], a: f64) {
    let a = T::of(a);
    for_rows(
        x,
        1,
        #[inline(always)]
        |_, x| x.iter_mut().for_each(|x| *x *= a),
    );
}
