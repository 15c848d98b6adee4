//! Nearest class mean: each class is the mean of its frozen features, an image belongs to the class
//! whose mean has the largest cosine to its own. Source: Mensink et al. 2013, "Distance-based image
//! classification"; as a baseline for prompt methods: Janson et al. 2022, arXiv:2210.04428.

use super::named::{self, Fit};
use super::{Method, Ranks, Tensors};
use crate::device::Device;
use crate::error::Result;
use crate::network::{AnswerGraph, Model, Pixels, StepStats, TaskView};
use crate::onnx::{Graph, Value};
use crate::ops::match_prompts::Select;
use crate::prompts::PromptChoice;
use crate::tensor::{Tensor, View};

/// Names in checkpoints.
const SUMS: &str = "class sums";
const COUNTS: &str = "class counts";

/// The score of a class that was never seen.
const UNSEEN: f64 = -2.0;

/// The length of a vector, at least 1e-12.
fn norm(x: &[f64]) -> f64 {
    x.iter().map(|v| v * v).sum::<f64>().sqrt().max(1e-12)
}

/// Sums of features by class, in f64.
#[derive(Debug, Clone)]
pub struct ClassMeans {
    width: usize,
    /// (K, C)
    sums: Vec<f64>,
    /// (K)
    counts: Vec<f64>,
}

impl ClassMeans {
    pub fn new(classes: usize, width: usize) -> ClassMeans {
        ClassMeans { width, sums: vec![0.0; classes * width], counts: vec![0.0; classes] }
    }

    /// Sums (K, C) and counts (K).
    fn tensors(&self) -> [Tensor; 2] {
        let classes = self.counts.len();
        [
            Tensor::from_vec(self.sums.clone(), [classes, self.width]),
            Tensor::from_vec(self.counts.clone(), [classes]),
        ]
    }

    /// Adds one image's features.
    pub fn add(&mut self, class: u32, features: &[f64]) {
        let class = class as usize;
        self.counts[class] += 1.0;
        let sums = &mut self.sums[class * self.width..][..self.width];
        sums.iter_mut().zip(features).for_each(|(s, f)| *s += f);
    }

    /// The class means with length 1, as columns (C, K); zeros for a class that was never seen.
    fn unit_columns(&self) -> Vec<f64> {
        let mut columns = vec![0.0; self.sums.len()];
        let classes = self.counts.len();
        for (k, sum) in self.sums.chunks_exact(self.width).enumerate().filter(|(k, _)| self.counts[*k] > 0.0)
        {
            let length = norm(sum);
            sum.iter().enumerate().for_each(|(i, s)| columns[i * classes + k] = s / length);
        }
        columns
    }

    /// The cosine of `features` to each class mean; -2 for a class that was never seen.
    pub fn scores(&self, features: &[f64]) -> Vec<f64> {
        let own = norm(features);
        let classes = self.sums.chunks_exact(self.width).zip(&self.counts);
        classes
            .map(|(sum, &count)| {
                if count == 0.0 {
                    return UNSEEN;
                }
                sum.iter().zip(features).map(|(s, f)| s * f).sum::<f64>() / (norm(sum) * own)
            })
            .collect()
    }
}

#[derive(Debug)]
pub struct Ncm {
    model: Model,
    means: ClassMeans,
    ranks: Ranks,
}

impl Ncm {
    pub fn new(model: Model, ranks: &Ranks) -> Ncm {
        let means = ClassMeans::new(model.setup.classes, model.setup.dims.embed_dim);
        Ncm { model, means, ranks: ranks.clone() }
    }
}

impl Ncm {
    fn put_back(&mut self, tensors: &Tensors, fit: Fit) -> Result<()> {
        let [mut sums, mut counts] = self.means.tensors();
        named::put_back(sums.view_mut(), tensors, SUMS, fit)?;
        named::put_back(counts.view_mut(), tensors, COUNTS, fit)?;
        (self.means.sums, self.means.counts) = (sums.to_f64(), counts.to_f64());
        Ok(())
    }
}

impl Method for Ncm {
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
        let labels = labels.get::<u32>("ncm", "labels")?;
        let (features, labels) = self.ranks.features_of_step(dev, &mut self.model, images, labels)?;
        let mut stats = StepStats::default();
        for (features, &label) in features.chunks_exact(self.model.setup.dims.embed_dim).zip(&labels) {
            self.means.add(label, features);
            let scores = self.means.scores(features);
            let best = (0..scores.len()).fold(0, |best, k| if scores[k] > scores[best] { k } else { best });
            stats.correct += usize::from(best == label as usize);
        }
        Ok(vec![stats])
    }

    fn features(&mut self, dev: &Device, images: Pixels) -> Result<Tensor> {
        self.model.features(dev, images)
    }

    fn select(&mut self, _: &Device, _: View, _: Select) -> Result<PromptChoice> {
        Ok(PromptChoice::nothing())
    }

    fn logits(&mut self, _: &Device, _: Pixels, features: View, _: &PromptChoice) -> Result<Tensor> {
        let (b, c) = (features.dims()[0], features.dims()[1]);
        let scores: Vec<f64> =
            features.read_f64()?.chunks_exact(c).flat_map(|features| self.means.scores(features)).collect();
        Ok(Tensor::from_f64(&scores, [b, self.means.counts.len()], self.model.dtype()))
    }

    fn onnx(&self, g: &mut Graph, images: &Value) -> Result<AnswerGraph> {
        let features = self.model.onnx_features(g, images, false)?;
        let (c, classes) = (self.means.width, self.means.counts.len());
        let length = g.length(&features);
        let length = g.at_least(&length, 1e-12);
        let unit = g.op("Div", &[&features, &length], &[]);
        let means = g.weights("unit class means", &[c, classes], || Ok(self.means.unit_columns()))?;
        let unseen = self.means.counts.iter().map(|&n| if n == 0.0 { UNSEEN } else { 0.0 }).collect();
        let unseen = g.weights("unseen classes", &[classes], || Ok(unseen))?;
        let cosines = g.mat_mul(&unit, &means);
        Ok(AnswerGraph { logits: g.add(&cosines, &unseen), chosen: None })
    }

    fn state(&self) -> Result<Tensors> {
        let [sums, counts] = self.means.tensors();
        Ok(vec![named::saved(SUMS.into(), sums.view())?, named::saved(COUNTS.into(), counts.view())?])
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
