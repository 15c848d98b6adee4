//! The products on slices: packing, multiplying in registers, storing.

use super::{packed_len, suits};
use crate::ops::float::{Shared, with_scratch};
use crate::ops::matmul::Start;
use crate::ops::matmul::cpu::{Right, SharedMatrix, Strided};
use crate::ops::matmul::tile::cpu::{lanes, load, multiply, store};
use crate::ops::matmul::tile::{FEW, Lanes, MANY, Pieces, STRIDE, TILES, TileShape};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::ops::Range;

/// y = start + x w. x: (M, k), w: (k, n), y: (M, n). `ending(first, rows)` is called for groups of rows once they are complete,
/// on several threads.
///
/// # Safety
/// A matrix `w` lies within its allocation for k rows and n columns.
pub unsafe fn product<T: Lanes>(
    y: &mut [T],
    x: &[T],
    w: Right<T>,
    (k, n): (usize, usize),
    start: Start<T>,
    ending: impl Fn(usize, &mut [T]) + Sync,
) {
    assert!(suits(k, n) && x.len().is_multiple_of(k) && y.len() == x.len() / k * n);
    start.check(n, y.len());
    // SAFETY: the caller's promise.
    unsafe { run(y, x, w, (k, n), start, ending, TileShape::of::<T>()) }
}

/// # Safety
/// As for [`product`]; the width of a tile is this machine's.
unsafe fn run<T: Lanes>(
    y: &mut [T],
    x: &[T],
    w: Right<T>,
    (k, n): (usize, usize),
    start: Start<T>,
    ending: impl Fn(usize, &mut [T]) + Sync,
    shape: TileShape,
) {
    let packed = match w {
        Right::Packed(packed) => packed,
        Right::Matrix(w) => {
            return with_scratch(packed_len(k, n), |packed: &mut [T]| {
                // SAFETY: the caller's promise.
                unsafe {
                    pack_in(packed, w, (k, n), shape);
                    run(y, x, Right::Packed(packed), (k, n), start, ending, shape);
                }
            });
        }
    };
    assert_eq!(packed.len(), packed_len(k, n));
    let (arch, tile, pieces) = (Arch::new(), shape.tile, Pieces::new(k));
    let group = TILES * tile;
    y.par_chunks_mut(group * n).zip(x.par_chunks(group * k)).enumerate().for_each(|(number, (y, x))| {
        let first = number * group;
        with_scratch(group * STRIDE, |left: &mut [T]| {
            let y = Shared(y.as_mut_ptr());
            arch.dispatch(RowGroup { y, x, first, packed, k, n, pieces: &pieces, left, start, tile });
        });
        ending(first, y);
    });
}

/// The panels of w (k, n): for every piece of the sum and every two vectors of columns the rows of the piece.
///
/// # Safety
/// `w` lies within its allocation for k rows and n columns.
pub unsafe fn pack<T: Lanes>(packed: &mut [T], w: Strided<*const T>, (k, n): (usize, usize)) {
    assert!(suits(k, n) && packed.len() == packed_len(k, n));
    // SAFETY: the caller's promise.
    unsafe { pack_in(packed, w, (k, n), TileShape::of::<T>()) }
}

/// # Safety
/// As for [`pack`], and `packed` has room.
unsafe fn pack_in<T: Lanes>(
    packed: &mut [T],
    w: Strided<*const T>,
    (k, n): (usize, usize),
    TileShape { width, .. }: TileShape,
) {
    let (to, w, pieces) = (Shared(packed.as_mut_ptr()), SharedMatrix(w), Pieces::new(k));
    let all = pieces.iter().flat_map(|piece| (0..n / width).map(move |panel| (piece.clone(), panel)));
    all.collect::<Vec<_>>().par_iter().for_each(|(piece, panel)| {
        let w = w.get();
        // SAFETY: each panel is one task's own; rows of `piece` and `width` columns lie within w.
        let out = unsafe {
            let from = to.at(panel_at(n, width, piece, *panel));
            std::slice::from_raw_parts_mut(from, piece.len() * width)
        };
        for (row, line) in piece.clone().zip(out.chunks_exact_mut(width)) {
            // SAFETY: as above.
            unsafe {
                let from = w.at.add(row * w.row_stride + panel * width * w.col_stride);
                if w.col_stride == 1 {
                    line.copy_from_slice(std::slice::from_raw_parts(from, width));
                } else {
                    for (j, value) in line.iter_mut().enumerate() {
                        *value = *from.add(j * w.col_stride);
                    }
                }
            }
        }
    });
}

/// Where a panel begins.
fn panel_at(n: usize, width: usize, piece: &Range<usize>, panel: usize) -> usize {
    piece.start * n + panel * piece.len() * width
}

/// Rows that one thread computes, and room to pack them.
struct RowGroup<'a, T> {
    y: Shared<T>,
    x: &'a [T],
    /// Number of the first row, as the residual counts.
    first: usize,
    packed: &'a [T],
    k: usize,
    n: usize,
    pieces: &'a Pieces,
    left: &'a mut [T],
    start: Start<'a, T>,
    tile: usize,
}

impl<T: Lanes> WithSimd for RowGroup<'_, T> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if self.tile == MANY { self.run::<S, MANY>(simd) } else { self.run::<S, FEW>(simd) }
    }
}

impl<T: Lanes> RowGroup<'_, T> {
    #[inline(always)]
    fn run<S: Simd, const TILE: usize>(self, simd: S) {
        let RowGroup { y, x, first, packed, k, n, pieces, left, start, .. } = self;
        let (rows, width) = (x.len() / k, 2 * lanes::<T, S>());
        // Rows that are not there meet the panels as zeros.
        left[rows * STRIDE..].fill(T::ZERO);
        for piece in pieces.iter() {
            let depth = piece.len();
            let start = if piece.start == 0 { start } else { Start::Own };
            for row in 0..rows {
                left[row * STRIDE..][..depth].copy_from_slice(&x[row * k + piece.start..][..depth]);
            }
            let panels = &packed[piece.start * n..][..depth * n];
            for panel in 0..n / width {
                let right = panels[panel * depth * width..][..depth * width].as_ptr();
                // By index: what an iterator asks of another is a call where the compiler pleases.
                for tile in 0..rows.div_ceil(TILE) {
                    let left = left[tile * TILE * STRIDE..][..TILE * STRIDE].as_ptr();
                    // This tile's part of the next panel.
                    let next = right.wrapping_add(depth * width + tile * depth * width / TILES);
                    // SAFETY: `left` has TILE rows, and `right` two vectors for each of their columns.
                    let sums = unsafe {
                        let sums = [[T::splat(simd, T::ZERO); 2]; TILE];
                        multiply::<T, S, TILE>(simd, sums, left, right, next, depth)
                    };
                    for i in 0..TILE {
                        let row = tile * TILE + i;
                        if row >= rows {
                            break;
                        }
                        for v in 0..2 {
                            let column = panel * width + v * lanes::<T, S>();
                            let (at, sum) = (row * n + column, sums[i][v]);
                            // SAFETY: vectors of a row of y, of the residual and of the bias, whose lengths `product` has
                            // checked.
                            unsafe {
                                let value = match start {
                                    Start::Zero => sum,
                                    Start::Own => T::plus(simd, load::<T, S>(y.at(at)), sum),
                                    Start::Bias(bias) => {
                                        T::plus(simd, sum, load::<T, S>(bias.as_ptr().add(column)))
                                    }
                                    Start::Residual(bias, residual) => {
                                        let residual = load::<T, S>(residual.as_ptr().add(first * n + at));
                                        let bias = load::<T, S>(bias.as_ptr().add(column));
                                        T::plus(simd, sum, T::plus(simd, bias, residual))
                                    }
                                };
                                store::<T, S>(y.at(at), value);
                            }
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::matmul::Layout;
    use crate::ops::matmul::cpu::plain;
    use crate::ops::matmul::tile::checks::{self, random};

    fn check<T: Lanes>(m: usize, (k, n): (usize, usize), limit: f64) {
        checks::check::<T>(
            m,
            (k, n),
            limit,
            packed_len(k, n),
            // SAFETY: the layouts of `checks::check` lie within their matrices; below as well.
            &|packed, w| unsafe { pack(packed, w, (k, n)) },
            &|y, x, w, start, ending, shape| unsafe { run(y, x, w, (k, n), start, ending, shape) },
        );
    }

    #[test]
    fn products_are_those_of_the_definition() {
        for (m, k, n) in [(1, 64, 64), (53, 192, 96), (49, 65, 192), (97, 1030, 64), (0, 64, 64)] {
            check::<f64>(m, (k, n), 1e-13);
            check::<f32>(m, (k, n), 2e-6);
        }
    }

    /// A row has the same bits alone and among others, on one thread and on three.
    #[test]
    fn a_row_depends_on_itself_alone() {
        let (m, k, n) = (101, 530, 96);
        let (x, w) = (random::<f32>(m * k, 1), random::<f32>(k * n, 2));
        let run = |x: &[f32], threads: usize| {
            let mut y = vec![f32::NAN; x.len() / k * n];
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
            pool.install(|| {
                let w = plain(&w, Layout::dense(k, n));
                // SAFETY: the layout is that of the whole matrix.
                unsafe { product(&mut y, x, Right::Matrix(w), (k, n), Start::Zero, |_, _| ()) }
            });
            y
        };
        let all = run(&x, 3);
        for row in [0, 1, 47, 48, 99, 100] {
            let one = run(&x[row * k..][..k], 1);
            assert!(one.iter().zip(&all[row * n..]).all(|(a, b)| a.to_bits() == b.to_bits()), "{row}");
        }
    }
}
