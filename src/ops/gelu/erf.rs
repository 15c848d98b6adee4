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

/// What the erf form needs of a float type.
pub trait Constants: Sized + 'static {
    /// From here on T and D are below half of the smallest number.
    const LIMIT: Self;
    /// 1.5 · 2^(bits of the mantissa): a sum with it holds the rounded integer in its lowest bits.
    const ROUND: Self;
    /// ln 2 in two parts; the first has so few bits that its products here are exact.
    const LN_2: [Self; 2];
    /// A in two parts.
    const ROOT: [Self; 2];
    /// (e^r - 1 - r) / r² for |r| <= ln 2 / 2, highest power first, like the other two.
    const EXP: &'static [Self];
    const ETA: &'static [Self];
    const SIGMA: &'static [Self];
    /// 2^-k, where 2^k keeps every power of two in use within the normal numbers.
    const UNSCALE: Self;
    /// 2^(n - 1 + k), from n + ROUND.
    fn half_power(shifted: Self) -> Self;
}

impl Constants for f32 {
    const LIMIT: f32 = 15.0;
    const ROUND: f32 = 12_582_912.0;
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    const ROOT: [f32; 2] = [0.751_791_54, -1.211_445e-8];
    const EXP: &'static [f32] = &[0.001_381_451_6, 0.008_368_756, 0.041_668_393, 0.166_665_2, 0.499_999_94];
    const ETA: &'static [f32] = &[
        -0.000_143_964_02,
        -0.000_123_085,
        0.001_384_428_7,
        -0.000_606_882_6,
        -0.010_007_894,
        0.035_880_454,
        -0.064_394_7,
        0.057_199_936,
        0.027_999_2,
        -0.193_406_94,
        -0.055_893_585,
    ];
    const SIGMA: &'static [f32] = &[
        -3.221_346_2e-5,
        -2.616_956_4e-5,
        0.000_371_090_1,
        -0.000_313_153_84,
        -0.003_576_788_8,
        0.019_010_626,
        -0.056_166_664,
        0.120_925_83,
        -0.206_731_8,
        -0.075_577_51,
    ];
    const UNSCALE: f32 = f32::from_bits((127 - 64) << 23);

    #[inline(always)]
    fn half_power(shifted: f32) -> f32 {
        f32::from_bits(shifted.to_bits().wrapping_add(127 + 63) << 23)
    }
}

impl Constants for f64 {
    const LIMIT: f64 = 39.0;
    const ROUND: f64 = 6_755_399_441_055_744.0;
    const LN_2: [f64; 2] = [0.693_147_180_559_663, 2.823_529_056_303_157_8e-13];
    const ROOT: [f64; 2] = [0.751_791_524_693_564_5, -1.495_675_917_700_988_3e-17];
    const EXP: &'static [f64] = &[
        2.082_656_978_113_761_6e-9,
        2.511_210_296_992_666_7e-8,
        2.755_758_243_321_688_7e-7,
        2.755_723_467_579_424_6e-6,
        2.480_158_692_538_714_5e-5,
        0.000_198_412_698_965_661_66,
        0.001_388_888_888_911_663,
        0.008_333_333_333_316_963,
        0.041_666_666_666_666_09,
        0.166_666_666_666_666_82,
        0.5,
    ];
    const ETA: &'static [f64] = &[
        -1.540_914_142_143_882e-9,
        -2.998_852_864_152_382_7e-9,
        1.241_651_729_850_574_6e-8,
        3.499_232_669_212_780_5e-8,
        -3.984_002_415_951_943e-8,
        -2.215_311_868_710_230_8e-7,
        3.107_303_082_512_280_6e-9,
        1.103_581_931_077_475_5e-6,
        8.087_607_664_846_306e-7,
        -5.225_589_486_162_788e-6,
        -6.864_270_350_132_55e-6,
        2.725_366_365_719_075e-5,
        4.250_005_208_606_893_4e-5,
        -0.000_175_706_351_902_632_17,
        -0.000_188_860_497_449_862_12,
        0.001_389_794_207_239_259_8,
        -0.000_571_246_197_292_001_9,
        -0.010_004_757_181_958_824,
        0.035_872_194_959_441_44,
        -0.064_395_674_856_175_95,
        0.057_200_728_107_098_66,
        0.027_999_269_448_850_877,
        -0.193_406_954_653_051_58,
        -0.055_893_586_980_310_64,
    ];
    const SIGMA: &'static [f64] = &[
        7.477_588_555_618_471e-10,
        2.368_482_667_616_126_5e-9,
        -3.231_915_776_975_773_5e-9,
        -2.125_567_173_774_399_8e-8,
        -1.507_148_579_129_302_2e-9,
        1.253_412_024_896_800_5e-7,
        1.046_623_640_503_449_6e-7,
        -6.981_393_828_102_245e-7,
        -9.842_397_681_797_526e-7,
        4.433_283_851_624_22e-6,
        7.077_767_003_262_4e-6,
        -3.606_983_841_395_148e-5,
        -3.495_442_192_782_065_5e-5,
        0.000_371_551_544_229_922_7,
        -0.000_309_226_626_409_026_2,
        -0.003_576_521_082_099_556,
        0.019_009_900_750_235_547,
        -0.056_166_719_906_109_21,
        0.120_925_873_535_701_28,
        -0.206_731_797_043_913_73,
        -0.075_577_511_900_849_4,
    ];
    const UNSCALE: f64 = f64::from_bits((1023 - 600) << 52);

    #[inline(always)]
    fn half_power(shifted: f64) -> f64 {
        f64::from_bits(shifted.to_bits().wrapping_add(1023 + 599) << 52)
    }
}

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
