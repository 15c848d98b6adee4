//! GELU in its erf form, x Φ(x), with relative accuracy on both sides and without a branch.
//!
//! With a = |x|, φ(a) = e^(-a²/2) / √(2π) and R(a) = Φ(-a) / φ(a) (Mills' ratio):
//!
//! ```text
//! gelu(x)  = max(x, 0) - T(a)                    T(a) = a Φ(-a)         = a φ(a) R(a)
//! gelu'(x) = D(a) for x < 0, 1 - D(a) for x >= 0 D(a) = Φ(-a) - a φ(a)  = φ(a) (R(a) - a)
//! ```
//!
//! D has one root, A = 0.75179…. Of T and D the factors a / (a + 1) and A - a are computed exactly but for
//! rounding, and what is left varies little:
//!
//! ```text
//! √(2/π) R(a) (a + 1)         = 1 + η(t)         within 0.79 … 1.00
//! √(2/π) (R(a) - a) / (A - a) = 1 + σ(t)         within 0.79 … 1.33         t = (a - 4) / (a + 4)
//! ```
//!
//! η, σ and the exponential's remainder are minimax polynomials (Remez) for the relative error of 1 + η,
//! 1 + σ and the exponential. Every factor is used as 1 + a small number, which keeps the digits that a
//! product of rounded factors would lose.

use crate::ops::float::Float;

#[inline(always)]
fn horner<T: Float>(coefficients: &'static [T], x: T) -> T {
    let mut p = coefficients[0];
    for &c in &coefficients[1..] {
        p = x.fma(p, c);
    }
    p
}

/// e^(-a²/2) = (1 + r + small) 2^n.
struct Bell<T> {
    r: T,
    small: T,
    /// 2^(n - 1 + k)
    power: T,
}

/// 0 <= a <= LIMIT.
#[inline(always)]
fn bell<T: Float>(a: T) -> Bell<T> {
    let half = T::of(-0.5);
    let square = a * a;
    // What the square lost to rounding: at the end of the range it is worth many ulp of the result.
    let lost = a.fma(a, -square);
    let z = half * square;
    let shifted = z.fma(T::of(std::f64::consts::LOG2_E), T::ROUND);
    let n = shifted - T::ROUND;
    let [high, low] = T::LN_2;
    // Exact; the rest of the exponent comes with the small part.
    let r = n.fma(-high, z);
    let lost = n.fma(-low, half * lost);
    let both = r + lost;
    let small = (both * both).fma(horner(T::EXP, both), lost);
    Bell { r, small, power: T::half_power(shifted) }
}

/// (x + rest) e^(-a²/2) (1 + more) / 2, rounded to the type's digits in the last two steps only.
#[inline(always)]
fn product<T: Float>(x: T, rest: T, bell: Bell<T>, more: T) -> T {
    let Bell { r, small, power } = bell;
    let more = (r + small).fma(more, more);
    let sum = x + rest;
    (x + sum.fma(r, sum.fma(small + more, rest))) * power * T::UNSCALE
}

#[inline(always)]
fn magnitude<T: Float>(x: T) -> T {
    let a = x.abs();
    if a > T::LIMIT { T::LIMIT } else { a }
}

/// t from a / (a + 4), which has more digits than a + 4 where a is small.
#[inline(always)]
fn centred<T: Float>(s: T) -> T {
    s.fma(T::of(2.0), -T::ONE)
}

/// x Φ(x), within 2 ulp; it has the sign of x.
#[inline(always)]
pub fn value<T: Float>(x: T) -> T {
    let a = magnitude(x);
    let (d, f) = (a + T::ONE, a + T::of(4.0));
    let both = T::ONE / (d * f);
    let (one_d, one_f) = (both * f, both * d);
    let eta = horner(T::ETA, centred(a * one_f));
    // a / (a + 1) = w + rest, also for what is lost in d.
    let w = a * one_d;
    let lost = a - (d - T::ONE);
    let rest = (-lost).fma(w, (-d).fma(w, a)) * one_d;
    let tail = product(w, rest, bell(a), eta);
    let positive = if x > T::ZERO { x } else { T::ZERO };
    (positive - tail).copysign(x)
}

/// d/dx x Φ(x) = Φ(x) + x φ(x), within 2 ulp.
#[inline(always)]
pub fn slope<T: Float>(x: T) -> T {
    let a = magnitude(x);
    let sigma = horner(T::SIGMA, centred(a / (a + T::of(4.0))));
    // A - a = b + rest (Knuth's exact difference, and A's second part).
    let [high, low] = T::ROOT;
    let b = high - a;
    let back = b - high;
    let rest = (high - (b - back)) - (a + back) + low;
    let d = product(b, rest, bell(a), sigma);
    if x < T::ZERO { d } else { T::ONE - d }
}
