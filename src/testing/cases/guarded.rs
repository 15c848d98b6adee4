//! Outputs that lie inside of larger buffers.

use super::data::On;
use crate::error::{Error, Result};
use crate::ops::matmul::Write;
use crate::tensor::{DType, Shape, Tensor, ViewMut};

/// A number of all types that outputs have.
const GUARD: f64 = 12_352.0;

/// Where an output or a gradient goes.
#[derive(Debug, Clone, Copy)]
pub struct Slot {
    pub name: &'static str,
    pub shape: Shape,
    pub dtype: DType,
    pub(super) write: Write,
}

/// Room for the outputs of an op on a device: what is overwritten starts as NaN (integers as 4e9), what is added to as
/// numbers that are given, and on both sides lies a band that must come out untouched.
#[derive(Debug)]
pub struct Guarded {
    what: String,
    band: usize,
    slots: Vec<Slot>,
    buffers: Vec<Tensor>,
}

impl Guarded {
    pub(super) fn new(what: String, on: &On, slots: Vec<Slot>, start: Option<&[Tensor]>) -> Result<Guarded> {
        let (band, mut buffers) = (on.band, Vec::new());
        for (i, &Slot { shape, dtype, write, .. }) in slots.iter().enumerate() {
            let mut buffer = Tensor::zeros([shape.len() + 2 * band], dtype);
            buffer.fill(GUARD);
            let mut inside = buffer.view_mut().part(band, shape);
            match (write, start) {
                (Write::Add, Some(start)) => inside.copy_from(start[i].view())?,
                (Write::Add, None) => inside.fill(0.0),
                (Write::Set, _) if dtype == DType::U32 => inside.fill(4e9),
                (Write::Set, _) => inside.fill(f64::NAN),
            }
            buffers.push(if on.dev.gpu().is_some() { buffer.to(&on.dev)? } else { buffer });
        }
        Ok(Guarded { what, band, slots, buffers })
    }

    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// What an op writes to.
    pub fn views(&mut self) -> Vec<ViewMut<'_>> {
        let band = self.band;
        self.buffers
            .iter_mut()
            .zip(&self.slots)
            .map(|(b, slot)| b.view_mut().part(band, slot.shape))
            .collect()
    }

    /// Another one that starts as `self` is now.
    pub fn copy(&self, on: &On) -> Result<Guarded> {
        let mut buffers = Vec::new();
        for buffer in &self.buffers {
            let mut copy = Tensor::zeros_on(&on.dev, buffer.shape(), buffer.dtype())?;
            copy.view_mut().copy_from(buffer.view())?;
            buffers.push(copy);
        }
        Ok(Guarded { what: self.what.clone(), slots: self.slots.clone(), buffers, band: self.band })
    }

    /// Queues a copy of another one's buffers, bands included.
    pub fn set(&mut self, from: &Guarded) -> Result<()> {
        self.buffers
            .iter_mut()
            .zip(&from.buffers)
            .try_for_each(|(to, from)| to.view_mut().copy_from(from.view()))
    }

    /// The values of every output, after all that was queued.
    ///
    /// # Errors
    /// `Error::Failed` where a band is no longer what it was.
    pub fn read(&self) -> Result<Vec<Vec<f64>>> {
        let each = self.buffers.iter().zip(&self.slots).map(|(buffer, slot)| {
            let mut values = buffer.view().read_f64()?;
            let (band, end) = (self.band, self.band + slot.shape.len());
            let beside = values[..band].iter().chain(&values[end..]);
            if let Some(found) = beside.copied().find(|&v| v != GUARD) {
                return Err(Error::failed(format!(
                    "{}: wrote outside `{}`: beside it wanted {GUARD}, found {found}",
                    self.what, slot.name
                )));
            }
            values.truncate(end);
            values.drain(..band);
            Ok(values)
        });
        each.collect()
    }

    /// The outputs, each by itself.
    ///
    /// # Errors
    /// As [`Guarded::read`].
    pub fn tensors(&self, on: &On) -> Result<Vec<Tensor>> {
        let values = self.read()?;
        let each = values.iter().zip(&self.slots);
        each.map(|(values, slot)| Tensor::from_f64(values, slot.shape, slot.dtype).to(&on.dev)).collect()
    }
}
