//! What the host passes to every step. On the CPU it is read where it is. On a GPU it is copied through two pinned
//! buffers in turn, so that one is filled while the copy from the other runs.

use super::dtype::DType;
use super::owned::Tensor;
use super::plan::Plan;
use super::shape::Shape;
use super::view::View;
use crate::device::{Device, Event, Gpu, Pinned, StreamKind};
use crate::error::Result;
use std::sync::Arc;

/// Memory for one kind of input.
#[derive(Debug)]
pub struct Input {
    here: Tensor,
    staging: Vec<Pinned>,
    /// Where the copy stream brings large inputs while `here` is still in use.
    landing: Vec<Landing>,
}

#[derive(Debug)]
struct Landing {
    values: Tensor,
    /// The copy stream has filled it; the compute stream has emptied it.
    marks: Option<[Event; 2]>,
}

impl Input {
    /// Room for inputs of this shape and smaller ones. None is needed on the CPU.
    pub fn new(plan: &mut Plan, name: &str, shape: impl Into<Shape>, dtype: DType) -> Input {
        let on_gpu = plan.device().gpu().is_some();
        let here = plan.tensor(name, if on_gpu { shape.into() } else { Shape::new(&[0]) }, dtype);
        Input { here, staging: Vec::new(), landing: Vec::new() }
    }

    /// The same for inputs so large that their copy should run beside the work before.
    pub fn streamed(plan: &mut Plan, name: &str, shape: impl Into<Shape>, dtype: DType) -> Input {
        let shape = shape.into();
        let mut input = Input::new(plan, name, shape, dtype);
        if plan.device().gpu().is_some() {
            let landing =
                |_| Landing { values: plan.tensor(format!("{name}, landing"), shape, dtype), marks: None };
            input.landing = (0..2).map(landing).collect();
        }
        input
    }

    /// Brings host values to the GPU; nothing on the CPU.
    pub fn load(&mut self, dev: &Device, values: View) -> Result<()> {
        let Some(gpu) = dev.gpu() else { return Ok(()) };
        self.here.reshape(values.shape());
        if values.is_on_gpu() {
            return self.here.view_mut().copy_from(values);
        }
        while self.staging.len() < 2 {
            self.staging.push(Pinned::new(gpu, self.here.capacity_bytes())?);
        }
        self.staging.swap(0, 1);
        if self.landing.is_empty() {
            return self.here.view_mut().upload(values, &mut self.staging[0], StreamKind::Compute);
        }
        self.landing.swap(0, 1);
        self.landing[0].load(gpu, &mut self.here, values, &mut self.staging[0])
    }

    /// What was loaded; on the CPU `values` themselves.
    pub fn view<'a>(&'a self, dev: &Device, values: View<'a>) -> View<'a> {
        if dev.gpu().is_some() { self.here.view() } else { values }
    }
}

impl Landing {
    /// The copy stream brings `values` here, the compute stream takes them on to `to`.
    fn load(&mut self, gpu: &Arc<Gpu>, to: &mut Tensor, values: View, staging: &mut Pinned) -> Result<()> {
        if self.marks.is_none() {
            let empty = Event::new(gpu)?;
            // The memory was filled with zeros on the compute stream; the first copy comes after that.
            empty.record(StreamKind::Compute)?;
            self.marks = Some([Event::new(gpu)?, empty]);
        }
        let Some([full, empty]) = &self.marks else { return Ok(()) };
        self.values.reshape(values.shape());
        empty.hold(StreamKind::Copy)?;
        self.values.view_mut().upload(values, staging, StreamKind::Copy)?;
        full.record(StreamKind::Copy)?;
        full.hold(StreamKind::Compute)?;
        to.view_mut().copy_from(self.values.view())?;
        empty.record(StreamKind::Compute)
    }
}
