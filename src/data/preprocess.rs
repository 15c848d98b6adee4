//! An image to network input, exactly as TensorFlow does it in the official code.
//! Source: google-research/l2p @ dd8836e, `libml/preprocess.py` and `libml/input_pipeline.py`;
//! TensorFlow, `core/kernels/image/resize_bilinear_op.cc` and `sample_distorted_bounding_box_op.cc`.
//!
//! Test image: bilinear resize to R x R (R = `resize_size`), truncation to bytes, the centre S x S
//! (S = `input_size`, offset (R - S) / 2), / 255, (x - mean) / std.
//! Training image: the same resize and truncation, a random box, / 255, bilinear resize to S x S, a
//! flip with probability 1/2, (x - mean) / std. The official code also passes the resized image
//! through JPEG (quality 95) before the box; that is left out here.

use super::image_set::ImageView;
use crate::config::schema::{Augment, Data};
use crate::error::{Error, Result};
use crate::rng::Rng;

/// Of the random box, relative to the image.
const AREA_MIN: f32 = 0.05;
const AREA_MAX: f32 = 1.0;
/// Width over height of the random box.
const ASPECT_MIN: f32 = 0.75;
const ASPECT_MAX: f32 = 1.33;
/// After so many boxes that rounding put out of the limits, the whole image is used.
const BOX_ATTEMPTS: usize = 100;

/// (x - mean) / std per channel, for x in [0, 1].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Normalize {
    pub mean: [f32; 3],
    pub std: [f32; 3],
}

impl Normalize {
    /// [0, 1], as the official code feeds it.
    pub const UNIT: Normalize = Normalize { mean: [0.0; 3], std: [1.0; 3] };
    /// [-1, 1].
    pub const HALF: Normalize = Normalize { mean: [0.5; 3], std: [0.5; 3] };
    /// torchvision's constants for ImageNet.
    pub const IMAGENET: Normalize = Normalize { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };

    fn apply(&self, channel: usize, x: f32) -> f32 {
        (x - self.mean[channel]) / self.std[channel]
    }
}

/// A box in an image, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CropBox {
    pub top: usize,
    pub left: usize,
    pub height: usize,
    pub width: usize,
}

/// What happens to an image before the network.
#[derive(Debug, Clone, PartialEq)]
pub struct Preprocess {
    input_size: usize,
    resize_size: usize,
    augment: Augment,
    normalize: Normalize,
}

impl Preprocess {
    /// # Errors
    /// `Error::Config` when a size is 0 or above 4096, or `input_size` is above `resize_size`.
    pub fn new(config: &Data, normalize: Normalize) -> Result<Preprocess> {
        let (input_size, resize_size) = (config.input_size, config.resize_size);
        if input_size == 0 || input_size > resize_size || resize_size > 4096 {
            return Err(Error::config(format!(
                "1 <= data.input_size <= data.resize_size <= 4096 was wanted, got input_size {input_size} and resize_size {resize_size}"
            )));
        }
        Ok(Preprocess { input_size, resize_size, augment: config.augment, normalize })
    }

    /// S, in pixels.
    pub fn input_size(&self) -> usize {
        self.input_size
    }

    /// R, in pixels.
    pub fn resize_size(&self) -> usize {
        self.resize_size
    }

    pub fn augment(&self) -> Augment {
        self.augment
    }

    pub fn normalize(&self) -> Normalize {
        self.normalize
    }

    /// Values per image: S * S * 3.
    pub fn output_len(&self) -> usize {
        self.input_size * self.input_size * 3
    }

    /// Test image as bytes. Overwrites `out`.
    ///
    /// # Shapes
    /// out: (S, S, 3).
    pub fn eval_u8(&self, image: ImageView, out: &mut [u8]) {
        assert_eq!(out.len(), self.output_len());
        let offset = (self.resize_size - self.input_size) / 2;
        let centre = CropBox { top: offset, left: offset, height: self.input_size, width: self.input_size };
        let channels = image.channels;
        let pixels = resize_window_u8(image, self.resize_size, centre);
        if channels == 3 {
            out.copy_from_slice(&pixels);
        } else {
            for (rgb, &grey) in out.chunks_exact_mut(3).zip(&pixels) {
                rgb.fill(grey);
            }
        }
    }

    /// Test image as network input. Overwrites `out`.
    ///
    /// # Shapes
    /// out: (S, S, 3).
    pub fn eval(&self, image: ImageView, out: &mut [f32]) {
        assert_eq!(out.len(), self.output_len());
        let mut bytes = vec![0; self.output_len()];
        self.eval_u8(image, &mut bytes);
        for (rgb, from) in out.chunks_exact_mut(3).zip(bytes.chunks_exact(3)) {
            for channel in 0..3 {
                rgb[channel] = self.normalize.apply(channel, f32::from(from[channel]) / 255.0);
            }
        }
    }

    /// Training image as network input; `rng` gives the box, then the flip. Overwrites `out`.
    /// Without augmentation nothing is drawn and the image is treated as a test image.
    ///
    /// # Shapes
    /// out: (S, S, 3).
    pub fn train(&self, image: ImageView, rng: &mut Rng, out: &mut [f32]) {
        if self.augment == Augment::None {
            return self.eval(image, out);
        }
        let crop = sample_crop(rng, self.resize_size, self.resize_size);
        let flip = self.augment == Augment::CropFlip && rng.next_u32() >> 31 == 1;
        let pixels = resize_window_u8(image, self.resize_size, crop);
        let cropped = ImageView { pixels: &pixels, height: crop.height, width: crop.width, ..image };
        self.crop_to_input(cropped, flip, out);
    }

    /// The second half of [`Preprocess::train`]: / 255, resize to S x S, flip left to right,
    /// normalise. Overwrites `out`.
    ///
    /// # Shapes
    /// out: (S, S, 3).
    pub fn crop_to_input(&self, crop: ImageView, flip: bool, out: &mut [f32]) {
        let size = self.input_size;
        assert_eq!(out.len(), self.output_len());
        let unit: [f32; 256] = std::array::from_fn(|v| v as f32 / 255.0);
        let rows = axis(crop.height, size, 0, size);
        let columns = axis(crop.width, size, 0, size);
        resize(crop, &unit, &rows, &columns, |y, row| {
            let line = &mut out[y * size * 3..(y + 1) * size * 3];
            for (x, pixel) in row.chunks_exact(crop.channels).enumerate() {
                let at = if flip { size - 1 - x } else { x };
                for (channel, value) in line[at * 3..at * 3 + 3].iter_mut().enumerate() {
                    *value = self.normalize.apply(channel, pixel[channel % crop.channels]);
                }
            }
        });
    }
}

/// The whole image resized to `size` x `size` and truncated, (size, size, channels of the image).
pub fn resize_u8(image: ImageView, size: usize) -> Vec<u8> {
    resize_window_u8(image, size, CropBox { top: 0, left: 0, height: size, width: size })
}

/// The box `window` of `resize_u8(image, size)`, without computing the rest.
fn resize_window_u8(image: ImageView, size: usize, window: CropBox) -> Vec<u8> {
    let line = window.width * image.channels;
    if image.height == size && image.width == size {
        let rows = image.pixels.chunks_exact(size * image.channels).skip(window.top).take(window.height);
        let left = window.left * image.channels;
        return rows.flat_map(|row| &row[left..left + line]).copied().collect();
    }
    let mut out = vec![0; window.height * line];
    let plain: [f32; 256] = std::array::from_fn(|v| v as f32);
    let rows = axis(image.height, size, window.top, window.height);
    let columns = axis(image.width, size, window.left, window.width);
    resize(image, &plain, &rows, &columns, |y, row| {
        for (to, &value) in out[y * line..(y + 1) * line].iter_mut().zip(row) {
            // `as` truncates, as tf.cast does.
            *to = value as u8;
        }
    });
    out
}

/// The two source positions of an output position and the weight of the upper one.
#[derive(Debug, Clone, Copy)]
struct Tap {
    lower: usize,
    upper: usize,
    weight: f32,
}

/// Taps of the output positions [from, from + len) of an axis resized from `input` to `output`:
/// src = (dst + 0.5) * input / output - 0.5.
fn axis(input: usize, output: usize, from: usize, len: usize) -> Vec<Tap> {
    let scale = input as f32 / output as f32;
    let tap = |dst: usize| {
        let src = (dst as f32 + 0.5) * scale - 0.5;
        let floor = src.floor();
        // `as` clamps negative positions to 0.
        Tap {
            lower: (floor as usize).min(input - 1),
            upper: (src.ceil() as usize).min(input - 1),
            weight: src - floor,
        }
    };
    (from..from + len).map(tap).collect()
}

/// Bilinear: along the row first, then between rows; `table` gives the value of a byte. Calls `emit`
/// with each output row, (columns, channels). Horizontally resized rows are used for all output rows
/// that need them.
fn resize(
    image: ImageView,
    table: &[f32; 256],
    rows: &[Tap],
    columns: &[Tap],
    emit: impl FnMut(usize, &[f32]),
) {
    match image.channels {
        1 => resize_channels::<1>(image, table, rows, columns, emit),
        3 => resize_channels::<3>(image, table, rows, columns, emit),
        n => unreachable!("the readers make images of 1 or 3 channels, not {n}"),
    }
}

fn resize_channels<const C: usize>(
    image: ImageView,
    table: &[f32; 256],
    rows: &[Tap],
    columns: &[Tap],
    mut emit: impl FnMut(usize, &[f32]),
) {
    assert_eq!(image.pixels.len(), image.height * image.width * C);
    let horizontal = |y: usize, out: &mut [f32]| {
        let (source, _) = image.pixels[y * image.width * C..(y + 1) * image.width * C].as_chunks::<C>();
        let (out, _) = out.as_chunks_mut::<C>();
        for (pixel, tap) in out.iter_mut().zip(columns) {
            for channel in 0..C {
                let left = table[source[tap.lower][channel] as usize];
                let right = table[source[tap.upper][channel] as usize];
                pixel[channel] = left + (right - left) * tap.weight;
            }
        }
    };
    let line = columns.len() * C;
    let (mut top, mut bottom, mut out) = (vec![0.0; line], vec![0.0; line], vec![0.0; line]);
    let (mut top_is, mut bottom_is) = (usize::MAX, usize::MAX);
    for (y, tap) in rows.iter().enumerate() {
        if top_is != tap.lower {
            if bottom_is == tap.lower {
                std::mem::swap(&mut top, &mut bottom);
                std::mem::swap(&mut top_is, &mut bottom_is);
            } else {
                horizontal(tap.lower, &mut top);
                top_is = tap.lower;
            }
        }
        if bottom_is != tap.upper {
            horizontal(tap.upper, &mut bottom);
            bottom_is = tap.upper;
        }
        for ((value, &a), &b) in out.iter_mut().zip(&top).zip(&bottom) {
            *value = a + (b - a) * tap.weight;
        }
        emit(y, &out);
    }
}

/// A random box in an image of `height` x `width`, by TensorFlow's `sample_distorted_bounding_box`
/// with area in [0.05, 1], aspect ratio in [0.75, 1.33] and no object to cover: the aspect ratio is
/// uniform, then the height is uniform among the integers that fit, so the area is not uniform.
/// As there, the last possible position is never drawn.
pub fn sample_crop(rng: &mut Rng, height: usize, width: usize) -> CropBox {
    for _ in 0..BOX_ATTEMPTS {
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
