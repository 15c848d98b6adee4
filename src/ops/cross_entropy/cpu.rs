//! Cross-entropy on slices. Batches are small next to the network: one thread, sums in f64.

use super::args::Labels;
use super::args::LossOutcome;
use crate::ops::float::Float;

pub fn forward_backward<T: Float>(
    mut dlogits: Option<&mut [T]>,
    logits: &[T],
    labels: Labels,
    mask: &[u32],
    k: usize,
    smoothing: f64,
) -> LossOutcome {
    let b = logits.len() / k;
    let mut outcome = LossOutcome { loss: 0.0, correct: 0 };
    for i in 0..b {
        let (label, mask) = (labels.main(i, k), row(mask, i, k));
        let allowed = mask.iter().filter(|&&m| m != 0).count() as f64;
        let z = &logits[i * k..][..k];
        let classes = || (0..k).filter(|&j| mask[j] != 0);
        let mut best = label;
        for j in classes() {
            if z[j] > z[best] || (z[j] == z[best] && j < best) {
                best = j;
            }
        }
        outcome.correct += usize::from(best == label && !z[best].to_f64().is_nan());
        let max = z[best].to_f64();
        let sum: f64 = classes().map(|j| (z[j].to_f64() - max).exp()).sum();
        let lse = max + sum.ln();
        let target = |j: usize| smoothing / allowed + (1.0 - smoothing) * labels.weight(i, j, k);
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

/// The mask of image i: its own, or the one of all.
pub fn row(mask: &[u32], i: usize, k: usize) -> &[u32] {
    if mask.len() == k { mask } else { &mask[i * k..][..k] }
}

impl Labels<'_> {
    /// How much of image i is class j of k.
    fn weight(&self, i: usize, j: usize, k: usize) -> f64 {
        match self {
            Labels::Classes(labels) => f64::from(u8::from(labels[i] as usize == j)),
            Labels::Soft(weights) => f64::from(weights[i * k + j]),
        }
    }

    /// The class of which image i is most; the lower one of equals.
    fn main(&self, i: usize, k: usize) -> usize {
        match self {
            Labels::Classes(labels) => labels[i] as usize,
            Labels::Soft(weights) => {
                let row = &weights[i * k..][..k];
                (0..k).fold(0, |best, j| if row[j] > row[best] { j } else { best })
            }
        }
    }
}
