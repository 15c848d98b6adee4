//! The head that adapters are learned with: logits σ cos(f, w_k). Source: RanPAC/RanPAC @ 012927f, `inc_net.py` and
//! `convs/linears.py`, `CosineLinear`. In a run it answers in phase 1 alone: afterwards a ridge regression does.

use crate::device::Device;
use crate::error::Result;
use crate::nn::adapter::PREFIX;
use crate::nn::params::{Declare, Grads, ParamId, Params};
use crate::ops::axpy::scale_in_place;
use crate::ops::matmul::{self, Layout, Write};
use crate::ops::row_norm::{self, Normalization};
use crate::rng::{Rng, Stream};
use crate::tensor::plan::Plan;
use crate::tensor::{DType, Tensor, View, ViewMut};

/// Rows w_k (K, C) and σ (1).
#[derive(Debug)]
pub struct CosineHead {
    kernel: ParamId,
    sigma: ParamId,
    /// (K, C): rows of unit length, and the gradient in them.
    unit: Tensor,
    dunit: Tensor,
    /// (B, K): cosines, and the gradient in them.
    cosines: Tensor,
    dcosines: Tensor,
    /// (B, C): features of unit length, and the gradient in them.
    features: Tensor,
    dfeatures: Tensor,
}

fn dense(x: &Tensor) -> (View<'_>, Layout) {
    (x.view(), Layout::dense(x.dims()[0], x.dims()[1]))
}

fn dense_mut(x: &mut Tensor) -> (ViewMut<'_>, Layout) {
    let (rows, columns) = (x.dims()[0], x.dims()[1]);
    (x.view_mut(), Layout::dense(rows, columns))
}

impl CosineHead {
    /// Its parameters, without memory yet.
    pub fn declare(declare: &mut Declare, classes: usize, c: usize) -> [ParamId; 2] {
        let ids = ["kernel", "sigma"].map(|part| format!("{PREFIX}head/{part}"));
        let [kernel, sigma] = ids;
        let (kernel, sigma) = (declare.add(kernel, [classes, c]), declare.add(sigma, [1]));
        // As in PyTorch, where weight decay is for all that learns.
        declare.decay(sigma);
        [kernel, sigma]
    }

    /// Room for batches of at most `batches` images, of which the second is for gradients.
    pub fn new(
        plan: &mut Plan,
        [kernel, sigma]: [ParamId; 2],
        (batch, back): (usize, usize),
        (classes, c): (usize, usize),
        dtype: DType,
    ) -> CosineHead {
        let mut room = |name: &str, rows: usize, columns: usize| plan.tensor(name, [rows, columns], dtype);
        CosineHead {
            kernel,
            sigma,
            unit: room("unit rows of the head", classes, c),
            dunit: room("gradient of unit rows", if back > 0 { classes } else { 0 }, c),
            cosines: room("cosines", batch, classes),
            dcosines: room("gradient of cosines", back, classes),
            features: room("unit features", batch, c),
            dfeatures: room("gradient of unit features", back, c),
        }
    }

    /// Overwrites `logits` (B, K). features: (B, C).
    pub fn forward(&mut self, dev: &Device, p: &Params, mut logits: ViewMut, features: View) -> Result<()> {
        let (b, c) = (features.dims()[0], features.dims()[1]);
        self.features.reshape([b, c]);
        self.cosines.reshape(logits.shape());
        /* 1 */
        row_norm::forward(dev, self.features.view_mut(), features, Normalization::Rsqrt)?;
        row_norm::forward(dev, self.unit.view_mut(), p.get(self.kernel), Normalization::Rsqrt)?;
        /* 2 */
        let (x, w) = (dense(&self.features), dense(&self.unit));
        matmul::backward_input(dev, dense_mut(&mut self.cosines), x, w, Write::Set)?;
        /* 3 */
        logits.copy_from(self.cosines.view())?;
        scale_in_place(dev, logits, self.sigma(p)?)
    }

    /// Overwrites `dfeatures` (B, C), and adds the gradients of rows and σ. dlogits: (B, K), features: (B, C).
    pub fn backward(
        &mut self,
        dev: &Device,
        p: &Params,
        grads: &mut Grads,
        mut dfeatures: ViewMut,
        dlogits: View,
        features: View,
    ) -> Result<()> {
        let (sigma, n) = (self.sigma(p)?, dlogits.len());
        /* 3 */
        if let Some(dsigma) = grads.get_mut(p, self.sigma) {
            let (row, one) = (Layout::dense(1, n), Layout::dense(1, 1));
            let (dy, w) = ((dlogits, row), (self.cosines.view(), row));
            matmul::backward_input(dev, (dsigma, one), dy, w, Write::Add)?;
        }
        self.dcosines.reshape(dlogits.shape());
        self.dcosines.view_mut().copy_from(dlogits)?;
        scale_in_place(dev, self.dcosines.view_mut(), sigma)?;
        /* 2 */
        self.dfeatures.reshape(features.shape());
        let (dy, w) = (dense(&self.dcosines), dense(&self.unit));
        matmul::forward(dev, dense_mut(&mut self.dfeatures), dy, w, Write::Set)?;
        self.dunit.fill(0.0);
        let (x, dy) = (dense(&self.dcosines), dense(&self.features));
        matmul::backward_weight_acc(dev, dense_mut(&mut self.dunit), x, dy)?;
        /* 1 */
        if let Some(dkernel) = grads.get_mut(p, self.kernel) {
            let (dy, x) = (self.dunit.view(), p.get(self.kernel));
            row_norm::backward_acc(dev, dkernel, dy, x, Normalization::Rsqrt)?;
        }
        dfeatures.fill(0.0);
        row_norm::backward_acc(dev, dfeatures, self.dfeatures.view(), features, Normalization::Rsqrt)
    }

    fn sigma(&self, p: &Params) -> Result<f64> {
        Ok(p.get(self.sigma).read_f64()?[0])
    }

    /// Rows uniform within 1 / √C, σ = 1, as the published code draws them.
    ///
    /// # Errors
    /// `Error::Failed` if the device fails.
    pub fn init(&self, p: &mut Params, seed: u64) -> Result<()> {
        let bound = 1.0 / (p.spec(self.kernel).shape.dims()[1] as f64).sqrt();
        let mut rng = Rng::new(seed, Stream::Adapters, u64::MAX);
        p.draw(self.kernel, || bound * (2.0 * rng.uniform_f64() - 1.0))?;
        p.set(self.sigma, &[1.0])
    }
}
