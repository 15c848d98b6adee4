//! What the host hands to every step, where the step reads it: as it is on the CPU; on a GPU in memory of
//! its own, to which pinned buffers bring it, two in turn, so that the next is filled while one is under way.

use super::plan::Plan;
use super::{DType, Shape, Tensor, View};
use crate::device::{Device, Lane, Pinned};
use crate::error::Result;

/// Memory for one kind of input.
#[derive(Debug)]
pub struct Input {
    here: Tensor,
    staging: Vec<Pinned>,
}

impl Input {
    /// Room for inputs of this shape and smaller ones. None is needed on the CPU.
    pub fn new(plan: &mut Plan, name: &str, shape: impl Into<Shape>, dtype: DType) -> Input {
        let on_gpu = plan.device().gpu().is_some();
        let here = plan.tensor(name, if on_gpu { shape.into() } else { Shape::new(&[0]) }, dtype);
        Input { here, staging: Vec::new() }
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
        self.here.view_mut().upload(values, &mut self.staging[0], Lane::Compute)
    }

    /// What was loaded; on the CPU `values` themselves.
    pub fn view<'a>(&'a self, dev: &Device, values: View<'a>) -> View<'a> {
        if dev.gpu().is_some() { self.here.view() } else { values }
    }
}
