//! (A + λ I) X = B for a large symmetric matrix: A = L Lᵀ in blocks of columns, nearly all of it in matrix products.
//! Source: Golub and Van Loan 2013, "Matrix Computations", 4.2.6 (the left-looking order). The sums run in an order that
//! depends on sizes only.

use crate::device::Device;
use crate::error::Result;
use crate::ops::float::Float;
use crate::ops::matmul::{self, Layout, Write};
use crate::tensor::Tensor;

const CPU: &Device = &Device::Cpu;

/// Columns that are factorised at once.
pub const BLOCK: usize = 256;

/// The rows `rows` and columns `cols` from (`row`, `col`) on of a matrix (n, n).
fn part(n: usize, (row, col): (usize, usize), (rows, cols): (usize, usize)) -> Layout {
    Layout { rows, cols, offset: row * n + col, stride: n }
}

/// Replaces the lower triangle of `a` (n, n) by L with A = L Lᵀ, and returns whether A is positive definite to rounding;
/// if it is not, `a` is of no use. Reads the lower triangle only; what is above the diagonal within a block of columns
/// becomes zero.
///
/// # Errors
/// `Error::Shape` if `a` is of another type than `T`.
pub fn factorize<T: Float>(a: &mut Tensor) -> Result<bool> {
    let n = a.dims()[0];
    let mut panel = Tensor::zeros([n, BLOCK.min(n)], a.dtype());
    for start in (0..n).step_by(BLOCK) {
        let (b, rows) = (BLOCK.min(n - start), n - start);
        panel.reshape([rows, b]);
        if start > 0 {
            // What the columns before have to do with these.
            let (left, top) = (part(n, (start, 0), (rows, start)), part(n, (start, 0), (b, start)));
            let to = (panel.view_mut(), Layout::dense(rows, b));
            matmul::backward_input(CPU, to, (a.view(), left), (a.view(), top), Write::Set)?;
        } else {
            panel.fill(0.0);
        }
        let from = a.view_mut().get::<T>("cholesky", "a")?;
        let values = panel.view_mut().get::<T>("cholesky", "panel")?;
        for (i, row) in values.chunks_exact_mut(b).enumerate() {
            let from = &from[(start + i) * n + start..][..b];
            row.iter_mut().zip(from).for_each(|(p, &a)| *p = a - *p);
        }
        let Some(corner) = factorize_corner(&values[..b * b], b) else { return Ok(false) };
        for (i, row) in corner.chunks_exact(b).enumerate() {
            from[(start + i) * n + start..][..b].copy_from_slice(row);
        }
        if rows > b {
            let inverse = Tensor::from_vec(inverse(&corner, b), [b, b]);
            let to = (a.view_mut(), part(n, (start + b, start), (rows - b, b)));
            let below = (panel.view(), Layout { rows: rows - b, cols: b, offset: b * b, stride: b });
            matmul::backward_input(CPU, to, below, (inverse.view(), Layout::dense(b, b)), Write::Set)?;
        }
    }
    Ok(true)
}

/// The factor of one block (b, b); `None` if it is not positive definite.
fn factorize_corner<T: Float>(a: &[T], b: usize) -> Option<Vec<T>> {
    let mut l = vec![T::ZERO; b * b];
    for i in 0..b {
        for j in 0..=i {
            let pairs = l[i * b..i * b + j].iter().zip(&l[j * b..j * b + j]);
            let sum: f64 = pairs.map(|(x, y)| x.to_f64() * y.to_f64()).sum();
            let rest = a[i * b + j].to_f64() - sum;
            if i == j {
                if !(rest > 0.0 && rest.is_finite()) {
                    return None;
                }
                l[i * b + i] = T::of(rest.sqrt());
            } else {
                l[i * b + j] = T::of(rest / l[j * b + j].to_f64());
            }
        }
    }
    Some(l)
}

/// The inverse of a lower triangle (b, b).
fn inverse<T: Float>(l: &[T], b: usize) -> Vec<T> {
    let mut x = vec![T::ZERO; b * b];
    for i in 0..b {
        let (done, row) = x.split_at_mut(i * b);
        let row = &mut row[..b];
        row[i] = T::ONE;
        for (k, earlier) in done.chunks_exact(b).enumerate() {
            let factor = l[i * b + k];
            row[..=k].iter_mut().zip(earlier).for_each(|(x, &e)| *x -= factor * e);
        }
        let scale = T::ONE / l[i * b + i];
        row[..=i].iter_mut().for_each(|x| *x *= scale);
    }
    x
}

/// Replaces `x` (n, c) by (L Lᵀ)⁻¹ x, with L (n, n) as [`factorize`] leaves it.
///
/// # Errors
/// `Error::Shape` if one of them is of another type than `T`.
pub fn solve<T: Float>(l: &Tensor, x: &mut Tensor) -> Result<()> {
    let (n, c) = (x.dims()[0], x.dims()[1]);
    let factor = l.view().get::<T>("cholesky", "l")?;
    let starts: Vec<usize> = (0..n).step_by(BLOCK).collect();
    let rows_of = |from: usize, rows: usize| Layout { rows, cols: c, offset: from * c, stride: c };
    let mut sums = Tensor::zeros([BLOCK.min(n), c], x.dtype());
    for &start in &starts {
        let b = BLOCK.min(n - start);
        sums.reshape([b, c]);
        if start > 0 {
            let (to, left) = ((sums.view_mut(), Layout::dense(b, c)), part(n, (start, 0), (b, start)));
            matmul::forward(CPU, to, (l.view(), left), (x.view(), rows_of(0, start)), Write::Set)?;
            subtract::<T>(x, start, &sums)?;
        }
        let own = &mut x.view_mut().get::<T>("cholesky", "x")?[start * c..(start + b) * c];
        for i in 0..b {
            let (done, row) = own.split_at_mut(i * c);
            let at = (start + i) * n + start;
            for (k, earlier) in done.chunks_exact(c).enumerate() {
                minus(&mut row[..c], earlier, factor[at + k]);
            }
            row[..c].iter_mut().for_each(|x| *x /= factor[at + i]);
        }
    }
    for &start in starts.iter().rev() {
        let b = BLOCK.min(n - start);
        sums.reshape([b, c]);
        let below = n - start - b;
        if below > 0 {
            sums.fill(0.0);
            let (to, left) =
                ((sums.view_mut(), Layout::dense(b, c)), part(n, (start + b, start), (below, b)));
            let rows = (x.view(), rows_of(start + b, below));
            matmul::backward_weight_acc(CPU, to, (l.view(), left), rows)?;
            subtract::<T>(x, start, &sums)?;
        }
        let own = &mut x.view_mut().get::<T>("cholesky", "x")?[start * c..(start + b) * c];
        for i in (0..b).rev() {
            let (before, row) = own.split_at_mut(i * c);
            let at = (start + i) * n + start;
            row[..c].iter_mut().for_each(|x| *x /= factor[at + i]);
            for (k, earlier) in before.chunks_exact_mut(c).enumerate() {
                minus(earlier, &row[..c], factor[at + k]);
            }
        }
    }
    Ok(())
}

/// x -= factor y.
fn minus<T: Float>(x: &mut [T], y: &[T], factor: T) {
    x.iter_mut().zip(y).for_each(|(x, &y)| *x -= factor * y);
}

/// Subtracts `sums` (b, c) from the rows of `x` from `start` on.
fn subtract<T: Float>(x: &mut Tensor, start: usize, sums: &Tensor) -> Result<()> {
    let c = sums.dims()[1];
    let (x, sums) = (x.view_mut().get::<T>("cholesky", "x")?, sums.view().get::<T>("cholesky", "sums")?);
    x[start * c..][..sums.len()].iter_mut().zip(sums).for_each(|(x, &s)| *x -= s);
    Ok(())
}
