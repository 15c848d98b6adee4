//! LwF: on the images of a task, the answers for the classes of earlier tasks are held near those that the network gave
//! when the task began. Source: Li & Hoiem 2016, arXiv:1606.09282; aimagelab/mammoth @ e75a491, `models/lwf.py`.
//!
//! From the second task on: (1) the head alone learns the task for `lwf.warmup_epochs` epochs, by SGD without momentum; (2)
//! the network as it is then, the teacher, answers for all images of the task, prepared like test images; (3) everything
//! learns with alpha D in the loss ([`crate::ops::distill`]), over the classes of earlier tasks. The student sees an image
//! augmented, the teacher has seen it plain. Departures of the named code from the paper, which are kept: the teacher is
//! the network after the warm-up and not before it (the old columns of the head are the same in both), and D has no
//! factor T².

use super::settings::Sizes;
use crate::config::schema;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::ops::distill;
use crate::tensor::input::Input;
use crate::tensor::plan::Plan;
use crate::tensor::{DType, Tensor, View, ViewMut};
use std::collections::HashMap;

/// A class in `met`.
const NEW: u32 = 1;
const OLD: u32 = 2;

#[derive(Debug)]
pub struct Lwf {
    config: schema::Lwf,
    /// (K) u32: 0, or [`NEW`] for a class of the current task alone, or [`OLD`] for one of a task before.
    met: Tensor,
    /// (K) u32: the old ones.
    mask: Tensor,
    /// Positions in the training set, and what the teacher said of these images, (n, K) in the same order.
    positions: Vec<u32>,
    answers: Vec<f64>,
    /// The place of a position in these.
    place: HashMap<u32, usize>,
    /// (B, K): the teacher's answers for the images of the next step, and where the device reads them.
    rows: Tensor,
    teacher: Input,
}

impl Lwf {
    pub(super) fn new(plan: &mut Plan, config: &schema::Lwf, sizes: Sizes) -> Lwf {
        let (b, k) = (if sizes.training { sizes.batch } else { 0 }, sizes.classes);
        Lwf {
            config: config.clone(),
            met: Tensor::zeros([k], DType::U32),
            mask: plan.tensor("old classes", [k], DType::U32),
            positions: Vec::new(),
            answers: Vec::new(),
            place: HashMap::new(),
            rows: Tensor::zeros([0, k], sizes.dtype),
            teacher: Input::new(plan, "answers of the teacher", [b, k], sizes.dtype),
        }
    }

    /// alpha
    pub(super) fn weight(&self) -> f64 {
        self.config.alpha
    }

    pub fn warmup_epochs(&self) -> usize {
        self.config.warmup_epochs
    }

    pub(super) fn on_logits(
        &self,
        dev: &Device,
        mut out: ViewMut,
        dlogits: ViewMut,
        logits: View,
    ) -> Result<()> {
        if !self.teaches() {
            out.fill(0.0);
            return Ok(());
        }
        let with = (self.config.temperature, self.config.alpha);
        let teacher = self.teacher.view(dev, self.rows.view());
        distill::forward_backward_acc(dev, out, dlogits, logits, teacher, self.mask.view(), with)
    }

    /// Whether the term is in the loss: a teacher has answered for the images of the task.
    pub(super) fn teaches(&self) -> bool {
        !self.positions.is_empty()
    }

    fn met_values(&self) -> Result<&[u32]> {
        self.met.view().get::<u32>("lwf", "met")
    }

    /// A task of these classes begins: those of the task before are old.
    pub fn begin_task(&mut self, classes: &[u32]) -> Result<()> {
        let mut met: Vec<u32> = self.met_values()?.iter().map(|&m| if m == NEW { OLD } else { m }).collect();
        for &class in classes {
            let m = &mut met[class as usize];
            *m = (*m).max(NEW);
        }
        self.met.view_mut().write(&met)
    }

    /// Whether there are classes of earlier tasks; and whether the task has others.
    pub fn has_old_and_new(&self) -> Result<(bool, bool)> {
        let met = self.met_values()?;
        Ok((met.contains(&OLD), met.contains(&NEW)))
    }

    /// Adds what the teacher says, (n, K), of the images at these positions of the training set.
    pub fn teach(&mut self, positions: &[u32], answers: &[f64]) -> Result<()> {
        let first = self.positions.len();
        self.place.extend(positions.iter().zip(first..).map(|(&position, at)| (position, at)));
        self.positions.extend(positions);
        self.answers.extend(answers);
        let mask: Vec<u32> = self.met_values()?.iter().map(|&m| u32::from(m == OLD)).collect();
        self.mask.view_mut().write(&mask)
    }

    /// The images of the next step.
    ///
    /// # Errors
    /// `Error::Failed` for an image that the teacher has not seen.
    pub fn next_images(&mut self, positions: &[u32]) -> Result<()> {
        if !self.teaches() {
            return Ok(());
        }
        let k = self.met.len();
        let mut rows = Vec::with_capacity(positions.len() * k);
        for position in positions {
            let at = self.place.get(position).ok_or_else(|| {
                Error::failed(format!("lwf: there is no answer of the teacher for training image {position}"))
            })?;
            rows.extend_from_slice(&self.answers[at * k..(at + 1) * k]);
        }
        self.rows = Tensor::from_f64(&rows, [positions.len(), k], self.rows.dtype());
        Ok(())
    }

    /// Brings the answers for the images of the step to the device.
    pub(super) fn load(&mut self, dev: &Device) -> Result<()> {
        if self.teaches() { self.teacher.load(dev, self.rows.view()) } else { Ok(()) }
    }

    /// The teacher's answers are for this task alone.
    pub fn end_task(&mut self) {
        (self.positions, self.answers, self.place) = Default::default();
    }

    /// Positions and answers, for checkpoints within a task.
    pub fn taught(&self) -> (&[u32], &[f64]) {
        (&self.positions, &self.answers)
    }

    pub(super) fn met(&self) -> &Tensor {
        &self.met
    }

    pub(super) fn met_mut(&mut self) -> &mut Tensor {
        &mut self.met
    }
}
