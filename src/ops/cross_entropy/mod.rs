//! Masked softmax cross-entropy: loss = mean_b (log Σ_{k allowed} e^{z_bk} - z_b,label), its gradient
//! and the number of right answers, in one pass.
//! With label smoothing s over K allowed classes, the target is (1 - s) on the label plus s / K on
//! each allowed class (Szegedy et al. 2016, arXiv:1512.00567). A soft label gives each class a
//! weight in place of one class: loss = Σ_k weight_k (log Σ e^z - z_k).

mod args;
mod cpu;
mod cuda;

pub use args::LossOutcome;

use crate::device::{Device, range};
use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor, View, ViewMut, expect_shape};
use args::{Labels, OP};

/// Overwrites `outcome` (2) with the mean loss and the number of right answers, and `dlogits` (B, K), if
/// given, with dL/dlogits.
///
/// # Shapes
/// outcome: F64 on the CPU, F32 on a GPU; logits: (B, K); labels: (B) u32, or soft labels (B, K) f32; mask: (K) u32,
/// not 0 for the classes that take part, or (B, K) where each image has classes of its own.
///
/// # Errors
/// `Error::Shape` if a label is masked or not a class, or has a weight in a soft label and is masked: the loss would be
/// infinite. On a GPU the loss is NaN.
pub fn forward_backward(
    dev: &Device,
    outcome: ViewMut,
    dlogits: Option<ViewMut>,
    logits: View,
    labels: View,
    mask: View,
    label_smoothing: f64,
) -> Result<()> {
    let (b, k) = (logits.dims()[0], logits.dims()[1]);
    if labels.dtype() == DType::F32 {
        expect_shape(OP, "labels", labels.shape(), [b, k])?;
    } else {
        expect_shape(OP, "labels", labels.shape(), [b])?;
    }
    expect_shape(OP, "outcome", outcome.shape(), [2])?;
    if mask.dims().len() == 2 {
        expect_shape(OP, "mask", mask.shape(), [b, k])?;
    } else {
        expect_shape(OP, "mask", mask.shape(), [k])?;
    }
    if let Some(d) = &dlogits {
        expect_shape(OP, "dlogits", d.shape(), [b, k])?;
    }
    let _op = range(c"cross entropy");
    match dev {
        Device::Cpu => float!("cross_entropy", "logits", logits.dtype(), T => {
            let mask = mask.get::<u32>(OP, "mask")?;
            let labels = match labels.dtype() {
                DType::F32 => Labels::Soft(labels.get::<f32>(OP, "labels")?),
                _ => Labels::Classes(labels.get::<u32>(OP, "labels")?),
            };
            check_labels(labels, mask, k)?;
            let (d, logits) = (dlogits.map(|d| d.get::<T>(OP, "dlogits")).transpose()?, logits.get::<T>(OP, "logits")?);
            let LossOutcome { loss, correct } = cpu::forward_backward(d, logits, labels, mask, k, label_smoothing);
            outcome.get::<f64>(OP, "outcome")?.copy_from_slice(&[loss, correct as f64]);
            Ok(())
        }),
        Device::Cuda(gpu) => {
            cuda::forward_backward(gpu, outcome, dlogits, logits, labels, mask, label_smoothing)
        }
    }
}

/// Mean loss over all classes, on the CPU, wherever the logits are: for evaluation, which looks at them
/// there anyway.
pub fn mean_loss(logits: View, labels: View) -> Result<f64> {
    let logits = logits.to_host()?;
    let mask = Tensor::from_vec(vec![1u32; logits.dims()[1]], [logits.dims()[1]]);
    let mut outcome = Tensor::zeros([2], DType::F64);
    let cpu = &Device::Cpu;
    forward_backward(cpu, outcome.view_mut(), None, logits.view(), labels, mask.view(), 0.0)?;
    Ok(LossOutcome::read(outcome.view())?.loss)
}

fn check_labels(labels: Labels, mask: &[u32], k: usize) -> Result<()> {
    let masked = |i: usize, class: usize| cpu::row(mask, i, k).get(class).is_none_or(|&m| m == 0);
    let wrong = match labels {
        Labels::Classes(labels) => {
            let at = labels.iter().enumerate().find(|(i, label)| masked(*i, **label as usize));
            at.map(|(_, &label)| label)
        }
        Labels::Soft(weights) => {
            let at = weights.iter().enumerate().find(|(i, weight)| **weight != 0.0 && masked(i / k, i % k));
            at.map(|(i, _)| (i % k) as u32)
        }
    };
    match wrong {
        None => Ok(()),
        Some(label) => {
            let wanted = "classes that the mask allows".to_string();
            Err(Error::Shape { op: OP, arg: "labels", wanted, got: label.to_string() })
        }
    }
}
