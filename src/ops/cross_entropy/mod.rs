//! Masked softmax cross-entropy: loss = mean_b (log Σ_{k allowed} e^{z_bk} - z_b,label), its gradient
//! and the number of right answers, in one pass.
//! With label smoothing s over K allowed classes, the target is (1 - s) on the label plus s / K on
//! each allowed class (Szegedy et al. 2016, arXiv:1512.00567).

mod cpu;

use crate::device::Device;
use crate::error::{Error, Result};
use crate::tensor::{View, ViewMut, expect_shape};

const OP: &str = "cross_entropy";

/// What one batch says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// Mean loss over the batch.
    pub loss: f64,
    /// Images whose largest allowed logit is the label's; ties to the lower class.
    pub correct: usize,
}

/// Overwrites `dlogits` (B, K), if given, with dL/dlogits.
///
/// # Shapes
/// logits: (B, K); labels: (B) u32; mask: (K), `true` for the classes that take part.
///
/// # Errors
/// `Error::Shape` if a label is masked or not a class: the loss would be infinite.
pub fn forward_backward(
    dev: &Device,
    dlogits: Option<ViewMut>,
    logits: View,
    labels: View,
    mask: &[bool],
    label_smoothing: f64,
) -> Result<Outcome> {
    let (b, k) = (logits.dims()[0], logits.dims()[1]);
    expect_shape(OP, "labels", labels.shape(), [b])?;
    if mask.len() != k {
        let (wanted, got) = (format!("{k} classes"), mask.len().to_string());
        return Err(Error::Shape { op: OP, arg: "mask", wanted, got });
    }
    let labels = labels.get::<u32>(OP, "labels")?;
    if let Some(label) = labels.iter().find(|&&l| !mask.get(l as usize).copied().unwrap_or(false)) {
        let wanted = "classes that the mask allows".to_string();
        return Err(Error::Shape { op: OP, arg: "labels", wanted, got: label.to_string() });
    }
    if let Some(d) = &dlogits {
        expect_shape(OP, "dlogits", d.shape(), [b, k])?;
    }
    match dev {
        Device::Cpu => float!("cross_entropy", "logits", logits.dtype(), T => {
            let d = dlogits.map(|d| d.get::<T>(OP, "dlogits")).transpose()?;
            Ok(cpu::forward_backward(d, logits.get::<T>(OP, "logits")?, labels, mask, label_smoothing))
        }),
        Device::Cuda(_) => super::no_kernels(OP),
    }
}
