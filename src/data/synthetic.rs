//! Random images with one smooth pattern per class: data for tests and first tries.
//!
//! Pixel (y, x, c) of an image of class k: 128 + 24 sum_(j<4) cos(2 pi (f_kcj (y + s) / 32 +
//! g_kcj (x + t) / 32) + p_kcj) + 20 n, rounded and clamped to [0, 255]; waves f, g, p are drawn per
//! class and channel, the shift (s, t) of at most 2 pixels per image, the noise n per value.

use super::image_set::{DataSet, ImageSet, PixelArray};
use crate::rng::{Rng, Stream};

const CLASSES: u32 = 10;
const SIDE: usize = 32;
const TRAIN_PER_CLASS: u32 = 60;
const TEST_PER_CLASS: u32 = 20;
const WAVES: usize = 4;

/// 10 classes, 32x32x3, 60 training and 20 test images each, in interleaved order. The same seed gives
/// the same images.
pub fn load(seed: u64) -> DataSet {
    let patterns: Vec<Pattern> = (0..CLASSES).map(|class| Pattern::draw(seed, class)).collect();
    DataSet {
        name: "synthetic".into(),
        train: part(&patterns, seed, 1, TRAIN_PER_CLASS),
        test: part(&patterns, seed, 2, TEST_PER_CLASS),
        class_names: (0..CLASSES).map(|class| format!("pattern {class}")).collect(),
        domain_names: vec!["synthetic".into()],
        ..DataSet::default()
    }
}

/// The waves of one class: per channel and wave, vertical and horizontal frequency and phase.
struct Pattern([[[f64; 3]; WAVES]; 3]);

impl Pattern {
    fn draw(seed: u64, class: u32) -> Pattern {
        let mut rng = Rng::new(seed, Stream::Synthetic, u64::from(class));
        let mut waves = [[[0.0; 3]; WAVES]; 3];
        for wave in waves.iter_mut().flatten() {
            *wave = [f64::from(rng.below(4)), f64::from(rng.below(7)) - 3.0, rng.uniform_f64()];
        }
        Pattern(waves)
    }

    fn value(&self, y: f64, x: f64, channel: usize) -> f64 {
        self.0[channel]
            .iter()
            .map(|&[f, g, p]| libm::cos(std::f64::consts::TAU * ((f * y + g * x) / SIDE as f64 + p)))
            .sum()
    }
}

/// `part` 1 or 2 keeps the random numbers of training and test images apart.
fn part(patterns: &[Pattern], seed: u64, part: u64, per_class: u32) -> ImageSet {
    let n = per_class * CLASSES;
    let mut pixels = Vec::with_capacity(n as usize * SIDE * SIDE * 3);
    for i in 0..n {
        let pattern = &patterns[(i % CLASSES) as usize];
        let mut rng = Rng::new(seed, Stream::Synthetic, part << 32 | u64::from(i));
        let (dy, dx) = (4.0 * rng.uniform_f64() - 2.0, 4.0 * rng.uniform_f64() - 2.0);
        for y in 0..SIDE {
            for x in 0..SIDE {
                for channel in 0..3 {
                    let value = pattern.value(y as f64 + dy, x as f64 + dx, channel);
                    // `as` clamps to 0..=255.
                    pixels.push((128.0 + 24.0 * value + 20.0 * rng.normal()).round() as u8);
                }
            }
        }
    }
    let pixels = PixelArray { height: SIDE, width: SIDE, channels: 3, bytes: pixels };
    ImageSet::in_memory(pixels, (0..n).map(|i| i % CLASSES).collect())
}
