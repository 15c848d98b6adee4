//! The products on slices: packing, multiplying in registers, adding to y.

use super::{ABSENT, Blocks, CHAINS, COLUMNS, Chain, IS_FIRST, PRODUCTS, Pairs, Product, ProductDims};
use super::{packed_len, suits};
use crate::ops::float::{Shared, with_scratch};
use crate::ops::matmul::Start;
use crate::ops::matmul::cpu::{Right, SharedMatrix, Strided};
use crate::ops::matmul::tile::cpu::{lanes, load, multiply, prefetch, store};
use crate::ops::matmul::tile::{FEW, Lanes, MANY, Pieces, STRIDE, TILES, TileShape};
use Blocks::{Difference, One, Sum};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::ops::Range;

/// y = start + x w. x: (B·R, k), w: (k, n), y: (B·R, n), B images of R rows each. `ending(first, rows)`
/// is called for groups of rows once they are complete, on several threads.
///
/// # Safety
/// A matrix `w` lies within its allocation for k rows and n columns.
pub unsafe fn product<T: Lanes>(
    y: &mut [T],
    x: &[T],
    w: Right<T>,
    e: ProductDims,
    start: Start<T>,
    ending: impl Fn(usize, &mut [T]) + Sync,
) {
    let images = x.len() / (e.rows * e.k).max(1);
    assert!(suits(e.rows, e.k, e.n) && x.len() == images * e.rows * e.k && y.len() == images * e.rows * e.n);
    start.check(e.n, y.len());
    // SAFETY: the caller's promise.
    unsafe { run(y, x, w, e, start, ending, TileShape::of::<T>()) }
}

/// # Safety
/// As for [`product`]; the width of a tile is this machine's.
unsafe fn run<T: Lanes>(
    y: &mut [T],
    x: &[T],
    w: Right<T>,
    e: ProductDims,
    start: Start<T>,
    ending: impl Fn(usize, &mut [T]) + Sync,
    shape: TileShape,
) {
    let w = match w {
        Right::Packed(packed) => packed,
        Right::Matrix(w) => {
            return with_scratch(packed_len(e.k, e.n), |packed: &mut [T]| {
                // SAFETY: the caller's promise.
                unsafe {
                    pack_in(packed, w, (e.k, e.n), shape);
                    run(y, x, Right::Packed(packed), e, start, ending, shape);
                }
            });
        }
    };
    assert_eq!(w.len(), packed_len(e.k, e.n));
    let (arch, tile) = (Arch::new(), shape.tile);
    let pairs = Pairs { images: x.len() / (e.rows * e.k), rows: e.rows };
    let job = StrassenJob { y: Shared(y.as_mut_ptr()), x, packed: w, e, pieces: Pieces::new(e.k / 2) };
    let all: Vec<_> = (0..pairs.len()).map(|pair| pairs.rows(pair)).collect();
    all.par_chunks(TILES * tile).for_each(|pairs| {
        with_scratch(7 * TILES * tile * STRIDE, |left: &mut [T]| {
            arch.dispatch(PairGroup { job: &job, pairs, left, start, tile });
        });
        let rows = Pairs::range(pairs);
        // SAFETY: a group's pairs are consecutive rows that no other group has.
        let done = unsafe { std::slice::from_raw_parts_mut(job.y.at(rows.start * e.n), rows.len() * e.n) };
        ending(rows.start, done);
    });
}

/// The seven sums of blocks of w (k, n), in the order in which products read them.
///
/// # Safety
/// `w` lies within its allocation for k rows and n columns.
pub unsafe fn pack<T: Lanes>(packed: &mut [T], w: Strided<*const T>, (k, n): (usize, usize)) {
    assert!(suits(2, k, n) && packed.len() == packed_len(k, n));
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
    let (arch, pieces, panels) = (Arch::new(), Pieces::new(k / 2), n / 2 / width);
    let (to, w) = (Shared(packed.as_mut_ptr()), SharedMatrix(w));
    let all = pieces.iter().flat_map(|piece| (0..panels).map(move |panel| (piece.clone(), panel)));
    all.collect::<Vec<_>>().par_iter().for_each(|(piece, panel)| {
        arch.dispatch(Panel { packed: to, w: w.get(), k, n, piece, panel: *panel });
    });
}

/// Panels between the one that is multiplied and the one that is prefetched: a chain has up to two.
const AHEAD: usize = 2;

/// Lines of w that are read at a time.
const LINES: usize = 16;

/// Packs the seven right sides in the order they are met: for every piece of the sum, every two vectors of
/// columns and every product, a panel of (depth of the piece, columns).
struct Panel<'a, T> {
    packed: Shared<T>,
    w: Strided<*const T>,
    k: usize,
    n: usize,
    piece: &'a Range<usize>,
    panel: usize,
}

impl<T: Lanes> WithSimd for Panel<'_, T> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Panel { packed, w, k, n, piece, panel } = self;
        let (lanes, k, n) = (lanes::<T, S>(), k / 2, n / 2);
        let width = 2 * lanes;
        let mut tile = [[[T::ZERO; COLUMNS]; LINES]; 4];
        for l in (0..piece.len()).step_by(LINES) {
            let count = LINES.min(piece.len() - l);
            for (block, tile) in tile.iter_mut().enumerate() {
                let (row, column) = ((block / 2) * k + piece.start + l, (block % 2) * n + panel * width);
                // SAFETY: `count` rows and `width` columns of `w`, which has 2k of the ones and 2n of the
                // others.
                unsafe {
                    let from = w.at.add(row * w.row_stride + column * w.col_stride);
                    if w.col_stride == 1 {
                        for i in 0..count {
                            let line = std::slice::from_raw_parts(from.add(i * w.row_stride), width);
                            tile[i][..width].copy_from_slice(line);
                        }
                    } else {
                        for j in 0..width {
                            for i in 0..count {
                                tile[i][j] = *from.add(i * w.row_stride + j * w.col_stride);
                            }
                        }
                    }
                }
            }
            for (p, Product { right, .. }) in PRODUCTS.iter().enumerate() {
                // SAFETY: the panel of product p is this call's own.
                let out =
                    unsafe { packed.at(panels_at(n, piece) + ((7 * panel + p) * piece.len() + l) * width) };
                for i in 0..count {
                    for half in [0, lanes] {
                        // SAFETY: a vector of line l + i, in the panel as in the tile.
                        unsafe {
                            let (a, b) = right.both();
                            let a = load::<T, S>(tile[a][i].as_ptr().add(half));
                            let b = load::<T, S>(tile[b][i].as_ptr().add(half));
                            let value = match right {
                                One(_) => a,
                                Sum(..) => T::plus(simd, a, b),
                                Difference(..) => T::minus(simd, a, b),
                            };
                            store::<T, S>(out.add(i * width + half), value);
                        }
                    }
                }
            }
        }
    }
}

/// Where the panels of a piece begin; n: columns of half the matrix.
fn panels_at(n: usize, piece: &Range<usize>) -> usize {
    7 * piece.start * n
}

/// All groups of rows read this.
struct StrassenJob<'a, T> {
    y: Shared<T>,
    x: &'a [T],
    packed: &'a [T],
    e: ProductDims,
    pieces: Pieces,
}

/// Pairs of rows that one thread computes, and room to pack them.
struct PairGroup<'a, T> {
    job: &'a StrassenJob<'a, T>,
    pairs: &'a [[usize; 2]],
    left: &'a mut [T],
    start: Start<'a, T>,
    tile: usize,
}

impl<T: Lanes> WithSimd for PairGroup<'_, T> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if self.tile == MANY { self.run::<S, MANY>(simd) } else { self.run::<S, FEW>(simd) }
    }
}

/// A product's place in y: block, whether it is added or taken away, whether it is the first there.
type BlockUse = (usize, bool, bool);

impl<T: Lanes> PairGroup<'_, T> {
    #[inline(always)]
    fn run<S: Simd, const TILE: usize>(self, simd: S) {
        let PairGroup { job: &StrassenJob { y, x, packed, e, ref pieces }, pairs, left, start, .. } = self;
        let (k, n, width) = (e.k / 2, e.n / 2, 2 * lanes::<T, S>());
        let nothing = vec![T::ZERO; k];
        for piece in pieces.iter() {
            let depth = piece.len();
            let opens = piece.start == 0 && !matches!(start, Start::Own);
            for (i, pair) in pairs.iter().enumerate() {
                let blocks = std::array::from_fn(
                    #[inline(always)]
                    |block| match pair[block / 2] {
                        ABSENT => &nothing[..depth],
                        row => &x[row * e.k + (block % 2) * k + piece.start..][..depth],
                    },
                );
                pack_pair(&mut left[i * STRIDE..], TILES * TILE * STRIDE, blocks);
            }
            let panels = &packed[panels_at(n, &piece)..][..7 * depth * n];
            for panel in 0..n / width {
                // By index: what an iterator asks of another is a call where the compiler pleases.
                for c in 0..CHAINS.len() {
                    let Chain { products, into } = &CHAINS[c];
                    for tile in 0..pairs.len().div_ceil(TILE) {
                        let pairs = &pairs[tile * TILE..pairs.len().min((tile + 1) * TILE)];
                        let target = TileTarget { y, start, n: e.n, column: panel * width, pairs };
                        let mut sums = [[T::splat(simd, T::ZERO); 2]; TILE];
                        for step in 0..into.len() {
                            let (p, into) = (products.start + step, into[step]);
                            let left = &left[(p * TILES + tile) * TILE * STRIDE..][..TILE * STRIDE];
                            let right = &panels[(7 * panel + p) * depth * width..][..depth * width];
                            // This tile's part of the panel after the next.
                            let ahead = AHEAD * right.len() + tile * right.len() / TILES;
                            for place in 0..into.len() {
                                let block = into[place].0;
                                if IS_FIRST[p][block] {
                                    target.prefetch(block, width);
                                }
                            }
                            // SAFETY: `left` has TILE rows and `right` two vectors for each of their
                            // columns; the pairs of a group belong to its thread.
                            unsafe {
                                let ahead = right.as_ptr().wrapping_add(ahead);
                                let (left, right) = (left.as_ptr(), right.as_ptr());
                                sums = multiply::<T, S, TILE>(simd, sums, left, right, ahead, depth);
                                for place in 0..into.len() {
                                    let (block, plus) = into[place];
                                    target.put(simd, &sums, (block, plus, opens && IS_FIRST[p][block]));
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The seven left sides of a pair of rows, `stride` apart, from its four blocks.
#[inline(always)]
fn pack_pair<T: Lanes>(out: &mut [T], stride: usize, blocks: [&[T]; 4]) {
    let depth = blocks[0].len();
    for (p, Product { left, .. }) in PRODUCTS.iter().enumerate() {
        let out = &mut out[p * stride..][..depth];
        let (a, b) = left.both();
        let (a, b) = (&blocks[a][..depth], &blocks[b][..depth]);
        match left {
            One(_) => out.copy_from_slice(a),
            Sum(..) => {
                for i in 0..depth {
                    out[i] = a[i] + b[i];
                }
            }
            Difference(..) => {
                for i in 0..depth {
                    out[i] = a[i] - b[i];
                }
            }
        }
    }
}

/// Where tiles of products go: the rows of `pairs`, columns from `column` on of each half of y.
struct TileTarget<'a, T> {
    y: Shared<T>,
    start: Start<'a, T>,
    n: usize,
    column: usize,
    pairs: &'a [[usize; 2]],
}

impl<T: Lanes> TileTarget<'_, T> {
    /// Prefetches what [`TileTarget::put`] will change in a block.
    #[inline(always)]
    fn prefetch(&self, block: usize, width: usize) {
        let column = (block % 2) * (self.n / 2) + self.column;
        for pair in self.pairs {
            let to = self.y.0.wrapping_add(pair[block / 2].wrapping_mul(self.n) + column);
            prefetch(to);
            prefetch(to.wrapping_add(width - 1));
        }
    }

    /// Brings the sums of a tile to a block of y.
    ///
    /// # Safety
    /// The rows belong to this thread alone.
    #[inline(always)]
    unsafe fn put<S: Simd, const TILE: usize>(
        &self,
        simd: S,
        sums: &[[T::V<S>; 2]; TILE],
        (block, plus, opens): BlockUse,
    ) {
        let column = (block % 2) * (self.n / 2) + self.column;
        let lanes = lanes::<T, S>();
        // SAFETY: vectors of rows that are there, and of bias and residual, whose lengths `product` has
        // checked.
        unsafe {
            match (opens, self.start) {
                (true, Start::Bias(bias)) => {
                    let bias = bias.as_ptr().add(column);
                    let bias = [load::<T, S>(bias), load::<T, S>(bias.add(lanes))];
                    self.each_row::<S, TILE>(
                        sums,
                        block,
                        #[inline(always)]
                        |sum, _, v| T::plus(simd, sum, bias[v]),
                    );
                }
                (true, Start::Residual(bias, residual)) => {
                    let bias = bias.as_ptr().add(column);
                    let bias = [load::<T, S>(bias), load::<T, S>(bias.add(lanes))];
                    self.each_row::<S, TILE>(
                        sums,
                        block,
                        #[inline(always)]
                        |sum, at, v| {
                            let residual = load::<T, S>(residual.as_ptr().add(at));
                            T::plus(simd, sum, T::plus(simd, bias[v], residual))
                        },
                    );
                }
                (true, _) => self.each_row::<S, TILE>(
                    sums,
                    block,
                    #[inline(always)]
                    |sum, _, _| sum,
                ),
                (false, _) if plus => self.each_row::<S, TILE>(
                    sums,
                    block,
                    #[inline(always)]
                    |sum, at, _| T::plus(simd, load::<T, S>(self.y.at(at)), sum),
                ),
                (false, _) => self.each_row::<S, TILE>(
                    sums,
                    block,
                    #[inline(always)]
                    |sum, at, _| T::minus(simd, load::<T, S>(self.y.at(at)), sum),
                ),
            }
        }
    }

    /// y = f(sum, where in y, which of the two vectors) in the rows of a block that are there.
    ///
    /// # Safety
    /// As for [`TileTarget::put`].
    #[inline(always)]
    unsafe fn each_row<S: Simd, const TILE: usize>(
        &self,
        sums: &[[T::V<S>; 2]; TILE],
        block: usize,
        f: impl Fn(T::V<S>, usize, usize) -> T::V<S>,
    ) {
        let (half, column) = (block / 2, (block % 2) * (self.n / 2) + self.column);
        for i in 0..TILE {
            if i < self.pairs.len() && self.pairs[i][half] != ABSENT {
                let at = self.pairs[i][half] * self.n + column;
                // SAFETY: the caller's promise.
                unsafe {
                    store::<T, S>(self.y.at(at), f(sums[i][0], at, 0));
                    let at = at + lanes::<T, S>();
                    store::<T, S>(self.y.at(at), f(sums[i][1], at, 1));
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

    fn check<T: Lanes>(images: usize, e: ProductDims, limit: f64) {
        checks::check::<T>(
            images * e.rows,
            (e.k, e.n),
            limit,
            packed_len(e.k, e.n),
            // SAFETY: the layouts of `checks::check` lie within their matrices; below as well.
            &|packed, w| unsafe { pack(packed, w, (e.k, e.n)) },
            &|y, x, w, start, ending, shape| unsafe { run(y, x, w, e, start, ending, shape) },
        );
    }

    #[test]
    fn products_are_those_of_the_definition() {
        for (images, rows, k, n) in
            [(2, 33, 384, 384), (3, 8, 1030, 448), (1, 70, 386, 512), (0, 2, 384, 384)]
        {
            check::<f64>(images, ProductDims { rows, k, n }, 1e-13);
            check::<f32>(images, ProductDims { rows, k, n }, 2e-6);
        }
    }

    /// An image's rows have the same bits alone and among others, on one thread and on three.
    #[test]
    fn images_do_not_meet() {
        for rows in [34, 35] {
            let e = ProductDims { rows, k: 400, n: 448 };
            let (x, w) = (random::<f32>(5 * rows * e.k, 1), random::<f32>(e.k * e.n, 2));
            let run = |x: &[f32], threads: usize| {
                let mut y = vec![f32::NAN; x.len() / e.k * e.n];
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
                pool.install(|| {
                    let w = plain(&w, Layout::dense(e.k, e.n));
                    // SAFETY: the layout is that of the whole matrix.
                    unsafe { product(&mut y, x, Right::Matrix(w), e, Start::Zero, |_, _| ()) }
                });
                y
            };
            let all = run(&x, 3);
            for image in 0..5 {
                let one = run(&x[image * rows * e.k..][..rows * e.k], 1);
                assert!(
                    one.iter().zip(&all[image * rows * e.n..]).all(|(a, b)| a.to_bits() == b.to_bits()),
                    "{image}"
                );
            }
        }
    }
}
