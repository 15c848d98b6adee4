//! GELU on slices. The erf form is in `erf.rs`. With s = sigmoid(2 u), the tanh form is x s, because 1 + tanh(u) = 2 s.

use super::{GeluForm, erf};
use crate::ops::float::{Float, for_rows};

/// 2 √(2/π)
const TWICE_ROOT: f64 = 1.595_769_121_605_730_7;
const CUBIC: f64 = 0.044_715;

#[inline(always)]
fn sigmoid<T: Float>(z: T) -> T {
    T::ONE / (T::ONE + (-z).exp())
}

#[inline(always)]
pub fn tanh_value<T: Float>(x: T) -> T {
    x * sigmoid(T::of(TWICE_ROOT) * (x + T::of(CUBIC) * x * x * x))
}

#[inline(always)]
fn tanh_slope<T: Float>(x: T) -> T {
    let s = sigmoid(T::of(TWICE_ROOT) * (x + T::of(CUBIC) * x * x * x));
    let inner = T::of(TWICE_ROOT) * (T::ONE + T::of(3.0 * CUBIC) * x * x);
    s + x * s * (T::ONE - s) * inner
}

pub fn forward<T: Float>(y: &mut [T], x: &[T], form: GeluForm) {
    for_rows(
        y,
        1,
        #[inline(always)]
        |start, y| {
            let pairs = y.iter_mut().zip(&x[start..]);
            match form {
                GeluForm::Tanh => pairs.for_each(|(y, &x)| *y = tanh_value(x)),
                GeluForm::Erf => pairs.for_each(|(y, &x)| *y = erf::value(x)),
            }
        },
    );
}

pub fn backward_in_place<T: Float>(d: &mut [T], x: &[T], form: GeluForm) {
    for_rows(
        d,
        1,
        #[inline(always)]
        |start, d| times_slope(d, &x[start..], form),
    );
}

/// d := d · gelu'(x), for vector code that the caller chooses.
#[inline(always)]
pub fn times_slope<T: Float>(d: &mut [T], x: &[T], form: GeluForm) {
    let pairs = d.iter_mut().zip(x);
    match form {
        GeluForm::Tanh => pairs.for_each(|(d, &x)| *d *= tanh_slope(x)),
        GeluForm::Erf => pairs.for_each(|(d, &x)| *d *= erf::slope(x)),
    }
}
