//! Fully connected layer with fused endings: y = x W + b, y = residual + x W + b, y = gelu(x W + b).

pub(crate) mod cpu;

use crate::device::Device;
use crate::error::Result;
use crate::ops::gelu;
use crate::ops::matmul::{self, Layout, Write};
use crate::tensor::{View, ViewMut, expect_shape};
use std::ops::Range;

/// Kernel (K, N) and bias (N), of which the columns `columns` are used.
#[derive(Debug, Clone)]
pub struct Weights<'a> {
    pub kernel: View<'a>,
    pub bias: View<'a>,
    pub columns: Range<usize>,
}

impl<'a> Weights<'a> {
    /// All columns. kernel: (K, N); more axes are folded as (K, rest).
    pub fn all(kernel: View<'a>, bias: View<'a>) -> Weights<'a> {
        let n = bias.len();
        Weights { kernel, bias, columns: 0..n }
    }

    fn layout(&self) -> Layout {
        let n = self.bias.len();
        Layout::dense(self.kernel.len() / n.max(1), n).columns(self.columns.start, self.columns.len())
    }
}

/// What happens to x W + b before it is stored.
pub enum Ending<'a> {
    Plain,
    /// residual: (M, N), added.
    Residual(View<'a>),
    /// pre: (M, N) keeps the value before the activation, for a backward pass.
    Gelu {
        pre: Option<ViewMut<'a>>,
        form: gelu::Form,
    },
}

fn matrix(view: View) -> Layout {
    Layout::dense(view.dims()[0], view.dims()[1])
}

/// Overwrites y. x: (M, K), y: (M, N) with N the number of columns used.
pub fn forward(dev: &Device, mut y: ViewMut, x: View, w: &Weights, ending: Ending) -> Result<()> {
    match &ending {
        Ending::Residual(residual) => expect_shape("linear", "residual", residual.shape(), y.shape())?,
        Ending::Gelu { pre: Some(pre), .. } => expect_shape("linear", "pre", pre.shape(), y.shape())?,
        Ending::Plain | Ending::Gelu { pre: None, .. } => {}
    }
    let at = matrix(y.as_view());
    let (x, kernel) = ((x, matrix(x)), (w.kernel, w.layout()));
    match dev {
        Device::Cpu => {
            matmul::forward(dev, (y.reborrow(), at), x, kernel, Write::Set)?;
            float!("linear", "y", y.dtype(), T => {
                let bias = &w.bias.get::<T>("linear", "bias")?[w.columns.clone()];
                let y = y.get::<T>("linear", "y")?;
                match ending {
                    Ending::Plain => cpu::bias(y, bias),
                    Ending::Residual(r) => cpu::bias_residual(y, r.get::<T>("linear", "residual")?, bias),
                    Ending::Gelu { pre, form } => {
                        let pre = pre.map(|pre| pre.get::<T>("linear", "pre")).transpose()?;
                        cpu::bias_gelu(y, pre, bias, form);
                    }
                }
                Ok(())
            })
        }
        Device::Cuda(gpu) => {
            let bias = Some(w.bias.part(w.columns.start, [w.columns.len()]));
            let none = matmul::cuda::Ending { bias, ..Default::default() };
            let ending = match ending {
                Ending::Plain => none,
                Ending::Residual(residual) => matmul::cuda::Ending { residual: Some(residual), ..none },
                Ending::Gelu { pre, form } => matmul::cuda::Ending { pre, gelu: Some(form), ..none },
            };
            matmul::check_forward(&(y.as_view(), at), &x, &kernel)?;
            matmul::cuda::forward(gpu, (y, at), x, kernel, Write::Set, ending)
        }
    }
}

/// dx = dy Wᵀ, or dx += with `Write::Add`. dy: (M, N), dx: (M, K).
pub fn backward_input(dev: &Device, dx: ViewMut, dy: View, w: &Weights, write: Write) -> Result<()> {
    let at = matrix(dx.as_view());
    matmul::backward_input(dev, (dx, at), (dy, matrix(dy)), (w.kernel, w.layout()), write)
}

/// dx = (dy Wᵀ) ∘ gelu'(pre): the gradient in front of the activation that the layer read.
/// dy: (M, N); dx, pre: (M, K).
pub fn backward_input_gelu(
    dev: &Device,
    mut dx: ViewMut,
    dy: View,
    w: &Weights,
    pre: View,
    form: gelu::Form,
) -> Result<()> {
    expect_shape("linear", "pre", pre.shape(), dx.shape())?;
    let at = matrix(pre);
    let (dy, kernel) = ((dy, matrix(dy)), (w.kernel, w.layout()));
    match dev {
        Device::Cpu => {
            matmul::backward_input(dev, (dx.reborrow(), at), dy, kernel, Write::Set)?;
            gelu::backward_in_place(dev, dx, pre, form)
        }
        Device::Cuda(gpu) => {
            matmul::check_backward_input(&(dx.as_view(), at), &dy, &kernel)?;
            matmul::cuda::backward_input(gpu, (dx, at), dy, kernel, Write::Set, Some((pre, form)))
        }
    }
}

/// dW += xᵀ dy and db += Σ_rows dy, in the columns used. dkernel: (K, N), dbias: (N).
pub fn backward_params_acc(
    dev: &Device,
    dkernel: Option<ViewMut>,
    dbias: Option<ViewMut>,
    x: View,
    dy: View,
    columns: Range<usize>,
) -> Result<()> {
    if let Some(dkernel) = dkernel {
        let k = x.dims()[1];
        let n = dkernel.len() / k.max(1);
        let at = Layout::dense(k, n).columns(columns.start, columns.len());
        matmul::backward_weight_acc(dev, (dkernel, at), (x, matrix(x)), (dy, matrix(dy)))?;
    }
    if let Some(dbias) = dbias {
        crate::ops::sum::columns_acc(dev, dbias.part(columns.start, [columns.len()]), dy)?;
    }
    Ok(())
}
