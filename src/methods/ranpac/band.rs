//! One factorisation for all λ of a ridge regression: a symmetric A is turned into a band by orthogonal maps, Qᵀ A Q = T.
//! Then (A + λ I)⁻¹ Y = Q (T + λ I)⁻¹ Qᵀ Y, and a factor of the band costs next to nothing.
//! Source: Bischof, Lang and Sun 2000, "A framework for symmetric band reduction", with block reflectors in the form of
//! Schreiber and Van Loan 1989. Takes n³ products and as many sums; a factor of A for each
//! of 17 λ would take 17 n³ / 6 of them.

use crate::device::Device;
use crate::error::Result;
use crate::ops::float::Float;
use crate::ops::matmul::{self, Layout, Write};
use crate::tensor::{DType, Tensor, View};

const CPU: &Device = &Device::Cpu;

/// Diagonals below the main one that are left.
pub const WIDTH: usize = 64;

/// A symmetric band T in f64.
#[derive(Debug)]
pub struct Band {
    n: usize,
    width: usize,
    /// (n, width + 1): row i is T[i, i - width ..= i].
    rows: Vec<f64>,
    /// C of every block reflector, in order.
    inner: Vec<Tensor>,
}

/// Block reflector I - V C Vᵀ of one panel.
struct Reflector {
    /// (m, p), lower trapezoidal with ones on the diagonal.
    v: Tensor,
    /// C (p, p), upper triangular.
    c: Tensor,
}

/// x w.
fn product(x: (View, Layout), w: (View, Layout), dtype: DType) -> Result<Tensor> {
    let (m, n) = (x.1.rows, w.1.cols);
    let mut y = Tensor::zeros([m, n], dtype);
    matmul::forward(CPU, (y.view_mut(), Layout::dense(m, n)), x, w, Write::Set)?;
    Ok(y)
}

/// xᵀ y.
fn transposed_product(x: (View, Layout), y: (View, Layout), dtype: DType) -> Result<Tensor> {
    let (k, n) = (x.1.cols, y.1.cols);
    let mut z = Tensor::zeros([k, n], dtype);
    matmul::backward_weight_acc(CPU, (z.view_mut(), Layout::dense(k, n)), x, y)?;
    Ok(z)
}

fn dense(x: &Tensor) -> (View<'_>, Layout) {
    (x.view(), Layout::dense(x.dims()[0], x.dims()[1]))
}

impl Band {
    /// Reduces `a` (n, n), of which both triangles are read. `y` (n, c) becomes Qᵀ y. Below the band of `a` is then what
    /// [`Band::turn_back`] needs.
    ///
    /// # Errors
    /// `Error::Shape` if one of them is of another type than `T`.
    pub fn reduce<T: Float>(a: &mut Tensor, y: &mut Tensor) -> Result<Band> {
        let mut inner = Vec::new();
        let n = a.dims()[0];
        let width = WIDTH.min(n.saturating_sub(1));
        for start in (0..n).step_by(width.max(1)) {
            let first = start + width;
            // A panel of one row has no more than the band holds.
            if width == 0 || first + 1 >= n {
                break;
            }
            let reflector = panel::<T>(a, start, width)?;
            two_sided::<T>(a, first, &reflector)?;
            apply::<T>(y, first, &reflector, true)?;
            inner.push(reflector.c);
        }
        let a = a.view().get::<T>("band", "a")?;
        let mut rows = vec![0.0; n * (width + 1)];
        for (i, row) in rows.chunks_exact_mut(width + 1).enumerate() {
            for (at, value) in row.iter_mut().enumerate().filter(|(at, _)| i + at >= width) {
                *value = a[i * n + i + at - width].to_f64();
            }
        }
        Ok(Band { n, width, rows, inner })
    }

    /// z ← Q z for `z` (n, c); `a`: as [`Band::reduce`] left it.
    ///
    /// # Errors
    /// `Error::Shape` if one of them is of another type than `T`.
    pub fn turn_back<T: Float>(&self, a: &Tensor, z: &mut Tensor) -> Result<()> {
        for (number, c) in self.inner.iter().enumerate().rev() {
            let start = number * self.width;
            let reflector = Reflector { v: saved_panel::<T>(a, start, self.width)?, c: c.clone() };
            apply::<T>(z, start + self.width, &reflector, false)?;
        }
        Ok(())
    }

    /// (T + λ I)⁻¹ y for `y` (n, c); `None` if T + λ I is not positive definite to rounding.
    pub fn solve(&self, lambda: f64, y: &[f64]) -> Option<Vec<f64>> {
        let (n, w) = (self.n, self.width);
        let stride = w + 1;
        let mut l = self.rows.clone();
        for i in 0..n {
            for j in i.saturating_sub(w)..=i {
                // Columns that both rows have before column j, as places in row i and in row j.
                let from = i.saturating_sub(w);
                let count = j - from;
                let (a, b) = (i * stride + from + w - i, j * stride + from + w - j);
                let sum: f64 = l[a..a + count].iter().zip(&l[b..b + count]).map(|(x, y)| x * y).sum();
                let at = i * stride + j + w - i;
                if i == j {
                    let rest = l[at] + lambda - sum;
                    if !(rest > 0.0 && rest.is_finite()) {
                        return None;
                    }
                    l[at] = rest.sqrt();
                } else {
                    l[at] = (l[at] - sum) / l[j * stride + w];
                }
            }
        }
        let c = y.len() / n.max(1);
        let mut x = y.to_vec();
        for i in 0..n {
            let (done, row) = x.split_at_mut(i * c);
            for j in i.saturating_sub(w)..i {
                minus(&mut row[..c], &done[j * c..][..c], l[i * stride + j + w - i]);
            }
            row[..c].iter_mut().for_each(|x| *x /= l[i * stride + w]);
        }
        for i in (0..n).rev() {
            let (before, row) = x.split_at_mut(i * c);
            row[..c].iter_mut().for_each(|x| *x /= l[i * stride + w]);
            for j in i.saturating_sub(w)..i {
                minus(&mut before[j * c..][..c], &row[..c], l[i * stride + j + w - i]);
            }
        }
        Some(x)
    }
}

/// x -= factor y.
fn minus(x: &mut [f64], y: &[f64], factor: f64) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x -= factor * y);
}

/// Makes the columns `start..start + width` of `a` zero below the band, and returns the reflector that does it to the
/// rows from `start + width` on.
fn panel<T: Float>(a: &mut Tensor, start: usize, width: usize) -> Result<Reflector> {
    let (n, dtype) = (a.dims()[0], a.dtype());
    let first = start + width;
    let m = n - first;
    let p = width.min(m);
    let a = a.view_mut().get::<T>("band", "a")?;
    let mut r: Vec<T> = Vec::with_capacity(m * width);
    (first..n).for_each(|i| r.extend_from_slice(&a[i * n + start..][..width]));
    let (mut v, mut taus) = (vec![T::ZERO; m * p], vec![0.0; p]);
    let mut sums = vec![T::ZERO; width];
    for c in 0..p {
        let head = r[c * width + c].to_f64();
        let tail: f64 = (c + 1..m).map(|i| r[i * width + c].to_f64().powi(2)).sum();
        v[c * p + c] = T::ONE;
        // Nothing below the diagonal: no reflection.
        if tail == 0.0 {
            continue;
        }
        let beta = -(head * head + tail).sqrt().copysign(head);
        taus[c] = (beta - head) / beta;
        for i in c + 1..m {
            v[i * p + c] = T::of(r[i * width + c].to_f64() / (head - beta));
        }
        sums[c..].fill(T::ZERO);
        for i in c..m {
            let factor = v[i * p + c];
            let row = &r[i * width + c..(i + 1) * width];
            sums[c..].iter_mut().zip(row).for_each(|(s, &r)| *s += factor * r);
        }
        for i in c..m {
            let factor = T::of(taus[c]) * v[i * p + c];
            let row = &mut r[i * width + c..(i + 1) * width];
            row.iter_mut().zip(&sums[c..]).for_each(|(r, &s)| *r -= factor * s);
        }
    }
    for (i, row) in r.chunks_exact(width).enumerate() {
        for (c, &value) in row.iter().enumerate() {
            // The place of a zero keeps the reflector.
            a[(first + i) * n + start + c] = if i > c && c < p { v[i * p + c] } else { value };
        }
    }
    let v = Tensor::from_vec(v, [m, p]);
    let inner = transposed_product(dense(&v), dense(&v), dtype)?.to_f64();
    let mut c = vec![0.0; p * p];
    for j in 0..p {
        c[j * p + j] = taus[j];
        // C[..j, j] = -tau C[..j, ..j] (Vᵀ v_j).
        for i in 0..j {
            let sum: f64 = (i..j).map(|k| c[i * p + k] * inner[k * p + j]).sum();
            c[i * p + j] = -taus[j] * sum;
        }
    }
    Ok(Reflector { v, c: Tensor::from_f64(&c, [p, p], dtype) })
}

/// a₂ ← Hᵀ a₂ H for the rows and columns of `a` from `first` on: with X = a₂ V C and W = X - V Cᵀ Vᵀ X / 2 it is
/// a₂ - V Wᵀ - W Vᵀ.
fn two_sided<T: Float>(a: &mut Tensor, first: usize, by: &Reflector) -> Result<()> {
    let (n, dtype) = (a.dims()[0], a.dtype());
    let (m, p) = (by.v.dims()[0], by.v.dims()[1]);
    let corner = Layout { rows: m, cols: m, offset: first * n + first, stride: n };
    let x = product((a.view(), corner), dense(&by.v), dtype)?;
    let x = product(dense(&x), dense(&by.c), dtype)?;
    let inner = transposed_product(dense(&by.v), dense(&x), dtype)?;
    let inner = transposed_product(dense(&by.c), dense(&inner), dtype)?;
    let half = product(dense(&by.v), dense(&inner), dtype)?;
    let (x, half) = (x.view().get::<T>("band", "x")?, half.view().get::<T>("band", "half")?);
    let v = by.v.view().get::<T>("band", "v")?;
    let (mut left, mut right) = (Vec::with_capacity(2 * m * p), Vec::with_capacity(2 * m * p));
    for i in 0..m {
        let rows = i * p..(i + 1) * p;
        let w = x[rows.clone()].iter().zip(&half[rows.clone()]).map(|(&x, &h)| x - h * T::of(0.5));
        let w: Vec<T> = w.collect();
        let v = &v[rows];
        left.extend(v.iter().chain(&w).copied());
        right.extend(w.iter().chain(v).map(|&value| -value));
    }
    let (left, right) = (Tensor::from_vec(left, [m, 2 * p]), Tensor::from_vec(right, [m, 2 * p]));
    matmul::backward_input(CPU, (a.view_mut(), corner), dense(&left), dense(&right), Write::Add)
}

/// V of the panel that begins at column `start`, where [`panel`] has kept it.
fn saved_panel<T: Float>(a: &Tensor, start: usize, width: usize) -> Result<Tensor> {
    let (n, first) = (a.dims()[0], start + width);
    let (m, p) = (n - first, width.min(n - first));
    let a = a.view().get::<T>("band", "a")?;
    let mut v = vec![T::ZERO; m * p];
    for (i, row) in v.chunks_exact_mut(p).enumerate() {
        let below = i.min(p);
        row[..below].copy_from_slice(&a[(first + i) * n + start..][..below]);
        if i < p {
            row[i] = T::ONE;
        }
    }
    Ok(Tensor::from_vec(v, [m, p]))
}

/// y₂ ← H y₂ = y₂ - V C Vᵀ y₂ for the rows of `y` from `first` on; Hᵀ y₂, with Cᵀ, if `transposed`.
fn apply<T: Float>(y: &mut Tensor, first: usize, by: &Reflector, transposed: bool) -> Result<()> {
    let (c, dtype) = (y.dims()[1], y.dtype());
    let rows = Layout { rows: by.v.dims()[0], cols: c, offset: first * c, stride: c };
    let inner = transposed_product(dense(&by.v), (y.view(), rows), dtype)?;
    let mut inner = match transposed {
        true => transposed_product(dense(&by.c), dense(&inner), dtype)?,
        false => product(dense(&by.c), dense(&inner), dtype)?,
    };
    negate::<T>(&mut inner)?;
    matmul::forward(CPU, (y.view_mut(), rows), dense(&by.v), dense(&inner), Write::Add)
}

fn negate<T: Float>(x: &mut Tensor) -> Result<()> {
    x.view_mut().get::<T>("band", "x")?.iter_mut().for_each(|x| *x = -*x);
    Ok(())
}
