//! Fully connected layer with fused endings: y = x W + b, y = residual + x W + b, y = gelu(x W + b).

pub(crate) mod cpu;

use crate::device::{Device, range};
use crate::error::{Error, Result};
use crate::ops::float::Float;
use crate::ops::gelu;
use crate::ops::matmul::bf16::Arithmetic;
use crate::ops::matmul::bf16::cpu::{Bf16Matrix, Ending, Kept, product};
use crate::ops::matmul::{self, Layout, Start, Write, direct, strassen};
use crate::tensor::{DType, View, ViewMut, expect_shape};
use std::ops::Range;

/// Rows of a product of bf16 on the CPU: of that type already, or f32.
macro_rules! operand {
    ($arg:literal, $dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            DType::F32 => {
                type $T = f32;
                $body
            }
            DType::BF16 => {
                type $T = half::bf16;
                $body
            }
            other => Err(Error::Shape {
                op: "linear",
                arg: $arg,
                wanted: "F32 or BF16".into(),
                got: format!("{other:?}"),
            }),
        }
    };
}

/// Kernel (K, N) and bias (N), of which the columns `columns` are used.
#[derive(Debug, Clone)]
pub struct LinearWeights<'a> {
    pub kernel: View<'a>,
    pub bias: View<'a>,
    pub columns: Range<usize>,
    /// The kernel once more, so that nothing packs it again.
    pub packed: Option<Packed<'a>>,
}

/// A kernel as products on the CPU read it; see [`pack`].
#[derive(Debug, Clone, Copy)]
pub struct Packed<'a> {
    pub form: PackedForm,
    pub forward: View<'a>,
    /// Empty where no backward pass follows.
    pub backward: View<'a>,
}

/// What a kernel is packed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PackedForm {
    /// The kernel's own type, for [`strassen`] or [`direct`] as the extents have it.
    Own,
    /// Products of bf16 ([`matmul::bf16`]), whatever the extents.
    Bf16,
}

impl<'a> LinearWeights<'a> {
    /// All columns. kernel: (K, N); more axes are folded as (K, rest).
    pub fn all(kernel: View<'a>, bias: View<'a>) -> LinearWeights<'a> {
        let n = bias.len();
        LinearWeights { kernel, bias, columns: 0..n, packed: None }
    }

    fn layout(&self) -> Layout {
        let n = self.bias.len();
        Layout::dense(self.kernel.len() / n.max(1), n).columns(self.columns.start, self.columns.len())
    }

    fn on_cpu<T: Float>(&self, side: impl Fn(Packed<'a>) -> View<'a>) -> Result<cpu::CpuKernel<'a, T>> {
        let whole = self.columns == (0..self.bias.len());
        let packed = self.packed.filter(|packed| whole && packed.form == PackedForm::Own);
        let packed = packed.map(|packed| side(packed).get::<T>("linear", "packed"));
        let w = self.kernel.get::<T>("linear", "kernel")?;
        Ok(cpu::CpuKernel { w, at: self.layout(), packed: packed.transpose()? })
    }

    fn packed_in_bf16(&self) -> Option<Packed<'a>> {
        self.packed.filter(|packed| packed.form == PackedForm::Bf16)
    }

    /// W (K, N), of which the columns in use take part.
    fn bf16_forward(&self, packed: Packed<'a>) -> Result<Bf16Matrix<'a>> {
        let n = self.bias.len();
        let k = self.kernel.len() / n.max(1);
        let packed = packed.forward.get("linear", "packed")?;
        Ok(Bf16Matrix { packed, k, n, rows: 0..k, columns: self.columns.clone() })
    }

    /// Wᵀ (N, K), of which the rows in use take part.
    fn bf16_backward(&self, packed: Packed<'a>) -> Result<Bf16Matrix<'a>> {
        let n = self.bias.len();
        let k = self.kernel.len() / n.max(1);
        let packed = packed.backward.get("linear", "packed")?;
        Ok(Bf16Matrix { packed, k: n, n: k, rows: self.columns.clone(), columns: 0..k })
    }
}

/// What happens to x W + b before it is stored.
pub enum Epilogue<'a> {
    Plain,
    /// residual: (M, N), added.
    Residual(View<'a>),
    /// pre: (M, N) keeps the value before the activation, for a backward pass.
    Gelu {
        pre: Option<ViewMut<'a>>,
        form: gelu::GeluForm,
    },
}

/// Rows as a matrix: all axes but the last are folded.
fn matrix(view: View) -> Layout {
    let cols = view.dims().last().copied().unwrap_or(0);
    Layout::dense(view.len() / cols.max(1), cols)
}

/// How many rows make up an image: in (B, T, K) there are T.
fn rows_of_image(view: View) -> usize {
    if let [_, rows, _] = *view.dims() { rows } else { 1 }
}

fn on_cpu<T: Float>(ending: Epilogue) -> Result<cpu::CpuEpilogue<T>> {
    Ok(match ending {
        Epilogue::Plain => cpu::CpuEpilogue::Plain,
        Epilogue::Residual(r) => cpu::CpuEpilogue::Residual(r.get::<T>("linear", "residual")?),
        Epilogue::Gelu { pre, form } => {
            let pre = pre.map(|pre| pre.get::<T>("linear", "pre")).transpose()?;
            cpu::CpuEpilogue::Gelu { pre, form }
        }
    })
}

/// Overwrites y. x: (M, K) or (B, T, K), y: (M, N) or (B, T, N) with N the number of columns used.
///
/// With three axes the rows of an image may be computed together ([`matmul::strassen`]): a row's bits then
/// depend on its image, with two on the row alone.
pub fn forward(dev: &Device, y: ViewMut, x: View, w: &LinearWeights, ending: Epilogue) -> Result<()> {
    match &ending {
        Epilogue::Residual(residual) => expect_shape("linear", "residual", residual.shape(), y.shape())?,
        Epilogue::Gelu { pre: Some(pre), .. } => expect_shape("linear", "pre", pre.shape(), y.shape())?,
        Epilogue::Plain | Epilogue::Gelu { pre: None, .. } => {}
    }
    let at = matrix(y.as_view());
    let (rows, x, kernel) = (rows_of_image(x), (x, matrix(x)), (w.kernel, w.layout()));
    matmul::check_forward(&(y.as_view(), at), &x, &kernel)?;
    let _op = range(c"linear");
    match dev {
        Device::Cpu if let Some(packed) = w.packed_in_bf16() => {
            operand!("y", y.dtype(), S => operand!("x", x.0.dtype(), X => {
                let bias = &w.bias.get::<f32>("linear", "bias")?[w.columns.clone()];
                let ending = match ending {
                    Epilogue::Plain => Ending::Plain(Start::Bias(bias)),
                    Epilogue::Residual(r) => {
                        Ending::Plain(Start::Residual(bias, r.get::<f32>("linear", "residual")?))
                    }
                    Epilogue::Gelu { pre, form } => {
                        let pre = pre.map(|pre| pre.get::<S>("linear", "pre")).transpose()?;
                        Ending::Gelu { bias, pre: pre.map(Kept::new), form }
                    }
                };
                let (y, x) = (y.get::<S>("linear", "y")?, x.0.get::<X>("linear", "x")?);
                product(y, x, &w.bf16_forward(packed)?, Arithmetic::of_process()?, ending);
                Ok(())
            }))
        }
        Device::Cpu => float!("linear", "y", y.dtype(), T => {
            let bias = &w.bias.get::<T>("linear", "bias")?[w.columns.clone()];
            let (x, w) = (x.0.get::<T>("linear", "x")?, w.on_cpu(|packed| packed.forward)?);
            cpu::forward(y.get::<T>("linear", "y")?, (x, rows), w, bias, on_cpu(ending)?);
            Ok(())
        }),
        Device::Cuda(gpu) => {
            let bias = Some(w.bias.part(w.columns.start, [w.columns.len()]));
            let none = matmul::cuda::GpuEpilogue { bias, ..Default::default() };
            let ending = match ending {
                Epilogue::Plain => none,
                Epilogue::Residual(residual) => {
                    matmul::cuda::GpuEpilogue { residual: Some(residual), ..none }
                }
                Epilogue::Gelu { pre, form } => matmul::cuda::GpuEpilogue { pre, gelu: Some(form), ..none },
            };
            matmul::cuda::forward(gpu, (y, at), x, kernel, Write::Set, ending)
        }
    }
}

/// dx = dy Wᵀ, or dx += with `Write::Add`. dy: (M, N) or (B, T, N), dx: (M, K) or (B, T, K); axes as for
/// [`forward`].
pub fn backward_input(dev: &Device, dx: ViewMut, dy: View, w: &LinearWeights, write: Write) -> Result<()> {
    let at = matrix(dx.as_view());
    let (rows, dy, kernel) = (rows_of_image(dy), (dy, matrix(dy)), (w.kernel, w.layout()));
    let _op = range(c"linear, backward");
    match dev {
        Device::Cpu if let Some(packed) = w.packed_in_bf16() => {
            matmul::check_backward_input(&(dx.as_view(), at), &dy, &kernel)?;
            let start = if write == Write::Add { Start::Own } else { Start::Zero };
            operand!("dx", dx.dtype(), S => operand!("dy", dy.0.dtype(), X => {
                let (dx, dy) = (dx.get::<S>("linear", "dx")?, dy.0.get::<X>("linear", "dy")?);
                let w = w.bf16_backward(packed)?;
                product(dx, dy, &w, Arithmetic::of_process()?, Ending::Plain(start));
                Ok(())
            }))
        }
        Device::Cpu => {
            matmul::check_backward_input(&(dx.as_view(), at), &dy, &kernel)?;
            float!("linear", "dx", dx.dtype(), T => {
                let (dy, w) = (dy.0.get::<T>("linear", "dy")?, w.on_cpu(|packed| packed.backward)?);
                cpu::backward_input(dx.get::<T>("linear", "dx")?, (dy, rows), w, write);
                Ok(())
            })
        }
        Device::Cuda(_) => matmul::backward_input(dev, (dx, at), dy, kernel, write),
    }
}

/// dx = (dy Wᵀ) ∘ gelu'(pre): the gradient in front of the activation that the layer read.
/// dy: (M, N) or (B, T, N); dx, pre: (M, K) or (B, T, K).
pub fn backward_input_gelu(
    dev: &Device,
    dx: ViewMut,
    dy: View,
    w: &LinearWeights,
    pre: View,
    form: gelu::GeluForm,
) -> Result<()> {
    expect_shape("linear", "pre", pre.shape(), dx.shape())?;
    let at = matrix(pre);
    let (rows, dy, kernel) = (rows_of_image(dy), (dy, matrix(dy)), (w.kernel, w.layout()));
    matmul::check_backward_input(&(dx.as_view(), at), &dy, &kernel)?;
    let _op = range(c"linear, backward");
    match dev {
        Device::Cpu if let Some(packed) = w.packed_in_bf16() => {
            operand!("dx", dx.dtype(), S => operand!("dy", dy.0.dtype(), X => {
                let (dx, dy) = (dx.get::<S>("linear", "dx")?, dy.0.get::<X>("linear", "dy")?);
                let (w, pre) = (w.bf16_backward(packed)?, pre.get::<S>("linear", "pre")?);
                product(dx, dy, &w, Arithmetic::of_process()?, Ending::TimesSlope { pre, form });
                Ok(())
            }))
        }
        Device::Cpu => float!("linear", "dx", dx.dtype(), T => {
            let (dy, w) = (dy.0.get::<T>("linear", "dy")?, w.on_cpu(|packed| packed.backward)?);
            let pre = pre.get::<T>("linear", "pre")?;
            cpu::backward_input_gelu(dx.get::<T>("linear", "dx")?, (dy, rows), w, pre, form);
            Ok(())
        }),
        Device::Cuda(gpu) => {
            matmul::cuda::backward_input(gpu, (dx, at), dy, kernel, Write::Set, Some((pre, form)))
        }
    }
}

impl PackedForm {
    /// Elements of the sides of a [`Packed`] kernel (K, N): for forward and for backward passes. `None` where some
    /// products would not read them.
    pub fn lens(self, k: usize, n: usize) -> Option<[usize; 2]> {
        match self {
            PackedForm::Own => {
                if cpu::packed_for_strassen(k, n) {
                    return Some([strassen::packed_len(k, n); 2]);
                }
                let ours = direct::suits(k, n) && direct::suits(n, k);
                ours.then(|| [direct::packed_len(k, n); 2])
            }
            PackedForm::Bf16 => Some([(k, n), (n, k)].map(|(k, n)| matmul::bf16::packed_len(k, n))),
        }
    }

    /// The type of a packed kernel of type `dtype`.
    pub fn dtype(self, dtype: DType) -> DType {
        if self == PackedForm::Bf16 { DType::BF16 } else { dtype }
    }
}

/// Fills both sides of a [`Packed`] kernel, on the CPU; the second may be empty. kernel: (K, N).
pub fn pack(dev: &Device, form: PackedForm, forward: ViewMut, backward: ViewMut, kernel: View) -> Result<()> {
    let at = matrix(kernel);
    let lens = form.lens(at.rows, at.cols).unwrap_or_default();
    expect_shape("linear", "forward", forward.shape(), [lens[0]])?;
    if !backward.shape().is_empty() {
        expect_shape("linear", "backward", backward.shape(), [lens[1]])?;
    }
    let _op = range(c"linear");
    match (dev, form) {
        (Device::Cpu, PackedForm::Bf16) => {
            let (forward, backward) =
                (forward.get("linear", "forward")?, backward.get("linear", "backward")?);
            cpu::bf16_pack(forward, backward, kernel.get::<f32>("linear", "kernel")?, at);
            Ok(())
        }
        (Device::Cpu, PackedForm::Own) => float!("linear", "kernel", kernel.dtype(), T => {
            let (forward, backward) = (forward.get::<T>("linear", "forward")?, backward.get::<T>("linear", "backward")?);
            cpu::pack(forward, backward, kernel.get::<T>("linear", "kernel")?, at);
            Ok(())
        }),
        (Device::Cuda(_), _) => Err(Error::failed("linear: kernels are packed for the CPU only")),
    }
}

/// dW += xᵀ dy and db += Σ_rows dy, in the columns used. dkernel: (K, N), dbias: (N); axes of x and dy as
/// for [`forward`].
pub fn backward_params_acc(
    dev: &Device,
    dkernel: Option<ViewMut>,
    dbias: Option<ViewMut>,
    x: View,
    dy: View,
    columns: Range<usize>,
) -> Result<()> {
    let (x_at, dy_at) = (matrix(x), matrix(dy));
    if let Some(dkernel) = dkernel {
        let k = x_at.cols;
        let n = dkernel.len() / k.max(1);
        let at = Layout::dense(k, n).columns(columns.start, columns.len());
        matmul::backward_weight_acc(dev, (dkernel, at), (x, x_at), (dy, dy_at))?;
    }
    if let Some(dbias) = dbias {
        let dy = dy.reshaped([dy_at.rows, dy_at.cols]);
        crate::ops::sum::columns_acc(dev, dbias.part(columns.start, [columns.len()]), dy)?;
    }
    Ok(())
}
