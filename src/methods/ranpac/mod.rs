//! RanPAC: a ridge regression on random features of a frozen backbone, whose sums over the images of all tasks forget
//! nothing; with `ranpac.adapter_width` the backbone is adapted to the first task before (`src/methods/adapt.rs`). Source: McDonnell et al. 2023, arXiv:2307.02251; RanPAC/RanPAC @ 012927f.
//!
//! The features of a task are gathered step by step; when the task ends they are added to the sums and the head is solved
//! for. Rank 0 does that for all: the others only gather and answer. The CPU does it on every device.

pub mod band;
pub mod cholesky;
mod projection;
mod ridge;

pub use projection::Projection;
pub use ridge::{Choice, Ridge, Sums};

use super::adapt::{self, Adaptation};
use super::named::{self, Fit, values};
use super::{Method, Moment, Pass, Ranks, Shown, Tensors};
use crate::config::schema::Config;
use crate::device::Device;
use crate::error::Result;
use crate::network::{AnswerGraph, Model, Pixels, StepStats, TaskView};
use crate::onnx::{Graph, Value};
use crate::ops::match_prompts::Select;
use crate::output::checkpoint::TensorData;
use crate::prompts::PromptChoice;
use crate::tensor::plan::Plan;
use crate::tensor::{DType, Tensor, View};

/// Names in checkpoints.
const GRAM: &str = "gram";
const CLASS_SUMS: &str = "class sums";
const COUNTS: &str = "class counts";
const HEAD: &str = "head";
const LAMBDAS: &str = "lambdas";
const FEATURES: &str = "features of the task";
const LABELS: &str = "labels of the task";

#[derive(Debug)]
pub struct Ranpac {
    model: Model,
    ranks: Ranks,
    /// Phase 1.
    adaptation: Option<Adaptation>,
    ridge: Ridge,
    /// Of each finished task: the λ with the least error, and the one that the head was solved with.
    lambdas: Vec<f64>,
    /// Images of the task that is being learned, in order: features (n, L) and class ids (n).
    features: Vec<f64>,
    labels: Vec<u32>,
}

impl Ranpac {
    pub fn new(config: &Config, model: Model, plan: &mut Plan, ranks: &Ranks) -> Ranpac {
        let (setup, dtype) = (&model.setup, host_dtype(model.dtype()));
        let (width, classes) = (setup.dims.embed_dim, setup.classes);
        let m = features(config, width);
        plan.group("ridge regression");
        let mut zeros = |name: &str, rows: usize, columns: usize| plan.on_host(name, [rows, columns], dtype);
        let projection = match config.ranpac.random_features {
            0 => Projection::none(width),
            m => {
                let memory = zeros("random matrix", width, m);
                // A plan that only counts has no memory.
                if memory.capacity() == 0 {
                    Projection::given(memory)
                } else {
                    Projection::drawn(config.seed, memory)
                }
            }
        };
        let head = zeros("head", m, classes);
        let learns = setup.training && ranks.comm.is_first();
        let sums = learns.then(|| Sums {
            gram: zeros("gram", m, m),
            class_sums: zeros("class sums", m, classes),
            work: zeros("factor", m, m),
        });
        let hidden = zeros("features of a block", if learns { ridge::ROWS } else { 0 }, m);
        let ridge = Ridge::new(projection, config.ranpac.lambdas.clone(), sums, head, hidden);
        let (lambdas, features, labels) = (Vec::new(), Vec::new(), Vec::new());
        let adaptation = Adaptation::new(config, &model, plan, ranks);
        Ranpac { ranks: ranks.clone(), adaptation, ridge, lambdas, features, labels, model }
    }

    fn put_back(&mut self, tensors: &Tensors, fit: Fit) -> Result<()> {
        adapt::put_back(&mut self.model, tensors, fit)?;
        named::put_back(self.ridge.head.view_mut(), tensors, HEAD, fit)?;
        let mut counts = Tensor::from_vec(self.ridge.counts.clone(), [self.ridge.counts.len()]);
        named::put_back(counts.view_mut(), tensors, COUNTS, fit)?;
        self.ridge.counts = counts.to_f64();
        self.lambdas = values(tensors, LAMBDAS)?;
        self.features = values(tensors, FEATURES)?;
        self.labels = values(tensors, LABELS)?.iter().map(|&label| label as u32).collect();
        let Some(sums) = &mut self.ridge.sums else { return Ok(()) };
        named::put_back(sums.class_sums.view_mut(), tensors, CLASS_SUMS, fit)?;
        let m = sums.gram.dims()[0];
        let mut packed = Tensor::zeros([m * (m + 1) / 2], sums.gram.dtype());
        named::put_back(packed.view_mut(), tensors, GRAM, Fit::Exact)?;
        match sums.gram.dtype() {
            DType::F64 => unpack::<f64>(&packed, &mut sums.gram),
            _ => unpack::<f32>(&packed, &mut sums.gram),
        }
    }
}

/// M for a backbone of this width.
pub fn features(config: &Config, width: usize) -> usize {
    match config.ranpac.random_features {
        0 => width,
        m => m,
    }
}

/// The type of sums and head beside a network of this type.
fn host_dtype(model: DType) -> DType {
    if model == DType::F64 { DType::F64 } else { DType::F32 }
}

/// The lower triangle of a square matrix, row by row.
fn packed<T: crate::ops::float::Float>(gram: &Tensor) -> Result<Tensor> {
    let m = gram.dims()[0];
    let gram = gram.view().get::<T>("ranpac", "gram")?;
    let values: Vec<T> = (0..m).flat_map(|i| gram[i * m..=i * m + i].iter().copied()).collect();
    Ok(Tensor::from_vec(values, [m * (m + 1) / 2]))
}

fn unpack<T: crate::ops::float::Float>(packed: &Tensor, gram: &mut Tensor) -> Result<()> {
    let m = gram.dims()[0];
    let mut from = packed.view().get::<T>("ranpac", "gram")?;
    let to = gram.view_mut().get::<T>("ranpac", "gram")?;
    for i in 0..m {
        let (row, rest) = from.split_at(i + 1);
        to[i * m..=i * m + i].copy_from_slice(row);
        from = rest;
    }
    Ok(())
}

impl Method for Ranpac {
    fn model(&self) -> &Model {
        &self.model
    }

    fn begin_task(&mut self, _: &TaskView, _: &[u32]) -> Result<()> {
        Ok(())
    }

    fn step(
        &mut self,
        dev: &Device,
        images: Pixels,
        labels: View,
        _: &TaskView,
        _: f64,
    ) -> Result<Vec<StepStats>> {
        let labels = labels.get::<u32>("ranpac", "labels")?;
        let (features, labels) = self.ranks.features_of_step(dev, &mut self.model, images, labels)?;
        self.features.extend(features);
        self.labels.extend(labels);
        Ok(vec![StepStats::default()])
    }

    fn passes(&self, task: usize, moment: Moment) -> Result<Vec<Pass>> {
        let first = task == 0 && moment == Moment::BeforeSteps;
        Ok(self.adaptation.iter().filter(|_| first).map(Adaptation::pass).collect())
    }

    fn begin_pass(&mut self, _: Pass, steps: usize) {
        if let Some(adaptation) = &mut self.adaptation {
            adaptation.begin(steps);
        }
    }

    fn observe(&mut self, dev: &Device, _: Pass, shown: Shown, task: &TaskView) -> Result<()> {
        let adaptation = self.adaptation.as_mut();
        adaptation.map_or(Ok(()), |own| own.step(&mut self.model, dev, shown, task))
    }

    fn end_task(&mut self, _: &Device) -> Result<()> {
        // A run that was stopped in the tests after a task ends the task a second time.
        if self.labels.is_empty() {
            return Ok(());
        }
        let (labels, values) = (std::mem::take(&mut self.labels), std::mem::take(&mut self.features));
        let dtype = self.ridge.head.dtype();
        let features = Tensor::from_f64(&values, [labels.len(), self.ridge.projection().width()], dtype);
        drop(values);
        let (comm, ridge) = (self.ranks.comm.clone(), &mut self.ridge);
        if comm.is_alone() {
            let choice = ridge.add_task(features.view(), &labels)?;
            self.lambdas.extend([choice.lambda, choice.used]);
            return Ok(());
        }
        let mut answer = Vec::new();
        if comm.is_first() {
            // The others wait, which may take longer than a rank may be silent.
            let choice = comm.alive(|| ridge.add_task(features.view(), &labels))?;
            answer = vec![choice.lambda, choice.used];
            answer.extend(ridge.head.to_f64());
        } else {
            labels.iter().for_each(|&label| ridge.counts[label as usize] += 1.0);
        }
        let answer = comm.broadcast("ridge regression", bytemuck::cast_slice(&answer).to_vec())?;
        let answer: Vec<f64> = bytemuck::pod_collect_to_vec(&answer);
        self.lambdas.extend(&answer[..2]);
        ridge.head = Tensor::from_f64(&answer[2..], ridge.head.shape(), dtype);
        Ok(())
    }

    fn features(&mut self, dev: &Device, images: Pixels) -> Result<Tensor> {
        self.model.features(dev, images)
    }

    fn query(&mut self, dev: &Device, images: Pixels) -> Result<Tensor> {
        Ok(self.model.query(dev, images)?.clone())
    }

    fn select(&mut self, _: &Device, _: View, _: Select) -> Result<PromptChoice> {
        Ok(PromptChoice::nothing())
    }

    fn logits(&mut self, _: &Device, _: Pixels, features: View, _: &PromptChoice) -> Result<Tensor> {
        let dtype = self.ridge.head.dtype();
        let features = Tensor::from_f64(&features.read_f64()?, features.shape(), dtype);
        self.ridge.logits(features.view())
    }

    fn onnx(&self, g: &mut Graph, images: &Value) -> Result<AnswerGraph> {
        let features = self.model.onnx_features(g, images, true)?;
        Ok(AnswerGraph { logits: self.ridge.onnx(g, &features)?, chosen: None })
    }

    fn state(&self) -> Result<Tensors> {
        let ridge = &self.ridge;
        let (classes, images) = (ridge.counts.len(), self.labels.len());
        let (width, dtype) = (ridge.projection().width(), ridge.head.dtype());
        let features = Tensor::from_f64(&self.features, [images, width], dtype);
        let mut all = vec![
            named::saved(HEAD.into(), ridge.head.view())?,
            (COUNTS.into(), vec![classes], TensorData::F64(ridge.counts.clone())),
            (LAMBDAS.into(), vec![self.lambdas.len() / 2, 2], TensorData::F64(self.lambdas.clone())),
            named::saved(FEATURES.into(), features.view())?,
            (LABELS.into(), vec![images], TensorData::U32(self.labels.clone())),
        ];
        adapt::state(&self.model, &mut all)?;
        if let Some(sums) = &ridge.sums {
            let packed = match dtype {
                DType::F64 => packed::<f64>(&sums.gram)?,
                _ => packed::<f32>(&sums.gram)?,
            };
            all.push(named::saved(CLASS_SUMS.into(), sums.class_sums.view())?);
            all.push(named::saved(GRAM.into(), packed.view())?);
        }
        Ok(all)
    }

    fn optimizer_step(&self) -> u64 {
        0
    }

    fn restore(&mut self, tensors: &Tensors, _: u64) -> Result<()> {
        self.put_back(tensors, Fit::Exact)
    }

    fn restore_grown(&mut self, tensors: &Tensors, _: u64) -> Result<()> {
        self.put_back(tensors, Fit::Grow)
    }
}
