//! What a case is made of: arguments, outputs, the op and the plain formula beside it.

use super::data::{ArgType, CaseArg, Data, Fill, On, Scope, fill};
use super::guarded::{Guarded, Slot};
use crate::device::Device;
use crate::error::Result;
use crate::ops::matmul::Write;
use crate::tensor::{DType, Shape, Tensor, View, ViewMut};

/// What an output is to the loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The loss depends on it.
    Result,
    /// Kept for backward.
    Kept,
    /// u32.
    Ids,
}

/// An output of the forward pass.
#[derive(Debug, Clone)]
pub struct Out {
    pub name: &'static str,
    pub shape: Shape,
    pub part: Scope,
    pub role: Role,
    pub write: Write,
    pub keep: ArgType,
}

/// Gradient of one input.
#[derive(Debug, Clone, Copy)]
pub struct Grad {
    pub input: usize,
    pub write: Write,
}

/// Bytes moved in f32, or floating-point operations, of one pass; the other is 0.
#[derive(Debug, Clone, Copy, Default)]
pub struct PassCost {
    pub bytes: usize,
    pub flops: usize,
}

type ForwardFn = Box<dyn Fn(&Device, &[View], Vec<ViewMut>) -> Result<()> + Send + Sync>;
type BackwardFn = Box<dyn Fn(&Device, &[View], &[View], &[View], Vec<ViewMut>) -> Result<()> + Send + Sync>;
/// From inputs and upstream gradients to outputs and gradients, on plain vectors.
type Naive<T> = Box<dyn Fn(&[Vec<T>], &[Vec<T>]) -> (Vec<Vec<T>>, Vec<Vec<T>>) + Send + Sync>;

/// A plain implementation in both precisions.
pub struct Plain {
    pub f32: Naive<f32>,
    pub f64: Naive<f64>,
}

/// The same text in both precisions.
macro_rules! plain {
    (|$x:ident, $up:ident| $body:expr) => {
        $crate::testing::cases::Plain {
            f32: Box::new(move |$x: &[Vec<f32>], $up: &[Vec<f32>]| $body),
            f64: Box::new(move |$x: &[Vec<f64>], $up: &[Vec<f64>]| $body),
        }
    };
}
pub(crate) use plain;

/// One op at one shape.
pub struct Case {
    pub op: &'static str,
    /// Shape and variant.
    pub label: String,
    /// Images or rows that do not depend on each other; 0: everything depends on everything.
    pub batch: usize,
    pub inputs: Vec<CaseArg>,
    pub outputs: Vec<Out>,
    pub grads: Vec<Grad>,
    /// Arguments: inputs, outputs.
    pub forward: ForwardFn,
    /// Arguments: inputs, outputs, upstream gradients of the outputs with [`Role::Result`], gradients.
    pub backward: Option<BackwardFn>,
    pub plain: Option<Plain>,
    pub forward_work: PassCost,
    pub backward_work: PassCost,
    /// Whether the op has a kernel.
    pub has_kernel: bool,
    /// Only sums of products: on whole numbers ([`Case::whole_numbers`]) exact in any order.
    pub is_exact: bool,
    /// A pass reads or writes host memory, so that it cannot be recorded as a graph.
    pub waits_for_host: bool,
    /// The same case with another number of images.
    pub with_batch: Option<Box<dyn Fn(usize) -> Case + Send + Sync>>,
}

impl Case {
    pub(super) fn new(op: &'static str, label: impl Into<String>, batch: usize) -> Case {
        Case {
            op,
            label: label.into(),
            batch,
            inputs: Vec::new(),
            outputs: Vec::new(),
            grads: Vec::new(),
            forward: Box::new(|_, _, _| Ok(())),
            backward: None,
            plain: None,
            forward_work: PassCost::default(),
            backward_work: PassCost::default(),
            has_kernel: true,
            is_exact: false,
            waits_for_host: false,
            with_batch: None,
        }
    }

    pub(super) fn input(
        mut self,
        name: &'static str,
        shape: impl Into<Shape>,
        fill: Fill,
        part: Scope,
    ) -> Case {
        self.inputs.push(CaseArg { name, shape: shape.into(), fill, part, keep: ArgType::Activation });
        self
    }

    pub(super) fn output(
        mut self,
        name: &'static str,
        shape: impl Into<Shape>,
        part: Scope,
        role: Role,
    ) -> Case {
        let (shape, keep) = (shape.into(), ArgType::Activation);
        self.outputs.push(Out { name, shape, part, role, write: Write::Set, keep });
        self
    }

    /// The op has no kernel yet, as in a trial (`docs/adding.md`).
    pub fn on_cpu_only(mut self) -> Case {
        self.has_kernel = false;
        self
    }

    /// See [`Case::is_exact`].
    pub(super) fn exact(mut self) -> Case {
        self.is_exact = true;
        self
    }

    /// See [`Case::waits_for_host`].
    pub(super) fn waiting(mut self) -> Case {
        self.waits_for_host = true;
        self
    }

    /// These arguments are f32 in any case.
    pub(super) fn wide(self, names: &[&str]) -> Case {
        self.keep(names, ArgType::Wide)
    }

    /// All arguments are f32 in any case: the op has one form.
    pub(super) fn all_wide(mut self) -> Case {
        self.inputs.iter_mut().for_each(|a| a.keep = ArgType::Wide);
        self.outputs.iter_mut().for_each(|o| o.keep = ArgType::Wide);
        self
    }

    /// These arguments are sums or settings.
    pub(super) fn numbers(self, names: &[&str]) -> Case {
        self.keep(names, ArgType::Number)
    }

    pub(super) fn keep(mut self, names: &[&str], keep: ArgType) -> Case {
        for &name in names {
            let inputs = self.inputs.iter_mut().filter(|a| a.name == name).map(|a| &mut a.keep);
            let outputs = self.outputs.iter_mut().filter(|o| o.name == name).map(|o| &mut o.keep);
            let found = inputs.chain(outputs).map(|k| *k = keep).count();
            assert!(found > 0, "no argument `{name}`");
        }
        self
    }

    /// Whether any argument has 16 bits when activations do.
    pub fn has_narrow_form(&self) -> bool {
        let inputs = self.inputs.iter().filter(|a| {
            let whole = matches!(a.fill, Fill::Ids(_) | Fill::DistinctIds(..) | Fill::Bytes);
            !whole && !matches!(a.fill, Fill::TwoOfThree | Fill::MaskRows(_))
        });
        let outputs = self.outputs.iter().filter(|o| o.role != Role::Ids);
        inputs
            .map(|a| a.keep)
            .chain(outputs.map(|o| o.keep))
            .any(|k| matches!(k, ArgType::Activation | ArgType::Weight))
    }

    /// The last output is added to, not overwritten.
    pub(super) fn adding(mut self) -> Case {
        self.outputs.last_mut().expect("an output").write = Write::Add;
        self
    }

    pub(super) fn forward(
        mut self,
        f: impl Fn(&Device, &[View], Vec<ViewMut>) -> Result<()> + Send + Sync + 'static,
    ) -> Case {
        self.forward = Box::new(f);
        self
    }

    /// `grads`: names of inputs and how their gradients are written, in the order `f` gets them.
    pub(super) fn backward(
        mut self,
        grads: &[(&str, Write)],
        f: impl Fn(&Device, &[View], &[View], &[View], Vec<ViewMut>) -> Result<()> + Send + Sync + 'static,
    ) -> Case {
        for &(name, write) in grads {
            let input = self.inputs.iter().position(|a| a.name == name).expect("an input of this name");
            self.grads.push(Grad { input, write });
        }
        self.backward = Some(Box::new(f));
        self
    }

    pub(super) fn plain(mut self, plain: Plain) -> Case {
        self.plain = Some(plain);
        self
    }

    /// Floating-point operations of an op that is bound by them.
    pub(super) fn flops(mut self, forward: usize, backward: usize) -> Case {
        (self.forward_work.flops, self.backward_work.flops) = (forward, backward);
        self
    }

    /// Values read and written, each pass over memory counted, of an op that is bound by that.
    pub(super) fn moves(mut self, forward: usize, backward: usize) -> Case {
        (self.forward_work.bytes, self.backward_work.bytes) = (4 * forward, 4 * backward);
        self
    }

    pub(super) fn batched(mut self, f: impl Fn(usize) -> Case + Send + Sync + 'static) -> Case {
        self.with_batch = Some(Box::new(f));
        self
    }

    /// The outputs that an upstream gradient exists for.
    pub fn results(&self) -> impl Iterator<Item = &Out> {
        self.outputs.iter().filter(|o| o.role == Role::Result)
    }

    /// Random inputs and upstream gradients. All are f32 numbers (or 16-bit ones), so that wider
    /// precisions start from the same.
    pub fn data(&self, seed: u64, dtype: DType) -> Data {
        let inputs = self.inputs.iter().enumerate();
        let inputs = inputs.map(|(i, arg)| fill(arg, seed, i as u64, dtype)).collect();
        let upstream = self.results().enumerate().map(|(i, out)| {
            let arg = CaseArg {
                name: out.name,
                shape: out.shape,
                fill: Fill::Values,
                part: out.part,
                keep: out.keep,
            };
            fill(&arg, seed, 100 + i as u64, dtype)
        });
        Data { inputs, upstream: upstream.collect(), dtype }
    }

    /// [`Case::data`] rounded to whole numbers from -2 to 2, which all types hold.
    pub fn whole_numbers(&self, seed: u64, dtype: DType) -> Data {
        let mut data = self.data(seed, dtype);
        for tensor in data.inputs.iter_mut().chain(&mut data.upstream) {
            if !matches!(tensor.dtype(), DType::U32 | DType::U8) {
                let whole: Vec<f64> = tensor.to_f64().iter().map(|v| v.round().clamp(-2.0, 2.0)).collect();
                *tensor = Tensor::from_f64(&whole, tensor.shape(), tensor.dtype());
            }
        }
        data
    }

    /// The outputs, each computed inside a larger buffer: what is overwritten starts as NaN, what is
    /// added to as `start` (or zero), and the surroundings must come out untouched.
    ///
    /// # Errors
    /// Those of the op, and `Error::Failed` where it wrote beside an output.
    pub fn run_forward(&self, on: &On, data: &Data, start: Option<&[Tensor]>) -> Result<Vec<Tensor>> {
        let mut outputs = self.outputs_on(on, data, start)?;
        self.forward_into(on, data, &mut outputs)?;
        outputs.tensors(on)
    }

    /// The gradients, in the same way.
    ///
    /// # Errors
    /// As [`Case::run_forward`].
    pub fn run_backward(
        &self,
        on: &On,
        data: &Data,
        outputs: &[Tensor],
        start: Option<&[Tensor]>,
    ) -> Result<Vec<Tensor>> {
        let mut grads = self.gradients_on(on, data, start)?;
        self.backward_into(on, data, outputs, &mut grads)?;
        grads.tensors(on)
    }

    /// Room for the outputs.
    pub fn outputs_on(&self, on: &On, data: &Data, start: Option<&[Tensor]>) -> Result<Guarded> {
        Guarded::new(format!("{} {}", self.op, self.label), on, self.output_slots(on, data), start)
    }

    /// Room for the gradients; none where there is no backward pass.
    pub fn gradients_on(&self, on: &On, data: &Data, start: Option<&[Tensor]>) -> Result<Guarded> {
        let slots = if self.backward.is_some() { self.gradient_slots(data) } else { Vec::new() };
        Guarded::new(format!("{} {}", self.op, self.label), on, slots, start)
    }

    /// Queues the forward pass.
    pub fn forward_into(&self, on: &On, data: &Data, outputs: &mut Guarded) -> Result<()> {
        let inputs: Vec<View> = data.inputs.iter().map(Tensor::view).collect();
        (self.forward)(&on.dev, &inputs, outputs.views())
    }

    /// Queues the backward pass, if there is one.
    pub fn backward_into(&self, on: &On, data: &Data, outputs: &[Tensor], grads: &mut Guarded) -> Result<()> {
        let Some(backward) = &self.backward else { return Ok(()) };
        let inputs: Vec<View> = data.inputs.iter().map(Tensor::view).collect();
        let outputs: Vec<View> = outputs.iter().map(Tensor::view).collect();
        let upstream: Vec<View> = data.upstream.iter().map(Tensor::view).collect();
        backward(&on.dev, &inputs, &outputs, &upstream, grads.views())
    }

    /// What outputs and gradients may be added to: numbers that all types hold, in host memory.
    pub fn starts(&self, on: &On, data: &Data) -> [Vec<Tensor>; 2] {
        let start = |slot: Slot| {
            let values = (0..slot.shape.len()).map(|i| ((i * 7 + 3) % 17) as f64 / 16.0);
            Tensor::from_f64(&values.collect::<Vec<f64>>(), slot.shape, slot.dtype)
        };
        [self.output_slots(on, data), self.gradient_slots(data)]
            .map(|slots| slots.into_iter().map(start).collect())
    }

    fn output_slots(&self, on: &On, data: &Data) -> Vec<Slot> {
        let slot = |o: &Out| {
            let dtype = if o.role == Role::Ids { DType::U32 } else { on.dtype(o.keep.value(data.dtype)) };
            Slot { name: o.name, shape: o.shape, dtype, write: o.write }
        };
        self.outputs.iter().map(slot).collect()
    }

    fn gradient_slots(&self, data: &Data) -> Vec<Slot> {
        let slot = |g: &Grad| {
            let arg = &self.inputs[g.input];
            let dtype = arg.keep.gradient(data.dtype);
            Slot { name: arg.name, shape: arg.shape, dtype, write: g.write }
        };
        self.grads.iter().map(slot).collect()
    }

    /// All outputs, then all gradients, as numbers.
    pub fn everything(&self, on: &On, data: &Data) -> Result<Vec<Vec<f64>>> {
        let outputs = self.run_forward(on, data, None)?;
        let grads = self.run_backward(on, data, &outputs, None)?;
        outputs.iter().chain(&grads).map(|t| t.view().read_f64()).collect()
    }

    /// Names of all that `everything` gives, in its order.
    pub fn names(&self) -> Vec<String> {
        let outputs = self.outputs.iter().map(|o| o.name.to_string());
        outputs.chain(self.grads.iter().map(|g| format!("d{}", self.inputs[g.input].name))).collect()
    }
}

/// y = x, of the same length and type.
pub(super) fn assign(mut y: ViewMut, x: View) {
    y.copy_from(x).expect("a tensor of the same kind");
}

/// Copies of the outputs handed to a closure, by number.
pub(super) fn take<const N: usize>(views: Vec<ViewMut>) -> [ViewMut; N] {
    views.try_into().unwrap_or_else(|v: Vec<ViewMut>| panic!("{N} arguments, got {}", v.len()))
}
