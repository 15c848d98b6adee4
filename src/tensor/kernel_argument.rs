//! Views as arguments of kernels: the element type and the address of the first element.

use super::dtype::DType;
use super::on_device::Span;
use super::view::{View, ViewMut};
use crate::device::{Argument, Cell};

fn argument(dtype: DType, span: Option<Span>) -> (&'static str, Cell) {
    let kind = match dtype {
        DType::F32 => "*f32",
        DType::F64 => "*f64",
        DType::BF16 => "*bf16",
        DType::F16 => "*f16",
        DType::U32 => "*u32",
        DType::U8 => "*u8",
    };
    (kind, span.map_or(Cell::HostMemory, |s| Cell::Pointer(s.address())))
}

impl Argument for View<'_> {
    fn argument(&self) -> (&'static str, Cell) {
        argument(self.dtype(), self.span())
    }
}

impl Argument for ViewMut<'_> {
    fn argument(&self) -> (&'static str, Cell) {
        argument(self.dtype(), self.as_view().span())
    }
}
