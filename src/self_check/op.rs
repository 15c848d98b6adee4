//! One op on the GPU: beside the CPU, again and again, and as a graph.

use super::found::{Failure, Found, PassFound, Stage};
use super::works::dtype;
use crate::device::{Device, ElementType, Event, Gpu, Graph, Pinned, StreamKind};
use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor};
use crate::testing::cases::{Case, Data, Guarded, On};
use crate::testing::{close, parity};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) const SEED: u64 = 20_261;
/// Elements beside each output: a number that leaves no address aligned for vectors, and one that does.
const BANDS: [usize; 2] = [67, 64];
/// Every pass is repeated at least so often.
const LEAST_REPEATS: usize = 3;
/// No more repetitions of a pass are begun after this time.
const BUDGET: Duration = Duration::from_millis(5);
/// Bytes that are copied each way beside a repetition.
const BESIDE_BYTES: usize = 1 << 16;

/// A GPU and what is copied on its second stream meanwhile.
pub(super) struct Bench {
    gpu: Arc<Gpu>,
    most_repeats: usize,
    up: Pinned,
    down: Pinned,
    memory: crate::device::GpuMemory,
}

/// Why a pass ended early.
enum Stop {
    /// The kernels did something wrong.
    Wrong(Stage, String),
    /// The driver reported an error.
    Driver(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Driver(error)
    }
}

impl Bench {
    pub fn new(gpu: &Arc<Gpu>, most_repeats: usize) -> Result<Bench> {
        let (mut up, down) = (Pinned::new(gpu, BESIDE_BYTES)?, Pinned::new(gpu, BESIDE_BYTES)?);
        up.bytes_mut()?.iter_mut().enumerate().for_each(|(i, byte)| *byte = (i * 7 % 251) as u8);
        Ok(Bench { gpu: gpu.clone(), most_repeats, up, down, memory: gpu.allocate(BESIDE_BYTES)? })
    }

    /// Starts copies to and from the device on the stream for copies.
    fn copy_beside(&mut self) -> Result<()> {
        self.up.upload(&self.memory, 0, BESIDE_BYTES, StreamKind::Copy)?;
        self.down.download(&self.memory, 0, BESIDE_BYTES, StreamKind::Copy)
    }

    /// Checks both passes. `launched` hears the kernels of a pass before they are waited for. The error is that of the
    /// driver, after which nothing more can be launched in this process.
    pub fn check(
        &mut self,
        case: &Case,
        form: ElementType,
        launched: &mut dyn FnMut(&[String]),
    ) -> (Found, bool) {
        let mut found = Found::default();
        for band in BANDS {
            let mut kernels = Vec::new();
            let mut hear = |names: &[String]| {
                kernels = names.to_vec();
                launched(names);
            };
            let passes = self.at(case, form, band, &mut hear);
            let (stage, text) = match passes {
                Ok((passes, in_graph)) => {
                    found.passes = passes;
                    found.failure = found.failure.or(in_graph);
                    continue;
                }
                Err(Stop::Wrong(stage, text)) => (stage, text),
                // An op that refuses its arguments leaves a device that still works.
                Err(Stop::Driver(why)) => {
                    (Stage::Fault, format!("{} {} in {}: {why}", case.op, case.label, form.name()))
                }
            };
            found.failure = Some(Failure { stage, kernels, text });
            break;
        }
        let alive = self.gpu.synchronize(StreamKind::Compute).is_ok();
        (found, alive)
    }

    fn at(
        &mut self,
        case: &Case,
        form: ElementType,
        band: usize,
        hear: &mut dyn FnMut(&[String]),
    ) -> std::result::Result<(Vec<PassFound>, Option<Failure>), Stop> {
        let dtype = dtype(form);
        let on = On { dev: Device::Cuda(self.gpu.clone()), band };
        let data = if case.is_exact { case.whole_numbers(SEED, dtype) } else { case.data(SEED, dtype) };
        let wanted = Wanted::new(case, &data, dtype)?;
        let there = data.to(&on.dev, dtype)?;
        let [starts, slopes] = case.starts(&on, &there);
        let fresh = case.outputs_on(&on, &there, Some(&starts))?;
        let (forward, outputs, mut in_graph) = self.pass(
            "forward",
            case,
            &on,
            &fresh,
            |room| case.forward_into(&on, &there, room),
            |got, slots| wanted.beside(0, got, slots),
            hear,
        )?;
        let mut passes = vec![forward];
        if case.backward.is_some() {
            let outputs = outputs.tensors(&on)?;
            let fresh = case.gradients_on(&on, &there, Some(&slopes))?;
            let (backward, _, text) = self.pass(
                "backward",
                case,
                &on,
                &fresh,
                |room| case.backward_into(&on, &there, &outputs, room),
                |got, slots| wanted.beside(1, got, slots),
                hear,
            )?;
            passes.push(backward);
            in_graph = in_graph.or(text);
        }
        Ok((passes, in_graph))
    }

    /// One pass, its results in the room that it wrote to, and what is wrong only within a graph.
    #[allow(clippy::too_many_arguments)]
    fn pass(
        &mut self,
        name: &str,
        case: &Case,
        on: &On,
        fresh: &Guarded,
        queue: impl Fn(&mut Guarded) -> Result<()>,
        wrong: impl Fn(&[Vec<f64>], &[crate::testing::cases::Slot]) -> Option<String>,
        hear: &mut dyn FnMut(&[String]),
    ) -> std::result::Result<(PassFound, Guarded, Option<Failure>), Stop> {
        let what = format!("{} {}, {name}", case.op, case.label);
        let mut room = fresh.copy(on)?;
        self.gpu.take_launched();
        let queued = queue(&mut room);
        let kernels = self.gpu.take_launched();
        hear(&kernels);
        queued?;
        let first = self.read(&room)?;
        if let Some(text) = wrong(&first, room.slots()) {
            return Err(Stop::Wrong(Stage::Values, format!("{what}: {text}")));
        }
        let (mut us, mut repeats, begun) = (f64::INFINITY, 0, Instant::now());
        let (start, end) = (Event::timed(&self.gpu)?, Event::timed(&self.gpu)?);
        while repeats < LEAST_REPEATS.min(self.most_repeats)
            || (repeats < self.most_repeats && begun.elapsed() < BUDGET)
        {
            room.set(fresh)?;
            self.copy_beside()?;
            start.record(StreamKind::Compute)?;
            queue(&mut room)?;
            end.record(StreamKind::Compute)?;
            let again = self.read(&room)?;
            us = us.min(1e3 * end.ms_since(&start)?);
            repeats += 1;
            if let Some(text) = other_bits(&first, &again, &names_of(room.slots())) {
                return Err(Stop::Wrong(Stage::Repetition, format!("{what}, repetition {repeats}: {text}")));
            }
        }
        if self.down.bytes_mut()? != self.up.bytes_mut()? {
            return Err(Stop::Wrong(Stage::Values, format!("{what}: copies beside it brought other bytes")));
        }
        let replayed = match case.waits_for_host {
            true => None,
            false => self.replay(fresh, &mut room, &queue, (&what, &first))?,
        };
        self.gpu.take_launched();
        let in_graph = replayed.clone().flatten();
        if in_graph.is_some() {
            // What follows needs what the pass gives without a graph.
            room.set(fresh)?;
            queue(&mut room)?;
        }
        let in_graph = in_graph.map(|text| Failure { stage: Stage::Graph, kernels: kernels.clone(), text });
        Ok((PassFound { pass: name.into(), kernels, us, repeats, graph: replayed.is_some() }, room, in_graph))
    }

    /// Records a pass as a graph and replays it: what is wrong, if anything. `None` where no graph can be recorded, which
    /// training goes on without.
    fn replay(
        &mut self,
        fresh: &Guarded,
        room: &mut Guarded,
        queue: &impl Fn(&mut Guarded) -> Result<()>,
        (what, first): (&str, &[Vec<f64>]),
    ) -> std::result::Result<Option<Option<String>>, Stop> {
        let gpu = self.gpu.clone();
        let Ok(graph) = Graph::capture(&gpu, || queue(room)) else { return Ok(None) };
        for replay in 1..=LEAST_REPEATS.min(self.most_repeats) {
            room.set(fresh)?;
            self.copy_beside()?;
            graph.launch()?;
            if let Some(text) = other_bits(first, &self.read(room)?, &names_of(room.slots())) {
                return Ok(Some(Some(format!("{what}, replay {replay} of a graph: {text}"))));
            }
        }
        Ok(Some(None))
    }

    /// The results; what lies beside them has been written to only if the device still works.
    fn read(&self, room: &Guarded) -> std::result::Result<Vec<Vec<f64>>, Stop> {
        room.read().map_err(|why| match self.gpu.synchronize(StreamKind::Compute) {
            Ok(()) => Stop::Wrong(Stage::Values, why.to_string()),
            Err(_) => Stop::Driver(why),
        })
    }
}

fn names_of(slots: &[crate::testing::cases::Slot]) -> Vec<String> {
    slots.iter().map(|slot| slot.name.to_string()).collect()
}

/// The first value that has other bits, in arrays of these names.
pub(super) fn other_bits(first: &[Vec<f64>], again: &[Vec<f64>], names: &[String]) -> Option<String> {
    for ((first, again), name) in first.iter().zip(again).zip(names) {
        if let Some(i) = (0..first.len()).find(|&i| first[i].to_bits() != again[i].to_bits()) {
            return Some(format!("`{name}`[{i}] was {} and is {}", first[i], again[i]));
        }
    }
    None
}

/// What the CPU makes of the same numbers, outputs and then gradients.
struct Wanted {
    exact: bool,
    wide: [Vec<Vec<f64>>; 2],
    /// In f32, for f32 forms that are compared with a limit.
    plain: Option<[Vec<Vec<f64>>; 2]>,
    limit: f64,
}

impl Wanted {
    fn new(case: &Case, data: &Data, dtype: DType) -> Result<Wanted> {
        let on_cpu = |data: &Data| -> Result<[Vec<Vec<f64>>; 2]> {
            let [starts, slopes] = case.starts(&On::CPU, data);
            let outputs = case.run_forward(&On::CPU, data, Some(&starts))?;
            let grads = case.run_backward(&On::CPU, data, &outputs, Some(&slopes))?;
            Ok([&outputs, &grads].map(|tensors| tensors.iter().map(Tensor::to_f64).collect()))
        };
        let plain = (dtype == DType::F32 && !case.is_exact).then(|| on_cpu(data)).transpose()?;
        let wide = on_cpu(&data.to(&Device::Cpu, DType::F64)?)?;
        Ok(Wanted { exact: case.is_exact, wide, plain, limit: parity::limit(dtype) })
    }

    /// What is wrong with the outputs (0) or gradients (1), if anything.
    fn beside(
        &self,
        which: usize,
        got: &[Vec<f64>],
        slots: &[crate::testing::cases::Slot],
    ) -> Option<String> {
        for (i, ((got, wanted), slot)) in got.iter().zip(&self.wide[which]).zip(slots).enumerate() {
            if self.exact {
                let wrong = got.iter().zip(wanted).position(|(&g, &w)| g != rounded(w, slot.dtype));
                if let Some(at) = wrong {
                    let (wanted, found) = (rounded(wanted[at], slot.dtype), got[at]);
                    return Some(format!("`{}`[{at}]: wanted {wanted} exactly, found {found}", slot.name));
                }
                continue;
            }
            let error = close::relative_error(got, wanted);
            let plain = self.plain.as_ref().map(|p| close::relative_error(&p[which][i], wanted));
            let limit = self.limit * (1 + which) as f64 + parity::TIMES * plain.unwrap_or(0.0);
            if error.is_nan() || error > limit {
                let at = worst(got, wanted);
                return Some(format!(
                    "`{}`[{at}]: wanted {} within {limit:.1e} of the largest value, found {}",
                    slot.name, wanted[at], got[at]
                ));
            }
        }
        None
    }
}

/// Where two arrays are furthest apart.
fn worst(got: &[f64], wanted: &[f64]) -> usize {
    let off = |i: usize| close::absolute_error(&got[i..=i], &wanted[i..=i]);
    (0..got.len()).max_by(|&a, &b| off(a).total_cmp(&off(b))).unwrap_or(0)
}

/// As a tensor of this type holds it.
fn rounded(value: f64, dtype: DType) -> f64 {
    match dtype {
        DType::F32 => f64::from(value as f32),
        DType::BF16 => half::bf16::from_f64(value).to_f64(),
        DType::F16 => half::f16::from_f64(value).to_f64(),
        DType::F64 | DType::U32 | DType::U8 => value,
    }
}
