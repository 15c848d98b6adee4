//! The memory behind tensors, by place and element type.

use super::memory::Memory;
use super::on_device::{DeviceBuffer, Span};
use super::{DType, Shape, Tensor, View, ViewMut};
use half::{bf16, f16};
use std::fmt;

/// Memory of one element type.
#[derive(Debug, Clone)]
pub(super) enum Buffer {
    F32(Memory<f32>),
    F64(Memory<f64>),
    BF16(Memory<bf16>),
    F16(Memory<f16>),
    U32(Memory<u32>),
    U8(Memory<u8>),
    Device(DeviceBuffer),
}

/// Borrowed memory; see [`View`].
#[derive(Debug, Clone, Copy)]
pub(super) enum Slice<'a> {
    F32(&'a [f32]),
    F64(&'a [f64]),
    BF16(&'a [bf16]),
    F16(&'a [f16]),
    U32(&'a [u32]),
    U8(&'a [u8]),
    Device(Span<'a>),
}

#[derive(Debug)]
pub(super) enum SliceMut<'a> {
    F32(&'a mut [f32]),
    F64(&'a mut [f64]),
    BF16(&'a mut [bf16]),
    F16(&'a mut [f16]),
    U32(&'a mut [u32]),
    U8(&'a mut [u8]),
    Device(Span<'a>),
}

/// `$host` for `$s` in host memory of whatever type, `$device` for device memory.
macro_rules! host {
    ($From:ident, $value:expr, $s:pat => $host:expr, $d:pat => $device:expr) => {
        match $value {
            $From::F32($s) => $host,
            $From::F64($s) => $host,
            $From::BF16($s) => $host,
            $From::F16($s) => $host,
            $From::U32($s) => $host,
            $From::U8($s) => $host,
            $From::Device($d) => $device,
        }
    };
}
pub(super) use host;

/// The same, and the result is of the same type in another enum.
macro_rules! map {
    ($From:ident => $To:ident, $value:expr, $s:pat => $host:expr, $d:pat => $device:expr) => {
        match $value {
            $From::F32($s) => $To::F32($host),
            $From::F64($s) => $To::F64($host),
            $From::BF16($s) => $To::BF16($host),
            $From::F16($s) => $To::F16($host),
            $From::U32($s) => $To::U32($host),
            $From::U8($s) => $To::U8($host),
            $From::Device($d) => $To::Device($device),
        }
    };
}
pub(super) use map;

/// The element type of a slice.
pub(super) fn element<T: Element>(_: &[T]) -> DType {
    T::DTYPE
}

/// Rust types that can be elements.
pub trait Element: bytemuck::Pod + Send + Sync + Default + fmt::Debug {
    const DTYPE: DType;
    /// The value rounded to this type.
    fn narrow(value: f64) -> Self;
    fn wide(self) -> f64;
    #[doc(hidden)]
    fn slice<'a>(view: View<'a>) -> Option<&'a [Self]>;
    #[doc(hidden)]
    fn slice_mut<'a>(view: ViewMut<'a>) -> Option<&'a mut [Self]>;
    #[doc(hidden)]
    fn own(values: Vec<Self>, shape: Shape) -> Tensor;
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
            fn slice<'a>(view: View<'a>) -> Option<&'a [Self]> {
                match view.data {
                    Slice::$variant(s) => Some(s),
                    _ => None,
                }
            }
            fn slice_mut<'a>(view: ViewMut<'a>) -> Option<&'a mut [Self]> {
                match view.data {
                    SliceMut::$variant(s) => Some(s),
                    _ => None,
                }
            }
            fn own(values: Vec<Self>, shape: Shape) -> Tensor {
                assert_eq!(values.len(), shape.len(), "{} values for shape {shape:?}", values.len());
                Tensor { buffer: Buffer::$variant(values.into()), shape }
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
