//! Colour jitter: brightness, contrast, saturation and hue in a random order, sometimes grey.
//! Source: Chen et al. 2020, arXiv:2006.10029, as google-research/l2p @ dd8836e has it in
//! `augment/color_util.py`; TensorFlow, `adjust_contrast_op.cc`, `adjust_saturation_op.cc`, `adjust_hue_op.cc`.
//! Its flip is left out: `data.augment` has one.

use super::rand_augment::{grey_f32, saturate};
use crate::rng::Rng;

/// Of the jitter, and of the image becoming grey.
const JITTER_PROBABILITY: f32 = 0.8;
const GREY_PROBABILITY: f32 = 0.2;
/// Spread of the factors and of the turn of hue at strength 1.
const SPREAD: f32 = 0.8;
const HUE_SPREAD: f32 = 0.2;

/// What is done to the colours of an image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ColorChange {
    /// x f.
    Brightness(f32),
    /// (x - mean) f + mean, with each channel's mean.
    Contrast(f32),
    /// Of hue, saturation and value.
    Saturation(f32),
    /// In turns of the circle.
    Hue(f32),
    Grey,
}

/// The changes of one image, in order.
pub fn draw(rng: &mut Rng, strength: f32) -> Vec<ColorChange> {
    let mut changes = Vec::new();
    if rng.uniform() < JITTER_PROBABILITY {
        let spread = SPREAD * strength;
        let mut between = |low: f32, high: f32| low + (high - low) * rng.uniform();
        changes.extend([
            ColorChange::Brightness(between((1.0 - spread).max(0.0), 1.0 + spread)),
            ColorChange::Contrast(between(1.0 - spread, 1.0 + spread)),
            ColorChange::Saturation(between(1.0 - spread, 1.0 + spread)),
            ColorChange::Hue(between(-HUE_SPREAD * strength, HUE_SPREAD * strength)),
        ]);
        rng.shuffle(&mut changes);
    }
    if rng.uniform() < GREY_PROBABILITY {
        changes.push(ColorChange::Grey);
    }
    changes
}

/// In place, in f32 between bytes; values are kept within [0, 1] after each change.
///
/// # Shapes
/// image: (pixels, 3).
pub fn apply(changes: &[ColorChange], image: &mut [u8]) {
    let (pixels, _) = image.as_chunks_mut::<3>();
    let mut values: Vec<[f32; 3]> = pixels.iter().map(|p| p.map(|x| f32::from(x) * (1.0 / 255.0))).collect();
    for change in changes {
        change.apply(&mut values);
    }
    for (to, from) in pixels.iter_mut().zip(&values) {
        *to = from.map(|x| saturate(x.clamp(0.0, 1.0) * 255.0));
    }
}

impl ColorChange {
    fn apply(self, pixels: &mut [[f32; 3]]) {
        match self {
            ColorChange::Brightness(factor) => each(pixels, |p| p.map(|x| x * factor)),
            ColorChange::Contrast(factor) => {
                let n = pixels.len() as f64;
                let mean: [f32; 3] =
                    std::array::from_fn(|c| (pixels.iter().map(|p| f64::from(p[c])).sum::<f64>() / n) as f32);
                each(pixels, |p| std::array::from_fn(|c| (p[c] - mean[c]) * factor + mean[c]));
            }
            ColorChange::Saturation(factor) => each(pixels, |p| saturation(p, factor)),
            ColorChange::Hue(turn) => each(pixels, |p| hue(p, turn)),
            ColorChange::Grey => each(pixels, |p| [grey_f32(p); 3]),
        }
    }
}

fn each(pixels: &mut [[f32; 3]], f: impl Fn([f32; 3]) -> [f32; 3]) {
    pixels.iter_mut().for_each(|p| *p = f(*p).map(|x| x.clamp(0.0, 1.0)));
}

fn saturation([r, g, b]: [f32; 3], factor: f32) -> [f32; 3] {
    let value = r.max(g).max(b);
    let range = value - r.min(g).min(b);
    let s = if value > 0.0 { range / value } else { 0.0 };
    let norm = 1.0 / (6.0 * range);
    let sixth = |n: f64, x: f32| (f64::from(x) + n / 6.0) as f32;
    let mut h = if r == value {
        norm * (g - b)
    } else if g == value {
        sixth(2.0, norm * (b - r))
    } else {
        sixth(4.0, norm * (r - g))
    };
    if range <= 0.0 {
        h = 0.0;
    }
    if h < 0.0 {
        h += 1.0;
    }
    let s = (s * factor).clamp(0.0, 1.0);
    // And back.
    let c = s * value;
    let m = value - c;
    let sextant = h * 6.0;
    let mut within = sextant;
    while within <= 0.0 {
        within += 2.0;
    }
    while within >= 2.0 {
        within -= 2.0;
    }
    let x = c * (1.0 - (within - 1.0).abs());
    let rgb = match sextant as u32 {
        0 => [c, x, 0.0],
        1 => [x, c, 0.0],
        2 => [0.0, c, x],
        3 => [0.0, x, c],
        4 => [x, 0.0, c],
        5 => [c, 0.0, x],
        _ => [0.0; 3],
    };
    rgb.map(|x| x + m)
}

/// Smallest, middle and largest of red, green and blue stay, their order turns.
fn hue([r, g, b]: [f32; 3], turn: f32) -> [f32; 3] {
    let (low, middle, high, sextant) = if r < g {
        if b < r {
            (b, r, g, 1)
        } else if b > g {
            (r, g, b, 3)
        } else {
            (r, b, g, 2)
        }
    } else if b < g {
        (b, g, r, 0)
    } else if b > r {
        (g, r, b, 4)
    } else {
        (g, b, r, 5)
    };
    let mut h = 0.0;
    if high > low {
        let ratio = (middle - low) / (high - low);
        h = sextant as f32 + if sextant % 2 == 0 { ratio } else { 1.0 - ratio };
    }
    h += turn * 6.0;
    while h < 0.0 {
        h += 6.0;
    }
    while h >= 6.0 {
        h -= 6.0;
    }
    let sextant = h as u32;
    let ratio = h - sextant as f32;
    let ratio = if sextant.is_multiple_of(2) { ratio } else { 1.0 - ratio };
    let middle = low + ratio * (high - low);
    match sextant {
        0 => [high, middle, low],
        1 => [middle, high, low],
        2 => [low, high, middle],
        3 => [low, middle, high],
        4 => [middle, low, high],
        _ => [high, low, middle],
    }
}
