//! The random warp of pre-training: a small affine map of the image plane and a change of contrast.
//! Source: Dosovitskiy et al. 2014, "Discriminative unsupervised feature learning with exemplar
//! convolutional neural networks", arXiv:1406.6909.

use crate::nn::vit::CHANNELS;
use crate::rng::Rng;

/// Full strength: turn in radians, share of scale, shear, shift in shares of the side, contrast.
const TURN: f32 = 0.5;
const SCALE: f32 = 0.35;
const SHEAR: f32 = 0.4;
const SHIFT: f32 = 0.12;
const CONTRAST: f32 = 0.5;

/// Warps an image (S, S, 3) of values in [0, 1] in place; outside of it is 0.
pub fn warp(image: &mut [f32], side: usize, strength: f32, rng: &mut Rng) {
    let mut draw = |most: f32| strength * most * (2.0 * rng.uniform() - 1.0);
    let (turn, shear) = (draw(TURN), draw(SHEAR));
    let (scale_x, scale_y) = (1.0 + draw(SCALE), 1.0 + draw(SCALE));
    let (shift_x, shift_y) = (draw(SHIFT) * side as f32, draw(SHIFT) * side as f32);
    let gamma = 1.0 + draw(CONTRAST);
    let (sin, cos) = turn.sin_cos();
    let middle = (side as f32 - 1.0) / 2.0;
    let source = image.to_vec();
    for y in 0..side {
        for x in 0..side {
            let (dx, dy) = (x as f32 - middle - shift_x, y as f32 - middle - shift_y);
            let (dx, dy) = ((dx + shear * dy) / scale_x, dy / scale_y);
            let (sx, sy) = (cos * dx - sin * dy + middle, sin * dx + cos * dy + middle);
            let out = &mut image[(y * side + x) * CHANNELS..][..CHANNELS];
            for (c, out) in out.iter_mut().enumerate() {
                *out = sample(&source, side, sx, sy, c).max(0.0).powf(gamma);
            }
        }
    }
}

/// Bilinear, zero outside.
fn sample(image: &[f32], side: usize, x: f32, y: f32, channel: usize) -> f32 {
    let (left, top) = (x.floor(), y.floor());
    let (fx, fy) = (x - left, y - top);
    let at = |x: f32, y: f32| {
        let inside = x >= 0.0 && y >= 0.0 && x < side as f32 && y < side as f32;
        if inside { image[(y as usize * side + x as usize) * CHANNELS + channel] } else { 0.0 }
    };
    let upper = at(left, top) * (1.0 - fx) + at(left + 1.0, top) * fx;
    let lower = at(left, top + 1.0) * (1.0 - fx) + at(left + 1.0, top + 1.0) * fx;
    upper * (1.0 - fy) + lower * fy
}
