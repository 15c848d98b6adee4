//! Element types, and the Rust types that stand for them.

use crate::device::ElementType;
use crate::error::{Error, Result};
use half::{bf16, f16};
use std::fmt;

/// Element types that live in a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DType {
    F32,
    F64,
    /// 8 bits of exponent, 7 of mantissa.
    BF16,
    /// 5 bits of exponent, 10 of mantissa.
    F16,
    U32,
    U8,
}

impl DType {
    pub fn size_bytes(self) -> usize {
        match self {
            DType::F32 | DType::U32 => 4,
            DType::F64 => 8,
            DType::BF16 | DType::F16 => 2,
            DType::U8 => 1,
        }
    }

    /// The type of sums, statistics and losses beside activations of this type: never 16 bits.
    pub fn accum_dtype(self) -> DType {
        match self {
            DType::BF16 | DType::F16 => DType::F32,
            same => same,
        }
    }

    /// The element type of kernels for activations of this type. Errors name the op and the argument.
    pub fn form(self, op: &'static str, arg: &'static str) -> Result<ElementType> {
        match self {
            DType::F32 => Ok(ElementType::F32),
            DType::BF16 => Ok(ElementType::Bf16),
            DType::F16 => Ok(ElementType::F16),
            _ => Err(Error::Shape { op, arg, wanted: "F32, BF16 or F16".into(), got: format!("{self:?}") }),
        }
    }
}

/// Rust types that can be elements.
pub trait Element: bytemuck::Pod + Send + Sync + Default + fmt::Debug {
    const DTYPE: DType;
    /// The value rounded to this type.
    fn narrow(value: f64) -> Self;
    fn wide(self) -> f64;
}

macro_rules! element {
    ($ty:ty, $variant:ident, $narrow:expr, $wide:expr) => {
        impl Element for $ty {
            const DTYPE: DType = DType::$variant;
            fn narrow(value: f64) -> $ty {
                $narrow(value)
            }
            fn wide(self) -> f64 {
                $wide(self)
            }
        }
    };
}
element!(f32, F32, |v| v as f32, f64::from);
element!(f64, F64, |v| v, |v| v);
element!(bf16, BF16, bf16::from_f64, bf16::to_f64);
element!(f16, F16, f16::from_f64, f16::to_f64);
element!(u32, U32, |v| v as u32, f64::from);
element!(u8, U8, |v| v as u8, f64::from);

/// Runs `$body` with `$T` bound to the Rust type of an element type.
macro_rules! typed {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            DType::F32 => {
                type $T = f32;
                $body
            }
            DType::F64 => {
                type $T = f64;
                $body
            }
            DType::BF16 => {
                type $T = bf16;
                $body
            }
            DType::F16 => {
                type $T = f16;
                $body
            }
            DType::U32 => {
                type $T = u32;
                $body
            }
            DType::U8 => {
                type $T = u8;
                $body
            }
        }
    };
}
pub(super) use typed;
