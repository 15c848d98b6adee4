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
fn tanh_value<T: Float>(x: T) -> T {
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
            y.copy_from_slice(&x[start..][..y.len()]);
            in_place(y, form);
        },
    );
}

/// y := gelu(y), for vector code that the caller chooses.
///
/// The loops here have no closures: what a closure does may be compiled as a function of its own, and that one would not
/// be for the caller's vector unit.
#[inline(always)]
pub fn in_place<T: Float>(y: &mut [T], form: GeluForm) {
    match form {
        GeluForm::Tanh => {
            for y in y {
                *y = tanh_value(*y);
            }
        }
        GeluForm::Erf => {
            for y in y {
                *y = erf::value(*y);
            }
        }
    }
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
    let x = &x[..d.len()];
    match form {
        GeluForm::Tanh => {
            for i in 0..d.len() {
                d[i] *= tanh_slope(x[i]);
            }
        }
        GeluForm::Erf => {
            for i in 0..d.len() {
                d[i] *= erf::slope(x[i]);
            }
        }
    }
}
