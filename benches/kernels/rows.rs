//! What is timed: the launches of a training step with their shapes, how often a step makes each, and how
//! long each should take.

use super::forecast::{self, Chip};
use l2p_engine::Result;
use l2p_engine::config::schema::{Augment, Data};
use l2p_engine::data::{Normalize, Preprocess};
use l2p_engine::device::{Device, ElementType};
use l2p_engine::ops::attention::{self, GradientTarget, Gradients, Qkv, Wanted};
use l2p_engine::ops::gelu;
use l2p_engine::ops::linear::{self, Epilogue, LinearWeights};
use l2p_engine::ops::match_prompts::{self, Select};
use l2p_engine::ops::matmul::{self, Layout, Write};
use l2p_engine::ops::optimizer::{self, Adam};
use l2p_engine::ops::pool_tokens::{self, Pooling};
use l2p_engine::ops::preprocess::ImageTransform;
use l2p_engine::ops::{
    axpy, component_weights, cross_entropy, gather, layer_norm, patches, preprocess, row_norm, sum, tokens,
};
use l2p_engine::tensor::{DType, Shape, View, ViewMut};
use std::ops::Range;

/// The network and the batch that shapes come from.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub batch: usize,
    pub side: usize,
    pub patch: usize,
    pub c: usize,
    pub heads: usize,
    pub mlp: usize,
    pub layers: usize,
    pub classes: usize,
    pub pool: usize,
    pub length: usize,
    pub top_k: usize,
}

impl Size {
    /// ViT-B/16 at 224 with 4 of 10 prompts of 10 tokens.
    pub const VIT_B: Size = Size {
        batch: 128,
        side: 224,
        patch: 16,
        c: 768,
        heads: 12,
        mlp: 3072,
        layers: 12,
        classes: 100,
        pool: 10,
        length: 10,
        top_k: 4,
    };

    /// For an emulated device.
    pub const TINY: Size = Size {
        batch: 2,
        side: 16,
        patch: 8,
        // A head of 64 channels, which Hopper kernels take.
        c: 64,
        heads: 1,
        mlp: 64,
        layers: 3,
        classes: 10,
        pool: 5,
        length: 2,
        top_k: 2,
    };

    fn patches(&self) -> usize {
        (self.side / self.patch).pow(2)
    }
}

/// The type of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// Activations and weights: f32, bf16 or f16.
    T,
    F32,
    U32,
    U8,
}

impl Of {
    pub fn dtype(self, form: ElementType) -> DType {
        match (self, form) {
            (Of::T, ElementType::Bf16) => DType::BF16,
            (Of::T, ElementType::F16) => DType::F16,
            (Of::T, ElementType::F32) | (Of::F32, _) => DType::F32,
            (Of::U32, _) => DType::U32,
            (Of::U8, _) => DType::U8,
        }
    }
}

/// What a tensor holds before the launch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fill {
    /// Normal, of this deviation; numbers of bf16, so that all forms start from the same.
    Normal(f64),
    /// GELU of the normal numbers of deviation 1: half of them are near zero.
    Activated,
    Constant(f64),
    /// u32 below this.
    Below(u32),
    Bytes,
    /// NaN: all of it must be overwritten.
    Poison,
    /// Any bits will do, and all of it must be overwritten.
    Anything,
}

/// A tensor that a launch reads or writes.
#[derive(Debug, Clone)]
pub struct Slot {
    pub shape: Shape,
    pub of: Of,
    pub fill: Fill,
}

impl Slot {
    pub fn bytes(&self, form: ElementType) -> usize {
        self.shape.len() * self.of.dtype(form).size_bytes()
    }
}

/// A product as a rival library sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Product {
    /// Rows of activations.
    pub m: usize,
    /// Width of the layer's input.
    pub k: usize,
    /// Width of its output.
    pub n: usize,
    /// Backwards: (M, N) times the transposed weight.
    pub back: bool,
    pub ending: With,
}

/// What is done with a product before it is stored, and the input that takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum With {
    Nothing,
    Bias,
    BiasResidual,
    /// Without and with a second output that keeps the value before.
    BiasGelu,
    BiasGeluKept,
    GeluGradient,
    /// Added to what is there.
    Sum,
}

/// What bounds a launch, and so what is predicted of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    Product(Product),
    AttentionForward,
    AttentionBackward,
    /// Bytes.
    Memory,
}

type Run = Box<dyn Fn(&Device, &[View], Vec<ViewMut>) -> Result<()>>;

/// One kind of launch of a step.
pub struct Row {
    /// As the design note names it: Q query pass, P prompted pass, B backward pass.
    pub stage: &'static str,
    pub op: &'static str,
    pub shape: String,
    pub batch: usize,
    /// How often a training step launches it.
    pub times: usize,
    pub flops: usize,
    pub bound: Bound,
    pub ins: Vec<Slot>,
    pub outs: Vec<Slot>,
    pub run: Run,
    /// Bytes that are neither read nor written although they are in the tensors.
    untouched: fn(&Row, ElementType) -> usize,
    /// Outputs that are read as well.
    adds: bool,
}

impl Row {
    /// The fewest bytes that must be moved: inputs once, outputs once, twice where they are added to.
    pub fn bytes(&self, form: ElementType) -> usize {
        let sum = |slots: &[Slot]| slots.iter().map(|s| s.bytes(form)).sum::<usize>();
        let writes = if self.adds { 2 } else { 1 };
        sum(&self.ins) + writes * sum(&self.outs) - (self.untouched)(self, form)
    }

    /// Whether it has forms in 16 bits.
    pub fn is_narrow(&self) -> bool {
        self.ins.iter().chain(&self.outs).any(|s| s.of == Of::T)
    }

    /// Microseconds at a chip's own rates for large products in 16 bits and for copies.
    pub fn floor_us(&self, form: ElementType, chip: &Chip) -> f64 {
        (self.flops as f64 / chip.product).max(self.bytes(form) as f64 / chip.copy) * 1e6
    }

    /// Microseconds that the portable kernels should take; unknown for products in f32.
    pub fn predicted_us(&self, form: ElementType, chip: &Chip) -> Option<f64> {
        let rate = match self.bound {
            Bound::Memory => f64::INFINITY,
            _ if form == ElementType::F32 => return None,
            Bound::AttentionForward => chip.attention_forward_rate(),
            Bound::AttentionBackward => chip.attention_backward_rate(),
            Bound::Product(p) => chip.product_rate(p.m, if p.back { p.k } else { p.n }, p.back),
        };
        let bytes = self.bytes(form) as f64 / (chip.copy * forecast::MEMORY_SHARE);
        Some(((self.flops as f64 / rate).max(bytes) * 1e6).max(forecast::LAUNCH_US))
    }
}

fn slot(shape: impl Into<Shape>, of: Of, fill: Fill) -> Slot {
    Slot { shape: shape.into(), of, fill }
}

fn values(shape: impl Into<Shape>) -> Slot {
    slot(shape, Of::T, Fill::Normal(1.0))
}

fn small(shape: impl Into<Shape>) -> Slot {
    slot(shape, Of::T, Fill::Normal(0.03))
}

fn wide(shape: impl Into<Shape>) -> Slot {
    slot(shape, Of::F32, Fill::Normal(1.0))
}

fn out(shape: impl Into<Shape>, of: Of) -> Slot {
    slot(shape, of, Fill::Poison)
}

/// Outputs, by number.
fn take<const N: usize>(views: Vec<ViewMut>) -> [ViewMut; N] {
    views.try_into().unwrap_or_else(|v: Vec<ViewMut>| panic!("{N} outputs, got {}", v.len()))
}

impl Row {
    fn new(stage: &'static str, op: &'static str, times: usize, size: &Size) -> Row {
        Row {
            stage,
            op,
            shape: String::new(),
            batch: size.batch,
            times,
            flops: 0,
            bound: Bound::Memory,
            ins: Vec::new(),
            outs: Vec::new(),
            run: Box::new(|_, _, _| Ok(())),
            untouched: |_, _| 0,
            adds: false,
        }
    }

    fn shape(self, shape: impl ToString) -> Row {
        Row { shape: shape.to_string(), ..self }
    }

    fn reads(self, ins: impl IntoIterator<Item = Slot>) -> Row {
        Row { ins: ins.into_iter().collect(), ..self }
    }

    fn writes(self, outs: impl IntoIterator<Item = Slot>) -> Row {
        Row { outs: outs.into_iter().collect(), ..self }
    }

    /// The outputs are added to.
    fn adding(mut self) -> Row {
        self.outs.iter_mut().for_each(|o| o.fill = Fill::Constant(0.0));
        Row { adds: true, ..self }
    }

    fn untouched(self, bytes: fn(&Row, ElementType) -> usize) -> Row {
        Row { untouched: bytes, ..self }
    }

    fn costs(self, flops: usize, bound: Bound) -> Row {
        Row { flops, bound, ..self }
    }

    fn runs(self, run: impl Fn(&Device, &[View], Vec<ViewMut>) -> Result<()> + 'static) -> Row {
        Row { run: Box::new(run), ..self }
    }
}

/// All rows of a batch size.
pub fn all(s: &Size) -> Vec<Row> {
    let (b, c, mlp) = (s.batch, s.c, s.mlp);
    let (n, p) = (s.patches(), s.top_k * s.length);
    let (tq, tp) = (n + 1, n + 1 + p);
    let (mq, mp, ml) = (b * tq, b * tp, b * p);
    // Blocks of the query pass but its last; of the prompted pass but its last, and but its first as well.
    let (query, prompted, inner) = (s.layers - 1, s.layers - 1, s.layers - 2);
    let mut rows = vec![preprocessed(s), patched(s)];
    let mut product = |stage, times, (m, k, n), with| rows.push(forward(s, stage, times, (m, k, n), with));
    product("patch embed", 1, (b * n, 3 * s.patch * s.patch, c), With::Bias);
    product("Q qkv", query, (mq, c, 3 * c), With::Bias);
    product("Q proj+res", query, (mq, c, c), With::BiasResidual);
    product("Q fc1+gelu", query, (mq, c, mlp), With::BiasGelu);
    product("Q fc2+res", query, (mq, mlp, c), With::BiasResidual);
    product("Q last kv", 1, (mq, c, 2 * c), With::Bias);
    product("Q last q", 1, (b, c, c), With::Bias);
    product("Q last fc1+gelu", 1, (b, c, mlp), With::BiasGelu);
    product("Q last fc2+res", 1, (b, mlp, c), With::BiasResidual);
    product("P L0 qkv, pool rows", 1, (s.pool * s.length, c, 3 * c), With::Bias);
    product("P qkv", inner, (mp, c, 3 * c), With::Bias);
    product("P proj+res", prompted, (mp, c, c), With::BiasResidual);
    product("P fc1+gelu", prompted, (mp, c, mlp), With::BiasGeluKept);
    product("P fc2+res", prompted, (mp, mlp, c), With::BiasResidual);
    product("P L11 kv", 1, (mp, c, 2 * c), With::Bias);
    product("P L11 q", 1, (ml, c, c), With::Bias);
    product("P L11 proj+res", 1, (ml, c, c), With::BiasResidual);
    product("P L11 fc1+gelu", 1, (ml, c, mlp), With::BiasGeluKept);
    product("P L11 fc2+res", 1, (ml, mlp, c), With::BiasResidual);
    let mut product = |stage, times, (m, k, n), with| rows.push(backward(s, stage, times, (m, k, n), with));
    product("B fc2 dX+dgelu", prompted, (mp, mlp, c), With::GeluGradient);
    product("B fc1 dX", prompted, (mp, c, mlp), With::Nothing);
    product("B proj dX", prompted, (mp, c, c), With::Nothing);
    product("B qkv dX", inner, (mp, c, 3 * c), With::Nothing);
    product("B L11 fc2 dX+dgelu", 1, (ml, mlp, c), With::GeluGradient);
    product("B L11 fc1 dX", 1, (ml, c, mlp), With::Nothing);
    product("B L11 proj dX", 1, (ml, c, c), With::Nothing);
    product("B L11 kv dX", 1, (mp, c, 2 * c), With::Nothing);
    product("B L11 q dX", 1, (ml, c, c), With::Sum);
    product("B L0 qkv dX, pool rows", 1, (s.pool * s.length, c, 3 * c), With::Nothing);
    rows.extend([
        packed_forward(s, "Q attn", query, tq),
        apart_forward(s, "Q last attn", 1, (1, tq)),
        packed_forward(s, "P attn", prompted, tp),
        apart_forward(s, "P L11 attn", 1, (p, tp)),
        packed_backward(s, "B attn", inner, tp, 0..tp),
        packed_backward(s, "B L0 attn, prompt rows", 1, tp, 0..p),
        apart_backward(s, "B L11 attn", 1, (p, tp)),
    ]);
    if s.side == Size::VIT_B.side {
        // Other rule sets: 5 of 5 tokens, and no prompts.
        rows.push(packed_forward(s, "P attn, 25 prompts", 0, n + 26));
        rows.push(packed_backward(s, "B attn, 25 prompts", 0, n + 26, 0..n + 26));
        rows.push(packed_backward(s, "B attn, no prompts", 0, n + 1, 0..n + 1));
    }
    rows.extend([
        norm(s, "Q norm", 2 * query + 2, mq),
        norm(s, "P norm", 2 * prompted, mp),
        norm(s, "P L11 norm", 3, ml),
        norm_backward(s, "B norm", 2 * prompted, mp),
        norm_backward(s, "B L11 norm", 2, ml),
    ]);
    rows.extend(small_rows(s, (tq, tp, p)));
    rows.extend(component_rows(s));
    rows
}

/// What CODA-Prompt does in each of its layers and L2P does not: 100 components of 8 rows. Products in f32 of the usual
/// form are not here.
fn component_rows(s: &Size) -> Vec<Row> {
    let (b, c, m, sum) = (s.batch, s.c, 100, 4 * s.c);
    let component = move || wide([m, c]);
    let (to, from) = (Layout::dense(b, m), Layout::dense(b, sum));
    vec![
        Row::new("C weights", "component_weights", 0, s)
            .shape(format!("{b}x{m}x{c}"))
            .reads([wide([b, c]), component(), component()])
            .writes([out([b, m], Of::F32)])
            .runs(|dev, x, outs| {
                let [weights] = take(outs);
                component_weights::forward(dev, weights, x[0], x[1], x[2])
            }),
        Row::new("C weights, backward", "component_weights", 0, s)
            .shape(format!("{b}x{m}x{c}"))
            .reads([wide([b, m]), wide([b, c]), component(), component()])
            .writes([out([m, c], Of::F32), out([m, c], Of::F32)])
            .adding()
            .runs(|dev, x, outs| {
                let [dattention, dkey] = take(outs);
                component_weights::backward_acc(dev, dattention, dkey, x[0], x[1], x[2], x[3])
            }),
        Row::new("C dweights, in slices", "matmul", 0, s)
            .shape(format!("{b}x{m}x{sum}"))
            .reads([wide([b, sum]), wide([m, sum])])
            .writes([out([b, m], Of::F32)])
            .costs(2 * b * m * sum, Bound::Memory)
            .runs(move |dev, x, outs| {
                let [dweights] = take(outs);
                let components = (x[1], Layout::dense(m, sum));
                matmul::backward_input(dev, (dweights, to), (x[0], from), components, Write::Set)
            }),
    ]
}

fn forward(s: &Size, stage: &'static str, times: usize, (m, k, n): (usize, usize, usize), with: With) -> Row {
    let product = Product { m, k, n, back: false, ending: with };
    let (gelu, kept) = (matches!(with, With::BiasGelu | With::BiasGeluKept), with == With::BiasGeluKept);
    let mut ins = vec![values([m, k]), small([k, n]), slot([n], Of::F32, Fill::Normal(0.03))];
    ins.extend((with == With::BiasResidual).then(|| values([m, n])));
    let outs = (0..1 + usize::from(kept)).map(|_| out([m, n], Of::T));
    Row::new(stage, "linear", times, s)
        .shape(format!("{m}x{k}x{n}"))
        .reads(ins)
        .writes(outs)
        .costs(2 * m * k * n, Bound::Product(product))
        .runs(move |dev, x, out| {
            let mut out = out.into_iter();
            let y = out.next().expect("y");
            let ending = match x.get(3) {
                Some(&residual) => Epilogue::Residual(residual),
                None if gelu => Epilogue::Gelu { pre: out.next(), form: gelu::GeluForm::Tanh },
                None => Epilogue::Plain,
            };
            linear::forward(dev, y, x[0], &LinearWeights::all(x[1], x[2]), ending)
        })
}

/// (K, N) are those of the layer.
fn backward(
    s: &Size,
    stage: &'static str,
    times: usize,
    (m, k, n): (usize, usize, usize),
    with: With,
) -> Row {
    let product = Product { m, k, n, back: true, ending: with };
    let mut ins = vec![values([m, n]), small([k, n]), slot([n], Of::F32, Fill::Normal(0.03))];
    ins.extend((with == With::GeluGradient).then(|| values([m, k])));
    let row = Row::new(stage, "linear", times, s)
        .shape(format!("{m}x{n}x{k}"))
        .reads(ins)
        .writes([out([m, k], Of::T)])
        .untouched(|row, form| row.ins[2].bytes(form))
        .costs(2 * m * k * n, Bound::Product(product))
        .runs(move |dev, x, out| {
            let ([dx], w) = (take(out), LinearWeights::all(x[1], x[2]));
            match (x.get(3), with) {
                (Some(&pre), _) => linear::backward_input_gelu(dev, dx, x[0], &w, pre, gelu::GeluForm::Tanh),
                (None, With::Sum) => linear::backward_input(dev, dx, x[0], &w, Write::Add),
                (None, _) => linear::backward_input(dev, dx, x[0], &w, Write::Set),
            }
        });
    if with == With::Sum { row.adding() } else { row }
}

fn packed_forward(s: &Size, stage: &'static str, times: usize, t: usize) -> Row {
    let (b, c, h) = (s.batch, s.c, s.heads);
    Row::new(stage, "attention", times, s)
        .shape(format!("{b}x{t} {h}x{}", c / h))
        .reads([values([b, t, 3 * c])])
        .writes([out([b, t, c], Of::T), out([b, h, t], Of::F32)])
        .costs(4 * b * t * t * c, Bound::AttentionForward)
        .runs(move |dev, x, outs| {
            let [y, lse] = take(outs);
            attention::forward(dev, y, lse, &Qkv::packed(x[0]), None, h)
        })
}

fn apart_forward(s: &Size, stage: &'static str, times: usize, (tq, t): (usize, usize)) -> Row {
    let (b, c, h) = (s.batch, s.c, s.heads);
    Row::new(stage, "attention", times, s)
        .shape(format!("{b}x{tq} of {t} {h}x{}", c / h))
        .reads([values([b, tq, c]), values([b, t, 2 * c])])
        .writes([out([b, tq, c], Of::T), out([b, h, tq], Of::F32)])
        .costs(4 * b * tq * t * c, Bound::AttentionForward)
        .runs(move |dev, x, outs| {
            let [y, lse] = take(outs);
            attention::forward(dev, y, lse, &Qkv::apart(x[0], x[1]), None, h)
        })
}

/// Log-sum-exps as random scores have them: E exp(z) = exp(1/2).
fn lse(b: usize, h: usize, tq: usize, keys: usize) -> Slot {
    slot([b, h, tq], Of::F32, Fill::Constant((keys as f64).ln() + 0.5))
}

/// The gradients of some rows of q, k and v.
fn packed_backward(s: &Size, stage: &'static str, times: usize, t: usize, rows: Range<usize>) -> Row {
    let (b, c, h, n) = (s.batch, s.c, s.heads, rows.len());
    // Five products, of which those of queries and keys that are not asked for are left out.
    let flops = 2 * b * c * (2 * t * t + n * t + 2 * n * t);
    let flops = if n == t { flops } else { 2 * b * c * (4 * n * t + 3 * n * (t - n) + n * n) };
    Row::new(stage, "attention", times, s)
        .shape(format!("{b}x{t} {h}x{} rows {rows:?}", c / h))
        .reads([values([b, t, 3 * c]), values([b, t, c]), lse(b, h, t, t)])
        .writes([out([b, n, 3 * c], Of::T)])
        .costs(flops, Bound::AttentionBackward)
        .runs(move |dev, x, outs| {
            let [dqkv] = take(outs);
            let gradients =
                Gradients { into: GradientTarget::Packed(dqkv), q_rows: rows.clone(), kv_rows: rows.clone() };
            let wanted = Wanted { gradients: Some(gradients), prefix: None };
            attention::backward_input(dev, wanted, x[1], x[2], &Qkv::packed(x[0]), None, h)
        })
}

fn apart_backward(s: &Size, stage: &'static str, times: usize, (tq, t): (usize, usize)) -> Row {
    let (b, c, h) = (s.batch, s.c, s.heads);
    Row::new(stage, "attention", times, s)
        .shape(format!("{b}x{tq} of {t} {h}x{}", c / h))
        .reads([values([b, tq, c]), values([b, t, 2 * c]), values([b, tq, c]), lse(b, h, tq, t)])
        .writes([out([b, tq, c], Of::T), out([b, t, 2 * c], Of::T)])
        .costs(10 * b * tq * t * c, Bound::AttentionBackward)
        .runs(move |dev, x, outs| {
            let [q, kv] = take(outs);
            let gradients = Gradients { into: GradientTarget::Apart { q, kv }, q_rows: 0..tq, kv_rows: 0..t };
            attention::backward_input(
                dev,
                Wanted { gradients: Some(gradients), prefix: None },
                x[2],
                x[3],
                &Qkv::apart(x[0], x[1]),
                None,
                h,
            )
        })
}

fn norm(s: &Size, stage: &'static str, times: usize, rows: usize) -> Row {
    let c = s.c;
    Row::new(stage, "layer_norm", times, s)
        .shape(format!("{rows}x{c}"))
        .reads([values([rows, c]), wide([c]), wide([c])])
        .writes([out([rows, c], Of::T), out([rows, 2], Of::F32)])
        .runs(|dev, x, outs| {
            let [y, stats] = take(outs);
            layer_norm::forward(dev, y, stats, x[0], x[1], x[2], 1e-6)
        })
}

fn norm_backward(s: &Size, stage: &'static str, times: usize, rows: usize) -> Row {
    let c = s.c;
    Row::new(stage, "layer_norm", times, s)
        .shape(format!("{rows}x{c}"))
        .reads([values([rows, c]), values([rows, c]), wide([rows, 2]), wide([c])])
        .writes([out([rows, c], Of::T)])
        .adding()
        .runs(|dev, x, outs| {
            let [dx] = take(outs);
            layer_norm::backward_input_acc(dev, dx, x[0], x[1], x[2], x[3])
        })
}

/// Pixels of small images to rows of patches, cropped and flipped.
fn preprocessed(s: &Size) -> Row {
    const IMAGES: usize = 1000;
    let (b, size) = (s.batch, s.side);
    let resize = size + size / 7;
    let config =
        Data { input_size: size, resize_size: resize, augment: Augment::CropFlip, ..Data::default() };
    let with = Preprocess::new(&config, Normalize::IMAGENET).expect("sizes that fit");
    let (rows, width, patch) = (b * s.patches(), 3 * s.patch * s.patch, s.patch);
    Row::new("augment+patchify", "preprocess", 1, s)
        .shape(format!("{b}x32x32x3 to {size}"))
        .reads([
            slot([IMAGES, 32, 32, 3], Of::U8, Fill::Bytes),
            slot([b], Of::U32, Fill::Below(IMAGES as u32)),
            slot([2], Of::U32, Fill::Below(1000)),
            wide([6]),
        ])
        .writes([out([rows, width], Of::T)])
        .untouched(|row, _| row.ins[0].bytes(ElementType::F32) / IMAGES * IMAGES.saturating_sub(row.batch))
        .runs(move |dev, x, outs| {
            let [rows] = take(outs);
            let plan = ImageTransform { preprocess: &with, patch_size: patch, seed: 5 };
            preprocess::forward(dev, rows, x[0], x[1], Some(x[2]), x[3], plan)
        })
}

/// The same from finished images.
fn patched(s: &Size) -> Row {
    let (b, side, patch) = (s.batch, s.side, s.patch);
    Row::new("patchify", "patches", 0, s)
        .shape(format!("{b}x{side}x{side}x3 by {patch}"))
        .reads([wide([b, side, side, 3])])
        .writes([out([b * s.patches(), 3 * patch * patch], Of::T)])
        .runs(move |dev, x, outs| {
            let [rows] = take(outs);
            patches::forward(dev, rows, x[0], patch)
        })
}

/// What remains: tokens, prompts, head, loss, update.
fn small_rows(s: &Size, (tq, tp, p): (usize, usize, usize)) -> Vec<Row> {
    let (b, c, k) = (s.batch, s.c, s.classes);
    let (pool, length, top_k) = (s.pool, s.length, s.top_k);
    let learned = pool * length * c + pool * c + c * k + k;
    let with = Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, decay: 0.0, max_norm: 1.0 };
    let ids = || slot([b, top_k], Of::U32, Fill::Below(pool as u32));
    let group = b.min(16);
    vec![
        Row::new("embed", "tokens", 1, s)
            .shape(format!("{b}x{tq}x{c}"))
            .reads([values([b, tq - 1, c]), wide([c]), wide([tq, c])])
            .writes([out([b, tq, c], Of::T)])
            .runs(|dev, x, outs| {
                let [y] = take(outs);
                tokens::embed(dev, y, x[0], x[1], x[2])
            }),
        Row::new("P L0 image tokens' qkv", "tokens", 1, s)
            .shape(format!("{b}x{tq}x{}", 3 * c))
            .reads([values([b, tq, 3 * c])])
            .writes([slot([b, tp, 3 * c], Of::T, Fill::Constant(0.0))])
            .untouched(|row, form| row.outs[0].bytes(form) - row.ins[0].bytes(form))
            .runs(move |dev, x, outs| {
                let [y] = take(outs);
                tokens::copy(dev, y, p, x[0], 0..tq, Write::Set)
            }),
        Row::new("P L0 prompts' qkv", "gather", 1, s)
            .shape(format!("{b}x{p}x{}", 3 * c))
            .reads([wide([pool * length, 3 * c]), ids()])
            .writes([slot([b, tp, 3 * c], Of::T, Fill::Constant(0.0))])
            .untouched(|row, form| {
                let dims = row.outs[0].shape.dims();
                row.outs[0].bytes(form) / dims[1] * (dims[1] - row.ins[1].shape.dims()[1] * row.per_id())
            })
            .runs(move |dev, x, outs| {
                let [y] = take(outs);
                gather::forward(dev, y, 0, x[0], x[1], length)
            }),
        Row::new("sum dQKV over batch", "gather", 1, s)
            .shape(format!("{b}x{p}x{}", 3 * c))
            .reads([values([b, p, 3 * c]), ids()])
            .writes([out([pool * length, 3 * c], Of::F32)])
            .adding()
            .runs(move |dev, x, outs| {
                let [d] = take(outs);
                gather::backward_acc(dev, d, x[0], 0, x[1], length)
            }),
        Row::new("pool", "pool_tokens", 1, s)
            .shape(format!("{b}x{p}x{c}"))
            .reads([values([b, p, c])])
            .writes([out([b, c], Of::F32)])
            .runs(move |dev, x, outs| {
                let [y] = take(outs);
                pool_tokens::forward(dev, y, x[0], 0..p, Pooling::Mean)
            }),
        Row::new("B pool", "pool_tokens", 1, s)
            .shape(format!("{b}x{p}x{c}"))
            .reads([values([b, p, c]), wide([b, c])])
            .writes([out([b, p, c], Of::T)])
            .untouched(|row, form| row.ins[0].bytes(form))
            .runs(move |dev, x, outs| {
                let [dx] = take(outs);
                pool_tokens::backward(dev, dx, x[1], x[0], 0..p, Pooling::Mean)
            }),
        Row::new("head", "linear", 1, s)
            .shape(format!("{b}x{c}x{k}"))
            .reads([wide([b, c]), slot([c, k], Of::F32, Fill::Normal(0.03)), wide([k])])
            .writes([out([b, k], Of::F32)])
            .runs(|dev, x, outs| {
                let [y] = take(outs);
                linear::forward(dev, y, x[0], &LinearWeights::all(x[1], x[2]), Epilogue::Plain)
            }),
        Row::new("normalise queries", "row_norm", 1, s)
            .shape(format!("{b}x{c}"))
            .reads([wide([b, c])])
            .writes([out([b, c], Of::F32)])
            .runs(|dev, x, outs| {
                let [y] = take(outs);
                row_norm::forward(dev, y, x[0], row_norm::Normalization::Rsqrt)
            }),
        Row::new("match, vote", "match_prompts", 1, s)
            .shape(format!("{b}x{pool}, {top_k} by groups of {group}"))
            .reads([wide([b, pool])])
            .writes([slot([b, top_k], Of::U32, Fill::Anything)])
            .runs(move |dev, x, outs| {
                let [ids] = take(outs);
                match_prompts::select(dev, ids, x[0], Select::Vote { group })
            }),
        Row::new("pull", "match_prompts", 1, s)
            .shape(format!("{b}x{pool}"))
            .reads([wide([b, pool]), ids()])
            .writes([out([1], Of::F32)])
            .runs(|dev, x, outs| {
                let [y] = take(outs);
                match_prompts::pull(dev, y, x[0], x[1])
            }),
        Row::new("loss", "cross_entropy", 1, s)
            .shape(format!("{b}x{k}"))
            .reads([
                wide([b, k]),
                slot([b], Of::U32, Fill::Below(k as u32)),
                slot([k], Of::U32, Fill::Constant(1.0)),
            ])
            .writes([out([2], Of::F32), out([b, k], Of::F32)])
            .runs(|dev, x, outs| {
                let [outcome, d] = take(outs);
                cross_entropy::forward_backward(dev, outcome, Some(d), x[0], x[1], x[2], 0.0)
            }),
        Row::new("add", "axpy", 0, s)
            .shape(format!("{}x{c}", b * tp))
            .reads([values([b * tp, c])])
            .writes([out([b * tp, c], Of::T)])
            .adding()
            .runs(|dev, x, outs| {
                let [y] = take(outs);
                axpy::axpy(dev, y, x[0], 1.0)
            }),
        Row::new("gradient norm", "sum", 1, s)
            .shape(learned)
            .reads([wide([learned])])
            .writes([out([1], Of::F32)])
            .adding()
            .runs(|dev, x, outs| {
                let [y] = take(outs);
                sum::squares_acc(dev, y, x[0])
            }),
        Row::new("clip+Adam", "optimizer", 1, s)
            .shape(learned)
            .reads([
                wide([learned]),
                slot([1], Of::F32, Fill::Constant(9.0)),
                slot([4], Of::F32, Fill::Constant(0.5)),
            ])
            .writes([out([learned], Of::F32), out([learned], Of::F32), out([learned], Of::F32)])
            .adding()
            .runs(move |dev, x, outs| {
                let [p, m, v] = take(outs);
                optimizer::adam(dev, p, [m, v], x[0], x[1], x[2], with)
            }),
    ]
}

impl Row {
    /// Rows of a prompt, for a table of pool · length rows.
    fn per_id(&self) -> usize {
        self.ins[0].shape.dims()[0] / self.pool_of_ids()
    }

    fn pool_of_ids(&self) -> usize {
        match self.ins[1].fill {
            Fill::Below(pool) => pool as usize,
            _ => 1,
        }
    }
}
