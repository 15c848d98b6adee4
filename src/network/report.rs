//! What a training step reports.

use crate::device::{Device, Event, Gpu, Pinned, StreamKind};
use crate::error::Result;
use crate::ops::axpy::scale_in_place;
use crate::tensor::plan::Plan;
use crate::tensor::{Tensor, View, ViewMut};
use std::sync::Arc;

/// What a training step reports.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct StepStats {
    /// ce_loss + weight · the method's term (L2P: -λ · pull; CODA-Prompt: mu · penalty; EWC: λ · Σ F (w - w*)²; LwF:
    /// alpha · distance to the teacher) + l2 penalty.
    pub loss: f64,
    pub ce_loss: f64,
    /// The method's term before its weight.
    pub pull: f64,
    /// Norm of the gradients in the clip scope, before clipping.
    pub grad_norm: f64,
    /// Images answered right among the classes of the mask.
    pub correct: usize,
}

/// The numbers of a step where the device writes them: loss, right answers, pull term, Σ p² of what decays,
/// Σ g² of what is clipped.
#[derive(Debug)]
pub struct StepReport(Tensor);

impl StepReport {
    pub const LEN: usize = 5;

    pub fn new(plan: &mut Plan) -> StepReport {
        plan.group("numbers");
        let dtype = plan.number();
        StepReport(plan.tensor("report", [StepReport::LEN], dtype))
    }

    pub fn outcome(&mut self) -> ViewMut<'_> {
        self.0.view_mut().part(0, [2])
    }

    /// (1): the mean loss.
    pub fn ce_loss(&self) -> View<'_> {
        self.0.view().part(0, [1])
    }

    pub fn pull_mut(&mut self) -> ViewMut<'_> {
        self.0.view_mut().part(2, [1])
    }

    pub fn decayed_mut(&mut self) -> ViewMut<'_> {
        self.0.view_mut().part(3, [1])
    }

    pub fn squares_mut(&mut self) -> ViewMut<'_> {
        self.0.view_mut().part(4, [1])
    }

    /// (1): Σ g² over the clip scope.
    pub fn squares(&self) -> View<'_> {
        self.0.view().part(4, [1])
    }

    /// (5)
    pub fn view(&self) -> View<'_> {
        self.0.view()
    }

    pub fn tensor_mut(&mut self) -> &mut Tensor {
        &mut self.0
    }

    /// Multiplies the means by a rank's share of a step's images; what is counted stays.
    pub fn scale_by_rank_fraction(&mut self, dev: &Device, rank_fraction: f64) -> Result<()> {
        scale_in_place(dev, self.0.view_mut().part(0, [1]), rank_fraction)?;
        scale_in_place(dev, self.0.view_mut().part(2, [2]), rank_fraction)
    }
}

impl StepStats {
    /// From the numbers of a [`StepReport`].
    pub fn of(values: &[f64], term_weight: f64, decay: f64, loss_scale: f64) -> StepStats {
        let (ce_loss, pull, penalty) = (values[0], values[2], 0.5 * decay * values[3]);
        StepStats {
            loss: ce_loss + term_weight * pull + penalty,
            ce_loss,
            pull,
            grad_norm: values[4].sqrt() / loss_scale,
            correct: values[1] as usize,
        }
    }
}

/// Reports of a GPU on their way to the host, which does not wait for them: while one window of steps is
/// filled, the one before travels on the copy stream.
#[derive(Debug)]
pub struct Pending {
    windows: [ReportBuffer; 2],
}

#[derive(Debug)]
struct ReportBuffer {
    /// (steps, [`StepReport::LEN`])
    rows: Tensor,
    filled: usize,
    /// Host memory, and the mark that the rows are computed.
    way: Option<(Pinned, Event)>,
}

impl Pending {
    /// Steps that the host may be behind, in each of two windows.
    const STEPS: usize = 8;

    pub fn new(plan: &mut Plan) -> Pending {
        let steps = if plan.is_on_gpu() { Pending::STEPS } else { 0 };
        let windows = [0, 1].map(|_| {
            let rows = plan.tensor("reports", [steps, StepReport::LEN], plan.number());
            ReportBuffer { rows, filled: 0, way: None }
        });
        Pending { windows }
    }

    /// Queues a copy of a step's report; the reports of an earlier window, if they have come.
    pub fn push(&mut self, gpu: &Arc<Gpu>, report: &StepReport) -> Result<Vec<Vec<f64>>> {
        let [now, before] = &mut self.windows;
        let at = now.filled * StepReport::LEN;
        now.rows.view_mut().part(at, [StepReport::LEN]).copy_from(report.view())?;
        now.filled += 1;
        if now.filled < Pending::STEPS {
            return Ok(Vec::new());
        }
        now.send(gpu)?;
        let came = before.receive()?;
        self.windows.swap(0, 1);
        Ok(came)
    }

    /// All reports that are left, when they are computed.
    pub fn settle(&mut self, gpu: &Arc<Gpu>) -> Result<Vec<Vec<f64>>> {
        let [now, before] = &mut self.windows;
        let mut all = before.receive()?;
        if now.filled > 0 {
            now.send(gpu)?;
            all.extend(now.receive()?);
        }
        Ok(all)
    }
}

impl ReportBuffer {
    /// Starts the copy to the host.
    fn send(&mut self, gpu: &Arc<Gpu>) -> Result<()> {
        let (pinned, computed) = match &mut self.way {
            Some(way) => way,
            None => self.way.insert((Pinned::new(gpu, self.rows.capacity_bytes())?, Event::new(gpu)?)),
        };
        computed.record(StreamKind::Compute)?;
        computed.hold(StreamKind::Copy)?;
        self.rows.view().download(pinned, StreamKind::Copy)
    }

    /// Waits for the copy and empties the window.
    fn receive(&mut self) -> Result<Vec<Vec<f64>>> {
        let filled = std::mem::take(&mut self.filled);
        let Some((pinned, _)) = self.way.as_mut().filter(|_| filled > 0) else { return Ok(Vec::new()) };
        let bytes: &[u8] = pinned.bytes_mut()?;
        let numbers = bytes.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]])));
        let numbers: Vec<f64> = numbers.take(filled * StepReport::LEN).collect();
        Ok(numbers.chunks_exact(StepReport::LEN).map(<[f64]>::to_vec).collect())
    }
}
