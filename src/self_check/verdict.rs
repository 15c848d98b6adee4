//! What is known of every kernel on a GPU, and the file that keeps it.

use super::found::{Found, Stage};
use super::works::{FORMS, STEP, StepShapes, Work, step_row};
use crate::config::schema::Kernels;
use crate::data::cache::user_folder;
use crate::device::{ElementType, embedded, probe};
use crate::error::Result;
use crate::ops::attention;
use crate::ops::matmul::hopper;
use crate::output::atomic;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Of the content of files; files of another version are passed over.
const VERSION: u32 = 2;

/// How the names of files begin.
const FILES: &str = "device-";

/// A 16-bit form is slow where it takes so many times as long as the f32 form of the same work, and [`grace_us`] more; Hopper
/// kernels beside portable ones likewise.
const SLOWER: f64 = 10.0;

/// Launches take some microseconds whatever they do, and measurements are disturbed. Hopper kernels have small work as well, of which
/// fixed costs are all there is.
fn grace_us(generation: Kernels) -> f64 {
    match generation {
        Kernels::Portable => 5_000.0,
        Kernels::Hopper => 50_000.0,
    }
}

/// Kernels that are named in a sentence.
const NAMED: usize = 6;

/// What a verdict holds for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Key {
    pub gpu: String,
    pub uuid: String,
    pub compute_capability: (i32, i32),
    pub multiprocessors: usize,
    /// 13000 for CUDA 13.0.
    pub driver: i32,
    /// Of this program and its kernels.
    pub build: String,
    pub shapes: Option<StepShapes>,
    /// Without the kernels that only large shapes take.
    pub quick: bool,
    /// Portable kernels alone, or Hopper kernels as well.
    pub kernels: Kernels,
}

impl Key {
    pub fn new(gpu: &probe::FoundGpu, shapes: Option<StepShapes>, quick: bool, kernels: Kernels) -> Key {
        Key {
            gpu: gpu.name.clone(),
            uuid: gpu.uuid.clone(),
            compute_capability: gpu.compute_capability,
            multiprocessors: gpu.multiprocessors,
            driver: probe::driver_version(),
            build: embedded::build(),
            shapes,
            quick,
            kernels,
        }
    }

    /// Where its verdict is kept; `None` without a cache folder.
    pub fn file(&self) -> Option<PathBuf> {
        let text = serde_json::to_string(self).ok()?;
        let name = format!("{FILES}{:08x}.json", crc32c::crc32c(text.as_bytes()));
        Some(user_folder()?.join(name))
    }
}

/// One kernel in one form.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Its name; whole training steps have a row of their own.
    pub kernel: String,
    pub form: String,
    pub generation: String,
    /// The folder of its op.
    pub op: String,
    /// Passes that launched it, and how often they were repeated in all.
    pub passes: usize,
    pub repeats: usize,
    /// Passes that were also replayed as a graph.
    pub graphs: usize,
    /// The longest of them, in microseconds; 0 where none ended.
    pub us: f64,
    /// Why it is not used, if so.
    pub failed: Option<Stage>,
    pub text: String,
}

/// All kernels on one GPU.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    version: u32,
    pub key: Key,
    /// Of the check.
    pub seconds: f64,
    /// By op, kernel and form.
    pub rows: Vec<Row>,
}

/// A pass that went wrong.
struct Wrong<'a> {
    op: &'a str,
    form: ElementType,
    stage: Stage,
    kernels: Vec<String>,
    text: String,
}

impl Verdict {
    pub(super) fn new(key: Key, seconds: f64, works: &[Work], found: &[Option<Found>]) -> Verdict {
        let mut rows: BTreeMap<String, Row> = BTreeMap::new();
        for (work, found) in works.iter().zip(found) {
            for pass in found.iter().flat_map(|found| &found.passes) {
                for kernel in &pass.kernels {
                    let row = row_of(&mut rows, kernel, work.op());
                    row.passes += 1;
                    row.repeats += pass.repeats;
                    row.graphs += usize::from(pass.graph);
                    row.us = row.us.max(pass.us);
                }
            }
            if let (Work::Step(form, kernels), Some(_)) = (work, found) {
                row_of(&mut rows, &step_row(*form, *kernels), STEP).passes += 1;
            }
        }
        let mut wrong: Vec<Wrong> =
            works.iter().zip(found).flat_map(|(work, found)| wrong(work, found)).collect();
        wrong.extend(slow(works, found));
        // A pass of several kernels does not say which of them is wrong, unless one is wrong where it is alone.
        let alone: BTreeSet<String> =
            wrong.iter().filter(|w| w.kernels.len() == 1).flat_map(|w| w.kernels.clone()).collect();
        for wrong in &wrong {
            let known = wrong.kernels.iter().any(|kernel| alone.contains(kernel));
            for kernel in wrong.kernels.iter().filter(|kernel| !known || alone.contains(*kernel)) {
                let row = row_of(&mut rows, kernel, wrong.op);
                if row.failed.is_none() {
                    (row.failed, row.text) = (Some(wrong.stage), wrong.text.clone());
                }
            }
            if wrong.kernels.is_empty() {
                let name = format!("{}_{}", wrong.op, wrong.form.name());
                let row = row_of(&mut rows, &name, wrong.op);
                (row.failed, row.text) = (Some(wrong.stage), wrong.text.clone());
            }
        }
        Verdict { version: VERSION, key, seconds, rows: rows.into_values().collect() }
    }

    /// The rows of what must not be used.
    pub fn failed(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| row.failed.is_some())
    }

    /// How many kernels have a row.
    pub fn kernels(&self) -> usize {
        self.rows.iter().filter(|row| row.op != STEP).count()
    }

    /// In one sentence.
    pub fn sentence(&self) -> String {
        let all = self.kernels();
        match self.failed().count() {
            0 => format!("all {all} kernels compute on {} what they should", self.key.gpu),
            n => format!("on {} {n} of {all} kernels failed the check: {}", self.key.gpu, self.names()),
        }
    }

    /// Of those that failed, the first few.
    fn names(&self) -> String {
        let mut names: Vec<&str> = self.failed().map(|row| row.kernel.as_str()).collect();
        let more = names.len().saturating_sub(NAMED);
        names.truncate(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("{}{more}", names.join(", "))
    }

    /// For the results of a run, which say elsewhere on which GPU.
    pub fn words(&self) -> String {
        match self.failed().count() {
            0 => format!("{}, checked", self.key.kernels),
            _ => format!("{}, checked; failed: {}", self.key.kernels, self.names()),
        }
    }

    /// What was found for this key before, if that can still be read.
    pub fn on_file(key: &Key) -> Option<Verdict> {
        read(&key.file()?).filter(|verdict| verdict.key == *key)
    }

    /// Of what is on file about a GPU, its driver and this build, for whatever shapes, the verdict with most failures, then most
    /// kernels.
    pub fn about(gpu: &probe::FoundGpu) -> Option<Verdict> {
        let files = std::fs::read_dir(user_folder()?).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
        let is_one = |file: &PathBuf| {
            let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            name.starts_with(FILES) && name.ends_with(".json")
        };
        let now = Key::new(gpu, None, false, Kernels::Portable);
        let holds = |verdict: &Verdict| {
            let Key { shapes, quick, kernels, .. } = &verdict.key;
            verdict.key == Key { shapes: shapes.clone(), quick: *quick, kernels: *kernels, ..now.clone() }
        };
        let verdicts = files.filter(is_one).filter_map(|file| read(&file)).filter(holds);
        verdicts.max_by_key(|verdict| (verdict.failed().count(), verdict.rows.len()))
    }

    /// Keeps it. Without a cache folder it is made anew each time.
    ///
    /// # Errors
    /// `Error::File` if it cannot be written.
    pub fn keep(&self) -> Result<()> {
        let Some(file) = self.key.file() else { return Ok(()) };
        if let Some(folder) = file.parent() {
            // The error is that of the file.
            let _ = std::fs::create_dir_all(folder);
        }
        atomic::write_json(&file, self)
    }
}

/// What a file holds, if it can still be read.
fn read(file: &Path) -> Option<Verdict> {
    let verdict: Verdict = serde_json::from_str(&std::fs::read_to_string(file).ok()?).ok()?;
    (verdict.version == VERSION).then_some(verdict)
}

fn row_of<'a>(rows: &'a mut BTreeMap<String, Row>, kernel: &str, op: &str) -> &'a mut Row {
    let form = FORMS.map(ElementType::name).into_iter().find(|form| kernel.ends_with(&format!("_{form}")));
    // A pass of one op may launch kernels of another, whose names begin with theirs.
    let own = embedded::IMAGES.iter().map(|(name, _)| *name).filter(|name| kernel.starts_with(name));
    let op = own.max_by_key(|name| name.len()).unwrap_or(op);
    rows.entry(kernel.to_string()).or_insert_with(|| Row {
        kernel: kernel.into(),
        form: form.unwrap_or_default().into(),
        generation: generation_of(kernel).word().into(),
        op: op.into(),
        passes: 0,
        repeats: 0,
        graphs: 0,
        us: 0.0,
        failed: None,
        text: String::new(),
    })
}

/// By the name of a kernel, or of a row of whole steps.
fn generation_of(kernel: &str) -> Kernels {
    let is_hopper = kernel.split('_').any(|word| word == Kernels::Hopper.word());
    if is_hopper { Kernels::Hopper } else { Kernels::Portable }
}

/// The Hopper kernels that such work is there to check: of products in tiles of so many columns, else those of attention.
fn hopper_kernels(cols: Option<usize>, form: ElementType) -> Vec<String> {
    match cols {
        Some(cols) => hopper::of_width(cols, form),
        None => attention::hopper::symbols(form),
    }
}

/// What is wrong by a piece of work. Portable kernels have work of their own: work of Hopper kernels blames those alone.
fn wrong<'a>(work: &'a Work, found: &Option<Found>) -> Vec<Wrong<'a>> {
    let (op, form) = (work.op(), work.form());
    let of = |stage: Stage, kernels: Vec<String>, text: String| Wrong { op, form, stage, kernels, text };
    let Some(found) = found else {
        // Left out because its like has hung: what is not checked is not used.
        let Work::Hopper(_, _, cols) = work else { return Vec::new() };
        let text = format!("{}: left out, because other work of Hopper kernels hangs", work.name());
        let each = hopper_kernels(*cols, form).into_iter();
        return each.map(|kernel| of(Stage::Hang, vec![kernel], text.clone())).collect();
    };
    let Some(failure) = &found.failure else { return Vec::new() };
    let mut kernels = failure.kernels.clone();
    if work.generation() == Kernels::Hopper {
        kernels.retain(|kernel| generation_of(kernel) == Kernels::Hopper);
    }
    if let (Work::Hopper(_, _, cols), true) = (work, kernels.is_empty()) {
        kernels = hopper_kernels(*cols, form);
    }
    vec![of(failure.stage, kernels, failure.text.clone())]
}

/// Passes in 16 bits that take much longer than the same in f32, and of Hopper kernels than the same by portable ones.
fn slow<'a>(works: &'a [Work], found: &[Option<Found>]) -> Vec<Wrong<'a>> {
    let mut known: BTreeMap<[&str; 4], f64> = BTreeMap::new();
    let mut slow = Vec::new();
    for (work, found) in works.iter().zip(found) {
        let (form, generation) = (work.form(), work.generation());
        let (beside, words) = match generation {
            Kernels::Portable => (ElementType::F32, "in f32"),
            Kernels::Hopper => (form, "by portable kernels"),
        };
        for pass in found.iter().flat_map(|found| &found.passes) {
            let key = |form: ElementType| [form.name(), work.op(), work.label(), &pass.pass];
            if generation == Kernels::Portable {
                known.insert(key(form), pass.us);
            }
            let own = |kernel: &&String| {
                kernel.ends_with(&format!("_{}", form.name())) && generation_of(kernel) == generation
            };
            let kernels: Vec<String> = pass.kernels.iter().filter(own).cloned().collect();
            let grace = grace_us(generation);
            // A pass without a Hopper kernel says nothing about them.
            let counts = generation == Kernels::Portable || !kernels.is_empty();
            if let Some(&us) = known.get(&key(beside)).filter(|_| counts)
                && pass.us > SLOWER * us + grace
            {
                slow.push(Wrong {
                    op: work.op(),
                    form,
                    stage: Stage::Slow,
                    kernels,
                    text: format!(
                        "{}, {}: takes {:.0} us, the same {words} takes {us:.0}; wanted at most {SLOWER} times that \
                         and {grace} us",
                        work.name(),
                        pass.pass,
                        pass.us
                    ),
                });
            }
        }
    }
    slow
}
