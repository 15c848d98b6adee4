//! The adapter beside the MLP of a block: s (relu(x D + d) U + u), with x the residual stream after attention, not
//! normalised. Source: Chen et al. 2022 (AdaptFormer), arXiv:2205.13535; RanPAC/RanPAC @ 012927f,
//! `petl/vision_transformer_adapter.py`, which has dropout after the relu.

use super::layers::Linear;
use super::params::{Declare, Grads, Params};
use crate::device::Device;
use crate::error::Result;
use crate::ops::axpy::{axpy, scale_in_place};
use crate::ops::linear::Epilogue;
use crate::ops::matmul::Write;
use crate::ops::relu;
use crate::rng::{Rng, Stream};
use crate::tensor::plan::Plan;
use crate::tensor::{DType, Tensor, View, ViewMut};
use std::ops::Range;

/// What names of its parameters begin with.
pub const PREFIX: &str = "adapter/";

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdapterDims {
    /// r, the width between D (C, r) and U (r, C).
    pub width: usize,
    /// s
    pub scale: f64,
    /// Probability that a unit is dropped in training.
    pub dropout: f64,
}

/// D, d, U and u of one block.
#[derive(Debug, Clone)]
pub struct Adapter {
    pub down: Linear,
    pub up: Linear,
    pub dims: AdapterDims,
}

/// What a pass through an adapter keeps. R is the number of rows read of a block.
#[derive(Debug)]
pub struct AdapterActs {
    /// Whether the block has its adapter in this pass.
    pub on: bool,
    /// (B·R, r), after relu and dropout.
    hidden: Tensor,
    /// (B·R, r): 0 or 1 / (1 - p), where units are dropped.
    keep: Option<Tensor>,
}

/// Which units are dropped in a step: those of an image depend on the seed, the step, the block and the place of the image in
/// the training set, and not on the batch.
#[derive(Debug, Clone)]
pub struct Dropout {
    pub seed: u64,
    pub step: u64,
    /// (B)
    pub positions: Vec<u32>,
}

/// Scratch of a backward pass.
#[derive(Debug)]
pub struct AdapterTemp {
    /// (B·T, r)
    dhidden: Tensor,
    /// (B·T, C)
    scaled: Tensor,
}

impl AdapterActs {
    /// Room for so many rows.
    pub fn new(plan: &mut Plan, rows: usize, dims: AdapterDims, dtype: DType) -> AdapterActs {
        let hidden = plan.tensor("adapter", [rows, dims.width], dtype);
        AdapterActs { on: true, hidden, keep: None }
    }

    pub fn shape(&mut self, rows: usize) {
        let width = self.hidden.dims()[1];
        self.hidden.reshape([rows, width]);
    }

    /// Draws what is kept in block `l` of `layers`, of the token rows `read` of each image; nothing is dropped without
    /// `dropout`.
    ///
    /// # Errors
    /// `Error::Failed` if the device fails.
    pub fn draw(
        &mut self,
        dropout: Option<&Dropout>,
        dims: AdapterDims,
        (l, layers): (usize, usize),
        read: Range<usize>,
    ) -> Result<()> {
        self.keep = None;
        let Some(Dropout { seed, step, positions }) = dropout.filter(|_| dims.dropout > 0.0) else {
            return Ok(());
        };
        let (width, kept) = (dims.width, 1.0 / (1.0 - dims.dropout));
        let mut values = Vec::with_capacity(positions.len() * read.len() * width);
        for &position in positions {
            let index = (step * layers as u64 + l as u64) << 32 | u64::from(position);
            let mut rng = Rng::new(*seed, Stream::Dropout, index);
            // The numbers of a row are the same whichever rows are read.
            (0..read.start * width).for_each(|_| {
                rng.next_u32();
            });
            let dropped = |rng: &mut Rng| f64::from(rng.uniform()) < dims.dropout;
            values.extend((0..read.len() * width).map(|_| if dropped(&mut rng) { 0.0 } else { kept }));
        }
        self.keep =
            Some(Tensor::from_f64(&values, [positions.len() * read.len(), width], self.hidden.dtype()));
        Ok(())
    }
}

impl AdapterTemp {
    /// Room for so many rows of width `c`.
    pub fn new(plan: &mut Plan, rows: usize, c: usize, dims: AdapterDims, dtype: DType) -> AdapterTemp {
        AdapterTemp {
            dhidden: plan.tensor("scratch adapter", [rows, dims.width], dtype),
            scaled: plan.tensor("scratch adapter, wide", [rows, c], dtype),
        }
    }
}

impl Adapter {
    pub fn declare(declare: &mut Declare, layer: usize, c: usize, dims: AdapterDims) -> Adapter {
        let name = |part: &str| format!("{PREFIX}{layer}/{part}");
        let adapter = Adapter {
            down: Linear::declare(declare, &name("down"), c, dims.width),
            up: Linear::declare(declare, &name("up"), dims.width, c),
            dims,
        };
        // As in PyTorch, where weight decay is for all that learns.
        declare.decay(adapter.down.bias);
        declare.decay(adapter.up.bias);
        adapter
    }

    pub fn wanted(&self, p: &Params, grads: &Grads) -> bool {
        self.down.wanted(p, grads) || self.up.wanted(p, grads)
    }

    /// y += s (relu(x D + d) U + u). x, y: (rows, C); `room`: scratch of the same shape.
    pub fn forward_acc(
        &self,
        dev: &Device,
        p: &Params,
        y: ViewMut,
        acts: &mut AdapterActs,
        x: View,
        room: &mut Tensor,
    ) -> Result<()> {
        room.reshape(x.shape());
        /* 1 */
        self.down.forward(dev, p, acts.hidden.view_mut(), x, Epilogue::Plain)?;
        /* 2 */
        relu::forward_in_place(dev, acts.hidden.view_mut(), acts.keep.as_ref().map(Tensor::view))?;
        /* 3 */
        self.up.forward(dev, p, room.view_mut(), acts.hidden.view(), Epilogue::Plain)?;
        /* 4 */
        axpy(dev, y, room.view(), self.dims.scale)
    }

    /// Gradients of its own parameters, and what [`Adapter::backward_input_acc`] needs. x, dy: (rows, C).
    pub fn backward_params(
        &self,
        dev: &Device,
        p: &Params,
        grads: &mut Grads,
        temp: &mut AdapterTemp,
        acts: &AdapterActs,
        (x, dy): (View, View),
    ) -> Result<()> {
        let hidden = acts.hidden.view();
        temp.scaled.reshape(dy.shape());
        temp.dhidden.reshape(hidden.shape());
        /* 4 */
        temp.scaled.view_mut().copy_from(dy)?;
        scale_in_place(dev, temp.scaled.view_mut(), self.dims.scale)?;
        /* 3 */
        self.up.backward_params_acc(dev, p, grads, hidden, temp.scaled.view(), None)?;
        let dhidden = temp.dhidden.view_mut();
        self.up.backward_input(dev, p, dhidden, temp.scaled.view(), None, Write::Set)?;
        /* 2 */
        let factor = if acts.keep.is_some() { 1.0 / (1.0 - self.dims.dropout) } else { 1.0 };
        relu::backward_in_place(dev, temp.dhidden.view_mut(), hidden, factor)?;
        /* 1 */
        self.down.backward_params_acc(dev, p, grads, x, temp.dhidden.view(), None)
    }

    /// dx += …, after [`Adapter::backward_params`]. dx: (rows, C).
    pub fn backward_input_acc(
        &self,
        dev: &Device,
        p: &Params,
        dx: ViewMut,
        temp: &AdapterTemp,
    ) -> Result<()> {
        self.down.backward_input(dev, p, dx, temp.dhidden.view(), None, Write::Add)
    }

    /// D uniform within 1 / √C, everything else zero, as the published code draws it.
    ///
    /// # Errors
    /// `Error::Failed` if the device fails.
    pub fn init(&self, p: &mut Params, layer: usize, seed: u64) -> Result<()> {
        let bound = 1.0 / (p.spec(self.down.kernel).shape.dims()[0] as f64).sqrt();
        let mut rng = Rng::new(seed, Stream::Adapters, layer as u64);
        p.draw(self.down.kernel, || bound * (2.0 * rng.uniform_f64() - 1.0))?;
        for id in [self.down.bias, self.up.kernel, self.up.bias] {
            p.draw(id, || 0.0)?;
        }
        Ok(())
    }
}
