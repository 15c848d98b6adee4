//! What the tests of products share.

use crate::ops::float::Float;

/// Numbers in [-1, 1) without a pattern: a linear congruential generator.
pub fn random<T: Float>(n: usize, which: u64) -> Vec<T> {
    let mut state = which;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        T::of((state >> 40) as f64 / f64::from(1 << 23) - 1.0)
    };
    (0..n).map(next).collect()
}

/// Σ_l x[i, l] w(l, j) for every element.
pub fn definition<T: Float>(x: &[T], w: impl Fn(usize, usize) -> T, (k, n): (usize, usize)) -> Vec<f64> {
    let row = |x: &[T]| -> Vec<f64> {
        (0..n).map(|j| (0..k).map(|l| x[l].to_f64() * w(l, j).to_f64()).sum()).collect()
    };
    x.chunks_exact(k).flat_map(row).collect()
}

/// The largest difference, beside the largest value.
pub fn error<T: Float>(got: &[T], wanted: &[f64]) -> f64 {
    assert_eq!(got.len(), wanted.len());
    let largest = wanted.iter().fold(f64::MIN_POSITIVE, |m: f64, w| m.max(w.abs()));
    got.iter()
        .zip(wanted)
        .map(|(g, w)| (g.to_f64() - w).abs())
        .fold(0.0, |m: f64, e| if e <= m { m } else { e })
        / largest
}
