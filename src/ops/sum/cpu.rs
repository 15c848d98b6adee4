//! Sums on slices, in an order that depends on lengths only.

use crate::ops::float::{Float, rows_per_task, simd};
use rayon::prelude::*;

/// Σ_{j<n} f(j) in 16 interleaved partial sums, which the compiler keeps in vector registers.
#[inline(always)]
pub fn lanes<T: Float>(n: usize, f: impl Fn(usize) -> T) -> T {
    const LANES: usize = 16;
    let mut acc = [T::ZERO; LANES];
    let whole = n / LANES * LANES;
    for start in (0..whole).step_by(LANES) {
        for (lane, acc) in acc.iter_mut().enumerate() {
            *acc += f(start + lane);
        }
    }
    let mut total = T::ZERO;
    for j in whole..n {
        total += f(j);
    }
    for a in acc {
        total += a;
    }
    total
}

/// Σ x.
#[inline(always)]
pub fn sum_lanes<T: Float>(x: &[T]) -> T {
    lanes(
        x.len(),
        #[inline(always)]
        |j| x[j],
    )
}

/// The largest value, compared in 16 interleaved lanes.
#[inline(always)]
pub fn max_lanes<T: Float>(x: &[T]) -> T {
    const LANES: usize = 16;
    let mut acc = [x[0]; LANES];
    let (whole, rest) = x.as_chunks::<LANES>();
    for chunk in whole {
        for (a, &v) in acc.iter_mut().zip(chunk) {
            *a = if v > *a { v } else { *a };
        }
    }
    let mut max = acc[0];
    for &v in acc.iter().chain(rest) {
        max = if v > max { v } else { max };
    }
    max
}

pub fn columns_acc<T: Float>(out: &mut [T], x: &[T]) {
    let c = out.len();
    let rows = rows_per_task(c);
    let partials: Vec<Vec<T>> = x
        .par_chunks(rows * c)
        .map(|x| {
            let mut part = vec![T::ZERO; c];
            simd(
                #[inline(always)]
                || {
                    for x in x.chunks_exact(c) {
                        for j in 0..c {
                            part[j] += x[j];
                        }
                    }
                },
            );
            part
        })
        .collect();
    for part in partials {
        for j in 0..c {
            out[j] += part[j];
        }
    }
}

pub fn squares<T: Float>(x: &[T]) -> f64 {
    let partials: Vec<f64> = x
        .par_chunks(16 * 1024)
        .map(|x| {
            simd(
                #[inline(always)]
                || {
                    lanes(
                        x.len(),
                        #[inline(always)]
                        |j| x[j].to_f64() * x[j].to_f64(),
                    )
                },
            )
        })
        .collect();
    partials.into_iter().sum()
}
