//! The two float types of the CPU and the loops every op is built from.

use super::gelu::Constants;
use super::matmul::library::LibraryProduct;
use crate::tensor::Element;
use crate::tensor::memory::Memory;
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::{Add, AddAssign, Div, DivAssign, Mul, MulAssign, Neg, Sub, SubAssign};

/// f32 for runs, f64 for checks.
pub trait Float:
    Element
    + Constants
    + LibraryProduct
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
    + DivAssign
    + std::iter::Sum
{
    const ZERO: Self;
    const ONE: Self;
    fn of(value: f64) -> Self;
    fn to_f64(self) -> f64;
    fn sqrt(self) -> Self;
    fn ln(self) -> Self;
    /// e^x. In f32 a polynomial that the compiler turns into vector code, within 2 ulp.
    fn exp(self) -> Self;
    fn abs(self) -> Self;
    fn copysign(self, sign: Self) -> Self;
    /// self · a + b, rounded once.
    fn fma(self, a: Self, b: Self) -> Self;
}

impl Float for f64 {
    const ZERO: f64 = 0.0;
    const ONE: f64 = 1.0;
    #[inline(always)]
    fn of(value: f64) -> f64 {
        value
    }
    #[inline(always)]
    fn to_f64(self) -> f64 {
        self
    }
    #[inline(always)]
    fn sqrt(self) -> f64 {
        f64::sqrt(self)
    }
    #[inline(always)]
    fn ln(self) -> f64 {
        f64::ln(self)
    }
    #[inline(always)]
    fn exp(self) -> f64 {
        f64::exp(self)
    }
    #[inline(always)]
    fn abs(self) -> f64 {
        f64::abs(self)
    }
    #[inline(always)]
    fn copysign(self, sign: f64) -> f64 {
        f64::copysign(self, sign)
    }
    #[inline(always)]
    fn fma(self, a: f64, b: f64) -> f64 {
        f64::mul_add(self, a, b)
    }
}

impl Float for f32 {
    const ZERO: f32 = 0.0;
    const ONE: f32 = 1.0;
    #[inline(always)]
    fn of(value: f64) -> f32 {
        value as f32
    }
    #[inline(always)]
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
    #[inline(always)]
    fn sqrt(self) -> f32 {
        f32::sqrt(self)
    }
    #[inline(always)]
    fn ln(self) -> f32 {
        f32::ln(self)
    }
    #[inline(always)]
    fn abs(self) -> f32 {
        f32::abs(self)
    }
    #[inline(always)]
    fn copysign(self, sign: f32) -> f32 {
        f32::copysign(self, sign)
    }
    #[inline(always)]
    fn fma(self, a: f32, b: f32) -> f32 {
        f32::mul_add(self, a, b)
    }

    /// x = n ln 2 + r, |r| <= ln 2 / 2: e^x = 2^n e^r with e^r by its Taylor polynomial of degree 7
    /// (remainder below 6e-9). Arguments beyond ±87 give the value at ±87; NaN stays NaN.
    #[inline(always)]
    fn exp(self) -> f32 {
        // Adding 1.5 * 2^23 leaves the rounded integer in the low bits of the mantissa.
        const ROUND: f32 = 12_582_912.0;
        const LN2_HIGH: f32 = 0.693_359_4;
        const LN2_LOW: f32 = -2.121_944_4e-4;
        let x = if self > 87.0 { 87.0 } else { self };
        let x = if x < -87.0 { -87.0 } else { x };
        let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
        let n = shifted - ROUND;
        let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, x));
        let mut p = 1.0 / 5040.0;
        for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
            p = r.mul_add(p, c);
        }
        p * f32::from_bits(shifted.to_bits().wrapping_add(127) << 23)
    }
}

/// Runs a closure compiled for the widest vector unit of this machine.
#[inline(always)]
pub fn simd<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

/// A pass over this many elements is worth a thread.
const GRAIN: usize = 16 * 1024;

/// How many rows of `width` elements one task takes. Depends on the shape only, so that results do
/// not depend on the number of threads.
pub fn rows_per_task(width: usize) -> usize {
    (GRAIN / width.max(1)).max(1)
}

/// Calls `f(first_row, rows)` for consecutive groups of rows of `y`, in parallel, with vector code.
pub fn for_rows<T: Send>(y: &mut [T], width: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    if y.is_empty() {
        return;
    }
    let rows = rows_per_task(width);
    if y.len() <= rows * width {
        return simd(
            #[inline(always)]
            || f(0, y),
        );
    }
    y.par_chunks_mut(rows * width).enumerate().for_each(|(i, chunk)| {
        simd(
            #[inline(always)]
            || f(i * rows, chunk),
        )
    });
}

/// Scratch of this thread, with whatever it holds, at the start of a line of the cache; kept between
/// calls. Calls may be nested.
pub fn with_scratch<T: Float, R>(len: usize, f: impl FnOnce(&mut [T]) -> R) -> R {
    thread_local! {
        static SCRATCH: RefCell<Vec<Memory<u64>>> = const { RefCell::new(Vec::new()) };
    }
    let needed = (len * size_of::<T>()).div_ceil(size_of::<u64>());
    let kept = SCRATCH.with_borrow_mut(Vec::pop);
    let mut words = kept.filter(|words| words.len() >= needed).unwrap_or_else(|| Memory::zeros(needed));
    let values: &mut [T] = bytemuck::cast_slice_mut(&mut words);
    let result = f(&mut values[..len]);
    SCRATCH.with_borrow_mut(|all| all.push(words));
    result
}

/// A pointer that tasks share to write disjoint parts of one tensor.
#[derive(Clone, Copy)]
pub struct Shared<T>(pub *mut T);

// SAFETY: every user writes disjoint elements from different tasks, and says so where it does.
unsafe impl<T: Send> Send for Shared<T> {}
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// # Safety
    /// `offset` lies within the allocation, and no other task touches what is read or written there.
    #[inline(always)]
    pub unsafe fn at(self, offset: usize) -> *mut T {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(offset) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_ulp() {
        let mut worst = 0f64;
        for i in -870_000..=870_000 {
            let x = i as f32 * 1e-4;
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(Float::exp(x)) - exact).abs() / exact);
        }
        assert!(worst < 2.0 * f64::from(f32::EPSILON), "{worst:e}");
        assert!(Float::exp(f32::NAN).is_nan());
        assert!(Float::exp(f32::NEG_INFINITY) < 1.7e-38);
    }
}
