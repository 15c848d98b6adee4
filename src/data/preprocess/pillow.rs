//! Resizing with antialiasing, equal to Pillow's on bytes: y_i = Σ_j w_ij x_j along the rows, rounded to
//! bytes, then along the columns, rounded again. w is the filter stretched by the scale where that is
//! above 1, normalised in f64 and rounded to 22 bits after the point; sums are in integers.
//! Source: Pillow 9.2, `src/libImaging/Resample.c`; Keys 1981 for the cubic (a = -1/2). Pillow 13 begins with the
//! columns where they become shorter and the rows longer; JH-LEE-KR/l2p-pytorch asks for 9.2.0.

use super::CropBox;
use crate::config::schema::Interpolation;
use crate::data::ImageView;

/// Bits after the point of a weight.
const PRECISION: u32 = 32 - 8 - 2;
const HALF: i32 = 1 << (PRECISION - 1);

impl Interpolation {
    /// Where the filter ends, in pixels of the coarser image.
    fn support(self) -> f64 {
        match self {
            Interpolation::Bilinear => 1.0,
            Interpolation::Bicubic => 2.0,
        }
    }

    fn value(self, x: f64) -> f64 {
        let x = x.abs();
        match self {
            Interpolation::Bilinear => (1.0 - x).max(0.0),
            Interpolation::Bicubic => {
                let a = -0.5;
                if x < 1.0 {
                    ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
                } else if x < 2.0 {
                    (((x - 5.0) * x + 8.0) * x - 4.0) * a
                } else {
                    0.0
                }
            }
        }
    }
}

/// The weights of a part of one resized axis.
#[derive(Debug, Default)]
struct ResizeAxis {
    /// First source position and the range of `weights` of each output position.
    taps: Vec<(usize, std::ops::Range<usize>)>,
    weights: Vec<i32>,
    exact: Vec<f64>,
}

impl ResizeAxis {
    /// Output positions [from, from + len) of an axis resized from `input` to `output`.
    fn set(&mut self, filter: Interpolation, input: usize, output: usize, from: usize, len: usize) {
        self.taps.clear();
        self.weights.clear();
        let scale = input as f64 / output as f64;
        let stretch = scale.max(1.0);
        let support = filter.support() * stretch;
        let narrow = 1.0 / stretch;
        for position in from..from + len {
            let centre = (position as f64 + 0.5) * scale;
            // `as` clamps negative positions to 0.
            let first = (centre - support + 0.5) as usize;
            let end = ((centre + support + 0.5) as usize).min(input);
            self.exact.clear();
            self.exact.extend((first..end).map(|x| filter.value((x as f64 - centre + 0.5) * narrow)));
            let mut sum = 0.0;
            self.exact.iter().for_each(|w| sum += w);
            let start = self.weights.len();
            self.weights.extend(self.exact.iter().map(|w| {
                let w = if sum == 0.0 { *w } else { w / sum } * f64::from(1 << PRECISION);
                // `as` truncates, so this rounds halves away from zero.
                (if w < 0.0 { w - 0.5 } else { w + 0.5 }) as i32
            }));
            // Weights of 0 at either end change no sum.
            let zeros = self.weights[start..].iter().take_while(|&&w| w == 0).count().min(end - first - 1);
            while self.weights.len() > start + zeros + 1 && self.weights.last() == Some(&0) {
                self.weights.pop();
            }
            self.taps.push((first + zeros, start + zeros..self.weights.len()));
        }
    }
}

/// Memory that one image leaves to the next.
#[derive(Debug, Default)]
pub struct PillowBuffers {
    columns: ResizeAxis,
    rows: ResizeAxis,
    /// Rows of the image, resized along the row.
    across: Vec<u8>,
    sums: Vec<i32>,
}

/// What of an image becomes what: the box `from` of it is resized to `size` (height, width), of which the
/// box `window` is wanted, mirrored or not.
#[derive(Debug, Clone, Copy)]
pub struct ResizeJob {
    pub from: CropBox,
    pub size: (usize, usize),
    pub window: CropBox,
    pub flip: bool,
    pub filter: Interpolation,
}

/// Calls `emit` with each row of the result, (window.width, channels) bytes.
pub fn resize(
    image: ImageView,
    job: &ResizeJob,
    scratch: &mut PillowBuffers,
    emit: impl FnMut(usize, &[u8]),
) {
    match image.channels {
        1 => resize_channels::<1>(image, job, scratch, emit),
        3 => resize_channels::<3>(image, job, scratch, emit),
        n => unreachable!("the readers make images of 1 or 3 channels, not {n}"),
    }
}

fn resize_channels<const C: usize>(
    image: ImageView,
    job: &ResizeJob,
    scratch: &mut PillowBuffers,
    mut emit: impl FnMut(usize, &[u8]),
) {
    let ResizeJob { from, size, window, flip, filter } = *job;
    assert!(from.top + from.height <= image.height && from.left + from.width <= image.width);
    assert!(window.top + window.height <= size.0 && window.left + window.width <= size.1);
    let PillowBuffers { columns, rows, across, sums } = scratch;
    columns.set(filter, from.width, size.1, window.left, window.width);
    rows.set(filter, from.height, size.0, window.top, window.height);
    if flip {
        columns.taps.reverse();
    }
    let line = window.width * C;
    let first = rows.taps.iter().map(|(first, _)| *first).min().unwrap_or(0);
    let end = rows.taps.iter().map(|(first, of)| first + of.len()).max().unwrap_or(0);
    across.resize((end - first) * line, 0);
    sums.resize(line + line, 0);
    let (sums, bytes) = sums.split_at_mut(line);
    let bytes = &mut bytemuck::cast_slice_mut::<i32, u8>(bytes)[..line];
    for (y, out) in (first..end).zip(across.chunks_exact_mut(line)) {
        let start = ((from.top + y) * image.width + from.left) * C;
        let (source, _) = image.pixels[start..start + from.width * C].as_chunks::<C>();
        let (out, _) = out.as_chunks_mut::<C>();
        for (pixel, (first, of)) in out.iter_mut().zip(&columns.taps) {
            let weights = &columns.weights[of.clone()];
            let mut sum = [HALF; C];
            for (from, &w) in source[*first..*first + weights.len()].iter().zip(weights) {
                for channel in 0..C {
                    sum[channel] += i32::from(from[channel]) * w;
                }
            }
            *pixel = sum.map(byte);
        }
    }
    let arch = pulp::Arch::new();
    for (y, (start, of)) in rows.taps.iter().enumerate() {
        let weights = &rows.weights[of.clone()];
        let source = &across[(start - first) * line..][..weights.len() * line];
        arch.dispatch(WeightedSum { weights, source, sums, out: bytes });
        emit(y, bytes);
    }
}

/// The weighted sum of rows that follow each other in `source`.
struct WeightedSum<'a> {
    weights: &'a [i32],
    source: &'a [u8],
    sums: &'a mut [i32],
    out: &'a mut [u8],
}

impl pulp::NullaryFnOnce for WeightedSum<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        match *self.weights {
            [a] => self.few([a]),
            [a, b] => self.few([a, b]),
            [a, b, c] => self.few([a, b, c]),
            [a, b, c, d] => self.few([a, b, c, d]),
            _ => {
                self.sums.fill(HALF);
                for (row, &w) in self.source.chunks_exact(self.out.len()).zip(self.weights) {
                    for (sum, &x) in self.sums.iter_mut().zip(row) {
                        *sum += i32::from(x) * w;
                    }
                }
                for (to, &sum) in self.out.iter_mut().zip(&*self.sums) {
                    *to = byte(sum);
                }
            }
        }
    }
}

impl WeightedSum<'_> {
    #[inline(always)]
    fn few<const N: usize>(self, weights: [i32; N]) {
        let line = self.out.len();
        let rows: [&[u8]; N] = std::array::from_fn(|i| &self.source[i * line..(i + 1) * line]);
        for x in 0..line {
            let mut sum = HALF;
            for i in 0..N {
                sum += i32::from(rows[i][x]) * weights[i];
            }
            self.out[x] = byte(sum);
        }
    }
}

#[inline(always)]
fn byte(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// Height and width with the shorter side `shorter` and the same aspect ratio.
/// Source: torchvision, `transforms/functional.py`, `_compute_resized_output_size`.
pub fn shorter_side(height: usize, width: usize, shorter: usize) -> (usize, usize) {
    let (short, long) = (height.min(width), height.max(width));
    // Python's `int(shorter * long / short)`: a division in f64, truncated.
    let longer = ((shorter * long) as f64 / short as f64) as usize;
    if height <= width { (shorter, longer) } else { (longer, shorter) }
}
