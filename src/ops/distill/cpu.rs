//! Distillation on slices. Batches are small next to the network: one thread, sums in f64.

use crate::ops::float::Float;

/// log softmax(z / T) over `classes`.
fn log_softmax<T: Float>(z: &[T], classes: &[usize], temperature: f64) -> Vec<f64> {
    let scaled: Vec<f64> = classes.iter().map(|&k| z[k].to_f64() / temperature).collect();
    let max = scaled.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = scaled.iter().map(|s| (s - max).exp()).sum();
    scaled.iter().map(|s| s - max - sum.ln()).collect()
}

pub fn forward_backward_acc<T: Float>(
    dlogits: &mut [T],
    logits: &[T],
    teacher: &[T],
    mask: &[u32],
    (temperature, weight): (f64, f64),
) -> f64 {
    let k = mask.len();
    let classes: Vec<usize> = (0..k).filter(|&j| mask[j] != 0).collect();
    if classes.is_empty() {
        return 0.0;
    }
    let b = (logits.len() / k) as f64;
    let mut total = 0.0;
    for ((d, z), t) in dlogits.chunks_exact_mut(k).zip(logits.chunks_exact(k)).zip(teacher.chunks_exact(k)) {
        let (own, wanted) = (log_softmax(z, &classes, temperature), log_softmax(t, &classes, temperature));
        for ((&j, own), wanted) in classes.iter().zip(&own).zip(&wanted) {
            total -= wanted.exp() * own / b;
            d[j] += T::of(weight * (own.exp() - wanted.exp()) / (b * temperature));
        }
    }
    total
}
