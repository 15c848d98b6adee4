//! Tensors: a buffer and a shape, contiguous and row-major. No strides, no autograd.
//!
//! [`Tensor`] owns its memory; [`View`] and [`ViewMut`] borrow a contiguous part of it, so that the
//! flat buffer of trainable parameters can be handed to ops range by range. All memory of a run
//! comes from a [`plan::Plan`].

pub mod all_reduce;
mod dtype;
pub mod input;
mod kernel_argument;
pub(crate) mod memory;
mod on_device;
mod owned;
pub mod plan;
mod shape;
mod storage;
mod view;

pub use dtype::{DType, Element};
pub use owned::Tensor;
pub use shape::{MAX_RANK, Shape, expect_shape};
pub use view::{View, ViewMut};
