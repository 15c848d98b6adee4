//! Ridge regression on features that come task by task: G = Σ hᵀ h and Q = Σ hᵀ y over all images so far, head
//! W = (G + λ I)⁻¹ Q, logits h W. Sums forget nothing, so the order of the tasks does not matter but for λ.
//! Source: McDonnell et al. 2023, arXiv:2307.02251, equations 4 to 6; RanPAC/RanPAC @ 012927f, `RanPAC.py`, lines 91-150.
//!
//! λ is chosen for each task from its own images: fitted on the first floor(0.8 n) of them, and the λ with the least
//! squared error on the rest is applied to the sums of all tasks. Where fewer images are fitted than there are features,
//! their n x n products with each other are factorised instead of G: H Hᵀ + λ I has the same solution,
//! (Hᵀ H + λ I)⁻¹ Hᵀ Y = Hᵀ (H Hᵀ + λ I)⁻¹ Y.
//!
//! All sums run over blocks of fixed sizes, counted from the first image of a task, so that they have the same bits
//! however many images come at once.

use super::band::Band;
use super::cholesky;
use super::projection::Projection;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::onnx::{Attribute, Graph, Value};
use crate::ops::float::Float;
use crate::ops::matmul::{self, Layout, Write};
use crate::tensor::{DType, Tensor, View};
use rayon::prelude::*;
use std::ops::Range;

const CPU: &Device = &Device::Cpu;

/// Images whose features are computed at once.
pub const ROWS: usize = 2048;
/// Rows of a symmetric product that are computed at once: of their columns, those up to the diagonal.
const BLOCK: usize = 1024;

/// What images of several tasks add up to. (M, M), (M, K), and room for the factor of a matrix (M, M).
#[derive(Debug)]
pub struct Sums {
    /// G; its lower triangle counts.
    pub gram: Tensor,
    /// Q.
    pub class_sums: Tensor,
    pub work: Tensor,
}

/// How the λ of a task was chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// Mean over images and classes of the squared error, for each λ, on the images that were not fitted; infinite where
    /// the matrix with this λ is not positive definite to rounding.
    pub losses: Vec<f64>,
    /// The λ with the least of them, the smaller of equal ones.
    pub lambda: f64,
    /// What the head was solved with: `lambda`, or the next larger one with which G + λ I is positive definite to rounding.
    pub used: f64,
}

/// A linear head on random features that is solved for, not trained.
#[derive(Debug)]
pub struct Ridge {
    projection: Projection,
    /// Ascending.
    lambdas: Vec<f64>,
    /// Images by class, (K).
    pub counts: Vec<f64>,
    /// W (M, K).
    pub head: Tensor,
    /// `None`: only answers.
    pub sums: Option<Sums>,
    /// Random features of a block of images, (rows, M).
    hidden: Tensor,
}

impl Ridge {
    /// `hidden`: room for [`ROWS`] images, or those of an evaluation batch where they are more.
    pub fn new(
        projection: Projection,
        mut lambdas: Vec<f64>,
        sums: Option<Sums>,
        head: Tensor,
        hidden: Tensor,
    ) -> Ridge {
        lambdas.sort_by(f64::total_cmp);
        let counts = vec![0.0; head.dims()[1]];
        Ridge { projection, lambdas, counts, head, sums, hidden }
    }

    /// The same with memory of its own.
    pub fn on_host(projection: Projection, lambdas: Vec<f64>, classes: usize, dtype: DType) -> Ridge {
        let m = projection.features();
        let zeros = |rows: usize, columns: usize| Tensor::zeros([rows, columns], dtype);
        let sums = Sums { gram: zeros(m, m), class_sums: zeros(m, classes), work: zeros(m, m) };
        Ridge::new(projection, lambdas, Some(sums), zeros(m, classes), zeros(ROWS, m))
    }

    /// Learns a task: features (n, L) and class ids (n) of all its images, in an order in which the first ones are like
    /// the rest.
    ///
    /// # Errors
    /// `Error::Failed` for features that are not finite, for a class that is not there, and if no λ makes the matrices
    /// positive definite.
    pub fn add_task(&mut self, features: View, labels: &[u32]) -> Result<Choice> {
        let classes = self.counts.len();
        if let Some(label) = labels.iter().find(|&&label| label as usize >= classes) {
            return Err(Error::failed(format!("ranpac: class {label} is not one of the {classes} classes")));
        }
        match self.head.dtype() {
            DType::F64 => self.learn::<f64>(features, labels),
            _ => self.learn::<f32>(features, labels),
        }
    }

    fn learn<T: Float>(&mut self, features: View, labels: &[u32]) -> Result<Choice> {
        let values = features.get::<T>("ranpac", "features")?;
        if let Some(bad) = values.iter().position(|value| !value.to_f64().is_finite()) {
            return Err(Error::failed(format!(
                "ranpac: feature {} of image {} of the task is {:?}; wanted finite numbers: the backbone or its \
                 precision does not fit these images",
                bad % self.projection.width().max(1),
                bad / self.projection.width().max(1),
                values[bad]
            )));
        }
        let Some(sums) = &mut self.sums else {
            return Err(Error::failed("ranpac: a head that was loaded to answer cannot learn"));
        };
        let classes = self.counts.len();
        let hidden = &mut self.hidden;
        let mut task = Task { projection: &self.projection, features, labels, classes, hidden };
        let fitted = labels.len() * 4 / 5;
        let losses = if fitted <= task.projection.features() {
            task.add(0..labels.len(), &mut sums.gram, &mut sums.class_sums)?;
            task.losses_of_images::<T>(fitted, &mut sums.work, &self.lambdas)?
        } else {
            task.add_and_losses_of_features::<T>(fitted, sums, &self.lambdas)?
        };
        labels.iter().for_each(|&label| self.counts[label as usize] += 1.0);
        // The first of equal ones.
        let best = (0..losses.len()).fold(0, |best, i| if losses[i] < losses[best] { i } else { best });
        if !losses[best].is_finite() {
            return Err(Error::failed(format!(
                "ranpac: with none of the lambdas {:?} is the matrix of the task positive definite to rounding; \
                 ranpac.lambdas wants a larger one",
                self.lambdas
            )));
        }
        let used = self.solve::<T>(best)?;
        Ok(Choice { lambda: self.lambdas[best], used, losses })
    }

    /// Solves for the head with λ number `from`, or the next one that will do, and returns that.
    fn solve<T: Float>(&mut self, from: usize) -> Result<f64> {
        let m = self.projection.features();
        let Some(sums) = &mut self.sums else { return Ok(self.lambdas[from]) };
        for &lambda in &self.lambdas[from..] {
            sums.work.reshape([m, m]);
            sums.work.view_mut().copy_from(sums.gram.view())?;
            let work = sums.work.view_mut().get::<T>("ranpac", "work")?;
            (0..m).for_each(|i| work[i * m + i] += T::of(lambda));
            if cholesky::factorize::<T>(&mut sums.work)? {
                self.head.view_mut().copy_from(sums.class_sums.view())?;
                cholesky::solve::<T>(&sums.work, &mut self.head)?;
                let head = self.head.view().get::<T>("ranpac", "head")?;
                if head.iter().all(|value| value.to_f64().is_finite()) {
                    return Ok(lambda);
                }
            }
        }
        Err(Error::failed(format!(
            "ranpac: G + lambda I is not positive definite to rounding with any lambda from {} to {}; ranpac.lambdas wants \
             a larger one",
            self.lambdas[from],
            self.lambdas[self.lambdas.len() - 1]
        )))
    }

    /// Logits (n, K) for features (n, L). A class that was never learned is 1 below the least of the others.
    ///
    /// # Errors
    /// `Error::Shape` if the features are of another width or type.
    pub fn logits(&self, features: View) -> Result<Tensor> {
        let (n, l) = (features.dims()[0], self.projection.width());
        let (m, classes) = (self.projection.features(), self.counts.len());
        let mut logits = Tensor::zeros([n, classes], self.head.dtype());
        let rows = ROWS.min(n.max(1));
        let mut hidden = Tensor::zeros([rows, m], self.head.dtype());
        for start in (0..n).step_by(rows) {
            let rows = rows.min(n - start);
            hidden.reshape([rows, m]);
            self.projection.columns(features.part(start * l, [rows, l]), 0, &mut hidden)?;
            let to = Layout { rows, cols: classes, offset: start * classes, stride: classes };
            let (h, w) =
                ((hidden.view(), Layout::dense(rows, m)), (self.head.view(), Layout::dense(m, classes)));
            matmul::forward(CPU, (logits.view_mut(), to), h, w, Write::Set)?;
        }
        match self.head.dtype() {
            DType::F64 => self.lower_unseen::<f64>(&mut logits)?,
            _ => self.lower_unseen::<f32>(&mut logits)?,
        }
        Ok(logits)
    }

    fn lower_unseen<T: Float>(&self, logits: &mut Tensor) -> Result<()> {
        let seen = |k: &usize| self.counts[*k] > 0.0;
        let classes = self.counts.len();
        for row in logits.view_mut().get::<T>("ranpac", "logits")?.chunks_exact_mut(classes.max(1)) {
            let known = (0..classes).filter(seen).map(|k| row[k]);
            let least = known.fold(T::ONE, |least, z| if z < least { z } else { least });
            (0..classes).filter(|k| !seen(k)).for_each(|k| row[k] = least - T::ONE);
        }
        Ok(())
    }

    /// [`Ridge::logits`] as a part of an ONNX graph.
    ///
    /// # Errors
    /// `Error::Failed` if there is no room for the weights.
    pub fn onnx(&self, g: &mut Graph, features: &Value) -> Result<Value> {
        let (l, m, classes) = (self.projection.width(), self.projection.features(), self.counts.len());
        let mut hidden = features.clone();
        if let Some(matrix) = self.projection.matrix() {
            let matrix = g.weights("random matrix", &[l, m], || Ok(matrix.to_f64()))?;
            let product = g.mat_mul(features, &matrix);
            hidden = g.op("Relu", &[&product], &[]);
        }
        let head = g.weights("ridge head", &[m, classes], || Ok(self.head.to_f64()))?;
        let logits = g.mat_mul(&hidden, &head);
        let seen: Vec<i64> = (0..).zip(&self.counts).filter(|(_, n)| **n > 0.0).map(|(k, _)| k).collect();
        if seen.is_empty() || seen.len() == classes {
            return Ok(logits);
        }
        // Classes that were never seen are 1 below the least of the others, and below 0.
        let there = |k: usize| f64::from(u8::from(self.counts[k] > 0.0));
        let keep = g.weights("seen classes", &[classes], || Ok((0..classes).map(there).collect()))?;
        let lower =
            g.weights("unseen classes", &[classes], || Ok((0..classes).map(|k| 1.0 - there(k)).collect()))?;
        let places = g.numbers(&seen);
        let known = g.gather(&logits, &places, 1);
        let one = g.scalar(1.0);
        let least =
            g.op("ReduceMin", &[&known], &[("axes", Attribute::Ints(&[1])), ("keepdims", Attribute::Int(1))]);
        let least = g.op("Min", &[&least, &one], &[]);
        let least = g.op("Sub", &[&least, &one], &[]);
        let (kept, lowered) = (g.mul(&logits, &keep), g.mul(&least, &lower));
        Ok(g.add(&kept, &lowered))
    }

    pub fn projection(&self) -> &Projection {
        &self.projection
    }
}

/// The images of one task.
struct Task<'a> {
    projection: &'a Projection,
    /// (n, L)
    features: View<'a>,
    labels: &'a [u32],
    /// K, over all tasks.
    classes: usize,
    /// Room for a block of random features.
    hidden: &'a mut Tensor,
}

impl Task<'_> {
    /// Adds hᵀ h of these images to the lower triangle of `gram`, and hᵀ y to `class_sums`.
    fn add(&mut self, images: Range<usize>, gram: &mut Tensor, class_sums: &mut Tensor) -> Result<()> {
        let (m, l) = (self.projection.features(), self.projection.width());
        let classes = self.classes;
        for start in images.clone().step_by(ROWS) {
            let rows = ROWS.min(images.end - start);
            self.hidden.reshape([rows, m]);
            let features = self.features.part(start * l, [rows, l]);
            self.projection.columns(features, 0, self.hidden)?;
            let h = Layout::dense(rows, m);
            for from in (0..m).step_by(BLOCK) {
                let to = BLOCK.min(m - from);
                let part = Layout { rows: to, cols: from + to, offset: from * m, stride: m };
                let (own, left) = (h.columns(from, to), h.columns(0, from + to));
                let dst = (gram.view_mut(), part);
                matmul::backward_weight_acc(CPU, dst, (self.hidden.view(), own), (self.hidden.view(), left))?;
            }
            let all: Vec<usize> = (0..classes).collect();
            let targets = self.targets(start..start + rows, &all, class_sums.dtype());
            let (to, y) = (Layout::dense(m, classes), (targets.view(), Layout::dense(rows, classes)));
            matmul::backward_weight_acc(CPU, (class_sums.view_mut(), to), (self.hidden.view(), h), y)?;
        }
        Ok(())
    }

    /// 1 where an image is of one of `classes`, (n, c).
    fn targets(&self, images: Range<usize>, classes: &[usize], dtype: DType) -> Tensor {
        let labels = &self.labels[images.clone()];
        let row = |label: usize| classes.iter().map(move |&class| f64::from(u8::from(class == label)));
        let values: Vec<f64> = labels.iter().flat_map(|&label| row(label as usize)).collect();
        Tensor::from_f64(&values, [images.len(), classes.len()], dtype)
    }

    /// The classes of the first `fitted` images, ascending: the others have a column of zeros in every head.
    fn fitted_classes(&self, fitted: usize) -> Vec<usize> {
        let mut classes: Vec<usize> = self.labels[..fitted].iter().map(|&label| label as usize).collect();
        classes.sort_unstable();
        classes.dedup();
        classes
    }

    /// Losses by a matrix of as many rows as images are fitted, K = H Hᵀ, which is computed in `work`.
    fn losses_of_images<T: Float>(
        &mut self,
        fitted: usize,
        work: &mut Tensor,
        lambdas: &[f64],
    ) -> Result<Vec<f64>> {
        let (n, m, l) = (self.labels.len(), self.projection.features(), self.projection.width());
        let (dtype, rest) = (work.dtype(), n - fitted);
        work.reshape([fitted, fitted]);
        work.fill(0.0);
        let mut tested = Tensor::zeros([rest, fitted], dtype);
        for start in (0..m).step_by(BLOCK) {
            let columns = BLOCK.min(m - start);
            let mut h = Tensor::zeros([n, columns], dtype);
            self.projection.columns(self.features.part(0, [n, l]), start, &mut h)?;
            let rows = |from: usize, rows: usize| Layout {
                rows,
                cols: columns,
                offset: from * columns,
                stride: columns,
            };
            for from in (0..fitted).step_by(BLOCK) {
                let to = BLOCK.min(fitted - from);
                let part = Layout { rows: to, cols: from + to, offset: from * fitted, stride: fitted };
                let (own, left) = ((h.view(), rows(from, to)), (h.view(), rows(0, from + to)));
                matmul::backward_input(CPU, (work.view_mut(), part), own, left, Write::Add)?;
            }
            let (own, left) = ((h.view(), rows(fitted, rest)), (h.view(), rows(0, fitted)));
            let to = (tested.view_mut(), Layout::dense(rest, fitted));
            matmul::backward_input(CPU, to, own, left, Write::Add)?;
        }
        let classes = self.fitted_classes(fitted);
        let targets = self.targets(0..fitted, &classes, dtype);
        self.losses::<T>(work, targets, tested, &classes, lambdas)
    }

    /// The same by a matrix of as many rows as there are features, G of the fitted images, which is computed in
    /// `sums.work`. Adds all images to the sums on the way.
    fn add_and_losses_of_features<T: Float>(
        &mut self,
        fitted: usize,
        sums: &mut Sums,
        lambdas: &[f64],
    ) -> Result<Vec<f64>> {
        let (n, m, l) = (self.labels.len(), self.projection.features(), self.projection.width());
        let (dtype, rest, all) = (sums.work.dtype(), n - fitted, self.classes);
        sums.work.reshape([m, m]);
        sums.work.fill(0.0);
        let mut own = Tensor::zeros([m, all], dtype);
        self.add(0..fitted, &mut sums.work, &mut own)?;
        add_to::<T>(&mut sums.gram, &sums.work)?;
        add_to::<T>(&mut sums.class_sums, &own)?;
        self.add(fitted..n, &mut sums.gram, &mut sums.class_sums)?;
        let classes = self.fitted_classes(fitted);
        let own = own.view().get::<T>("ranpac", "class sums")?;
        let targets: Vec<T> = own.chunks_exact(all).flat_map(|row| classes.iter().map(|&k| row[k])).collect();
        let targets = Tensor::from_vec(targets, [m, classes.len()]);
        let mut tested = Tensor::zeros([rest, m], dtype);
        self.projection.columns(self.features.part(fitted * l, [rest, l]), 0, &mut tested)?;
        self.losses::<T>(&mut sums.work, targets, tested, &classes, lambdas)
    }

    /// The squared error of `tested` (a + λ I)⁻¹ `targets` on the images behind the fitted ones, for each λ.
    /// a: (d, d), lower triangle; targets: (d, c) for c of the classes; tested: (rest, d).
    fn losses<T: Float>(
        &self,
        a: &mut Tensor,
        mut targets: Tensor,
        tested: Tensor,
        classes: &[usize],
        lambdas: &[f64],
    ) -> Result<Vec<f64>> {
        let (d, c, rest, dtype) = (targets.dims()[0], classes.len(), tested.dims()[0], a.dtype());
        mirror::<T>(a)?;
        let band = Band::reduce::<T>(a, &mut targets)?;
        let targets = targets.to_f64();
        let solved: Vec<Option<Vec<f64>>> =
            lambdas.par_iter().map(|&lambda| band.solve(lambda, &targets)).collect();
        // Side by side, so that each product is made once.
        let found: Vec<&Vec<f64>> = solved.iter().flatten().collect();
        let columns = found.len() * c;
        let mut w = Vec::with_capacity(d * columns);
        for i in 0..d {
            found.iter().for_each(|z| w.extend(z[i * c..(i + 1) * c].iter().map(|&z| T::of(z))));
        }
        let mut w = Tensor::from_vec(w, [d, columns]);
        band.turn_back::<T>(a, &mut w)?;
        let mut answers = Tensor::zeros([rest, columns], dtype);
        let (x, w) = ((tested.view(), Layout::dense(rest, d)), (w.view(), Layout::dense(d, columns)));
        matmul::forward(CPU, (answers.view_mut(), Layout::dense(rest, columns)), x, w, Write::Set)?;
        let answers = answers.view().get::<T>("ranpac", "answers")?;
        let mut number = 0;
        let losses = solved.iter().map(|solution| {
            if solution.is_none() {
                return f64::INFINITY;
            }
            number += 1;
            let own = (number - 1) * c..number * c;
            let rows = answers.chunks_exact(columns.max(1)).map(|row| &row[own.clone()]);
            let loss = self.squared_error(rows, classes) / (rest * self.classes) as f64;
            if loss.is_finite() { loss } else { f64::INFINITY }
        });
        Ok(losses.collect())
    }

    /// Sum over the last images, one for each of `answers`, and over all classes of the squared error; each answer has
    /// a number for each of `classes`, the other classes are answered with 0.
    fn squared_error<'a, T: Float>(
        &self,
        answers: impl ExactSizeIterator<Item = &'a [T]>,
        classes: &[usize],
    ) -> f64 {
        let labels = &self.labels[self.labels.len() - answers.len()..];
        let of = |(row, &label): (&[T], &u32)| {
            let label = label as usize;
            let target = |class: usize| f64::from(u8::from(class == label));
            let known = row.iter().zip(classes).map(|(z, &class)| (z.to_f64() - target(class)).powi(2));
            known.sum::<f64>() + f64::from(u8::from(!classes.contains(&label)))
        };
        answers.zip(labels).map(of).sum()
    }
}

/// to += from.
fn add_to<T: Float>(to: &mut Tensor, from: &Tensor) -> Result<()> {
    let (to, from) = (to.view_mut().get::<T>("ranpac", "to")?, from.view().get::<T>("ranpac", "from")?);
    to.par_chunks_mut(BLOCK * BLOCK).zip(from.par_chunks(BLOCK * BLOCK)).for_each(|(to, from)| {
        to.iter_mut().zip(from).for_each(|(to, &from)| *to += from);
    });
    Ok(())
}

/// Copies the lower triangle of a square matrix to the upper one, tile by tile.
fn mirror<T: Float>(a: &mut Tensor) -> Result<()> {
    const TILE: usize = 64;
    let n = a.dims()[0];
    let a = a.view_mut().get::<T>("ranpac", "a")?;
    for rows in (0..n).step_by(TILE) {
        for columns in (rows..n).step_by(TILE) {
            for i in rows..n.min(rows + TILE) {
                for j in columns.max(i + 1)..n.min(columns + TILE) {
                    a[i * n + j] = a[j * n + i];
                }
            }
        }
    }
    Ok(())
}
