//! Sums on slices, in an order that depends on lengths only.

use crate::ops::float::{Float, rows_per_task, simd};
use rayon::prelude::*;

/// Σ_j f([x[j], …]) over slices of one length, in 16 interleaved partial sums, which the compiler keeps in vector registers: it
/// does not where each index is checked, nor where the values are collected by a function that it leaves a call.
#[inline(always)]
pub fn lanes<T: Float, R: Float, const N: usize>(of: [&[T]; N], f: impl Fn([T; N]) -> R) -> R {
    const LANES: usize = 16;
    let n = of[0].len();
    for i in 1..N {
        assert!(of[i].len() == n);
    }
    let (mut acc, mut values) = ([R::ZERO; LANES], [T::ZERO; N]);
    for chunk in 0..n / LANES {
        for lane in 0..LANES {
            for i in 0..N {
                // SAFETY: below n, the length of every slice.
                values[i] = unsafe { *of[i].as_ptr().add(chunk * LANES + lane) };
            }
            let so_far = acc[lane];
            acc[lane] = so_far + f(values);
        }
    }
    let mut total = R::ZERO;
    for j in n / LANES * LANES..n {
        for i in 0..N {
            values[i] = of[i][j];
        }
        total += f(values);
    }
    for lane in 0..LANES {
        total += acc[lane];
    }
    total
}

/// Σ x.
#[inline(always)]
pub fn sum_lanes<T: Float>(x: &[T]) -> T {
    lanes(
        [x],
        #[inline(always)]
        |[x]| x,
    )
}

/// The largest value, compared in 16 interleaved lanes.
#[inline(always)]
pub fn max_lanes<T: Float>(x: &[T]) -> T {
    const LANES: usize = 16;
    let mut acc = [x[0]; LANES];
    let (whole, rest) = x.as_chunks::<LANES>();
    for chunk in whole {
        for lane in 0..LANES {
            // Both are read before one is chosen: a choice in place became a masked store for each vector, which the next load
            // waited for.
            let (v, most) = (chunk[lane], acc[lane]);
            acc[lane] = if v > most { v } else { most };
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
                        [x],
                        #[inline(always)]
                        |[x]| x.to_f64() * x.to_f64(),
                    )
                },
            )
        })
        .collect();
    partials.into_iter().sum()
}
