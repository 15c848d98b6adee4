//! Weights plus an op: the two layers a block is made of.

use super::params::{Declare, Grads, ParamId, Params};
use crate::device::Device;
use crate::error::Result;
use crate::ops::linear::{self, Epilogue, LinearWeights};
use crate::ops::{gelu, layer_norm, matmul::Write};
use crate::tensor::{DType, Shape, View, ViewMut};
use std::ops::Range;

/// Scale and bias, (C) each.
#[derive(Debug, Clone, Copy)]
pub struct LayerNorm {
    pub scale: ParamId,
    pub bias: ParamId,
    pub eps: f64,
}

impl LayerNorm {
    pub fn declare(declare: &mut Declare, name: &str, c: usize, eps: f64) -> LayerNorm {
        let scale = declare.add(format!("{name}/scale"), [c]);
        LayerNorm { scale, bias: declare.add(format!("{name}/bias"), [c]), eps }
    }

    /// See [`layer_norm::forward`].
    pub fn forward(&self, dev: &Device, p: &Params, y: ViewMut, stats: ViewMut, x: View) -> Result<()> {
        layer_norm::forward(dev, y, stats, x, p.get(self.scale), p.get(self.bias), self.eps)
    }

    /// See [`layer_norm::recompute`].
    pub fn recompute(&self, dev: &Device, p: &Params, y: ViewMut, x: View, stats: View) -> Result<()> {
        layer_norm::recompute(dev, y, x, stats, p.get(self.scale), p.get(self.bias))
    }

    /// dx += …; the gradients of scale and bias too, where they are wanted.
    ///
    /// (x, stats): the input x and the statistics of [`LayerNorm::forward`].
    pub fn backward_acc(
        &self,
        dev: &Device,
        p: &Params,
        grads: &mut Grads,
        dx: Option<ViewMut>,
        dy: View,
        (x, stats): (View, View),
    ) -> Result<()> {
        if grads.wants(p, self.scale) || grads.wants(p, self.bias) {
            let c = p.spec(self.scale).shape.len();
            let [scale, bias] = &mut grads.norm;
            for sum in [&mut *scale, &mut *bias] {
                sum.reshape([c]);
                sum.fill(0.0);
            }
            layer_norm::backward_params_acc(dev, scale.view_mut(), bias.view_mut(), dy, x, stats)?;
            grads.add_norm(dev, p, [self.scale, self.bias])?;
        }
        match dx {
            Some(dx) => layer_norm::backward_input_acc(dev, dx, dy, x, stats, p.get(self.scale)),
            None => Ok(()),
        }
    }
}

/// Kernel (K, N) and bias (N).
#[derive(Debug, Clone, Copy)]
pub struct Linear {
    pub kernel: ParamId,
    pub bias: ParamId,
    /// The parameters are (M, K, N) and (M, N), and this layer is one of the M.
    one_of: Option<OneOf>,
}

#[derive(Debug, Clone, Copy)]
struct OneOf {
    which: usize,
    among: usize,
}

impl OneOf {
    /// Where it lies in a parameter of this shape, and its own shape.
    fn place(self, shape: Shape) -> (usize, Shape) {
        (self.which * (shape.len() / self.among), Shape::new(&shape.dims()[1..]))
    }
}

impl Linear {
    pub fn declare(declare: &mut Declare, name: &str, k: usize, n: usize) -> Linear {
        let kernel = declare.add(format!("{name}/kernel"), [k, n]);
        Linear::of(kernel, declare.add(format!("{name}/bias"), [n]))
    }

    /// The layer of these parameters.
    pub fn of(kernel: ParamId, bias: ParamId) -> Linear {
        Linear { kernel, bias, one_of: None }
    }

    /// `among` layers of one size, of which this is the first.
    pub fn declare_several(declare: &mut Declare, name: &str, k: usize, n: usize, among: usize) -> Linear {
        let kernel = declare.add(format!("{name}/kernel"), [among, k, n]);
        let bias = declare.add(format!("{name}/bias"), [among, n]);
        Linear { kernel, bias, one_of: Some(OneOf { which: 0, among }) }
    }

    /// Another one of several layers; the layer itself if there is only this one.
    pub fn other(self, which: usize) -> Linear {
        Linear { one_of: self.one_of.map(|one| OneOf { which, ..one }), ..self }
    }

    fn own<'a>(&self, parameter: View<'a>) -> View<'a> {
        let Some(one) = self.one_of else { return parameter };
        let (at, shape) = one.place(parameter.shape());
        parameter.part(at, shape)
    }

    fn own_mut<'a>(&self, parameter: ViewMut<'a>) -> ViewMut<'a> {
        let Some(one) = self.one_of else { return parameter };
        let (at, shape) = one.place(parameter.shape());
        parameter.part(at, shape)
    }

    /// For products with activations of type `dtype`.
    fn weights<'a>(&self, p: &'a Params, dtype: DType, columns: Option<Range<usize>>) -> LinearWeights<'a> {
        let all = LinearWeights::all(self.own(p.get_as(self.kernel, dtype)), self.own(p.get(self.bias)));
        let columns = columns.unwrap_or(all.columns.clone());
        LinearWeights { columns, packed: p.packed(self.kernel), ..all }
    }

    /// y = ending(x W + b) with all columns. x: (rows, K), y: (rows, N).
    pub fn forward(&self, dev: &Device, p: &Params, y: ViewMut, x: View, ending: Epilogue) -> Result<()> {
        linear::forward(dev, y, x, &self.weights(p, x.dtype(), None), ending)
    }

    /// The same with some columns of W only.
    pub fn forward_columns(
        &self,
        dev: &Device,
        p: &Params,
        y: ViewMut,
        x: View,
        columns: Range<usize>,
    ) -> Result<()> {
        linear::forward(dev, y, x, &self.weights(p, x.dtype(), Some(columns)), Epilogue::Plain)
    }

    /// dx = dy Wᵀ (or +=), over the columns `columns` of W.
    pub fn backward_input(
        &self,
        dev: &Device,
        p: &Params,
        dx: ViewMut,
        dy: View,
        columns: Option<Range<usize>>,
        write: Write,
    ) -> Result<()> {
        linear::backward_input(dev, dx, dy, &self.weights(p, dy.dtype(), columns), write)
    }

    /// dx = (dy Wᵀ) ∘ gelu'(pre), for a layer that reads gelu(pre).
    pub fn backward_input_gelu(
        &self,
        dev: &Device,
        p: &Params,
        dx: ViewMut,
        dy: View,
        pre: View,
        form: gelu::GeluForm,
    ) -> Result<()> {
        linear::backward_input_gelu(dev, dx, dy, &self.weights(p, dy.dtype(), None), pre, form)
    }

    /// Whether the kernel's or the bias' gradient is computed, so that x must be at hand.
    pub fn wanted(&self, p: &Params, grads: &Grads) -> bool {
        grads.wants(p, self.kernel) || grads.wants(p, self.bias)
    }

    pub fn backward_params_acc(
        &self,
        dev: &Device,
        p: &Params,
        grads: &mut Grads,
        x: View,
        dy: View,
        columns: Option<Range<usize>>,
    ) -> Result<()> {
        let columns = columns.unwrap_or(0..self.own(p.get(self.bias)).len());
        if let Some(dkernel) = grads.get_mut(p, self.kernel).map(|all| self.own_mut(all)) {
            linear::backward_params_acc(dev, Some(dkernel), None, x, dy, columns.clone())?;
        }
        if let Some(dbias) = grads.get_mut(p, self.bias).map(|all| self.own_mut(all)) {
            linear::backward_params_acc(dev, None, Some(dbias), x, dy, columns)?;
        }
        Ok(())
    }
}
