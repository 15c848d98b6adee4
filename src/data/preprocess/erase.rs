//! Random erasing: with some probability a box of an image becomes normal noise, after normalisation.
//! Source: Zhong et al. 2017, arXiv:1708.04896, as google-research/l2p @ dd8836e has it in
//! `augment/augment_ops.py`: the box is not drawn again when it reaches out of the image, which cuts it.

use crate::rng::Rng;

/// Of the box, relative to the image.
const AREA: (f32, f32) = (0.02, 1.0 / 3.0);
/// Height over width of the box, its logarithm uniform.
const ASPECT: (f64, f64) = (0.3, 1.0 / 0.3);

/// A box by what it is drawn from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Erasing {
    /// Share of the image.
    pub area: f32,
    /// Height over width.
    pub aspect: f32,
    /// Position of the centre in shares of the side.
    pub y: f32,
    pub x: f32,
}

impl Erasing {
    pub fn draw(rng: &mut Rng) -> Erasing {
        let mut between = |low: f32, high: f32| low + (high - low) * rng.uniform();
        let area = between(AREA.0, AREA.1);
        let aspect = between(ASPECT.0.ln() as f32, ASPECT.1.ln() as f32).exp();
        Erasing { area, aspect, y: rng.uniform(), x: rng.uniform() }
    }

    /// The rows and columns that lie strictly within the box.
    pub fn rows_and_columns(&self, size: usize) -> [std::ops::Range<usize>; 2] {
        let side = size as f32;
        let range = |half: f32, middle: f32| {
            let inside = |&i: &usize| i as f32 > middle - half && (i as f32) < middle + half;
            let first = (0..size).find(inside).unwrap_or(0);
            first..first + (first..size).take_while(inside).count()
        };
        [
            range(side * (self.area * self.aspect).sqrt() / 2.0, self.y * side),
            range(side * (self.area / self.aspect).sqrt() / 2.0, self.x * side),
        ]
    }

    /// Fills the box with normal numbers.
    ///
    /// # Shapes
    /// image: (size, size, 3).
    pub fn apply(&self, rng: &mut Rng, image: &mut [f32], size: usize) {
        let [rows, columns] = self.rows_and_columns(size);
        for y in rows {
            for x in &mut image[(y * size + columns.start) * 3..(y * size + columns.end) * 3] {
                *x = rng.normal() as f32;
            }
        }
    }
}
