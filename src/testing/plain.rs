//! Every formula once more as naive loops, with sums from left to right: what the ops must agree
//! with in f64, and what their errors in f32 are measured against.

use crate::ops::float::Float;
use crate::ops::optimizer::{Adam, Sgd};
use crate::ops::{gelu, pool_tokens, row_norm};
use std::ops::Range;

fn of<T: Float>(x: f64) -> T {
    T::of(x)
}

/// Correctly rounded, unlike the fast one of the ops.
fn exp<T: Float>(x: T) -> T {
    of(x.to_f64().exp())
}

/// Σ of an iterator, from left to right.
fn sum<T: Float>(items: impl Iterator<Item = T>) -> T {
    items.fold(T::ZERO, |a, b| a + b)
}

/// x (m, k) w (k, n).
pub fn matmul<T: Float>(x: &[T], w: &[T], m: usize, k: usize, n: usize) -> Vec<T> {
    let at = |i: usize, j: usize| sum((0..k).map(|l| x[i * k + l] * w[l * n + j]));
    (0..m * n).map(|ij| at(ij / n, ij % n)).collect()
}

/// x (m, n) as (n, m).
pub fn transpose<T: Float>(x: &[T], m: usize, n: usize) -> Vec<T> {
    (0..m * n).map(|ji| x[(ji % m) * n + ji / m]).collect()
}

/// The columns of rows of `stride` values.
pub fn columns<T: Float>(x: &[T], stride: usize, columns: Range<usize>) -> Vec<T> {
    x.chunks_exact(stride).flat_map(|row| row[columns.clone()].to_vec()).collect()
}

/// Rows of widths a and b, one after the other.
pub fn beside<T: Float>(x: &[T], a: usize, y: &[T], b: usize) -> Vec<T> {
    let pairs = x.chunks_exact(a).zip(y.chunks_exact(b));
    pairs.flat_map(|(x, y)| x.iter().chain(y).copied().collect::<Vec<_>>()).collect()
}

/// Sums of the columns of x (rows, c).
pub fn column_sums<T: Float>(x: &[T], c: usize) -> Vec<T> {
    (0..c).map(|j| sum(x.iter().skip(j).step_by(c).copied())).collect()
}

pub fn add<T: Float>(x: &[T], y: &[T]) -> Vec<T> {
    x.iter().zip(y).map(|(&x, &y)| x + y).collect()
}

/// x (rows, c) + row (c).
pub fn add_row<T: Float>(x: &[T], row: &[T]) -> Vec<T> {
    x.iter().zip(row.iter().cycle()).map(|(&x, &r)| x + r).collect()
}

/// (gelu(x), gelu'(x)).
pub fn gelu<T: Float>(x: T, form: gelu::GeluForm) -> (T, T) {
    let half = of::<T>(0.5);
    match form {
        gelu::GeluForm::Tanh => {
            let (a, b) = (of::<T>((2.0 / std::f64::consts::PI).sqrt()), of::<T>(0.044715));
            let t = of::<T>((a * (x + b * x * x * x)).to_f64().tanh());
            let du = a * (T::ONE + of::<T>(3.0) * b * x * x);
            (half * x * (T::ONE + t), half * (T::ONE + t) + half * x * (T::ONE - t * t) * du)
        }
        gelu::GeluForm::Erf => {
            let z = x * of::<T>(std::f64::consts::FRAC_1_SQRT_2);
            let phi = half * (T::ONE + of::<T>(libm::erf(z.to_f64())));
            let density = exp(-half * x * x) / of::<T>((2.0 * std::f64::consts::PI).sqrt());
            (x * phi, phi + x * density)
        }
    }
}

/// (y, statistics).
pub fn layer_norm<T: Float>(x: &[T], scale: &[T], bias: &[T], eps: f64) -> (Vec<T>, Vec<T>) {
    let (c, mut stats) = (scale.len(), Vec::new());
    let n = of::<T>(c as f64);
    let rows = x.chunks_exact(c).flat_map(|x| {
        let mean = sum(x.iter().copied()) / n;
        let var = sum(x.iter().map(|&x| (x - mean) * (x - mean))) / n;
        let rstd = T::ONE / (var + of(eps)).sqrt();
        stats.extend([mean, rstd]);
        (0..c).map(|j| (x[j] - mean) * rstd * scale[j] + bias[j]).collect::<Vec<_>>()
    });
    let y = rows.collect();
    (y, stats)
}

/// (dx, dscale, dbias).
pub fn layer_norm_backward<T: Float>(x: &[T], scale: &[T], stats: &[T], dy: &[T]) -> [Vec<T>; 3] {
    let c = scale.len();
    let n = of::<T>(c as f64);
    let (mut dx, mut unit) = (Vec::new(), Vec::new());
    for ((x, dy), s) in x.chunks_exact(c).zip(dy.chunks_exact(c)).zip(stats.chunks_exact(2)) {
        let hat: Vec<T> = x.iter().map(|&x| (x - s[0]) * s[1]).collect();
        let g: Vec<T> = (0..c).map(|j| dy[j] * scale[j]).collect();
        let mean_g = sum(g.iter().copied()) / n;
        let mean_gx = sum((0..c).map(|j| g[j] * hat[j])) / n;
        dx.extend((0..c).map(|j| s[1] * (g[j] - mean_g - hat[j] * mean_gx)));
        unit.extend((0..c).map(|j| dy[j] * hat[j]));
    }
    [dx, column_sums(&unit, c), column_sums(dy, c)]
}

/// B, heads, D, rows of q, rows of k and v.
#[derive(Debug, Clone, Copy)]
pub struct Heads {
    pub b: usize,
    pub h: usize,
    pub d: usize,
    pub tq: usize,
    pub tk: usize,
}

/// Output, log denominators, and gradients of q, k and v.
pub struct Attention<T> {
    pub out: Vec<T>,
    pub lse: Vec<T>,
    pub dq: Vec<T>,
    pub dk: Vec<T>,
    pub dv: Vec<T>,
}

/// q: (B, Tq, C); k, v: (B, Tk, C), any prefix included; dout: (B, Tq, C).
pub fn attention<T: Float>(q: &[T], k: &[T], v: &[T], dout: &[T], e: Heads) -> Attention<T> {
    let c = e.h * e.d;
    let zeros = |n: usize| vec![T::ZERO; n];
    let (nq, nk) = (e.b * e.tq * c, e.b * e.tk * c);
    let (mut out, mut lse, mut dq) = (zeros(nq), zeros(e.b * e.h * e.tq), zeros(nq));
    let (mut dk, mut dv) = (zeros(nk), zeros(nk));
    let scale = of::<T>(1.0 / (e.d as f64).sqrt());
    for (b, h) in (0..e.b).flat_map(|b| (0..e.h).map(move |h| (b, h))) {
        let at_q = |i: usize| (b * e.tq + i) * c + h * e.d;
        let at_k = |j: usize| (b * e.tk + j) * c + h * e.d;
        for i in 0..e.tq {
            let dot = |x: &[T], x0: usize, y: &[T], y0: usize| sum((0..e.d).map(|l| x[x0 + l] * y[y0 + l]));
            let s: Vec<T> = (0..e.tk).map(|j| dot(q, at_q(i), k, at_k(j)) * scale).collect();
            let max = s.iter().copied().fold(s[0], |m, x| if x > m { x } else { m });
            let raw: Vec<T> = s.iter().map(|&s| exp(s - max)).collect();
            let total = sum(raw.iter().copied());
            let p: Vec<T> = raw.iter().map(|&r| r / total).collect();
            lse[(b * e.h + h) * e.tq + i] = max + total.ln();
            let dp: Vec<T> = (0..e.tk).map(|j| dot(dout, at_q(i), v, at_k(j))).collect();
            let mean = sum((0..e.tk).map(|j| p[j] * dp[j]));
            for j in 0..e.tk {
                let ds = p[j] * (dp[j] - mean) * scale;
                for l in 0..e.d {
                    out[at_q(i) + l] += p[j] * v[at_k(j) + l];
                    dq[at_q(i) + l] += ds * k[at_k(j) + l];
                    dk[at_k(j) + l] += ds * q[at_q(i) + l];
                    dv[at_k(j) + l] += p[j] * dout[at_q(i) + l];
                }
            }
        }
    }
    Attention { out, lse, dq, dk, dv }
}

/// (y, dx) with y = x / length.
pub fn row_norm<T: Float>(x: &[T], dy: &[T], c: usize, form: row_norm::Normalization) -> (Vec<T>, Vec<T>) {
    let (mut y, mut dx) = (Vec::new(), Vec::new());
    for (x, dy) in x.chunks_exact(c).zip(dy.chunks_exact(c)) {
        let squares = sum(x.iter().map(|&x| x * x));
        let norm = squares.sqrt();
        let (length, moves) = match form {
            row_norm::Normalization::Rsqrt if squares.to_f64() <= 1e-12 => (of::<T>(1e-6), T::ZERO),
            row_norm::Normalization::Rsqrt => (norm, T::ONE / norm),
            row_norm::Normalization::Plus => {
                (norm + of(1e-10), if norm > T::ZERO { T::ONE / norm } else { T::ZERO })
            }
        };
        let along = sum(x.iter().zip(dy).map(|(&x, &d)| x * d)) / (length * length) * moves;
        y.extend(x.iter().map(|&x| x / length));
        dx.extend(x.iter().zip(dy).map(|(&x, &d)| d / length - x * along));
    }
    (y, dx)
}

/// (w, [dA, dK]) of x = [q (B, c), A (M, c), K (M, c)]: the cosine of q ∘ A and K, image by image.
/// Σ F (p - a)² and `up` times its gradient in p. x: p, a, F.
pub fn anchor<T: Float>(x: &[Vec<T>], up: T) -> (T, Vec<T>) {
    let away: Vec<T> = x[0].iter().zip(&x[1]).map(|(&p, &a)| p - a).collect();
    let penalty = sum(away.iter().zip(&x[2]).map(|(&d, &f)| f * d * d));
    (penalty, away.iter().zip(&x[2]).map(|(&d, &f)| up * T::of(2.0) * f * d).collect())
}

/// max(x, 0) keep, and the gradient of it.
pub fn relu<T: Float>(x: &[T], dy: &[T], keep: f64) -> (Vec<T>, Vec<T>) {
    let of = |v: T, at: T| if at.to_f64() > 0.0 { T::of(keep) * v } else { T::ZERO };
    (x.iter().map(|&x| of(x, x)).collect(), x.iter().zip(dy).map(|(&x, &d)| of(d, x)).collect())
}

/// F + weight g².
pub fn add_squares<T: Float>(f: &[T], g: &[T], weight: f64) -> Vec<T> {
    f.iter().zip(g).map(|(&f, &g)| f + T::of(weight) * g * g).collect()
}

/// Distillation over the classes whose number is not 2 more than a multiple of 3, and `up` times its gradient in the
/// logits. x: logits, the teacher's.
pub fn distill<T: Float>(x: &[Vec<T>], k: usize, temperature: f64, up: T) -> (T, Vec<T>) {
    let softmax = |z: &[T]| {
        let e: Vec<T> = z.iter().map(|&z| T::of((z.to_f64() / temperature).exp())).collect();
        let total = sum((0..k).filter(|j| j % 3 != 2).map(|j| e[j]));
        e.into_iter().map(|e| e / total).collect::<Vec<T>>()
    };
    let images = x[0].len() / k;
    let (mut distance, mut d) = (T::ZERO, vec![T::ZERO; x[0].len()]);
    for i in 0..images {
        let (own, wanted) = (softmax(&x[0][i * k..][..k]), softmax(&x[1][i * k..][..k]));
        for j in (0..k).filter(|j| j % 3 != 2) {
            distance -= wanted[j] * T::of(own[j].to_f64().ln() / images as f64);
            d[i * k + j] = up * (own[j] - wanted[j]) * T::of(1.0 / (images as f64 * temperature));
        }
    }
    (distance, d)
}

pub fn component_weights<T: Float>(x: &[Vec<T>], dw: &[T], c: usize) -> (Vec<T>, [Vec<T>; 2]) {
    let m = x[1].len() / c;
    let (mut w, mut da, mut dk) = (Vec::new(), vec![T::ZERO; m * c], vec![T::ZERO; m * c]);
    for (i, q) in x[0].chunks_exact(c).enumerate() {
        for n in 0..m {
            let (a, k) = (&x[1][n * c..][..c], &x[2][n * c..][..c]);
            let u: Vec<T> = q.iter().zip(a).map(|(&q, &a)| q * a).collect();
            let length = |x: &[T]| sum(x.iter().map(|&x| x * x)).sqrt();
            let (lu, lk) = (length(&u), length(k));
            let cosine = sum(u.iter().zip(k).map(|(&u, &k)| u * k)) / (lu * lk);
            let d = dw[i * m + n];
            for j in 0..c {
                da[n * c + j] += d * q[j] * (k[j] / (lu * lk) - cosine * u[j] / (lu * lu));
                dk[n * c + j] += d * (u[j] / (lu * lk) - cosine * k[j] / (lk * lk));
            }
            w.push(cosine);
        }
    }
    (w, [da, dk])
}

/// (y, dx). x: (B, t, c), of which the rows `rows` are pooled. Without ties.
pub fn pool_tokens<T: Float>(
    x: &[T],
    dy: &[T],
    (t, c): (usize, usize),
    rows: Range<usize>,
    kind: pool_tokens::Pooling,
) -> (Vec<T>, Vec<T>) {
    let (mut y, mut dx) = (Vec::new(), vec![T::ZERO; x.len()]);
    let n = of::<T>(rows.len() as f64);
    let (mean, max) = match kind {
        pool_tokens::Pooling::Mean => (T::ONE, T::ZERO),
        pool_tokens::Pooling::Max => (T::ZERO, T::ONE),
        pool_tokens::Pooling::MeanMax => (of(2.0), T::ONE),
    };
    for (bj, &d) in dy.iter().enumerate() {
        let at = |row: usize| (bj / c * t + row) * c + bj % c;
        let largest = rows.clone().fold(rows.start, |m, r| if x[at(r)] > x[at(m)] { r } else { m });
        y.push(sum(rows.clone().map(|r| x[at(r)])) / n * mean + x[at(largest)] * max);
        rows.clone().for_each(|r| dx[at(r)] += d * mean / n);
        dx[at(largest)] += d * max;
    }
    (y, dx)
}

/// Columns of length 1.
pub fn column_norm<T: Float>(x: &[T], c: usize) -> Vec<T> {
    let length = |j: usize| sum(x.iter().skip(j).step_by(c).map(|&v| v * v)).sqrt() + of::<T>(1e-10);
    x.iter().enumerate().map(|(i, &v)| v / length(i % c)).collect()
}

/// Scores of prompts by similarity and how often each was used.
pub fn penalised<T: Float>(similarity: &[T], used: &[T]) -> Vec<T> {
    let score = |(&s, &n): (&T, &T)| if n == T::ZERO { T::ONE / (T::ONE - s) } else { (s - T::ONE) * n };
    similarity.iter().zip(used.iter().cycle()).map(score).collect()
}

/// (B, K): all of an image is its label.
pub fn one_hot<T: Float>(labels: &[T], k: usize) -> Vec<T> {
    let row = |label: f64| (0..k).map(move |j| if j as f64 == label { T::ONE } else { T::ZERO });
    labels.iter().flat_map(|label| row(label.to_f64())).collect()
}

/// ([loss, right answers], dlogits): mean cross-entropy over the allowed classes, smoothed; soft labels and masks: (B, K).
pub fn cross_entropy<T: Float>(
    z: &[T],
    soft_labels: &[T],
    masks: &[bool],
    images: usize,
    smoothing: f64,
) -> ([T; 2], Vec<T>) {
    let k = z.len() / images;
    let b = of::<T>(images as f64);
    let (mut loss, mut correct, mut dz) = (T::ZERO, T::ZERO, Vec::new());
    for ((z, soft_labels), mask) in
        z.chunks_exact(k).zip(soft_labels.chunks_exact(k)).zip(masks.chunks_exact(k))
    {
        let share = of::<T>(smoothing / mask.iter().filter(|&&m| m).count() as f64);
        let most = (0..k).map(|j| soft_labels[j]).reduce(|a, b| if b > a { b } else { a }).expect("a share");
        let label = soft_labels.iter().position(|&s| s == most).expect("a class");
        let allowed = || (0..k).filter(|&j| mask[j]);
        let max = allowed().map(|j| z[j]).reduce(|a, b| if b > a { b } else { a }).expect("a class");
        let total = sum(allowed().map(|j| exp(z[j] - max)));
        let first = allowed().find(|&j| z[j] == max).expect("a class");
        correct += if first == label { T::ONE } else { T::ZERO };
        for j in 0..k {
            let target = share + of::<T>(1.0 - smoothing) * soft_labels[j];
            let p = exp(z[j] - max) / total;
            if mask[j] {
                loss += target * (max + total.ln() - z[j]) / b;
            }
            dz.push(if mask[j] { (p - target) / b } else { T::ZERO });
        }
    }
    ([loss, correct], dz)
}

pub fn scaled<T: Float>(x: &[T], a: f64) -> Vec<T> {
    x.iter().map(|&x| x * of(a)).collect()
}

/// [p, m, v] after a step from [p, m, v, g, squares, step_scalars].
pub fn adam<T: Float>(x: &[Vec<T>], with: Adam) -> Vec<Vec<T>> {
    let (beta1, beta2) = (of::<T>(with.beta1), of::<T>(with.beta2));
    let (step_scalars, scale) = (&x[5], grad_scale(x[4][0], x[5][3], with.max_norm));
    let mut out = vec![Vec::new(); 3];
    for (((&p, &m), &v), &g) in x[0].iter().zip(&x[1]).zip(&x[2]).zip(&x[3]) {
        let g = g * scale;
        let m = beta1 * m + (T::ONE - beta1) * g;
        let v = beta2 * v + (T::ONE - beta2) * g * g;
        let update = (m / step_scalars[1]) / ((v / step_scalars[2]).sqrt() + of(with.eps));
        out[0].push(p - step_scalars[0] * update - step_scalars[0] * of(with.decay) * p);
        out[1].push(m);
        out[2].push(v);
    }
    out
}

/// Of gradients that are clipped to `max_norm`.
fn grad_scale<T: Float>(squares: T, unscale: T, max_norm: f64) -> T {
    let norm = squares.sqrt() * unscale + of(1e-6);
    if max_norm > 0.0 && norm > of(max_norm) { of::<T>(max_norm) / norm * unscale } else { unscale }
}

/// [p, u] after a step from [p, u, g, squares, step_scalars].
pub fn sgd<T: Float>(x: &[Vec<T>], with: Sgd) -> Vec<Vec<T>> {
    let (lr, momentum) = (x[4][0], of::<T>(with.momentum));
    let scale = grad_scale(x[3][0], x[4][3], with.max_norm);
    let mut out = vec![Vec::new(); 2];
    for ((&p, &u), &g) in x[0].iter().zip(&x[1]).zip(&x[2]) {
        let g = g * scale;
        let u = momentum * u + g;
        out[0].push(p - lr * if with.nesterov { g + momentum * u } else { u });
        out[1].push(u);
    }
    out
}
