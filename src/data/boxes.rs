//! Random boxes, by TensorFlow's rule and by torchvision's.

use crate::rng::Rng;

/// Of the random box, relative to the image.
const AREA_MIN: f32 = 0.05;
const AREA_MAX: f32 = 1.0;
/// Width over height of the random box in TensorFlow's rule.
const ASPECT_MIN: f32 = 0.75;
const ASPECT_MAX: f32 = 1.33;
/// After so many boxes that rounding put out of the limits, the whole image is used.
const TENSORFLOW_ATTEMPTS: usize = 100;
/// After so many boxes that do not fit, torchvision takes the largest one in the centre.
const TORCHVISION_ATTEMPTS: usize = 10;
/// Width over height of the random box in torchvision's rule, from and to.
const TORCHVISION_ASPECT: (f64, f64) = (3.0 / 4.0, 4.0 / 3.0);

/// A box in an image, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CropBox {
    pub top: usize,
    pub left: usize,
    pub height: usize,
    pub width: usize,
}

/// A random box by torchvision's `RandomResizedCrop` with area in [0.05, 1] and aspect ratio in [3/4, 4/3]:
/// the area is uniform, the logarithm of the aspect ratio is, and so is the position; after ten boxes
/// that do not fit, the largest one in the centre that keeps to the aspect ratio.
/// Source: torchvision, `transforms/transforms.py`, `RandomResizedCrop.get_params`.
pub fn sample_crop_torchvision(rng: &mut Rng, height: usize, width: usize) -> CropBox {
    let area = (height * width) as f64;
    let (low, high) = ((TORCHVISION_ASPECT.0 as f32).ln(), (TORCHVISION_ASPECT.1 as f32).ln());
    let between = |low: f32, high: f32, u: f32| f64::from(low + (high - low) * u);
    for _ in 0..TORCHVISION_ATTEMPTS {
        let target = area * between(AREA_MIN, AREA_MAX, rng.uniform());
        let aspect = between(low, high, rng.uniform()).exp();
        let side = |x: f64| x.sqrt().round_ties_even() as usize;
        let (w, h) = (side(target * aspect), side(target / aspect));
        if (1..=width).contains(&w) && (1..=height).contains(&h) {
            let top = rng.below((height - h + 1) as u32) as usize;
            let left = rng.below((width - w + 1) as u32) as usize;
            return CropBox { top, left, height: h, width: w };
        }
    }
    largest_centre(height, width)
}

/// What torchvision falls back to.
pub fn largest_centre(height: usize, width: usize) -> CropBox {
    let (low, high) = TORCHVISION_ASPECT;
    let (full_h, full_w) = (height as f64, width as f64);
    let (h, w) = if full_w / full_h < low {
        ((full_w / low).round_ties_even() as usize, width)
    } else if full_w / full_h > high {
        (height, (full_h * high).round_ties_even() as usize)
    } else {
        (height, width)
    };
    CropBox { top: (height - h) / 2, left: (width - w) / 2, height: h, width: w }
}

/// A random box in an image of `height` x `width`, by TensorFlow's `sample_distorted_bounding_box`
/// with area in [0.05, 1], aspect ratio in [0.75, 1.33] and no object to cover: the aspect ratio is
/// uniform, then the height is uniform among the integers that fit, so the area is not uniform.
/// As there, the last possible position is never drawn.
pub fn sample_crop(rng: &mut Rng, height: usize, width: usize) -> CropBox {
    for _ in 0..TENSORFLOW_ATTEMPTS {
        let aspect = rng.uniform() * (ASPECT_MAX - ASPECT_MIN) + ASPECT_MIN;
        if let Some((h, w)) = crop_size(rng, height, width, aspect) {
            let top = if h < height { rng.below((height - h) as u32) as usize } else { 0 };
            let left = if w < width { rng.below((width - w) as u32) as usize } else { 0 };
            return CropBox { top, left, height: h, width: w };
        }
    }
    CropBox { top: 0, left: 0, height, width }
}

/// Height and width of a box, or none where rounding leaves nothing within the limits.
fn crop_size(rng: &mut Rng, height: usize, width: usize, aspect: f32) -> Option<(usize, usize)> {
    let round = |x: f32| x.round_ties_even() as i64;
    let (full_h, full_w) = (height as i64, width as i64);
    let image_area = (full_h * full_w) as f32;
    let (area_min, area_max) = (AREA_MIN * image_area, AREA_MAX * image_area);
    let width_of = |h: i64| round(h as f32 * aspect);

    let lowest = round((area_min / aspect).sqrt());
    let mut highest = round((area_max / aspect).sqrt());
    if width_of(highest) > full_w {
        highest = ((full_w as f32 + 0.5 - 1e-7) / aspect) as i64;
        if width_of(highest) > full_w {
            highest -= 1;
        }
    }
    highest = highest.min(full_h);
    let mut h = lowest.min(highest);
    if h < highest {
        h += i64::from(rng.below((highest - h + 1) as u32));
    }
    // Rounding may have moved the area just out of its limits.
    let area_of = |h: i64| (width_of(h) * h) as f32;
    if area_of(h) < area_min {
        h += 1;
    }
    if area_of(h) > area_max {
        h -= 1;
    }
    let (w, area) = (width_of(h), area_of(h));
    let fits = (1..=full_h).contains(&h) && (1..=full_w).contains(&w) && area >= area_min && area <= area_max;
    fits.then_some((h as usize, w as usize))
}
