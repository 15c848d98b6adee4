//! Cross-entropy on slices. Batches are small next to the network: one thread, sums in f64.

use super::Outcome;
use crate::ops::float::Float;

pub fn forward_backward<T: Float>(
    mut dlogits: Option<&mut [T]>,
    logits: &[T],
    labels: &[u32],
    mask: &[u32],
    smoothing: f64,
) -> Outcome {
    let (b, k) = (labels.len(), mask.len());
    let allowed = mask.iter().filter(|&&m| m != 0).count() as f64;
    let mut outcome = Outcome { loss: 0.0, correct: 0 };
    for (i, &label) in labels.iter().enumerate() {
        let z = &logits[i * k..][..k];
        let classes = || (0..k).filter(|&j| mask[j] != 0);
        let mut best = label as usize;
        for j in classes() {
            if z[j] > z[best] || (z[j] == z[best] && j < best) {
                best = j;
            }
        }
        outcome.correct += usize::from(best == label as usize && !z[best].to_f64().is_nan());
        let max = z[best].to_f64();
        let sum: f64 = classes().map(|j| (z[j].to_f64() - max).exp()).sum();
        let lse = max + sum.ln();
        let target = |j: usize| smoothing / allowed + if j == label as usize { 1.0 - smoothing } else { 0.0 };
        outcome.loss += classes().map(|j| target(j) * (lse - z[j].to_f64())).sum::<f64>() / b as f64;
        if let Some(d) = dlogits.as_deref_mut() {
            let d = &mut d[i * k..][..k];
            for j in 0..k {
                let probability = (z[j].to_f64() - lse).exp();
                d[j] = if mask[j] != 0 { T::of((probability - target(j)) / b as f64) } else { T::ZERO };
            }
        }
    }
    outcome
}
