//! Parameters by name in two flat buffers: what learns and what is frozen. One clip, one optimizer
//! launch and one all-reduce then serve every method.

use crate::device::Device;
use crate::error::{Error, Result};
use crate::ops::axpy::{axpy, cast};
use crate::ops::linear::{self, PackedForm};
use crate::tensor::plan::Plan;
use crate::tensor::{DType, Shape, Tensor, View, ViewMut};
use std::ops::Range;

/// A parameter's place in [`Params`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParamId(usize);

/// One parameter.
#[derive(Debug, Clone)]
pub struct Spec {
    pub name: String,
    pub shape: Shape,
    pub trainable: bool,
    /// Takes part in weight decay: more than one axis in the official layout.
    pub decays: bool,
    /// First element within its buffer.
    pub offset: usize,
}

/// The list of parameters while a model is being put together.
#[derive(Debug, Default)]
pub struct Declare {
    specs: Vec<Spec>,
    freeze_part: Vec<String>,
}

impl Declare {
    /// A parameter is frozen when its official path contains one of these words
    /// (google-research/l2p `train_continual.py:89-103`).
    pub fn new(freeze_part: &[String]) -> Declare {
        Declare { specs: Vec::new(), freeze_part: freeze_part.to_vec() }
    }

    pub fn add(&mut self, name: impl Into<String>, shape: impl Into<Shape>) -> ParamId {
        let (name, shape) = (name.into(), shape.into());
        let path = official_path(&name);
        let trainable = !self.freeze_part.iter().any(|part| path.contains(part.as_str()));
        // The official q, k and v biases are [heads, width]; here they are one row.
        let decays = shape.dims().len() > 1 || name.ends_with("qkv/bias");
        self.specs.push(Spec { name, shape, trainable, decays, offset: 0 });
        ParamId(self.specs.len() - 1)
    }

    /// Weight decay is for this parameter, too, which has one axis.
    pub fn decay(&mut self, id: ParamId) {
        self.specs[id.0].decays = true;
    }

    /// This parameter never learns, whatever `freeze_part` says.
    pub fn freeze(&mut self, id: ParamId) {
        self.specs[id.0].trainable = false;
    }

    /// `dtype`: the type of activations.
    pub fn finish(mut self, plan: &mut Plan, dtype: DType) -> Params {
        let mut lens = [0, 0];
        for spec in &mut self.specs {
            let len = &mut lens[usize::from(spec.trainable)];
            spec.offset = *len;
            *len += spec.shape.len();
        }
        plan.group("parameters");
        let wide = dtype.accum_dtype();
        let frozen = plan.tensor("frozen parameters", [lens[0]], wide);
        let trainable = plan.tensor("trainable parameters", [lens[1]], wide);
        let narrow = (wide != dtype).then(|| Narrow {
            frozen: plan.tensor("frozen parameters, 16 bits", [lens[0]], dtype),
            trainable: plan.tensor("trainable parameters, 16 bits", [lens[1]], dtype),
            stale: [true, true],
        });
        Params {
            specs: self.specs,
            frozen,
            trainable,
            narrow,
            packed: None,
            frozen_rows: Vec::new(),
            frozen_columns: Vec::new(),
        }
    }
}

/// The name a parameter has in the official code, in its pre-linen numbering.
pub fn official_path(name: &str) -> String {
    if let Some(rest) = name.strip_prefix("block_")
        && let Some((layer, rest)) = rest.split_once('/')
        && let Some((module, leaf)) = rest.split_once('/')
    {
        let module = match module {
            "ln1" => "LayerNorm_0",
            "qkv" => "MultiHeadDotProductAttention_1/qkv",
            "proj" => "MultiHeadDotProductAttention_1/out",
            "ln2" => "LayerNorm_2",
            "fc1" => "MlpBlock_3/Dense_0",
            "fc2" => "MlpBlock_3/Dense_1",
            other => other,
        };
        return format!("Transformer/encoderblock_{layer}/{module}/{leaf}");
    }
    match name {
        "pos_embedding" => "Transformer/posembed_input/pos_embedding".into(),
        "norm/scale" => "Transformer/encoder_norm/scale".into(),
        "norm/bias" => "Transformer/encoder_norm/bias".into(),
        other => other.into(),
    }
}

/// Whether a parameter belongs to the backbone, not to head or prompts.
pub fn is_backbone(name: &str) -> bool {
    let learned = ["head/", "prompt_pool/", "coda/", "s_prompts/", "adapter/"]
        .iter()
        .any(|part| name.starts_with(part));
    !(learned || name == "prefix")
}

/// All parameters of a model, and copies in 16 bits where activations have 16 bits: products read their
/// matrices there.
#[derive(Debug, Clone)]
pub struct Params {
    pub specs: Vec<Spec>,
    pub frozen: Tensor,
    pub trainable: Tensor,
    narrow: Option<Narrow>,
    packed: Option<PackedKernels>,
    /// Rows, along the first axis, of parameters that learn but for these; ascending and apart.
    frozen_rows: Vec<(ParamId, Vec<Range<usize>>)>,
    /// The same for columns, along the last axis, of parameters without such rows.
    frozen_columns: Vec<(ParamId, Vec<Range<usize>>)>,
}

/// Kernels as products on the CPU read them.
#[derive(Debug, Clone)]
struct PackedKernels {
    form: PackedForm,
    /// Which, and where they lie in the tensors for forward and for backward passes.
    places: Vec<(ParamId, [Range<usize>; 2])>,
    sides: [Tensor; 2],
    /// Frozen, trainable: changed since they were packed.
    stale: [bool; 2],
}

#[derive(Debug, Clone)]
struct Narrow {
    frozen: Tensor,
    trainable: Tensor,
    /// Frozen, trainable: changed since they were copied.
    stale: [bool; 2],
}

impl Params {
    pub fn get(&self, id: ParamId) -> View<'_> {
        let spec = &self.specs[id.0];
        let flat = if spec.trainable { &self.trainable } else { &self.frozen };
        flat.view().part(spec.offset, spec.shape)
    }

    pub fn get_mut(&mut self, id: ParamId) -> ViewMut<'_> {
        let spec = &self.specs[id.0];
        if let Some(narrow) = &mut self.narrow {
            narrow.stale[usize::from(spec.trainable)] = true;
        }
        if let Some(packed) = &mut self.packed {
            packed.stale[usize::from(spec.trainable)] = true;
        }
        let flat = if spec.trainable { &mut self.trainable } else { &mut self.frozen };
        flat.view_mut().part(spec.offset, spec.shape)
    }

    /// A parameter for products with activations of type `dtype`.
    pub fn get_as(&self, id: ParamId, dtype: DType) -> View<'_> {
        let spec = &self.specs[id.0];
        match &self.narrow {
            Some(narrow) if dtype != self.dtype() => {
                let flat = if spec.trainable { &narrow.trainable } else { &narrow.frozen };
                flat.view().part(spec.offset, spec.shape)
            }
            _ => self.get(id),
        }
    }

    /// All that learns, to change it.
    pub fn trainable_mut(&mut self) -> &mut Tensor {
        if let Some(narrow) = &mut self.narrow {
            narrow.stale[1] = true;
        }
        if let Some(packed) = &mut self.packed {
            packed.stale[1] = true;
        }
        &mut self.trainable
    }

    /// From now on the rows `rows` of a parameter that learns, along its first axis, have no gradient, do not decay
    /// and keep their bits, until this is called again; the other rows learn. Without rows all of it learns.
    ///
    /// # Errors
    /// `Error::Failed` for a parameter that does not learn, and for rows that it has not or that overlap.
    pub fn freeze_rows(&mut self, id: ParamId, rows: &[Range<usize>]) -> Result<()> {
        let all = self.specs[id.0].shape.dims().first().copied().unwrap_or(1);
        self.check_frozen(id, "rows", rows, all)?;
        self.frozen_rows.retain(|(other, _)| *other != id);
        if !rows.is_empty() {
            self.frozen_rows.push((id, rows.to_vec()));
        }
        Ok(())
    }

    /// [`Params::freeze_rows`] for columns, along the last axis, of a parameter without frozen rows. They are not saved:
    /// whoever freezes them does it again after a resume.
    ///
    /// # Errors
    /// As there.
    pub fn freeze_columns(&mut self, id: ParamId, columns: &[Range<usize>]) -> Result<()> {
        let all = self.specs[id.0].shape.dims().last().copied().unwrap_or(1);
        self.check_frozen(id, "columns", columns, all)?;
        self.frozen_columns.retain(|(other, _)| *other != id);
        if !columns.is_empty() {
            self.frozen_columns.push((id, columns.to_vec()));
        }
        Ok(())
    }

    fn check_frozen(&self, id: ParamId, what: &str, parts: &[Range<usize>], all: usize) -> Result<()> {
        let spec = &self.specs[id.0];
        let ends = parts.iter().flat_map(|r| [r.start, r.end]);
        let ascending = parts.iter().all(|r| r.start < r.end) && ends.clone().is_sorted();
        if spec.trainable && ascending && ends.max().is_none_or(|end| end <= all) {
            return Ok(());
        }
        let wanted = match spec.trainable {
            true => format!("ascending {what} that do not overlap"),
            false => "none: it is frozen".into(),
        };
        Err(Error::failed(format!(
            "frozen {what} of {}: wanted {wanted}, of the {all} there are; found {parts:?}",
            spec.name
        )))
    }

    /// What [`Params::freeze_rows`] said last of a parameter.
    pub fn frozen_rows(&self, id: ParamId) -> &[Range<usize>] {
        self.frozen_rows.iter().find(|(other, _)| *other == id).map_or(&[], |(_, rows)| rows)
    }

    /// Where frozen rows and columns lie in `trainable`, ascending.
    fn frozen_ranges(&self) -> Vec<Range<usize>> {
        let rows = self.frozen_rows.iter().flat_map(|(id, rows)| {
            let spec = &self.specs[id.0];
            let width: usize = spec.shape.dims().iter().skip(1).product();
            rows.iter().map(move |r| spec.offset + r.start * width..spec.offset + r.end * width)
        });
        let columns = self.frozen_columns.iter().flat_map(|(id, columns)| {
            let spec = &self.specs[id.0];
            let width = spec.shape.dims().last().copied().unwrap_or(1).max(1);
            let starts = (spec.offset..spec.offset + spec.shape.len()).step_by(width);
            starts.flat_map(move |start| columns.iter().map(move |c| start + c.start..start + c.end))
        });
        let mut ranges: Vec<Range<usize>> = rows.chain(columns).collect();
        ranges.sort_by_key(|r| r.start);
        // The end of one parameter and the beginning of the next are one range.
        ranges.dedup_by(|next, range| {
            let touches = next.start == range.end;
            if touches {
                range.end = next.end;
            }
            touches
        });
        ranges
    }

    /// The parts of `trainable` that are not frozen rows, ascending: all of it in one piece if there are none.
    pub fn learning(&self) -> Vec<Range<usize>> {
        let frozen = self.frozen_ranges();
        let starts = std::iter::once(0).chain(frozen.iter().map(|r| r.end));
        let ends = frozen.iter().map(|r| r.start).chain([self.trainable.len()]);
        starts.zip(ends).map(|(start, end)| start..end).filter(|r| !r.is_empty()).collect()
    }

    /// Makes room for `kernels` as products read them. In their own type: those that are frozen, for seven quarters of their
    /// memory for either pass where products take seven multiplications for eight, else once their memory. In bf16: all of them,
    /// for half of it. They are packed by [`Params::refresh`].
    pub fn keep_packed(
        &mut self,
        plan: &mut Plan,
        kernels: impl Iterator<Item = ParamId>,
        form: PackedForm,
        backward: bool,
    ) {
        let (mut places, mut lens) = (Vec::new(), [0, 0]);
        for id in kernels {
            let spec = &self.specs[id.0];
            let wanted = form == PackedForm::Bf16 || !spec.trainable;
            if let [k, n] = *spec.shape.dims()
                && let Some([forward, back]) = form.lens(k, n).filter(|_| wanted)
            {
                let more = [forward, if backward { back } else { 0 }];
                let place = |side: usize| lens[side]..lens[side] + more[side];
                places.push((id, [place(0), place(1)]));
                lens = [lens[0] + more[0], lens[1] + more[1]];
            }
        }
        if places.is_empty() {
            return;
        }
        plan.group("parameters");
        let (dtype, [forward, backward]) = (form.dtype(self.dtype()), lens);
        let sides = [("forward", forward), ("backward", backward)]
            .map(|(pass, len)| plan.tensor(format!("kernels, packed for {pass} passes"), [len], dtype));
        self.packed = Some(PackedKernels { form, places, sides, stale: [true; 2] });
    }

    /// Whether a CPU multiplies in bf16: the backbone's kernels are packed so.
    pub fn multiplies_in_bf16(&self) -> bool {
        self.packed.as_ref().is_some_and(|packed| packed.form == PackedForm::Bf16)
    }

    /// A kernel in packed form, where there is one and it is up to date.
    pub fn packed(&self, id: ParamId) -> Option<linear::Packed<'_>> {
        let learns = usize::from(self.specs[id.0].trainable);
        let packed = self.packed.as_ref().filter(|packed| !packed.stale[learns])?;
        let (_, at) = packed.places.iter().find(|place| place.0 == id)?;
        let side = |side: usize| packed.sides[side].view().part(at[side].start, [at[side].len()]);
        Some(linear::Packed { form: packed.form, forward: side(0), backward: side(1) })
    }

    /// Brings the copies of parameters up to date: in 16 bits, and packed.
    pub fn refresh(&mut self, dev: &Device) -> Result<()> {
        if let Some(packed) = self.packed.as_mut().filter(|packed| packed.stale.contains(&true)) {
            for (id, at) in &packed.places {
                let spec = &self.specs[id.0];
                if !packed.stale[usize::from(spec.trainable)] {
                    continue;
                }
                let flat = if spec.trainable { &self.trainable } else { &self.frozen };
                let kernel = flat.view().part(spec.offset, spec.shape);
                let [forward, backward] = &mut packed.sides;
                let forward = forward.view_mut().part(at[0].start, [at[0].len()]);
                let backward = backward.view_mut().part(at[1].start, [at[1].len()]);
                linear::pack(dev, packed.form, forward, backward, kernel)?;
            }
            packed.stale = [false; 2];
        }
        let Some(Narrow { frozen, trainable, stale }) = &mut self.narrow else { return Ok(()) };
        let [stale_frozen, stale_trainable] = std::mem::take(stale);
        if stale_frozen {
            cast(dev, frozen.view_mut(), self.frozen.view())?;
        }
        if stale_trainable {
            cast(dev, trainable.view_mut(), self.trainable.view())?;
        }
        Ok(())
    }

    pub fn spec(&self, id: ParamId) -> &Spec {
        &self.specs[id.0]
    }

    pub fn ids(&self) -> impl Iterator<Item = ParamId> + use<> {
        (0..self.specs.len()).map(ParamId)
    }

    pub fn find(&self, name: &str) -> Option<ParamId> {
        self.specs.iter().position(|s| s.name == name).map(ParamId)
    }

    pub fn dtype(&self) -> DType {
        self.trainable.dtype()
    }

    /// Overwrites a parameter with values of any float type.
    ///
    /// # Errors
    /// `Error::Failed` if the number of values is another.
    pub fn set(&mut self, id: ParamId, values: &[f64]) -> Result<()> {
        let name = self.spec(id).name.clone();
        let dtype = self.dtype();
        let mut target = self.get_mut(id);
        if values.len() != target.len() {
            let wanted = format!("{:?} = {} values", target.shape(), target.len());
            return Err(Error::failed(format!("{name}: wanted {wanted}, found {}", values.len())));
        }
        target.copy_from(Tensor::from_f64(values, [values.len()], dtype).view())
    }

    /// Overwrites a parameter with what `next` returns, element by element.
    ///
    /// # Errors
    /// `Error::Failed` if the device fails.
    pub fn draw(&mut self, id: ParamId, mut next: impl FnMut() -> f64) -> Result<()> {
        let values: Vec<f64> = (0..self.spec(id).shape.len()).map(|_| next()).collect();
        self.set(id, &values)
    }

    /// [`Params::set`] for f32 values, without a detour through f64.
    pub fn set_f32(&mut self, id: ParamId, values: &[f32]) -> Result<()> {
        if self.dtype() == DType::F32 && self.spec(id).shape.len() == values.len() {
            return self.get_mut(id).write(values);
        }
        self.set(id, &values.iter().map(|&v| f64::from(v)).collect::<Vec<_>>())
    }
}

/// Gradients of what learns and, for clip scope `all`, of what is frozen.
#[derive(Debug)]
pub struct Grads {
    pub trainable: Tensor,
    pub frozen: Option<Tensor>,
    /// Scratch for the two gradients of a norm: (C) each.
    pub norm: [Tensor; 2],
}

impl Grads {
    pub fn new(plan: &mut Plan, params: &Params, with_frozen: bool) -> Grads {
        plan.group("gradients");
        let dtype = params.dtype();
        let trainable = plan.tensor("trainable gradients", params.trainable.shape(), dtype);
        let frozen = with_frozen.then(|| plan.tensor("frozen gradients", params.frozen.shape(), dtype));
        let scales = params.specs.iter().filter(|s| s.name.ends_with("/scale"));
        let width = scales.map(|s| s.shape.len()).max().unwrap_or(0);
        let norm = ["dscale", "dbias"].map(|name| plan.tensor(name, [width], dtype));
        Grads { trainable, frozen, norm }
    }

    /// No memory at all, for a network that only answers.
    pub fn none(plan: &mut Plan, params: &Params) -> Grads {
        let mut empty = || plan.tensor("no gradients", [0], params.dtype());
        Grads { trainable: empty(), frozen: None, norm: [empty(), empty()] }
    }

    pub fn zero(&mut self) {
        self.trainable.fill(0.0);
        if let Some(frozen) = &mut self.frozen {
            frozen.fill(0.0);
        }
    }

    /// Makes the gradients of frozen rows and columns zero.
    pub fn clear_frozen_rows(&mut self, params: &Params) {
        for rows in params.frozen_ranges() {
            self.trainable.view_mut().part(rows.start, [rows.len()]).fill(0.0);
        }
    }

    /// Adds what was summed in `norm` to the gradients of scale and bias, where they are wanted.
    pub fn add_norm(&mut self, dev: &Device, params: &Params, ids: [ParamId; 2]) -> Result<()> {
        for (id, sum) in ids.into_iter().zip(&self.norm) {
            let spec = params.spec(id);
            let flat = if spec.trainable { Some(&mut self.trainable) } else { self.frozen.as_mut() };
            if let Some(flat) = flat {
                axpy(dev, flat.view_mut().part(spec.offset, spec.shape), sum.view(), 1.0)?;
            }
        }
        Ok(())
    }

    /// Whether this parameter's gradient is computed.
    pub fn wants(&self, params: &Params, id: ParamId) -> bool {
        params.spec(id).trainable || self.frozen.is_some()
    }

    pub fn get(&self, params: &Params, id: ParamId) -> Option<View<'_>> {
        let spec = params.spec(id);
        let flat = if spec.trainable { &self.trainable } else { self.frozen.as_ref()? };
        Some(flat.view().part(spec.offset, spec.shape))
    }

    pub fn get_mut(&mut self, params: &Params, id: ParamId) -> Option<ViewMut<'_>> {
        let spec = params.spec(id);
        let flat = if spec.trainable { &mut self.trainable } else { self.frozen.as_mut()? };
        Some(flat.view_mut().part(spec.offset, spec.shape))
    }
}
