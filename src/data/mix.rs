//! Mixing of the images of a batch, and the soft labels of the result.
//! Mixup: x_i <- w_i x_i + (1 - w_i) x_j with j from a permutation (Zhang et al. 2017, arXiv:1710.09412).
//! CutMix: a box of x_i stays, around it is x_j with j = B - 1 - i (Yun et al. 2019, arXiv:1905.04899).
//! In both the soft label of the result is w_i for the class of i and 1 - w_i for that of j.
//! Source: google-research/l2p @ dd8836e, `augment/augment_utils.py` and `augment_ops.py`; their weights are
//! u^(1 / alpha) / 2 with uniform u, which for alpha other than 1 is not the Beta distribution of the papers;
//! mixup takes the larger of that and its complement. With the class mask of continual learning the loss
//! there is NaN (0 times infinity); here classes with a soft label of 0 do not count.

use super::boxes::CropBox;
use crate::config::schema::Data;
use crate::rng::Rng;
use rayon::prelude::*;

/// How batches are mixed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MixRule {
    mixup_alpha: f32,
    cutmix_alpha: f32,
    probability: f32,
}

/// The mixing of one batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Mix {
    /// j of each image.
    pub partners: Vec<usize>,
    /// w of each image.
    pub weights: Vec<f32>,
    /// CutMix: what stays of each image.
    pub boxes: Option<Vec<CropBox>>,
}

impl MixRule {
    /// None if nothing is to be mixed.
    pub fn new(config: &Data) -> Option<MixRule> {
        let [mixup_alpha, cutmix_alpha, probability] =
            [config.mixup_alpha, config.cutmix_alpha, config.mix_probability].map(|x| x as f32);
        let on = (mixup_alpha > 0.0 || cutmix_alpha > 0.0) && probability > 0.0;
        on.then_some(MixRule { mixup_alpha, cutmix_alpha, probability })
    }

    /// The mixing of a batch of `batch` images of `size` x `size`; none for batches that stay as they are.
    pub fn draw(&self, rng: &mut Rng, batch: usize, size: usize) -> Option<Mix> {
        if self.probability < 1.0 && rng.uniform() >= self.probability {
            return None;
        }
        let both = self.mixup_alpha > 0.0 && self.cutmix_alpha > 0.0;
        let mixup = if both { rng.next_u32() >> 31 == 0 } else { self.mixup_alpha > 0.0 };
        let alpha = if mixup { self.mixup_alpha } else { self.cutmix_alpha };
        let mut weights: Vec<f32> = (0..batch).map(|_| rng.uniform().powf(1.0 / alpha) / 2.0).collect();
        if mixup {
            weights.iter_mut().for_each(|w| *w = w.max(1.0 - *w));
            let mut partners: Vec<usize> = (0..batch).collect();
            rng.shuffle(&mut partners);
            return Some(Mix { partners, weights, boxes: None });
        }
        let boxes = weights.iter().map(|w| {
            let side = (w.sqrt() * size as f32) as usize;
            // As there: a position in the image, taken modulo the room that is left.
            let mut at = || rng.below(size as u32) as usize % (size - side);
            let (left, top) = (at(), at());
            CropBox { top, left, height: side, width: side }
        });
        let boxes = Some(boxes.collect());
        Some(Mix { partners: (0..batch).rev().collect(), weights, boxes })
    }
}

impl Mix {
    /// Every image stays as it is.
    pub fn nothing(batch: usize) -> Mix {
        Mix { partners: (0..batch).collect(), weights: vec![1.0; batch], boxes: None }
    }

    /// Mixes a batch in place.
    ///
    /// # Shapes
    /// images: (B, size, size, 3).
    pub fn images(&self, images: &mut [f32], size: usize) {
        let before = images.to_vec();
        let each = size * size * 3;
        images.par_chunks_exact_mut(each).enumerate().for_each(|(i, image)| {
            let partner = &before[self.partners[i] * each..][..each];
            let Some(boxes) = &self.boxes else {
                let w = self.weights[i];
                image.iter_mut().zip(partner).for_each(|(x, y)| *x = *x * w + y * (1.0 - w));
                return;
            };
            let CropBox { top, left, height, width } = boxes[i];
            image.copy_from_slice(partner);
            for y in top..top + height {
                let stays = (y * size + left) * 3..(y * size + left + width) * 3;
                image[stays.clone()].copy_from_slice(&before[i * each..][stays]);
            }
        });
    }

    /// The soft labels (B, classes) of a batch with these labels.
    pub fn soft_labels(&self, labels: &[u32], classes: usize) -> Vec<f32> {
        let mut soft_labels = vec![0.0; labels.len() * classes];
        for (i, row) in soft_labels.chunks_exact_mut(classes).enumerate() {
            row[labels[i] as usize] += self.weights[i];
            row[labels[self.partners[i]] as usize] += 1.0 - self.weights[i];
        }
        soft_labels
    }
}
