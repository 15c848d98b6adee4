//! Weights of components on slices.

use crate::ops::float::{Float, for_rows, with_scratch};
use crate::ops::sum::cpu::lanes;

/// What the weights are made of: query (B, C), attention and key (M, C).
pub struct Inputs<'a, T> {
    pub query: &'a [T],
    pub attention: &'a [T],
    pub key: &'a [T],
    pub c: usize,
}

/// (1 / max(√squares, 1e-12), whether the length is above that floor).
#[inline(always)]
fn inverse<T: Float>(squares: T) -> (T, bool) {
    let (norm, floor) = (squares.sqrt(), T::of(1e-12));
    if norm > floor { (T::ONE / norm, true) } else { (T::ONE / floor, false) }
}

/// The same for the key k.
#[inline(always)]
fn inverse_of<T: Float>(k: &[T]) -> (T, bool) {
    inverse(lanes(
        [k],
        #[inline(always)]
        |[k]| k * k,
    ))
}

/// (Σ q a k, Σ (q a)²).
#[inline(always)]
fn products<T: Float>(q: &[T], a: &[T], k: &[T]) -> (T, T) {
    let along = lanes(
        [q, a, k],
        #[inline(always)]
        |[q, a, k]| q * a * k,
    );
    let squares = lanes(
        [q, a],
        #[inline(always)]
        |[q, a]| q * a * (q * a),
    );
    (along, squares)
}

pub fn forward<T: Float>(w: &mut [T], query: &[T], attention: &[T], key: &[T], c: usize) {
    let m = key.len() / c;
    for_rows(
        w,
        m,
        #[inline(always)]
        |first, w| {
            for (i, w) in w.chunks_exact_mut(m).enumerate() {
                let q = &query[(first + i) * c..][..c];
                for (n, w) in w.iter_mut().enumerate() {
                    let (a, k) = (&attention[n * c..][..c], &key[n * c..][..c]);
                    let (along, squares) = products(q, a, k);
                    *w = along * inverse(squares).0 * inverse_of(k).0;
                }
            }
        },
    );
}

/// With u = q ∘ a and k̂ = u(k): dw/du = k̂ / ‖u‖ - w u / ‖u‖², dw/dk̂ = u / ‖u‖. The second term of the former is
/// missing where ‖u‖ is at its floor, as is that of k̂.
pub fn backward_acc<T: Float>([da, dk]: [&mut [T]; 2], dw: &[T], of: &Inputs<T>) {
    let (c, m, b) = (of.c, of.key.len() / of.c, of.query.len() / of.c);
    with_scratch(m * 2 * b, |factors| {
        // Of component n and image i: dw / ‖u‖, and w dw / ‖u‖².
        for_rows(
            factors,
            2 * b,
            #[inline(always)]
            |first, factors| {
                for (n, factors) in factors.chunks_exact_mut(2 * b).enumerate() {
                    let n = first + n;
                    let (a, k) = (&of.attention[n * c..][..c], &of.key[n * c..][..c]);
                    let key_inverse = inverse_of(k).0;
                    for i in 0..b {
                        let (along, squares) = products(&of.query[i * c..][..c], a, k);
                        let (inv, moves) = inverse(squares);
                        factors[i] = dw[i * m + n] * inv;
                        let w = along * inv * key_inverse;
                        factors[b + i] = if moves { factors[i] * w * inv } else { T::ZERO };
                    }
                }
            },
        );
        attention_acc(da, factors, of);
        key_acc(dk, factors, of);
    });
}

fn attention_acc<T: Float>(da: &mut [T], factors: &[T], of: &Inputs<T>) {
    let (c, b) = (of.c, of.query.len() / of.c);
    for_rows(
        da,
        c,
        #[inline(always)]
        |first, da| {
            for (n, da) in da.chunks_exact_mut(c).enumerate() {
                let n = first + n;
                let (a, k) = (&of.attention[n * c..][..c], &of.key[n * c..][..c]);
                let (key_inverse, factors) = (inverse_of(k).0, &factors[n * 2 * b..][..2 * b]);
                for i in 0..b {
                    let q = &of.query[i * c..][..c];
                    let (along_key, along_own) = (factors[i] * key_inverse, factors[b + i]);
                    for j in 0..c {
                        da[j] += q[j] * (along_key * k[j] - along_own * q[j] * a[j]);
                    }
                }
            }
        },
    );
}

fn key_acc<T: Float>(dk: &mut [T], factors: &[T], of: &Inputs<T>) {
    let (c, b) = (of.c, of.query.len() / of.c);
    for_rows(
        dk,
        c,
        #[inline(always)]
        |first, dk| {
            with_scratch(c, |dunit| {
                for (n, dk) in dk.chunks_exact_mut(c).enumerate() {
                    let n = first + n;
                    let (a, k) = (&of.attention[n * c..][..c], &of.key[n * c..][..c]);
                    dunit.fill(T::ZERO);
                    for i in 0..b {
                        let (q, factor) = (&of.query[i * c..][..c], factors[n * 2 * b + i]);
                        for j in 0..c {
                            dunit[j] += factor * q[j] * a[j];
                        }
                    }
                    let (inv, moves) = inverse_of(k);
                    let along = lanes(
                        [&*dunit, k],
                        #[inline(always)]
                        |[dunit, k]| dunit * k,
                    );
                    let along = if moves { along * inv * inv * inv } else { T::ZERO };
                    for j in 0..c {
                        dk[j] += dunit[j] * inv - k[j] * along;
                    }
                }
            });
        },
    );
}
