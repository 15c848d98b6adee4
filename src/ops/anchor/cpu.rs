//! Anchored parameters on slices.

use crate::ops::float::{Float, for_rows};
use rayon::prelude::*;

/// Values whose terms are summed apart from those of others, so that the sum does not depend on the threads.
const PIECE: usize = 1 << 14;

/// The sum is in f64 whatever the type.
pub fn penalty<T: Float>(p: &[T], anchor: &[T], importance: &[T]) -> f64 {
    let piece = |((p, a), f): ((&[T], &[T]), &[T])| {
        let moved = p.iter().zip(a).map(|(&p, &a)| (p - a).to_f64());
        moved.zip(f).map(|(d, &f)| f.to_f64() * d * d).sum::<f64>()
    };
    let pieces = p.par_chunks(PIECE).zip(anchor.par_chunks(PIECE)).zip(importance.par_chunks(PIECE));
    pieces.map(piece).collect::<Vec<f64>>().into_iter().sum()
}

pub fn backward_acc<T: Float>(dp: &mut [T], p: &[T], anchor: &[T], importance: &[T], twice_scale: T) {
    for_rows(
        dp,
        1,
        #[inline(always)]
        |first, dp| {
            let at = first..first + dp.len();
            let (p, a, f) = (&p[at.clone()], &anchor[at.clone()], &importance[at]);
            for i in 0..dp.len() {
                dp[i] += twice_scale * f[i] * (p[i] - a[i]);
            }
        },
    );
}

pub fn add_squares<T: Float>(importance: &mut [T], g: &[T], weight: T) {
    for_rows(
        importance,
        1,
        #[inline(always)]
        |first, f| {
            let g = &g[first..first + f.len()];
            for i in 0..f.len() {
                f[i] += weight * g[i] * g[i];
            }
        },
    );
}
