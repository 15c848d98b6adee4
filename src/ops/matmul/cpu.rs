//! Matrix products through the crates of the `gemm` family.

use super::args::{Layout, Write};
use crate::ops::float::Float;
use gemm_common::Parallelism;

/// A product of fewer multiplications than this runs on the calling thread.
const PARALLEL_FROM: usize = 256 * 1024;

/// A matrix as the product routine wants it.
#[derive(Clone, Copy)]
pub struct Strided<P> {
    pub at: P,
    pub row_stride: usize,
    pub col_stride: usize,
}

impl<P> Strided<P> {
    /// Another pointer with the same strides.
    pub fn map<Q>(self, f: impl FnOnce(P) -> Q) -> Strided<Q> {
        Strided { at: f(self.at), row_stride: self.row_stride, col_stride: self.col_stride }
    }

    fn transposed(self) -> Strided<P> {
        Strided { at: self.at, row_stride: self.col_stride, col_stride: self.row_stride }
    }
}

/// A matrix that tasks read.
#[derive(Clone, Copy)]
pub struct SharedMatrix<T>(pub Strided<*const T>);

// SAFETY: nothing writes to it while tasks run.
unsafe impl<T: Sync> Send for SharedMatrix<T> {}
unsafe impl<T: Sync> Sync for SharedMatrix<T> {}

impl<T> SharedMatrix<T> {
    pub fn get(&self) -> Strided<*const T> {
        self.0
    }
}

/// w: (k, n).
#[derive(Clone, Copy)]
pub enum Right<'a, T> {
    Matrix(Strided<*const T>),
    /// As the `pack` of the product leaves it, for the same k and n.
    Packed(&'a [T]),
}

/// dst (m, n) = lhs (m, k) rhs (k, n), or dst += with `add`, times `scale`, on the calling thread or
/// on all of them.
///
/// # Safety
/// All three matrices lie within their allocations for the given extents, and nothing else accesses
/// `dst` meanwhile.
pub unsafe fn product<T: Float>(
    extents: (usize, usize, usize),
    dst: Strided<*mut T>,
    lhs: Strided<*const T>,
    rhs: Strided<*const T>,
    scale: T,
    add: bool,
    parallelism: Parallelism,
) {
    // SAFETY: the caller's promise.
    unsafe { GemmCall { extents, dst, lhs, rhs, scale, add, parallelism }.run() }
}

/// Up to here the library sums products whose operands are both contiguous along k in other lanes.
const DOT_PRODUCTS: usize = 16 * 16;

/// The longest sum that the library does in one piece for all extents.
const DEPTH: usize = 512;

/// Up to this many rows and columns the library cuts long sums in another place than beyond.
const SMALL: usize = 64;

/// A product to be done. Its methods ask what [`product`] asks of its caller.
///
/// The library chooses the order of a sum by the extents of the whole product: vectors and small
/// products of contiguous columns have kernels of their own, and long sums are cut in another place
/// when both m and n are at most 64. The methods take those choices away from it, so that an
/// element's bits depend on k and on its own row and column only.
#[derive(Clone, Copy)]
struct GemmCall<T> {
    extents: (usize, usize, usize),
    dst: Strided<*mut T>,
    lhs: Strided<*const T>,
    rhs: Strided<*const T>,
    scale: T,
    add: bool,
    parallelism: Parallelism,
}

impl<T: Float> GemmCall<T> {
    unsafe fn run(self) {
        let (m, n, k) = self.extents;
        if m == 0 || n == 0 {
            return;
        }
        if m == 1 || n == 1 {
            // SAFETY: the caller's promise.
            return unsafe { self.doubled() };
        }
        if m * n > DOT_PRODUCTS || self.lhs.col_stride != 1 || self.rhs.row_stride != 1 {
            // SAFETY: the caller's promise.
            return unsafe { self.tall() };
        }
        let stride = n + 1;
        let mut copy = vec![T::ZERO; k * stride];
        for (l, row) in copy.chunks_exact_mut(stride).enumerate() {
            for (j, value) in row[..n].iter_mut().enumerate() {
                // SAFETY: (l, j) lies within `rhs`.
                *value = unsafe { *self.rhs.at.add(l * self.rhs.row_stride + j * self.rhs.col_stride) };
            }
        }
        let rhs = Strided { at: copy.as_ptr(), row_stride: stride, col_stride: 1 };
        // SAFETY: as above; the copy has k rows of more than n values.
        unsafe { GemmCall { rhs, ..self }.tall() }
    }

    /// Where element (i, j) of the destination is.
    unsafe fn at(&self, i: usize, j: usize) -> *mut T {
        // SAFETY: the caller's promise: (i, j) lies within `dst`.
        unsafe { self.dst.at.add(i * self.dst.row_stride + j * self.dst.col_stride) }
    }

    /// Does the product `of` into `rows` x `cols` of its own, which begin with what `dst` holds
    /// where it is added to, and writes the m x n of `self` back. Beyond m x n they repeat the last
    /// row and column.
    unsafe fn through(self, (rows, cols): (usize, usize), of: impl FnOnce(Strided<*mut T>)) {
        let (m, n, _) = self.extents;
        let mut own = vec![T::ZERO; rows * cols];
        if self.add {
            for (i, row) in own.chunks_exact_mut(cols).enumerate() {
                for (j, value) in row.iter_mut().enumerate() {
                    // SAFETY: within m x n; nothing else writes `dst`.
                    *value = unsafe { *self.at(i.min(m - 1), j.min(n - 1)) };
                }
            }
        }
        of(Strided { at: own.as_mut_ptr(), row_stride: cols, col_stride: 1 });
        for (i, row) in own.chunks_exact(cols).take(m).enumerate() {
            for (j, &value) in row[..n].iter().enumerate() {
                // SAFETY: as above.
                unsafe { *self.at(i, j) = value };
            }
        }
    }

    /// A product with one row or one column, as a product with two equal ones: a stride of zero reads
    /// the one twice.
    unsafe fn doubled(self) {
        let (m, n, k) = self.extents;
        let (rows, cols) = (m.max(2), n.max(2));
        let lhs = Strided { row_stride: if m == 1 { 0 } else { self.lhs.row_stride }, ..self.lhs };
        let rhs = Strided { col_stride: if n == 1 { 0 } else { self.rhs.col_stride }, ..self.rhs };
        // SAFETY: the caller's promise; the own destination has room for all results.
        unsafe {
            self.through((rows, cols), |dst| {
                GemmCall { extents: (rows, cols, k), dst, lhs, rhs, ..self }.run();
            });
        }
    }

    /// The product as it is, or with rows of zeros below where there would be few enough of them for
    /// another order of summation.
    unsafe fn tall(self) {
        let (m, n, k) = self.extents;
        if k <= DEPTH || m > SMALL || n > SMALL {
            // SAFETY: the caller's promise.
            return unsafe { self.whole() };
        }
        let rows = SMALL + 1;
        let mut copy = vec![T::ZERO; rows * k];
        for (i, row) in copy.chunks_exact_mut(k).take(m).enumerate() {
            for (l, value) in row.iter_mut().enumerate() {
                // SAFETY: (i, l) lies within `lhs`.
                *value = unsafe { *self.lhs.at.add(i * self.lhs.row_stride + l * self.lhs.col_stride) };
            }
        }
        let lhs = Strided { at: copy.as_ptr(), row_stride: k, col_stride: 1 };
        // SAFETY: copy and own destination have `rows` rows.
        unsafe {
            self.through((rows, n), |dst| GemmCall { extents: (rows, n, k), dst, lhs, ..self }.whole());
        }
    }

    /// The product in slices of equal depth, one added to the other: for sums over the batch, whose
    /// length is no constant of the model.
    unsafe fn in_slices(self) {
        let (m, n, k) = self.extents;
        let depth = k.div_ceil(k.div_ceil(DEPTH).max(1)).max(1);
        for start in (0..k.max(1)).step_by(depth) {
            // SAFETY: the caller's promise; start is at most k.
            unsafe {
                let lhs = Strided { at: self.lhs.at.add(start * self.lhs.col_stride), ..self.lhs };
                let rhs = Strided { at: self.rhs.at.add(start * self.rhs.row_stride), ..self.rhs };
                let (extents, add) = ((m, n, depth.min(k - start)), self.add || start > 0);
                GemmCall { extents, lhs, rhs, add, ..self }.whole();
            }
        }
    }

    /// One call of the library, whose destination is contiguous along columns: a destination that is contiguous along
    /// rows is computed as its transpose.
    unsafe fn whole(self) {
        let (m, n, k) = self.extents;
        let parallelism = if m * n * k < PARALLEL_FROM { Parallelism::None } else { self.parallelism };
        let (rows, cols, dst, lhs, rhs) = if self.dst.col_stride < self.dst.row_stride {
            (n, m, self.dst.transposed(), self.rhs.transposed(), self.lhs.transposed())
        } else {
            (m, n, self.dst, self.lhs, self.rhs)
        };
        // SAFETY: the caller's promise. The library's `alpha` multiplies the destination.
        unsafe {
            T::routine()(
                rows,
                cols,
                k,
                dst.at,
                dst.col_stride as isize,
                dst.row_stride as isize,
                self.add,
                lhs.at,
                lhs.col_stride as isize,
                lhs.row_stride as isize,
                rhs.at,
                rhs.col_stride as isize,
                rhs.row_stride as isize,
                if self.add { T::ONE } else { T::ZERO },
                self.scale,
                false,
                false,
                false,
                parallelism,
            );
        }
    }
}

pub fn plain<T>(s: &[T], at: Layout) -> Strided<*const T> {
    Strided { at: s[at.offset.min(s.len())..].as_ptr(), row_stride: at.stride, col_stride: 1 }
}

pub fn transposed<T>(s: &[T], at: Layout) -> Strided<*const T> {
    plain(s, at).transposed()
}

fn target<T>(s: &mut [T], at: Layout) -> Strided<*mut T> {
    let offset = at.offset.min(s.len());
    Strided { at: s[offset..].as_mut_ptr(), row_stride: at.stride, col_stride: 1 }
}

pub fn forward<T: Float>(y: (&mut [T], Layout), x: (&[T], Layout), w: (&[T], Layout), write: Write) {
    let extents = (x.1.rows, w.1.cols, x.1.cols);
    let (dst, lhs, rhs) = (target(y.0, y.1), plain(x.0, x.1), plain(w.0, w.1));
    // SAFETY: `mod.rs` has checked the three layouts; `y` is borrowed mutably.
    unsafe { product(extents, dst, lhs, rhs, T::ONE, write == Write::Add, Parallelism::Rayon(0)) }
}

pub fn backward_input<T: Float>(dx: (&mut [T], Layout), dy: (&[T], Layout), w: (&[T], Layout), write: Write) {
    let extents = (dy.1.rows, w.1.rows, dy.1.cols);
    let (dst, lhs, rhs) = (target(dx.0, dx.1), plain(dy.0, dy.1), transposed(w.0, w.1));
    // SAFETY: as in `forward`.
    unsafe { product(extents, dst, lhs, rhs, T::ONE, write == Write::Add, Parallelism::Rayon(0)) }
}

pub fn backward_weight_acc<T: Float>(dw: (&mut [T], Layout), x: (&[T], Layout), dy: (&[T], Layout)) {
    let extents = (x.1.cols, dy.1.cols, x.1.rows);
    let (dst, lhs, rhs) = (target(dw.0, dw.1), transposed(x.0, x.1), plain(dy.0, dy.1));
    // SAFETY: as in `forward`.
    let parallelism = Parallelism::Rayon(0);
    unsafe { GemmCall { extents, dst, lhs, rhs, scale: T::ONE, add: true, parallelism }.in_slices() }
}
