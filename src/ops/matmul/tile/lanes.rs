//! Vectors of one element type, whatever the machine has.

use crate::ops::float::Float;
use pulp::Simd;

/// An element type with vectors.
pub trait Lanes: Float {
    type V<S: Simd>: Copy;
    fn splat<S: Simd>(simd: S, value: Self) -> Self::V<S>;
    fn mul_add<S: Simd>(simd: S, a: Self::V<S>, b: Self::V<S>, c: Self::V<S>) -> Self::V<S>;
    fn plus<S: Simd>(simd: S, a: Self::V<S>, b: Self::V<S>) -> Self::V<S>;
    fn minus<S: Simd>(simd: S, a: Self::V<S>, b: Self::V<S>) -> Self::V<S>;
}

macro_rules! lanes {
    ($T:ident, $V:ident, $splat:ident, $mul_add:ident, $add:ident, $sub:ident) => {
        impl Lanes for $T {
            type V<S: Simd> = S::$V;
            #[inline(always)]
            fn splat<S: Simd>(simd: S, value: $T) -> S::$V {
                simd.$splat(value)
            }
            #[inline(always)]
            fn mul_add<S: Simd>(simd: S, a: S::$V, b: S::$V, c: S::$V) -> S::$V {
                simd.$mul_add(a, b, c)
            }
            #[inline(always)]
            fn plus<S: Simd>(simd: S, a: S::$V, b: S::$V) -> S::$V {
                simd.$add(a, b)
            }
            #[inline(always)]
            fn minus<S: Simd>(simd: S, a: S::$V, b: S::$V) -> S::$V {
                simd.$sub(a, b)
            }
        }
    };
}
lanes!(f32, f32s, splat_f32s, mul_add_e_f32s, add_f32s, sub_f32s);
lanes!(f64, f64s, splat_f64s, mul_add_e_f64s, add_f64s, sub_f64s);
