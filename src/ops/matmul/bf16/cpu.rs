//! Packing, and the product over groups of rows.

use super::tile::cpu::Widened;
use super::tile::{self, PANEL, Sums, TILE, reference};
use super::{Arithmetic, packed_len};
use crate::ops::float::{Shared, simd, with_scratch};
use crate::ops::gelu::{self, GeluForm};
use crate::ops::matmul::Start;
use crate::ops::matmul::cpu::SharedMatrix;
pub use crate::ops::matmul::cpu::Strided;
use crate::ops::matmul::tile::cpu::prefetch;
use half::bf16;
use pulp::Arch;
use rayon::prelude::*;
use std::marker::PhantomData;
use std::ops::Range;

/// Rows of x that one task takes at most: with 3072 columns they stay in a second-level cache of 2 MiB.
const GROUP: usize = 128;

/// Rows of x that meet a panel together in the tiles of AMX.
const AMX_TILE: usize = 32;

/// A matrix (k, n) as [`pack`] leaves it, and the part of it that takes part.
#[derive(Debug, Clone)]
pub struct Bf16Matrix<'a> {
    pub packed: &'a [bf16],
    pub k: usize,
    pub n: usize,
    pub rows: Range<usize>,
    pub columns: Range<usize>,
}

/// A panel of the columns that take part.
struct Panel<'a> {
    /// Its pairs of rows that take part.
    packed: &'a [bf16],
    /// Of its columns, the first that takes part, which column of y that is, and how many do.
    from: usize,
    to: usize,
    width: usize,
}

impl<'a> Bf16Matrix<'a> {
    /// The pairs of rows that hold the rows that take part.
    fn pairs(&self) -> Range<usize> {
        self.rows.start / 2..self.rows.end.div_ceil(2)
    }

    fn panels(&self) -> impl Iterator<Item = Panel<'a>> {
        let (all, pairs, columns, packed) =
            (self.k.div_ceil(2), self.pairs(), self.columns.clone(), self.packed);
        (columns.start / PANEL..columns.end.div_ceil(PANEL)).map(move |panel| {
            let first = (panel * PANEL).max(columns.start);
            Panel {
                packed: &packed[2 * PANEL * (panel * all + pairs.start)..][..2 * PANEL * pairs.len()],
                from: first - panel * PANEL,
                to: first - columns.start,
                width: ((panel + 1) * PANEL).min(columns.end) - first,
            }
        })
    }
}

/// The panels of w (k, n): for every 32 columns the pairs of rows, in a pair the columns, of a column both rows. Beyond
/// k and n there are zeros.
///
/// # Safety
/// `w` lies within its allocation for k rows and n columns.
pub unsafe fn pack(packed: &mut [bf16], w: Strided<*const f32>, (k, n): (usize, usize)) {
    assert_eq!(packed.len(), packed_len(k, n));
    let panel = PANEL * k.next_multiple_of(2);
    let w = SharedMatrix(w);
    packed.par_chunks_mut(panel.max(1)).enumerate().for_each(|(number, panel)| {
        let (first, w) = (number * PANEL, w.get());
        for (p, pair) in panel.chunks_exact_mut(2 * PANEL).enumerate() {
            for (j, both) in pair.chunks_exact_mut(2).enumerate() {
                for (i, value) in both.iter_mut().enumerate() {
                    let (row, column) = (2 * p + i, first + j);
                    *value = if row < k && column < n {
                        // SAFETY: the caller's promise.
                        bf16::from_f32(unsafe { *w.at.add(row * w.row_stride + column * w.col_stride) })
                    } else {
                        bf16::ZERO
                    };
                }
            }
        }
    });
}

/// What x, y and kept values are stored as.
pub trait Operand: Copy + Send + Sync {
    /// Of the nearest bf16.
    fn bits(self) -> u16;
    fn of(value: f32) -> Self;
    fn wide(self) -> f32;
    /// A row of x in its line of the tiles of AMX: see [`super::amx::cpu::round_row`].
    #[cfg(target_arch = "x86_64")]
    fn fill_tiles(left: &mut [u16], x: &[Self], odd: usize);
}

impl Operand for f32 {
    #[inline(always)]
    fn bits(self) -> u16 {
        round(self)
    }
    #[inline(always)]
    fn of(value: f32) -> f32 {
        value
    }
    #[inline(always)]
    fn wide(self) -> f32 {
        self
    }
    #[cfg(target_arch = "x86_64")]
    fn fill_tiles(left: &mut [u16], x: &[f32], odd: usize) {
        super::amx::cpu::round_row(left, x, odd);
    }
}

impl Operand for bf16 {
    #[inline(always)]
    fn bits(self) -> u16 {
        self.to_bits()
    }
    #[inline(always)]
    fn of(value: f32) -> bf16 {
        bf16::from_bits(round(value))
    }
    #[inline(always)]
    fn wide(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    #[cfg(target_arch = "x86_64")]
    fn fill_tiles(left: &mut [u16], x: &[bf16], odd: usize) {
        super::amx::copy_row(left, bytemuck::cast_slice(x), odd);
    }
}

/// What becomes of the sums s of a product; `start`, `bias` and the like as [`Start`] has them.
#[derive(Clone, Copy)]
pub enum Ending<'a, S> {
    /// y = start + s
    Plain(Start<'a, f32>),
    /// y = gelu(bias + s); `pre`, where it is kept, receives bias + s.
    Gelu { bias: &'a [f32], pre: Option<Kept<'a, S>>, form: GeluForm },
    /// y = s ∘ gelu'(pre)
    TimesSlope { pre: &'a [S], form: GeluForm },
}

/// A tensor of the shape of y, of which each task writes its own rows.
#[derive(Clone, Copy)]
pub struct Kept<'a, S> {
    to: Shared<S>,
    len: usize,
    owner: PhantomData<&'a mut [S]>,
}

impl<'a, S> Kept<'a, S> {
    pub fn new(to: &'a mut [S]) -> Kept<'a, S> {
        Kept { to: Shared(to.as_mut_ptr()), len: to.len(), owner: PhantomData }
    }
}

/// y = ending(x w). x: (M, rows of the part), y: (M, columns of the part).
pub fn product<S: Operand, X: Operand>(
    y: &mut [S],
    x: &[X],
    w: &Bf16Matrix,
    arithmetic: Arithmetic,
    ending: Ending<S>,
) {
    let (k, n) = (w.rows.len(), w.columns.len());
    assert!(w.rows.end <= w.k && w.columns.end <= w.n && w.packed.len() == packed_len(w.k, w.n));
    let rows = x.len() / k.max(1);
    assert!(x.len() == rows * k && y.len() == rows * n);
    if y.is_empty() {
        return;
    }
    match ending {
        Ending::Plain(Start::Zero | Start::Own) => {}
        Ending::Plain(Start::Bias(bias)) => assert_eq!(bias.len(), n),
        Ending::Plain(Start::Residual(bias, residual)) => {
            assert_eq!((bias.len(), residual.len()), (n, y.len()));
        }
        Ending::Gelu { bias, pre, .. } => {
            assert_eq!((bias.len(), pre.map_or(y.len(), |pre| pre.len)), (n, y.len()));
        }
        Ending::TimesSlope { pre, .. } => assert_eq!(pre.len(), y.len()),
    }
    let tile = if arithmetic == Arithmetic::Amx { AMX_TILE } else { TILE };
    let group = rows.div_ceil(rayon::current_num_threads()).next_multiple_of(tile).min(GROUP / tile * tile);
    y.par_chunks_mut(group * n).zip(x.par_chunks(group * k)).enumerate().for_each(|(number, (y, x))| {
        let rows = Rows { y, x, first: number * group, w, arithmetic, ending };
        match arithmetic {
            #[cfg(target_arch = "x86_64")]
            Arithmetic::Amx => rows.compute_in_tiles(),
            _ => rows.compute(),
        }
    });
}

/// Consecutive rows of a product.
struct Rows<'a, 'w, S, X> {
    y: &'a mut [S],
    x: &'a [X],
    first: usize,
    w: &'a Bf16Matrix<'w>,
    arithmetic: Arithmetic,
    ending: Ending<'a, S>,
}

impl<S: Operand, X: Operand> Rows<'_, '_, S, X> {
    fn compute(self) {
        let Rows { y, x, first, w, arithmetic, ending } = self;
        let (k, n) = (w.rows.len(), w.columns.len());
        let (rows, odd) = (x.len() / k.max(1), w.rows.start % 2);
        let pairs = w.pairs();
        // A line more than a row needs, so that the rows of a tile lie in different sets of the cache.
        let stride = if arithmetic == Arithmetic::Widened { 2 * pairs.len() } else { pairs.len() } + 16;
        let tall = rows.next_multiple_of(TILE);
        with_scratch(tall * stride, |left: &mut [f32]| {
            for (row, left) in left.chunks_exact_mut(stride).enumerate() {
                if row >= rows {
                    left.fill(0.0);
                    continue;
                }
                let x = &x[row * k..][..k];
                // Zeros in front of an odd row and behind the last.
                left[0] = 0.0;
                left[stride.saturating_sub(18)..].fill(0.0);
                simd(
                    #[inline(always)]
                    || match arithmetic {
                        Arithmetic::Widened => to_widened(&mut left[odd..], x),
                        _ => {
                            to_bf16(&mut bytemuck::cast_slice_mut(left)[odd..], x);
                        }
                    },
                );
            }
            for Panel { packed, from, to, width } in w.panels() {
                for (tile, left) in left.chunks_exact(TILE * stride).enumerate() {
                    let mut sums = [[0.0; PANEL]; TILE];
                    multiply(arithmetic, &mut sums, left, stride, packed);
                    let rows = tile * TILE..rows.min((tile + 1) * TILE);
                    let place = Place { first: first + rows.start, n, from, to, width };
                    simd(
                        #[inline(always)]
                        || store(&mut y[rows.start * n..rows.end * n], &mut sums, place, ending),
                    );
                }
            }
        });
    }
}

#[cfg(target_arch = "x86_64")]
impl<S: Operand, X: Operand> Rows<'_, '_, S, X> {
    fn compute_in_tiles(self) {
        use super::amx::{Aligned, BLOCK, OPERANDS, ROWS, STEP, cpu::Tiles};
        let Rows { y, x, first, w, ending, .. } = self;
        let (k, n) = (w.rows.len(), w.columns.len());
        let (rows, odd) = (x.len() / k.max(1), w.rows.start % 2);
        let pairs = w.pairs();
        let (whole, steps) = (2 * pairs.len() / STEP, (2 * pairs.len()).div_ceil(STEP));
        let (tile, ends) = (steps * OPERANDS, whole * OPERANDS);
        with_scratch(rows.div_ceil(BLOCK) * tile, |left: &mut [f32]| {
            let left: &mut [u16] = bytemuck::cast_slice_mut(left);
            for (row, line) in (0..left.len() / (steps * STEP)).map(|row| (row, row % ROWS * STEP)) {
                let left = &mut left[row / ROWS * tile..][..tile];
                let x = if row < rows { &x[row * k..][..k] } else { &[] };
                X::fill_tiles(&mut left[line..], x, odd);
            }
            let tiles = Tiles::of_this_thread();
            let mut sums = Aligned([[0.0; BLOCK]; BLOCK]);
            for Panel { packed, from, to, width } in w.panels() {
                let (packed, end) = bytemuck::cast_slice(packed).split_at(2 * ends);
                let mut rest = Aligned([0; 2 * OPERANDS]);
                rest.0[..end.len()].copy_from_slice(end);
                for (block, left) in left.chunks_exact(2 * tile).enumerate() {
                    let (top, bottom) = left.split_at(tile);
                    // Rows of y lie pages apart, where nothing but this brings them near.
                    for row in block * BLOCK..rows.min((block + 1) * BLOCK) {
                        let at = row * n + to;
                        for half in [0, PANEL / 2] {
                            prefetch(y.as_ptr().wrapping_add(at + half));
                            match ending {
                                Ending::Plain(Start::Residual(_, residual)) => {
                                    prefetch(residual.as_ptr().wrapping_add(first * n + at + half));
                                }
                                Ending::TimesSlope { pre, .. } => {
                                    prefetch(pre.as_ptr().wrapping_add(first * n + at + half));
                                }
                                _ => {}
                            }
                        }
                    }
                    tiles.multiply(&mut sums.0, [&top[..ends], &bottom[..ends]], packed, false);
                    if steps > whole {
                        tiles.multiply(&mut sums.0, [&top[ends..], &bottom[ends..]], &rest.0, true);
                    }
                    let rows = block * BLOCK..rows.min((block + 1) * BLOCK);
                    let place = Place { first: first + rows.start, n, from, to, width };
                    simd(
                        #[inline(always)]
                        || store(&mut y[rows.start * n..rows.end * n], &mut sums.0, place, ending),
                    );
                }
            }
        });
    }
}

#[inline(always)]
fn to_widened<X: Operand>(left: &mut [f32], x: &[X]) {
    let left = &mut left[..x.len()];
    for i in 0..x.len() {
        left[i] = f32::from_bits(u32::from(x[i].bits()) << 16);
    }
}

#[inline(always)]
fn to_bf16<X: Operand>(left: &mut [u16], x: &[X]) {
    let left = &mut left[..x.len()];
    for i in 0..x.len() {
        left[i] = x[i].bits();
    }
}

/// `left`: TILE rows, `stride` apart.
fn multiply(arithmetic: Arithmetic, sums: &mut Sums, left: &[f32], stride: usize, panel: &[bf16]) {
    match arithmetic {
        Arithmetic::Reference => {
            reference::tile(sums, bytemuck::cast_slice(left), 2 * stride, panel);
        }
        Arithmetic::Widened => {
            let panel = bytemuck::cast_slice(panel);
            Arch::new().dispatch(Widened { sums, x: left, stride, panel });
        }
        #[cfg(target_arch = "x86_64")]
        Arithmetic::Avx512Bf16 => {
            let (x, panel) = (bytemuck::cast_slice(left), bytemuck::cast_slice(panel));
            // SAFETY: `Arithmetic::of_process` and `Arithmetic::here` give it only where the machine has it.
            unsafe { tile::cpu::tile(sums, x, stride, panel) }
        }
        #[cfg(not(target_arch = "x86_64"))]
        Arithmetic::Avx512Bf16 => unreachable!("is_here() says no"),
        Arithmetic::Amx => unreachable!("its tiles are taller"),
    }
}

/// Where sums of a panel go.
#[derive(Clone, Copy)]
struct Place {
    /// Number of the first row, as the residual counts.
    first: usize,
    /// Columns of y, of the residual and of the bias.
    n: usize,
    /// The first column of the sums that counts, the column of y that it is, and how many do.
    from: usize,
    to: usize,
    width: usize,
}

/// Whole rows of y take their columns of `sums`. Without closures, for vector code that the caller chooses. GELU takes a
/// tile at once: its constants are loaded once then.
#[inline(always)]
fn store<S: Operand>(y: &mut [S], sums: &mut [[f32; PANEL]], place: Place, ending: Ending<S>) {
    let Place { first, n, from, to, width } = place;
    let rows = y.len() / n;
    let at = |i: usize| (first + i) * n + to;
    match ending {
        Ending::Plain(_) => {}
        Ending::Gelu { bias, pre, form } => {
            let bias = &bias[to..][..width];
            for i in 0..rows {
                let sums = &mut sums[i][from..][..width];
                for j in 0..width {
                    sums[j] += bias[j];
                }
                if let Some(pre) = pre {
                    // SAFETY: `pre` has the shape of y (`product`), and each task takes its own rows.
                    let pre = unsafe { std::slice::from_raw_parts_mut(pre.to.at(at(i)), width) };
                    for j in 0..width {
                        pre[j] = S::of(sums[j]);
                    }
                }
            }
            gelu::cpu::in_place(sums[..rows].as_flattened_mut(), form);
        }
        Ending::TimesSlope { pre, form } => {
            let mut wide = [[0.0; PANEL]; AMX_TILE];
            for i in 0..rows {
                let (pre, wide) = (&pre[at(i)..][..width], &mut wide[i][from..][..width]);
                for j in 0..width {
                    wide[j] = pre[j].wide();
                }
            }
            gelu::cpu::times_slope(sums[..rows].as_flattened_mut(), wide[..rows].as_flattened(), form);
        }
    }
    let start = if let Ending::Plain(start) = ending { start } else { Start::Zero };
    for i in 0..rows {
        // A whole panel is a constant number of vectors.
        if width == PANEL {
            store_row(&mut y[i * n + to..][..PANEL], &sums[i], to, at(i), start);
        } else {
            store_row(&mut y[i * n + to..][..width], &sums[i][from..], to, at(i), start);
        }
    }
}

/// Columns of a row of y: `column` is the first of them in the bias, `at` in the residual.
#[inline(always)]
fn store_row<S: Operand>(y: &mut [S], sums: &[f32], column: usize, at: usize, start: Start<f32>) {
    let n = y.len();
    let sums = &sums[..n];
    match start {
        Start::Zero => {
            for j in 0..n {
                y[j] = S::of(sums[j]);
            }
        }
        Start::Own => {
            for j in 0..n {
                y[j] = S::of(y[j].wide() + sums[j]);
            }
        }
        Start::Bias(bias) => {
            let bias = &bias[column..][..n];
            for j in 0..n {
                y[j] = S::of(sums[j] + bias[j]);
            }
        }
        Start::Residual(bias, residual) => {
            let (bias, residual) = (&bias[column..][..n], &residual[at..][..n]);
            for j in 0..n {
                y[j] = S::of(sums[j] + (bias[j] + residual[j]));
            }
        }
    }
}

/// The bits of the nearest bf16, of two equally near ones the even one; NaN stays NaN.
#[inline(always)]
fn round(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
    ((if value.is_nan() { bits | 0x0040_0000 } else { rounded }) >> 16) as u16
}
