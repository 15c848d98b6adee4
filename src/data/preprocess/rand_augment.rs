//! RandAugment on bytes: some of sixteen operations, drawn one after the other, and a grey square.
//! Source: Cubuk et al. 2020, arXiv:1909.13719; google-research/l2p @ dd8836e, `augment/rand_augment.py` and
//! `augment/augment_ops.py`, whose rounding this follows; TensorFlow, `core/kernels/image/image_ops.h`.

use crate::config::schema::Data;
use crate::rng::Rng;

/// What is put where an image has no pixels.
const GREY: u8 = 128;

/// An operation and how strongly it is done.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Op {
    /// Each channel is stretched to [0, 255].
    AutoContrast,
    /// Each channel's histogram is made flat.
    Equalize,
    /// By an angle in degrees.
    Rotate(f32),
    /// So many of the lowest 8 - n bits are cleared.
    Posterize(u32),
    /// Bytes of at least this are inverted.
    Solarize(u8),
    /// x + (grey - x) (1 - factor), and so on: 1 changes nothing.
    Color(f32),
    Contrast(f32),
    Brightness(f32),
    Sharpness(f32),
    /// By a share of the other coordinate.
    ShearX(f32),
    ShearY(f32),
    /// In pixels.
    TranslateX(f32),
    TranslateY(f32),
    Identity,
    /// Bytes below 128 are raised by this.
    SolarizeAdd(u8),
    Invert,
}

/// How operations are drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct RandAugment {
    layers: usize,
    /// Of every operation; none: drawn.
    level: Option<f32>,
    /// Drawn levels are multiples of 1 / levels; 0: any number.
    levels: u32,
    /// Deviation of normal levels around `level`, in units of 1 / levels; 0: none.
    deviation: f32,
    probability: f32,
    cutout: bool,
}

impl RandAugment {
    pub fn new(config: &Data) -> RandAugment {
        let magnitude = config.rand_augment_magnitude as f32;
        RandAugment {
            layers: config.rand_augment_layers,
            level: (magnitude >= 0.0).then_some(magnitude),
            levels: config.rand_augment_levels as u32,
            deviation: config.rand_augment_deviation as f32,
            probability: config.rand_augment_probability as f32,
            cutout: config.rand_augment_cutout,
        }
    }

    pub fn is_on(&self) -> bool {
        self.layers > 0
    }

    /// Draws the operations of one image and does them in place.
    ///
    /// # Shapes
    /// image: (size, size, 3).
    pub fn apply(&self, rng: &mut Rng, image: &mut [u8], size: usize, scratch: &mut Vec<u8>) {
        for _ in 0..self.layers {
            let op = self.draw(rng, size);
            if self.probability >= 1.0 || rng.uniform() < self.probability {
                op.apply(image, size, scratch);
            }
        }
        if self.cutout {
            let mut at = || (rng.uniform() * size as f32).round_ties_even() as usize;
            let (y, x) = (at(), at());
            cutout(image, size, y, x);
        }
    }

    /// An operation for images of `size` x `size`.
    pub fn draw(&self, rng: &mut Rng, size: usize) -> Op {
        let kind = rng.below(16);
        let level = self.draw_level(rng);
        let enhance = level * 1.8 + 0.1;
        // Source: `TRANSLATE_CONST`.
        let shift = match size {
            224 => 100,
            128 => 40,
            96 => 30,
            32 => 10,
            _ => (0.3 * size as f64) as usize,
        };
        let mut signed = |x: f32| if rng.next_u32() >> 31 == 1 { x } else { -x };
        match kind {
            0 => Op::AutoContrast,
            1 => Op::Equalize,
            2 => Op::Rotate(signed(level * 30.0)),
            3 => Op::Posterize((level * 4.0) as u32),
            4 => Op::Solarize((level * 256.0) as u8),
            5 => Op::Color(enhance),
            6 => Op::Contrast(enhance),
            7 => Op::Brightness(enhance),
            8 => Op::Sharpness(enhance),
            9 => Op::ShearX(signed(level * 0.3)),
            10 => Op::ShearY(signed(level * 0.3)),
            11 => Op::TranslateX(signed(level * shift as f32)),
            12 => Op::TranslateY(signed(level * shift as f32)),
            13 => Op::Identity,
            14 => Op::SolarizeAdd((level * 110.0) as u8),
            _ => Op::Invert,
        }
    }

    /// In [0, 1].
    fn draw_level(&self, rng: &mut Rng) -> f32 {
        let levels = self.levels as f32;
        match self.level {
            Some(level) if self.deviation > 0.0 => {
                (level + self.deviation * rng.normal() as f32).clamp(0.0, levels) / levels
            }
            Some(level) => level,
            None if self.levels == 0 => rng.uniform(),
            None => rng.below(self.levels + 1) as f32 / levels,
        }
    }
}

impl Op {
    /// In place.
    ///
    /// # Shapes
    /// image: (size, size, 3).
    pub fn apply(self, image: &mut [u8], size: usize, scratch: &mut Vec<u8>) {
        assert_eq!(image.len(), size * size * 3);
        let each = |image: &mut [u8], f: &dyn Fn(u8) -> u8| {
            let table: [u8; 256] = std::array::from_fn(|v| f(v as u8));
            image.iter_mut().for_each(|x| *x = table[*x as usize]);
        };
        match self {
            Op::Identity => {}
            Op::AutoContrast => by_channel(image, auto_contrast),
            Op::Equalize => by_channel(image, equalize),
            Op::Posterize(bits) => {
                // TensorFlow shifts bytes by 7 at most.
                let shift = (8 - bits).min(7);
                each(image, &|x| x >> shift << shift);
            }
            Op::Solarize(threshold) => each(image, &|x| if x < threshold { x } else { 255 - x }),
            Op::SolarizeAdd(add) => each(image, &|x| if x < 128 { x.saturating_add(add) } else { x }),
            Op::Invert => each(image, &|x| 255 - x),
            Op::Brightness(factor) => each(image, &|x| blend(0.0, x, factor)),
            Op::Contrast(factor) => {
                // Whole numbers: the sum is exact in f32 for images of up to 256 x 256, as there.
                let sum: f32 = image.as_chunks::<3>().0.iter().map(|p| f32::from(grey(*p))).sum();
                let mean = f32::from(saturate(sum / (size * size) as f32 + 0.5));
                each(image, &|x| blend(mean, x, factor));
            }
            Op::Color(factor) => {
                for pixel in image.as_chunks_mut::<3>().0 {
                    let grey = f32::from(grey(*pixel));
                    *pixel = pixel.map(|x| blend(grey, x, factor));
                }
            }
            Op::Sharpness(factor) => sharpness(image, size, factor, scratch),
            Op::Rotate(degrees) => {
                let angle = degrees * (std::f64::consts::PI / 180.0) as f32;
                let (sin, cos) = (libm::sinf(angle), libm::cosf(angle));
                let last = size as f32 - 1.0;
                let x = (last - (cos * last - sin * last)) / 2.0;
                let y = (last - (sin * last + cos * last)) / 2.0;
                project(image, size, [cos, -sin, x, sin, cos, y], scratch);
            }
            Op::ShearX(level) => project(image, size, [1.0, level, 0.0, 0.0, 1.0, 0.0], scratch),
            Op::ShearY(level) => project(image, size, [1.0, 0.0, 0.0, level, 1.0, 0.0], scratch),
            Op::TranslateX(pixels) => project(image, size, [1.0, 0.0, pixels, 0.0, 1.0, 0.0], scratch),
            Op::TranslateY(pixels) => project(image, size, [1.0, 0.0, 0.0, 0.0, 1.0, pixels], scratch),
        }
    }
}

/// To a byte, towards zero, within [0, 255].
pub fn saturate(x: f32) -> u8 {
    // That is what `as` does.
    x as u8
}

fn blend(of: f32, x: u8, factor: f32) -> u8 {
    saturate(of + factor * (f32::from(x) - of))
}

/// 0.2989 r + 0.587 g + 0.114 b.
/// Source: TensorFlow, `python/ops/image_ops_impl.py`, `rgb_to_grayscale`.
fn grey(rgb: [u8; 3]) -> u8 {
    saturate(grey_f32(rgb.map(|x| f32::from(x) * (1.0 / 255.0))) * 255.5)
}

pub fn grey_f32([r, g, b]: [f32; 3]) -> f32 {
    r * 0.2989 + g * 0.587 + b * 0.114
}

/// Looks each byte up in the table that `table` makes of its channel's histogram.
fn by_channel(image: &mut [u8], table: impl Fn(&[u32; 256]) -> [u8; 256]) {
    for channel in 0..3 {
        let mut histogram = [0; 256];
        image.iter().skip(channel).step_by(3).for_each(|&x| histogram[x as usize] += 1);
        let table = table(&histogram);
        image.iter_mut().skip(channel).step_by(3).for_each(|x| *x = table[*x as usize]);
    }
}

fn auto_contrast(histogram: &[u32; 256]) -> [u8; 256] {
    let low = histogram.iter().position(|&n| n > 0).unwrap_or(0) as f32;
    let high = histogram.iter().rposition(|&n| n > 0).unwrap_or(0) as f32;
    let scale = 255.0 / (high - low);
    let offset = -low * scale;
    std::array::from_fn(|x| if high > low { saturate(x as f32 * scale + offset) } else { x as u8 })
}

fn equalize(histogram: &[u32; 256]) -> [u8; 256] {
    let last = histogram.iter().rev().find(|&&n| n > 0).copied().unwrap_or(0);
    let step = (histogram.iter().sum::<u32>() - last) / 255;
    let mut below = 0;
    std::array::from_fn(|x| {
        let to = if step == 0 {
            x as u32
        } else if x == 0 {
            0
        } else {
            (below + step / 2) / step
        };
        below += histogram[x];
        to.min(255) as u8
    })
}

/// Away from the mean of 3 x 3 pixels with weight 5 in the middle; the border stays.
fn sharpness(image: &mut [u8], size: usize, factor: f32, scratch: &mut Vec<u8>) {
    scratch.clear();
    scratch.extend_from_slice(image);
    let (line, side, middle) = (size * 3, 1.0f32 / 13.0, 5.0f32 / 13.0);
    for y in 1..size.saturating_sub(1) {
        for i in 3..line - 3 {
            let mut sum = 0.0;
            for (dy, dx) in (0..3).flat_map(|dy| (0..3).map(move |dx| (dy, dx))) {
                let weight = if (dy, dx) == (1, 1) { middle } else { side };
                sum += f32::from(scratch[(y + dy - 1) * line + i + 3 * dx - 3]) * weight;
            }
            let at = y * line + i;
            image[at] = blend(f32::from(saturate(sum)), scratch[at], factor);
        }
    }
    // On the border an image is blended with itself.
    for i in (0..image.len()).filter(|i| {
        let (y, x) = (i / line, i / 3 % size);
        y == 0 || y + 1 == size || x == 0 || x + 1 == size
    }) {
        image[i] = blend(f32::from(scratch[i]), scratch[i], factor);
    }
}

/// Pixel (x, y) becomes the nearest to (t0 x + t1 y + t2, t3 x + t4 y + t5), grey where there is none.
fn project(image: &mut [u8], size: usize, t: [f32; 6], scratch: &mut Vec<u8>) {
    scratch.clear();
    scratch.extend_from_slice(image);
    let (source, out) = (scratch.as_chunks::<3>().0, image.as_chunks_mut::<3>().0);
    for y in 0..size {
        for x in 0..size {
            let (px, py) = (x as f32, y as f32);
            let from_x = nearest(t[0] * px + t[1] * py + t[2]);
            let from_y = nearest(t[3] * px + t[4] * py + t[5]);
            let inside = |v: i32| v >= 0 && v < size as i32;
            out[y * size + x] = if inside(from_x) && inside(from_y) {
                source[from_y as usize * size + from_x as usize]
            } else {
                [GREY; 3]
            };
        }
    }
}

/// `f32::round`, without a call.
fn nearest(x: f32) -> i32 {
    let whole = x as i32;
    let part = x - whole as f32;
    whole + i32::from(part >= 0.5) - i32::from(part <= -0.5)
}

/// A grey square of half the side around (y, x), as far as it lies in the image.
pub fn cutout(image: &mut [u8], size: usize, y: usize, x: usize) {
    let half = (size as f32 * 0.5 / 2.0).floor() as usize;
    let range = |at: usize| at.saturating_sub(half)..(at + half).min(size);
    for y in range(y) {
        image[(y * size + range(x).start) * 3..(y * size + range(x).end) * 3].fill(GREY);
    }
}
