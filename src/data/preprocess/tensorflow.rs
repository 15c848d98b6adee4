//! TensorFlow's bilinear resize: half-pixel centres, no antialiasing, in f32; along the row first, then
//! between rows.
//! Source: TensorFlow, `core/kernels/image/resize_bilinear_op.cc`.

use super::normalize::Normalize;
use crate::data::ImageView;
use crate::data::boxes::CropBox;

/// The two source positions of an output position and the weight of the upper one.
#[derive(Debug, Clone, Copy)]
struct Tap {
    lower: usize,
    upper: usize,
    weight: f32,
}

/// Memory that one image leaves to the next.
#[derive(Debug, Default)]
pub struct ResizeBuffers {
    rows: Vec<Tap>,
    columns: Vec<Tap>,
    /// A row of the image, and two of its resized rows.
    source: Vec<f32>,
    top: Vec<f32>,
    bottom: Vec<f32>,
}

/// The whole image resized to `size` x `size` and truncated, (size, size, channels of the image).
pub fn resize_u8(image: ImageView, size: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let whole = CropBox { top: 0, left: 0, height: size, width: size };
    window_u8(image, size, whole, &mut ResizeBuffers::default(), &mut out);
    out
}

/// The box `window` of `resize_u8(image, size)`, without computing the rest. Overwrites `out`.
pub fn window_u8(
    image: ImageView,
    size: usize,
    window: CropBox,
    scratch: &mut ResizeBuffers,
    out: &mut Vec<u8>,
) {
    let line = window.width * image.channels;
    out.clear();
    if image.height == size && image.width == size {
        let rows = image.pixels.chunks_exact(size * image.channels).skip(window.top).take(window.height);
        let left = window.left * image.channels;
        rows.for_each(|row| out.extend_from_slice(&row[left..left + line]));
        return;
    }
    out.resize(window.height * line, 0);
    axis(&mut scratch.rows, image.height, size, window.top, window.height);
    axis(&mut scratch.columns, image.width, size, window.left, window.width);
    let plain: [f32; 256] = std::array::from_fn(|v| v as f32);
    let arch = pulp::Arch::new();
    resize(image, &plain, scratch, |y, top, bottom, weight| {
        let out = &mut out[y * line..(y + 1) * line];
        arch.dispatch(WeightedMean { top, bottom, weight, out, as_value: truncate });
    });
}

/// / 255, resize to `size` x `size`, flip left to right, normalise. Overwrites `out` (size, size, 3).
pub fn to_input(
    crop: ImageView,
    size: usize,
    flip: bool,
    normalize: &Normalize,
    scratch: &mut ResizeBuffers,
    out: &mut [f32],
) {
    let unit: [f32; 256] = std::array::from_fn(|v| v as f32 / 255.0);
    axis(&mut scratch.rows, crop.height, size, 0, size);
    axis(&mut scratch.columns, crop.width, size, 0, size);
    if flip {
        scratch.columns.reverse();
    }
    let as_is = *normalize == Normalize::UNIT;
    let arch = pulp::Arch::new();
    resize(crop, &unit, scratch, |y, top, bottom, weight| {
        let out = &mut out[y * size * 3..(y + 1) * size * 3];
        if crop.channels == 3 {
            arch.dispatch(WeightedMean { top, bottom, weight, out: &mut *out, as_value: |x| x });
        } else {
            for ((rgb, &a), &b) in out.as_chunks_mut::<3>().0.iter_mut().zip(top).zip(bottom) {
                *rgb = [a + (b - a) * weight; 3];
            }
        }
        if !as_is {
            arch.dispatch(Standard { out, normalize });
        }
    });
}

/// x in [0, 256) without what stands after the point, as tf.cast does it. `as` does the same, but checks for NaN
/// and range one number at a time.
#[inline(always)]
fn truncate(x: f32) -> u8 {
    // Numbers of this size have no bits after the point: the sum is x rounded, in its last bits.
    const LARGE: f32 = 8_388_608.0;
    let sum = x + LARGE;
    (sum.to_bits() as i32 - i32::from(sum - LARGE > x)) as u8
}

/// The weighted mean of two rows.
struct WeightedMean<'a, T, F> {
    top: &'a [f32],
    bottom: &'a [f32],
    weight: f32,
    out: &'a mut [T],
    as_value: F,
}

impl<T, F: Fn(f32) -> T> pulp::NullaryFnOnce for WeightedMean<'_, T, F> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for ((to, &a), &b) in self.out.iter_mut().zip(self.top).zip(self.bottom) {
            *to = (self.as_value)(a + (b - a) * self.weight);
        }
    }
}

/// (x - mean) / std of a row.
struct Standard<'a> {
    out: &'a mut [f32],
    normalize: &'a Normalize,
}

impl pulp::NullaryFnOnce for Standard<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Normalize { mean, std } = self.normalize;
        // Eight pixels are three vectors.
        let [mean, std]: [[f32; 24]; 2] = [mean, std].map(|of| std::array::from_fn(|i| of[i % 3]));
        let (eights, rest) = self.out.as_chunks_mut::<24>();
        for eight in eights {
            for i in 0..24 {
                eight[i] = (eight[i] - mean[i]) / std[i];
            }
        }
        for (i, x) in rest.iter_mut().enumerate() {
            *x = (*x - mean[i]) / std[i];
        }
    }
}

/// Taps of the output positions [from, from + len) of an axis resized from `input` to `output`:
/// src = (dst + 0.5) * input / output - 0.5.
fn axis(taps: &mut Vec<Tap>, input: usize, output: usize, from: usize, len: usize) {
    let scale = input as f32 / output as f32;
    taps.clear();
    taps.extend((from..from + len).map(|dst| {
        let src = (dst as f32 + 0.5) * scale - 0.5;
        let floor = src.floor();
        // `as` clamps negative positions to 0.
        Tap {
            lower: (floor as usize).min(input - 1),
            upper: (src.ceil() as usize).min(input - 1),
            weight: src - floor,
        }
    }));
}

/// Calls `emit` with each output position and the two rows, (columns, channels), that are to be weighed,
/// and the weight of the second; `table` gives the value of a byte. A row is resized once for all output
/// rows that need it.
fn resize(
    image: ImageView,
    table: &[f32; 256],
    scratch: &mut ResizeBuffers,
    emit: impl FnMut(usize, &[f32], &[f32], f32),
) {
    match image.channels {
        1 => resize_channels::<1>(image, table, scratch, emit),
        3 => resize_channels::<3>(image, table, scratch, emit),
        n => unreachable!("the readers make images of 1 or 3 channels, not {n}"),
    }
}

fn resize_channels<const C: usize>(
    image: ImageView,
    table: &[f32; 256],
    scratch: &mut ResizeBuffers,
    mut emit: impl FnMut(usize, &[f32], &[f32], f32),
) {
    assert_eq!(image.pixels.len(), image.height * image.width * C);
    let ResizeBuffers { rows, columns, source, top, bottom } = scratch;
    source.resize(image.width * C, 0.0);
    top.resize(columns.len() * C, 0.0);
    bottom.resize(columns.len() * C, 0.0);
    let mut horizontal = |y: usize, out: &mut [f32]| {
        let bytes = &image.pixels[y * image.width * C..(y + 1) * image.width * C];
        source.iter_mut().zip(bytes).for_each(|(to, &byte)| *to = table[byte as usize]);
        let ((source, _), (out, _)) = (source.as_chunks::<C>(), out.as_chunks_mut::<C>());
        for (pixel, tap) in out.iter_mut().zip(&*columns) {
            let (left, right) = (source[tap.lower], source[tap.upper]);
            *pixel = std::array::from_fn(|c| left[c] + (right[c] - left[c]) * tap.weight);
        }
    };
    let (mut top_is, mut bottom_is) = (usize::MAX, usize::MAX);
    for (y, tap) in rows.iter().enumerate() {
        if top_is != tap.lower {
            if bottom_is == tap.lower {
                std::mem::swap(top, bottom);
                std::mem::swap(&mut top_is, &mut bottom_is);
            } else {
                horizontal(tap.lower, top);
                top_is = tap.lower;
            }
        }
        if bottom_is != tap.upper {
            horizontal(tap.upper, bottom);
            bottom_is = tap.upper;
        }
        emit(y, top, bottom, tap.weight);
    }
}
