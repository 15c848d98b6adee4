//! What JPEG loses: an image becomes what it is after compression at quality 95 with chroma halved both
//! ways and decompression, as TensorFlow's `encode_jpeg` and `decode_and_crop_jpeg` do it, byte for byte.
//! Entropy coding loses nothing and is left out.
//! Source: libjpeg-turbo, `jccolor.c`, `jcsample.c`, `jfdctint.c` (LL&M), `jcdctmgr.c`, `jidctfst.c` (AA&N, which
//! TensorFlow prefers), `jdsample.c`, `jdcolor.c`; ITU-T T.81, annex K, for the tables.

use super::CropBox;
use crate::data::ImageView;

/// Pixels per side of what is coded together: a block of each chroma plane.
pub const UNIT: usize = 16;

/// T.81, tables K.1 and K.2.
const LUMA: [i32; 64] = [
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17,
    22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78,
    87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
];
const CHROMA: [i32; 64] = [
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99, 47, 66,
    99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
];
/// In percent of the tables above: 200 - 2 * 95.
const SCALE: i32 = 10;

/// cos(k pi / 16) sqrt(2), 1 for k = 0, products of two with 14 bits after the point.
const AAN: [i32; 64] = [
    16384, 22725, 21407, 19266, 16384, 12873, 8867, 4520, 22725, 31521, 29692, 26722, 22725, 17855, 12299,
    6270, 21407, 29692, 27969, 25172, 21407, 16819, 11585, 5906, 19266, 26722, 25172, 22654, 19266, 15137,
    10426, 5315, 16384, 22725, 21407, 19266, 16384, 12873, 8867, 4520, 12873, 17855, 16819, 15137, 12873,
    10114, 6967, 3552, 8867, 12299, 11585, 10426, 8867, 6967, 4799, 2446, 4520, 6270, 5906, 5315, 4520, 3552,
    2446, 1247,
];

/// Divisors of coefficients, and what brings them back with two bits after the point.
struct Table {
    divisors: [i32; 64],
    /// 2^32 / (8 divisors), rounded up: products with numbers below 2^20, shifted by 32, are whole quotients.
    reciprocals: [u64; 64],
    factors: [i32; 64],
}

impl Table {
    const fn new(base: &[i32; 64]) -> Table {
        let (mut divisors, mut reciprocals, mut factors) = ([0; 64], [0; 64], [0; 64]);
        let mut i = 0;
        while i < 64 {
            let scaled = (base[i] * SCALE + 50) / 100;
            divisors[i] = if scaled < 1 { 1 } else { scaled };
            reciprocals[i] = (1u64 << 32).div_ceil(8 * divisors[i] as u64);
            factors[i] = (divisors[i] * AAN[i] + (1 << 11)) >> 12;
            i += 1;
        }
        Table { divisors, reciprocals, factors }
    }
}

static LUMA_TABLE: Table = Table::new(&LUMA);
static CHROMA_TABLE: Table = Table::new(&CHROMA);

/// One plane of a part of the image.
#[derive(Debug, Default)]
struct Plane {
    width: usize,
    values: Vec<u8>,
}

impl Plane {
    fn resize(&mut self, height: usize, width: usize) {
        self.width = width;
        self.values.resize(height * width, 0);
    }

    fn row(&self, y: usize) -> &[u8] {
        &self.values[y * self.width..(y + 1) * self.width]
    }

    /// Transforms, rounds and transforms back each block of 8 x 8.
    fn lose(&mut self, table: &Table) {
        let width = self.width;
        for rows in self.values.chunks_exact_mut(8 * width) {
            for left in (0..width).step_by(8) {
                let mut block = [0; 64];
                for y in 0..8 {
                    for x in 0..8 {
                        block[8 * y + x] = i32::from(rows[y * width + left + x]) - 128;
                    }
                }
                forward_dct(&mut block);
                for i in 0..64 {
                    // Coefficients carry a factor of 8.
                    let rounded = (block[i].abs() + 4 * table.divisors[i]) as u64;
                    let whole = (rounded * table.reciprocals[i]) >> 32;
                    block[i] = block[i].signum() * whole as i32 * table.factors[i];
                }
                inverse_dct(&mut block);
                for y in 0..8 {
                    for x in 0..8 {
                        rows[y * width + left + x] = ((block[8 * y + x] >> 5) + 128).clamp(0, 255) as u8;
                    }
                }
            }
        }
    }
}

/// Memory that one image leaves to the next.
#[derive(Debug, Default)]
pub struct JpegBuffers {
    luma: Plane,
    /// Blue and red difference.
    chroma: [Plane; 2],
    /// The same in the size of the image, before it is halved.
    full: [Plane; 2],
}

/// The box `crop` of what JPEG makes of `image`, whose sides are multiples of [`UNIT`]. Overwrites `out`,
/// (crop.height, crop.width, channels). Grey stays grey.
///
/// As there, chroma is interpolated within the columns that the box needs: its outer columns may differ
/// from those of the whole image.
pub fn reencode(image: ImageView, crop: CropBox, scratch: &mut JpegBuffers, out: &mut Vec<u8>) {
    assert!(image.height.is_multiple_of(UNIT) && image.width.is_multiple_of(UNIT));
    let CropBox { top, left, height, width } = crop;
    let channels = image.channels;
    // The blocks that hold the box, and the chroma row above and below it.
    let x0 = left / UNIT * UNIT;
    let x1 = (left + width).next_multiple_of(UNIT);
    let y0 = top.saturating_sub(1) / UNIT * UNIT;
    let y1 = (top + height + 1).next_multiple_of(UNIT).min(image.height);
    let JpegBuffers { luma, chroma, full } = scratch;
    luma.resize(y1 - y0, x1 - x0);
    if channels == 3 {
        chroma.iter_mut().for_each(|p| p.resize((y1 - y0) / 2, (x1 - x0) / 2));
        full.iter_mut().for_each(|p| p.resize(y1 - y0, x1 - x0));
    }
    for y in y0..y1 {
        let line = (x1 - x0) * channels;
        let source = &image.pixels[(y * image.width + x0) * channels..][..line];
        let at = (y - y0) * (x1 - x0);
        if channels == 1 {
            luma.values[at..at + line].copy_from_slice(source);
            continue;
        }
        for (i, rgb) in source.as_chunks::<3>().0.iter().enumerate() {
            let [l, b, r] = to_ycc(*rgb);
            luma.values[at + i] = l;
            full[0].values[at + i] = b;
            full[1].values[at + i] = r;
        }
    }
    luma.lose(&LUMA_TABLE);
    out.clear();
    if channels == 1 {
        for y in top - y0..top - y0 + height {
            out.extend_from_slice(&luma.row(y)[left - x0..left - x0 + width]);
        }
        return;
    }
    for (half, full) in chroma.iter_mut().zip(&*full) {
        halve(full, half);
        half.lose(&CHROMA_TABLE);
    }
    // The columns that are decoded begin with a unit and end with the box.
    let used = (left + width - x0).div_ceil(2);
    let rows = (y1 - y0) / 2;
    let mut blended = [vec![0; used], vec![0; used]];
    for y in top - y0..top - y0 + height {
        let near = y / 2;
        let far = if y.is_multiple_of(2) { near.saturating_sub(1) } else { (near + 1).min(rows - 1) };
        for (blended, plane) in blended.iter_mut().zip(&*chroma) {
            for ((to, &near), &far) in blended.iter_mut().zip(plane.row(near)).zip(plane.row(far)) {
                *to = 3 * i32::from(near) + i32::from(far);
            }
        }
        for x in left - x0..left - x0 + width {
            let [b, r] = [0, 1].map(|i| between(&blended[i], x));
            out.extend_from_slice(&to_rgb(luma.row(y)[x], b, r));
        }
    }
}

/// Chroma at column `x` of the image: 3/4 of the nearer and 1/4 of the further sample; `row` carries a
/// factor of 4.
fn between(row: &[i32], x: usize) -> i32 {
    let near = x / 2;
    if x.is_multiple_of(2) {
        (3 * row[near] + row[near.saturating_sub(1)] + 8) >> 4
    } else {
        (3 * row[near] + row[(near + 1).min(row.len() - 1)] + 7) >> 4
    }
}

/// Means of 2 x 2 values; halves are rounded up and down in turn.
fn halve(full: &Plane, half: &mut Plane) {
    let width = half.width;
    for (y, out) in half.values.chunks_exact_mut(width).enumerate() {
        let (upper, lower) = (full.row(2 * y), full.row(2 * y + 1));
        for x in 0..width {
            let sum: u16 =
                [upper[2 * x], upper[2 * x + 1], lower[2 * x], lower[2 * x + 1]].map(u16::from).iter().sum();
            out[x] = ((sum + 1 + (x as u16 & 1)) >> 2) as u8;
        }
    }
}

/// x with 16 bits after the point.
const fn fixed(x: f64) -> i32 {
    (x * 65_536.0 + 0.5) as i32
}

fn to_ycc(rgb: [u8; 3]) -> [u8; 3] {
    let [r, g, b] = rgb.map(i32::from);
    let half = 1 << 15;
    let centre = (128 << 16) + half - 1;
    let y = fixed(0.299) * r + fixed(0.587) * g + fixed(0.114) * b + half;
    let cb = fixed(0.5) * b - fixed(0.16874) * r - fixed(0.33126) * g + centre;
    let cr = fixed(0.5) * r - fixed(0.41869) * g - fixed(0.08131) * b + centre;
    [y, cb, cr].map(|x| (x >> 16) as u8)
}

fn to_rgb(luma: u8, cb: i32, cr: i32) -> [u8; 3] {
    let (y, cb, cr, half) = (i32::from(luma), cb - 128, cr - 128, 1 << 15);
    let r = y + ((fixed(1.402) * cr + half) >> 16);
    let g = y + ((half - fixed(0.34414) * cb - fixed(0.71414) * cr) >> 16);
    let b = y + ((fixed(1.772) * cb + half) >> 16);
    [r, g, b].map(|x| x.clamp(0, 255) as u8)
}

/// Rows, then columns; the result carries a factor of 8.
fn forward_dct(block: &mut [i32; 64]) {
    for row in block.as_chunks_mut::<8>().0 {
        *row = forward_line(*row, |x| x << 2, |x| (x + (1 << 10)) >> 11);
    }
    for x in 0..8 {
        let column = std::array::from_fn(|y| block[8 * y + x]);
        let column = forward_line(column, |x| (x + 2) >> 2, |x| (x + (1 << 14)) >> 15);
        for y in 0..8 {
            block[8 * y + x] = column[y];
        }
    }
}

/// Loeffler, Ligtenberg & Moschytz 1989; constants with 13 bits after the point. `plain` and `product`
/// round what has been multiplied by no constant and by one.
#[inline(always)]
fn forward_line(d: [i32; 8], plain: impl Fn(i32) -> i32, product: impl Fn(i32) -> i32) -> [i32; 8] {
    let sum: [i32; 4] = std::array::from_fn(|i| d[i] + d[7 - i]);
    let [d7, d6, d5, d4]: [i32; 4] = std::array::from_fn(|i| d[i] - d[7 - i]);
    let (t10, t13) = (sum[0] + sum[3], sum[0] - sum[3]);
    let (t11, t12) = (sum[1] + sum[2], sum[1] - sum[2]);
    let even = (t12 + t13) * 4433;
    let (z3, z4) = (d4 + d6, d5 + d7);
    let z5 = (z3 + z4) * 9633;
    let (z1, z2) = ((d4 + d7) * -7373, (d5 + d6) * -20_995);
    let (z3, z4) = (z3 * -16_069 + z5, z4 * -3196 + z5);
    [
        plain(t10 + t11),
        product(d7 * 12_299 + z1 + z4),
        product(even + t13 * 6270),
        product(d6 * 25_172 + z2 + z3),
        plain(t10 - t11),
        product(d5 * 16_819 + z2 + z4),
        product(even + t12 * -15_137),
        product(d4 * 2446 + z1 + z3),
    ]
}

/// Columns, then rows; the result carries a factor of 32.
fn inverse_dct(block: &mut [i32; 64]) {
    for x in 0..8 {
        let column = inverse_line(std::array::from_fn(|y| block[8 * y + x]));
        for y in 0..8 {
            block[8 * y + x] = column[y];
        }
    }
    for row in block.as_chunks_mut::<8>().0 {
        *row = inverse_line(*row);
    }
}

/// Arai, Agui & Nakajima 1988; constants with 8 bits after the point, products rounded down.
#[inline(always)]
fn inverse_line(d: [i32; 8]) -> [i32; 8] {
    let times = |x: i32, constant: i32| (x * constant) >> 8;
    let (t10, t11) = (d[0] + d[4], d[0] - d[4]);
    let t13 = d[2] + d[6];
    let t12 = times(d[2] - d[6], 362) - t13;
    let even = [t10 + t13, t11 + t12, t11 - t12, t10 - t13];
    let (z13, z10) = (d[5] + d[3], d[5] - d[3]);
    let (z11, z12) = (d[1] + d[7], d[1] - d[7]);
    let o7 = z11 + z13;
    let z5 = times(z10 + z12, 473);
    let o6 = times(z10, -669) + z5 - o7;
    let o5 = times(z11 - z13, 362) - o6;
    let o4 = times(z12, 277) - z5 + o5;
    [
        even[0] + o7,
        even[1] + o6,
        even[2] + o5,
        even[3] - o4,
        even[3] + o4,
        even[2] - o5,
        even[1] - o6,
        even[0] - o7,
    ]
}
