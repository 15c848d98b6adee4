//! The arguments of a case, where it runs, and on which numbers.

use crate::device::Device;
use crate::error::Result;
use crate::rng::{Rng, Stream};
use crate::tensor::{DType, Shape, Tensor};
use serde::{Deserialize, Serialize};

/// What an input holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fill {
    /// Normal, deviation 1.
    Values,
    /// Around 1, all different: scales of a normaliser, which must not be ones.
    Weights,
    /// Normal around this mean.
    Around(f64),
    /// One value.
    Constant(f64),
    /// Uniform in [-1, 0.9].
    Cosines,
    /// Second moments: positive.
    Positive,
    /// These.
    Numbers([f64; 4]),
    /// u8, uniform.
    Bytes,
    /// u32: 1, 1, 0, 1, 1, 0, … : a class mask.
    TwoOfThree,
    /// u32: masks of rows of this length: 1, 1, 0, 1, 1, 0, … and 1, 1, 1, 1, 0, 1, … in turn.
    MaskRows(usize),
    /// Soft labels, rows of this length: positive where every mask above allows them, with sum 1.
    SoftLabels(usize),
    /// u32, uniform below this.
    Ids(u32),
    /// u32, the ids of each row all different: rows of `.0` below `.1`.
    DistinctIds(usize, u32),
}

/// Whether an argument has a value for every image (or row), or one for all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Each,
    All,
}

/// In which type an argument and its gradient are kept when activations have 16 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArgType {
    /// Both in 16 bits.
    Activation,
    /// A matrix of a product: 16 bits, its gradient f32.
    Weight,
    /// Both f32.
    Wide,
    /// A sum or a setting: F64 on the CPU, F32 on a GPU.
    Number,
}

impl ArgType {
    pub(super) fn value(self, dtype: DType) -> DType {
        match (self, dtype) {
            (ArgType::Wide, DType::BF16 | DType::F16) => DType::F32,
            (ArgType::Number, _) => DType::F64,
            _ => dtype,
        }
    }

    pub(super) fn gradient(self, dtype: DType) -> DType {
        match self {
            ArgType::Weight => ArgType::Wide.value(dtype),
            _ => self.value(dtype),
        }
    }
}

/// An input.
#[derive(Debug, Clone)]
pub struct CaseArg {
    pub name: &'static str,
    pub shape: Shape,
    pub fill: Fill,
    pub part: Scope,
    pub keep: ArgType,
}

/// Where a case runs: the device, and how many elements lie on either side of each output.
#[derive(Debug, Clone)]
pub struct On {
    pub dev: Device,
    /// An odd number also tries addresses that are no multiple of a vector's size.
    pub band: usize,
}

impl On {
    pub const CPU: On = On { dev: Device::Cpu, band: 67 };

    /// There is no F64 on a GPU.
    pub(super) fn dtype(&self, dtype: DType) -> DType {
        if dtype == DType::F64 && self.dev.gpu().is_some() { DType::F32 } else { dtype }
    }
}

/// Inputs of a case and upstream gradients of its results.
#[derive(Debug, Clone)]
pub struct Data {
    pub inputs: Vec<Tensor>,
    pub upstream: Vec<Tensor>,
    /// Of what is not kept in f32 in any case.
    pub dtype: DType,
}

impl Data {
    /// The same numbers for another device and type.
    pub fn to(&self, dev: &Device, dtype: DType) -> Result<Data> {
        let convert = |tensor: &Tensor| {
            let float = !matches!(tensor.dtype(), DType::U32 | DType::U8);
            let wanted = match (tensor.dtype(), dev.gpu()) {
                (DType::F64, Some(_)) => DType::F32,
                _ if float && dtype == DType::F64 => DType::F64,
                (same, _) => same,
            };
            if wanted == tensor.dtype() {
                return tensor.to(dev);
            }
            Tensor::from_f64(&tensor.to_f64(), tensor.shape(), wanted).to(dev)
        };
        let all = |tensors: &[Tensor]| tensors.iter().map(convert).collect::<Result<Vec<Tensor>>>();
        Ok(Data { inputs: all(&self.inputs)?, upstream: all(&self.upstream)?, dtype })
    }
}

/// The numbers of an argument: those of stream `index` of the seed.
pub(super) fn fill(arg: &CaseArg, seed: u64, index: u64, dtype: DType) -> Tensor {
    let mut rng = Rng::new(seed, Stream::Test, index);
    let n = arg.shape.len();
    if let Fill::Ids(below) = arg.fill {
        return Tensor::from_vec((0..n).map(|_| rng.below(below)).collect(), arg.shape);
    }
    if arg.fill == Fill::Bytes {
        return Tensor::from_vec((0..n).map(|_| rng.next_u32() as u8).collect(), arg.shape);
    }
    if arg.fill == Fill::TwoOfThree {
        return Tensor::from_vec((0..n as u32).map(|j| u32::from(j % 3 != 2)).collect(), arg.shape);
    }
    if let Fill::MaskRows(k) = arg.fill {
        let allowed = |i: usize| i % k < 2 || i % k % 3 != 2 - i / k % 2;
        return Tensor::from_vec((0..n).map(|i| u32::from(allowed(i))).collect(), arg.shape);
    }
    if let Fill::SoftLabels(k) = arg.fill {
        let mut soft_labels: Vec<f64> = (0..n)
            .map(|i| if i % k < 2 || i % k % 3 == 0 { f64::from(rng.uniform()) } else { 0.0 })
            .collect();
        for row in soft_labels.chunks_exact_mut(k) {
            let sum: f64 = row.iter().sum();
            row.iter_mut().for_each(|weight| *weight = f64::from((*weight / sum) as f32));
        }
        return Tensor::from_f64(&soft_labels, arg.shape, arg.keep.value(dtype));
    }
    if let Fill::DistinctIds(width, below) = arg.fill {
        let row = |_| {
            let mut all: Vec<u32> = (0..below).collect();
            rng.shuffle(&mut all);
            all.truncate(width);
            all
        };
        return Tensor::from_vec((0..n / width).flat_map(row).collect(), arg.shape);
    }
    let values: Vec<f64> = (0..n)
        .map(|i| {
            let z = rng.normal();
            let value = match arg.fill {
                Fill::Weights => 1.0 + 0.3 * z,
                Fill::Around(mean) => mean + z,
                Fill::Constant(c) => c,
                Fill::Numbers(numbers) => numbers[i],
                Fill::Positive => z * z + 0.01,
                Fill::Cosines => 1.9 * f64::from(rng.uniform()) - 1.0,
                _ => z,
            };
            f64::from(value as f32)
        })
        .collect();
    Tensor::from_f64(&values, arg.shape, arg.keep.value(dtype))
}

/// What decides the shapes of a training step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepShapes {
    pub images: usize,
    /// Pixels of a side.
    pub side: usize,
    pub patch: usize,
    pub width: usize,
    pub heads: usize,
    pub mlp: usize,
    /// Prompts of a pool, how many of them an image takes, and the rows of one.
    pub pool: usize,
    pub top_k: usize,
    pub length: usize,
    pub classes: usize,
}

impl StepShapes {
    pub(super) fn patches(&self) -> usize {
        (self.side / self.patch).pow(2)
    }

    /// Class token, patches and prompts.
    pub(super) fn tokens(&self) -> usize {
        1 + self.patches() + self.top_k * self.length
    }
}
