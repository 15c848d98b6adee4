//! The memory behind tensors: one variant per element type on the host, and device memory.

use super::dtype::{DType, Element};
use super::memory::Memory;
use super::on_device::{DeviceBuffer, Span};
use bytemuck::{allocation::cast_vec, cast_slice, cast_slice_mut};
use half::{bf16, f16};

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

/// Borrowed memory; the data of a `View`.
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

/// Borrowed memory to write; the data of a `ViewMut`.
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

impl Buffer {
    /// Takes over the memory of `values`.
    pub fn from_vec<T: Element>(values: Vec<T>) -> Buffer {
        match T::DTYPE {
            DType::F32 => Buffer::F32(Memory::from(cast_vec(values))),
            DType::F64 => Buffer::F64(Memory::from(cast_vec(values))),
            DType::BF16 => Buffer::BF16(Memory::from(cast_vec(values))),
            DType::F16 => Buffer::F16(Memory::from(cast_vec(values))),
            DType::U32 => Buffer::U32(Memory::from(cast_vec(values))),
            DType::U8 => Buffer::U8(Memory::from(cast_vec(values))),
        }
    }
}

impl<'a> Slice<'a> {
    /// The elements in host memory; `None` if they are of another type, or on a GPU.
    pub fn typed<T: Element>(self) -> Option<&'a [T]> {
        host!(Slice, self, s => (element(s) == T::DTYPE).then(|| cast_slice(s)), _ => None)
    }
}

impl<'a> SliceMut<'a> {
    /// [`Slice::typed`] to write.
    pub fn typed<T: Element>(self) -> Option<&'a mut [T]> {
        host!(SliceMut, self, s => (element(s) == T::DTYPE).then(|| cast_slice_mut(s)), _ => None)
    }
}
