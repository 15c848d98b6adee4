//! Operands of any strides as tiles. Of a matrix whose rows or whose columns are contiguous, contiguous lines are read
//! and rounded to pairs of bf16, in a line or of two lines, and transposed where the tile wants the other direction.

use crate::ops::float::with_scratch;
use crate::ops::matmul::bf16::amx::cpu::Tiles;
use crate::ops::matmul::bf16::amx::{Aligned, BLOCK, OPERANDS, ROWS, STEP};
use crate::ops::matmul::cpu::Strided;
use std::arch::x86_64::{
    __m512, __m512i, _mm512_cvtepu16_epi32, _mm512_cvtne2ps_pbh, _mm512_cvtneps_pbh, _mm512_maskz_loadu_ps,
    _mm512_or_si512, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_shuffle_i32x4, _mm512_slli_epi32,
    _mm512_storeu_si512, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32,
    _mm512_unpacklo_epi64,
};
use std::mem::transmute;

/// dst (m, n) = scale lhs (m, k) rhs (k, n), or dst += with `add`. Rows of `dst` are contiguous; of either operand the
/// rows or the columns. An element's bits depend on its row and its column alone.
///
/// # Safety
/// This machine has AMX. All three matrices lie within their allocations for the given extents, and nothing else
/// accesses `dst` meanwhile.
pub unsafe fn product(
    (m, n, k): (usize, usize, usize),
    dst: Strided<*mut f32>,
    lhs: Strided<*const f32>,
    rhs: Strided<*const f32>,
    scale: f32,
    add: bool,
) {
    let is_read_by_lines = |side: Strided<*const f32>| side.row_stride == 1 || side.col_stride == 1;
    assert!(dst.col_stride == 1 && is_read_by_lines(lhs) && is_read_by_lines(rhs));
    let steps = k.div_ceil(STEP);
    let (rows, columns) = (m.next_multiple_of(BLOCK), n.next_multiple_of(BLOCK));
    let half = steps * OPERANDS;
    with_scratch((rows + columns) * steps * STEP / 2, |operands: &mut [f32]| {
        let operands: &mut [u16] = bytemuck::cast_slice_mut(operands);
        let (left, right) = operands.split_at_mut(rows * steps * STEP);
        // SAFETY: the caller's promises. `left` has `steps` tiles for every 16 rows, `right` twice as many for every
        // 32 columns.
        unsafe {
            for tile in 0..left.len() / OPERANDS {
                let (row, value) = (tile / steps * ROWS, tile % steps * STEP);
                left_tile(&mut left[tile * OPERANDS..][..OPERANDS], lhs, (row, m), (value, k));
            }
            for tiles in 0..right.len() / (2 * OPERANDS) {
                let (column, value) = (tiles / steps * BLOCK, tiles % steps * STEP);
                for side in 0..2 {
                    let tile = &mut right[tiles * 2 * OPERANDS + side * STEP..][..2 * OPERANDS - STEP];
                    right_tile(tile, rhs, (value, k), (column + side * ROWS, n));
                }
            }
            let tiles = Tiles::of_this_thread();
            let mut sums = Aligned([[0.0; BLOCK]; BLOCK]);
            for column in (0..n).step_by(BLOCK) {
                for row in (0..m).step_by(BLOCK) {
                    let left = &left[row / ROWS * half..][..2 * half];
                    let (top, bottom) = left.split_at(half);
                    let right = &right[column / ROWS * half..][..2 * half];
                    tiles.multiply(&mut sums.0, [top, bottom], right, false);
                    for i in row..m.min(row + BLOCK) {
                        let to = dst.at.add(i * dst.row_stride + column);
                        let to = std::slice::from_raw_parts_mut(to, BLOCK.min(n - column));
                        write(to, &sums.0[i - row], scale, add);
                    }
                }
            }
        }
    });
}

/// # Safety
/// The machine has AVX-512.
#[target_feature(enable = "avx512f")]
unsafe fn write(to: &mut [f32], sums: &[f32; BLOCK], scale: f32, add: bool) {
    for j in 0..to.len() {
        to[j] = if add { to[j] + scale * sums[j] } else { scale * sums[j] };
    }
}

/// (16, 32): rows from `row` on of the m there are, values from `value` on of the k there are.
///
/// # Safety
/// The machine has AVX512-BF16; `lhs` is (m, k).
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn left_tile(
    tile: &mut [u16],
    lhs: Strided<*const f32>,
    (row, m): (usize, usize),
    (value, k): (usize, usize),
) {
    let (rows, values) = (m.saturating_sub(row), k - value);
    let at = lhs.at.wrapping_add(row * lhs.row_stride + value * lhs.col_stride);
    // SAFETY: the caller's promises; a tile has 16 lines of 64 bytes.
    unsafe {
        let lines = if lhs.col_stride == 1 {
            Lines { at, stride: lhs.row_stride, lines: rows, values }.pairs_along()
        } else {
            transposed(Lines { at, stride: lhs.col_stride, lines: values, values: rows }.pairs_across())
        };
        for (i, line) in lines.into_iter().enumerate() {
            _mm512_storeu_si512(tile[i * STEP..][..STEP].as_mut_ptr().cast(), line);
        }
    }
}

/// (16, 32, 2), of which the other 16 columns are another tile: values from `value` on, columns from `column` on.
///
/// # Safety
/// The machine has AVX512-BF16; `rhs` is (k, n).
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn right_tile(
    tile: &mut [u16],
    rhs: Strided<*const f32>,
    (value, k): (usize, usize),
    (column, n): (usize, usize),
) {
    let (values, columns) = (k - value, n.saturating_sub(column));
    let at = rhs.at.wrapping_add(value * rhs.row_stride + column * rhs.col_stride);
    // SAFETY: the caller's promises; a line of 64 bytes of every 128.
    unsafe {
        let lines = if rhs.col_stride == 1 {
            Lines { at, stride: rhs.row_stride, lines: values, values: columns }.pairs_across()
        } else {
            transposed(Lines { at, stride: rhs.col_stride, lines: columns, values }.pairs_along())
        };
        for (i, line) in lines.into_iter().enumerate() {
            _mm512_storeu_si512(tile[2 * i * STEP..][..STEP].as_mut_ptr().cast(), line);
        }
    }
}

/// Contiguous values; beyond `lines` and `values` there are zeros.
struct Lines {
    at: *const f32,
    stride: usize,
    lines: usize,
    values: usize,
}

impl Lines {
    /// 16 values of a line, from `first` on.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn vector(&self, line: usize, first: usize) -> __m512 {
        let values = self.values.saturating_sub(first).min(16);
        if line >= self.lines || values == 0 {
            return _mm512_setzero_ps();
        }
        // SAFETY: the caller's promise for the values of the mask; the others are not read.
        unsafe {
            let at = self.at.add(line * self.stride + first);
            _mm512_maskz_loadu_ps(((1_u32 << values) - 1) as u16, at)
        }
    }

    /// Of 16 lines the values 2j and 2j + 1 as pair j.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn pairs_along(&self) -> [__m512i; 16] {
        let mut pairs = [_mm512_setzero_si512(); 16];
        for i in 0..16 {
            // SAFETY: the caller's promise; both types are 64 bytes.
            pairs[i] = unsafe { transmute(_mm512_cvtne2ps_pbh(self.vector(i, 16), self.vector(i, 0))) };
        }
        pairs
    }

    /// Of 16 values the lines 2i and 2i + 1 as pairs.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn pairs_across(&self) -> [__m512i; 16] {
        let mut pairs = [_mm512_setzero_si512(); 16];
        for i in 0..16 {
            // SAFETY: the caller's promise; both types are 32 bytes.
            let [low, high] = unsafe {
                [
                    transmute(_mm512_cvtneps_pbh(self.vector(2 * i, 0))),
                    transmute(_mm512_cvtneps_pbh(self.vector(2 * i + 1, 0))),
                ]
            };
            let high = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(high));
            pairs[i] = _mm512_or_si512(_mm512_cvtepu16_epi32(low), high);
        }
        pairs
    }
}

/// 16 lines of 16 elements of 32 bits: by pairs of lines, then fours, then quarters of a line.
#[inline]
#[target_feature(enable = "avx512f")]
fn transposed(lines: [__m512i; 16]) -> [__m512i; 16] {
    let (mut twos, mut fours, mut columns) = (lines, lines, lines);
    for i in 0..8 {
        twos[2 * i] = _mm512_unpacklo_epi32(lines[2 * i], lines[2 * i + 1]);
        twos[2 * i + 1] = _mm512_unpackhi_epi32(lines[2 * i], lines[2 * i + 1]);
    }
    for i in 0..4 {
        for j in 0..2 {
            fours[4 * i + 2 * j] = _mm512_unpacklo_epi64(twos[4 * i + j], twos[4 * i + 2 + j]);
            fours[4 * i + 2 * j + 1] = _mm512_unpackhi_epi64(twos[4 * i + j], twos[4 * i + 2 + j]);
        }
    }
    for j in 0..4 {
        let (a, b, c, d) = (fours[j], fours[4 + j], fours[8 + j], fours[12 + j]);
        let even = (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0x88>(c, d));
        let odd = (_mm512_shuffle_i32x4::<0xdd>(a, b), _mm512_shuffle_i32x4::<0xdd>(c, d));
        columns[j] = _mm512_shuffle_i32x4::<0x88>(even.0, even.1);
        columns[4 + j] = _mm512_shuffle_i32x4::<0x88>(odd.0, odd.1);
        columns[8 + j] = _mm512_shuffle_i32x4::<0xdd>(even.0, even.1);
        columns[12 + j] = _mm512_shuffle_i32x4::<0xdd>(odd.0, odd.1);
    }
    columns
}
