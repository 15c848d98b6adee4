//! An image to network input, with the pixels of the published code.
//!
//! Rules `tensorflow` (google-research/l2p @ dd8836e, `libml/preprocess.py`, `libml/input_pipeline.py`). Test image:
//! bilinear resize to R x R (R = `resize_size`), truncation to bytes, the centre S x S (S = `input_size`, offset
//! (R - S) / 2), / 255, (x - mean) / std. Training image: the same resize and truncation, JPEG where
//! `jpeg_reencode` asks for it, a random box, / 255, bilinear resize to S x S, a flip with probability 1/2,
//! (x - mean) / std.
//!
//! Rules `torchvision` (JH-LEE-KR/l2p-pytorch @ f7bc994, `datasets.py`). Test image: the shorter side becomes R,
//! by Pillow's filter, the centre S x S, / 255, (x - mean) / std. Training image: a random box of the image as
//! it is, Pillow's resize to S x S, a flip with probability 1/2, / 255, (x - mean) / std.
//!
//! Then, for training images and where asked for: RandAugment and colour jitter on bytes, before / 255, and
//! random erasing at the end.

pub mod color;
pub mod erase;
pub mod jpeg;
mod normalize;
pub mod pillow;
pub mod rand_augment;
mod tensorflow;

pub use super::boxes::{CropBox, largest_centre, sample_crop, sample_crop_torchvision};
pub use normalize::Normalize;
pub use tensorflow::resize_u8;

use super::image_set::ImageView;
use super::mix::MixRule;
use crate::config::schema::{Augment, Data, Interpolation, Transforms};
use crate::error::{Error, Result};
use crate::rng::Rng;
use erase::Erasing;
use rand_augment::RandAugment;
use std::cell::RefCell;

/// What happens to an image before the network.
#[derive(Debug, Clone, PartialEq)]
pub struct Preprocess {
    input_size: usize,
    resize_size: usize,
    transforms: Transforms,
    train_filter: Interpolation,
    eval_filter: Interpolation,
    augment: Augment,
    jpeg: bool,
    rand_augment: RandAugment,
    /// Strength of the colour jitter; 0: none.
    jitter: f32,
    erase_probability: f32,
    mix: Option<MixRule>,
    normalize: Normalize,
    /// Of `normalize`.
    table: Box<[[f32; 256]; 3]>,
}

/// Memory that one image of a thread leaves to the next.
#[derive(Debug, Default)]
struct Scratch {
    pillow: pillow::PillowBuffers,
    tensorflow: tensorflow::ResizeBuffers,
    jpeg: jpeg::JpegBuffers,
    /// The image between its two resizes.
    crop: Vec<u8>,
    /// The image at its final size.
    bytes: Vec<u8>,
    /// Its copy.
    copy: Vec<u8>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Preprocess {
    /// # Errors
    /// `Error::Config` when a size is 0 or above 4096, `input_size` is above `resize_size`, or JPEG is asked for
    /// and `resize_size` is no multiple of 16.
    pub fn new(config: &Data, normalize: Normalize) -> Result<Preprocess> {
        let (input_size, resize_size) = (config.input_size, config.resize_size);
        if input_size == 0 || input_size > resize_size || resize_size > 4096 {
            return Err(Error::config(format!(
                "1 <= data.input_size <= data.resize_size <= 4096 was wanted, got input_size {input_size} and resize_size {resize_size}"
            )));
        }
        if config.jpeg_reencode && !resize_size.is_multiple_of(jpeg::UNIT) {
            return Err(Error::config(format!(
                "data.jpeg_reencode wants a data.resize_size that is a multiple of {}, found {resize_size}",
                jpeg::UNIT
            )));
        }
        Ok(Preprocess {
            input_size,
            resize_size,
            transforms: config.transforms,
            train_filter: config.train_interpolation,
            eval_filter: config.eval_interpolation,
            augment: config.augment,
            jpeg: config.jpeg_reencode,
            rand_augment: RandAugment::new(config),
            jitter: config.color_jitter as f32,
            erase_probability: config.erase_probability as f32,
            mix: MixRule::new(config),
            normalize,
            table: Box::new(normalize.table()),
        })
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

    /// What [`super::Loader`] does to whole batches afterwards.
    pub fn mix(&self) -> Option<MixRule> {
        self.mix
    }

    /// Values per image: S * S * 3.
    pub fn output_len(&self) -> usize {
        self.input_size * self.input_size * 3
    }

    /// Whether [`crate::ops::preprocess`] can do all of it on a GPU; otherwise images are prepared here.
    pub fn on_device(&self) -> bool {
        self.transforms == Transforms::TensorFlow && !self.jpeg && !self.is_extended() && self.mix.is_none()
    }

    /// Whether more happens to training images than box and flip.
    fn is_extended(&self) -> bool {
        self.rand_augment.is_on() || self.jitter > 0.0 || self.erase_probability > 0.0
    }

    /// Test image as bytes. Overwrites `out`.
    ///
    /// # Shapes
    /// out: (S, S, 3).
    pub fn eval_u8(&self, image: ImageView, out: &mut [u8]) {
        assert_eq!(out.len(), self.output_len());
        SCRATCH.with_borrow_mut(|scratch| self.eval_bytes(image, scratch, out));
    }

    /// Test image as network input. Overwrites `out`.
    ///
    /// # Shapes
    /// out: (S, S, 3).
    pub fn eval(&self, image: ImageView, out: &mut [f32]) {
        assert_eq!(out.len(), self.output_len());
        SCRATCH.with_borrow_mut(|scratch| {
            let mut bytes = std::mem::take(&mut scratch.bytes);
            bytes.resize(out.len(), 0);
            self.eval_bytes(image, scratch, &mut bytes);
            self.look_up(&bytes, out);
            scratch.bytes = bytes;
        });
    }

    /// Training image as network input; `rng` gives the box, then the flip, then what else is asked for.
    /// Overwrites `out`. Without box, flip and the rest nothing is drawn and the image is treated as a test
    /// image.
    ///
    /// # Shapes
    /// out: (S, S, 3).
    pub fn train(&self, image: ImageView, rng: &mut Rng, out: &mut [f32]) {
        assert_eq!(out.len(), self.output_len());
        if !self.is_extended() && self.augment == Augment::None {
            return self.eval(image, out);
        }
        SCRATCH.with_borrow_mut(|scratch| {
            if self.is_extended() {
                self.train_extended(image, rng, scratch, out);
            } else {
                match self.transforms {
                    Transforms::TensorFlow => {
                        self.train_tensorflow(image, rng, &self.normalize, scratch, out);
                    }
                    Transforms::Torchvision => {
                        let job = self.train_job(image, rng);
                        let line = self.input_size * 3;
                        pillow::resize(image, &job, &mut scratch.pillow, |y, row| {
                            self.look_up_row(row, &mut out[y * line..(y + 1) * line]);
                        });
                    }
                }
            }
        });
    }

    /// Box and flip of rules `tensorflow`.
    fn train_tensorflow(
        &self,
        image: ImageView,
        rng: &mut Rng,
        normalize: &Normalize,
        scratch: &mut Scratch,
        out: &mut [f32],
    ) {
        let size = self.resize_size;
        let crop = sample_crop(rng, size, size);
        let flip = self.draw_flip(rng);
        let pixels = &mut scratch.crop;
        if self.jpeg {
            let whole = CropBox { top: 0, left: 0, height: size, width: size };
            tensorflow::window_u8(image, size, whole, &mut scratch.tensorflow, &mut scratch.copy);
            let resized = ImageView { pixels: &scratch.copy, height: size, width: size, ..image };
            jpeg::reencode(resized, crop, &mut scratch.jpeg, pixels);
        } else {
            tensorflow::window_u8(image, size, crop, &mut scratch.tensorflow, pixels);
        }
        let cropped = ImageView { pixels, height: crop.height, width: crop.width, ..image };
        tensorflow::to_input(cropped, self.input_size, flip, normalize, &mut scratch.tensorflow, out);
    }

    /// Box and flip of rules `torchvision`.
    fn train_job(&self, image: ImageView, rng: &mut Rng) -> pillow::ResizeJob {
        let size = self.input_size;
        pillow::ResizeJob {
            from: sample_crop_torchvision(rng, image.height, image.width),
            size: (size, size),
            window: CropBox { top: 0, left: 0, height: size, width: size },
            flip: self.draw_flip(rng),
            filter: self.train_filter,
        }
    }

    fn draw_flip(&self, rng: &mut Rng) -> bool {
        self.augment == Augment::CropFlip && rng.next_u32() >> 31 == 1
    }

    /// Box and flip, to bytes; what changes bytes; normalisation; erasing.
    fn train_extended(&self, image: ImageView, rng: &mut Rng, scratch: &mut Scratch, out: &mut [f32]) {
        let size = self.input_size;
        let mut bytes = std::mem::take(&mut scratch.bytes);
        bytes.resize(out.len(), 0);
        match (self.augment, self.transforms) {
            (Augment::None, _) => self.eval_bytes(image, scratch, &mut bytes),
            (_, Transforms::TensorFlow) => {
                self.train_tensorflow(image, rng, &Normalize::UNIT, scratch, out);
                let values = bytes.iter_mut().zip(&*out);
                values.for_each(|(byte, &x)| *byte = rand_augment::saturate(x * 255.0));
            }
            (_, Transforms::Torchvision) => {
                let job = self.train_job(image, rng);
                pillow::resize(image, &job, &mut scratch.pillow, |y, row| {
                    to_rgb(row, &mut bytes[y * size * 3..(y + 1) * size * 3]);
                });
            }
        }
        if self.rand_augment.is_on() {
            self.rand_augment.apply(rng, &mut bytes, size, &mut scratch.copy);
        }
        if self.jitter > 0.0 {
            color::apply(&color::draw(rng, self.jitter), &mut bytes);
        }
        self.look_up(&bytes, out);
        if rng.uniform() < self.erase_probability {
            Erasing::draw(rng).apply(rng, out, size);
        }
        scratch.bytes = bytes;
    }

    fn eval_bytes(&self, image: ImageView, scratch: &mut Scratch, out: &mut [u8]) {
        let (size, line) = (self.input_size, self.input_size * 3);
        match self.transforms {
            Transforms::TensorFlow => {
                let offset = (self.resize_size - size) / 2;
                let centre = CropBox { top: offset, left: offset, height: size, width: size };
                let Scratch { tensorflow, crop, .. } = scratch;
                tensorflow::window_u8(image, self.resize_size, centre, tensorflow, crop);
                to_rgb(crop, out);
            }
            Transforms::Torchvision => {
                let resized = pillow::shorter_side(image.height, image.width, self.resize_size);
                // Python's `round`: halves to even.
                let offset = |side: usize| ((side - size) as f64 / 2.0).round_ties_even() as usize;
                let job = pillow::ResizeJob {
                    from: CropBox { top: 0, left: 0, height: image.height, width: image.width },
                    size: resized,
                    window: CropBox {
                        top: offset(resized.0),
                        left: offset(resized.1),
                        height: size,
                        width: size,
                    },
                    flip: false,
                    filter: self.eval_filter,
                };
                pillow::resize(image, &job, &mut scratch.pillow, |y, row| {
                    to_rgb(row, &mut out[y * line..(y + 1) * line]);
                });
            }
        }
    }

    /// Bytes (pixels, 3) to network input.
    fn look_up(&self, bytes: &[u8], out: &mut [f32]) {
        let [r, g, b] = &*self.table;
        for (to, from) in out.as_chunks_mut::<3>().0.iter_mut().zip(bytes.as_chunks::<3>().0) {
            *to = [r[from[0] as usize], g[from[1] as usize], b[from[2] as usize]];
        }
    }

    /// The same for pixels of one or three channels.
    fn look_up_row(&self, row: &[u8], out: &mut [f32]) {
        if row.len() == out.len() {
            return self.look_up(row, out);
        }
        let [r, g, b] = &*self.table;
        for (to, &grey) in out.as_chunks_mut::<3>().0.iter_mut().zip(row) {
            *to = [r, g, b].map(|table| table[grey as usize]);
        }
    }

    /// The second half of [`Preprocess::train`] by the rules `tensorflow`: / 255, resize to S x S, flip left to
    /// right, normalise. Overwrites `out`.
    ///
    /// # Shapes
    /// out: (S, S, 3).
    pub fn crop_to_input(&self, crop: ImageView, flip: bool, out: &mut [f32]) {
        assert_eq!(out.len(), self.output_len());
        SCRATCH.with_borrow_mut(|scratch| {
            let scratch = &mut scratch.tensorflow;
            tensorflow::to_input(crop, self.input_size, flip, &self.normalize, scratch, out);
        });
    }
}

/// Pixels of one or three channels to three.
fn to_rgb(pixels: &[u8], out: &mut [u8]) {
    if pixels.len() == out.len() {
        return out.copy_from_slice(pixels);
    }
    for (rgb, &grey) in out.chunks_exact_mut(3).zip(pixels) {
        rgb.fill(grey);
    }
}
