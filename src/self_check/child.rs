//! The child process that launches kernels, and the parent that listens to it.
//!
//! The child writes a line of JSON before each piece of work, one with the kernels of a pass before it waits for them, and
//! one with what it found. A kernel that hangs or faults leaves nothing of its process that could be used; the parent then
//! blames what the child was at and starts another one behind it.

use super::found::{Failure, Found, Stage};
use super::op::Bench;
use super::step;
use super::verdict::{Key, Verdict};
use super::widths;
use super::works::{StepShapes, Work, works};
use crate::config::schema::Kernels;
use crate::device::{Gpu, embedded};
use crate::error::{Error, Result};
use crate::output;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Children that end before their first piece of work, one after the other, until the check is given up.
const STARTS: usize = 2;
/// Of these is the time put together that a piece of work has taken: a computer that sleeps meanwhile, or a parent that is
/// stopped, adds one of them.
const SLICES: u32 = 50;
/// How long a killed child may take to go.
const LAST_WAIT: Duration = Duration::from_secs(10);

/// What a child says, line by line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "at")]
enum Line {
    /// The GPU is open and its kernels are loaded.
    Ready,
    Begin {
        work: usize,
    },
    /// These kernels were queued, and are waited for now.
    Launched {
        kernels: Vec<String>,
    },
    End {
        found: Found,
    },
    /// There is no more work.
    Done,
}

/// A check of one GPU.
#[derive(Debug, Clone)]
pub struct Check {
    /// The number of the GPU.
    pub index: usize,
    pub shapes: Option<StepShapes>,
    /// Without the kernels that only large shapes take.
    pub quick: bool,
    /// Portable kernels alone, or Hopper kernels as well.
    pub kernels: Kernels,
    /// How often each pass is repeated, at most.
    pub repeats: usize,
    /// How long a piece of work may take.
    pub timeout: Duration,
}

impl Check {
    /// Default of [`Check::repeats`].
    pub const REPEATS: usize = 100;
    /// Default of [`Check::timeout`].
    pub const TIMEOUT: Duration = Duration::from_secs(60);

    /// The verdict on file, or a new one, which is kept, and whether it is new. `again`: whatever is on file. `begins` is
    /// called before anything is checked.
    ///
    /// # Errors
    /// `Error::Failed` if no child can be started, or none opens the GPU.
    pub fn verdict(&self, key: Key, again: bool, begins: impl FnOnce()) -> Result<(Verdict, bool)> {
        if !again && let Some(verdict) = Verdict::on_file(&key) {
            return Ok((verdict, false));
        }
        begins();
        let verdict = self.run(key)?;
        if let Err(why) = verdict.keep() {
            output::say(&format!("warning: the verdict is not kept, and the next run checks again: {why}"));
        }
        Ok((verdict, true))
    }

    /// Checks everything.
    fn run(&self, key: Key) -> Result<Verdict> {
        let begun = Instant::now();
        let works = works(self.shapes.as_ref(), self.quick, self.kernels, key.multiprocessors);
        let mut found: Vec<Option<Found>> = works.iter().map(|_| None).collect();
        let (mut first, mut failed_starts) = (0, 0);
        // What hung in one case of an op would hang in the next.
        let mut hung: BTreeSet<String> = BTreeSet::new();
        while first < works.len() {
            let skip =
                (first..works.len()).filter(|&i| found[i].is_none() && hung.contains(&works[i].family()));
            let mut process = Process::start(self, first, &skip.collect::<Vec<_>>())?;
            let end = process.listen(self.timeout, |at, result| found[at] = Some(result))?;
            match end {
                End::Done => break,
                End::Early { at: None, why, .. } => {
                    failed_starts += 1;
                    if failed_starts >= STARTS {
                        return Err(Error::failed(format!(
                            "the check of cuda:{} does not start: {why}",
                            self.index
                        )));
                    }
                }
                // It said that the device has failed, and left.
                End::Early { at: Some(at), .. } if found[at].is_some() => first = at + 1,
                End::Early { at: Some(at), stage, why, kernels } => {
                    let text = format!("{}: {why}", works[at].name());
                    found[at] =
                        Some(Found { passes: Vec::new(), failure: Some(Failure { stage, kernels, text }) });
                    if stage == Stage::Hang {
                        hung.insert(works[at].family());
                    }
                    first = at + 1;
                    failed_starts = 0;
                }
            }
        }
        Ok(Verdict::new(key, begun.elapsed().as_secs_f64(), &works, &found))
    }
}

/// How a child ended.
enum End {
    Done,
    /// At this piece of work, or before the first.
    Early {
        at: Option<usize>,
        stage: Stage,
        why: String,
        kernels: Vec<String>,
    },
}

/// A child and what it says.
struct Process {
    child: Child,
    lines: Receiver<Line>,
}

impl Process {
    fn start(check: &Check, first: usize, skip: &[usize]) -> Result<Process> {
        let failed = |why: &dyn std::fmt::Display| {
            Error::failed(format!("the check of cuda:{} cannot start this program again: {why}", check.index))
        };
        let program = std::env::current_exe().map_err(|e| failed(&e))?;
        let shapes = serde_json::to_string(&check.shapes).map_err(|e| failed(&e))?;
        let skip: Vec<String> = skip.iter().map(usize::to_string).collect();
        let mut command = Command::new(program);
        command.args(["check-device", "--child", &first.to_string(), "--skip", &skip.join(",")]);
        command.args(["--device", &format!("cuda:{}", check.index), "--shapes", &shapes]);
        command.args(["--repeat", &check.repeats.to_string(), "--kernels", check.kernels.word()]);
        if check.quick {
            command.arg("--quick");
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|e| failed(&e))?;
        let (Some(stdout), (sender, lines)) = (child.stdout.take(), channel()) else {
            return Err(failed(&"it has no output"));
        };
        std::thread::spawn(move || {
            let read = BufReader::new(stdout).lines().map_while(|line| line.ok());
            // What is no line of ours is passed over; the parent may have gone.
            read.filter_map(|line| serde_json::from_str(&line).ok()).try_for_each(|line| sender.send(line))
        });
        Ok(Process { child, lines })
    }

    /// Hears the child to its end, which is at hand when this returns.
    fn listen(&mut self, timeout: Duration, mut result: impl FnMut(usize, Found)) -> Result<End> {
        let (mut at, mut kernels, mut slices) = (None, Vec::new(), 0);
        loop {
            let line = self.lines.recv_timeout(timeout / SLICES);
            slices = if line.is_err() { slices + 1 } else { 0 };
            match line {
                Err(RecvTimeoutError::Timeout) if slices < SLICES => {}
                Ok(Line::Ready) => {}
                Ok(Line::Begin { work }) => (at, kernels) = (Some(work), Vec::new()),
                Ok(Line::Launched { kernels: now }) => kernels = now,
                Ok(Line::End { found }) => {
                    if let Some(at) = at {
                        result(at, found);
                    }
                }
                Ok(Line::Done) => return Ok(End::Done),
                Err(RecvTimeoutError::Timeout) => {
                    let why = format!("did not end within {} s, and was stopped", timeout.as_secs_f64());
                    return Ok(End::Early { at, stage: Stage::Hang, why, kernels });
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let why = self.last_words();
                    return Ok(End::Early { at, stage: Stage::Fault, why, kernels });
                }
            }
        }
    }

    /// Of a child that has closed its output.
    fn last_words(&mut self) -> String {
        let mut said = String::new();
        if let Some(stderr) = &mut self.child.stderr {
            // The status says enough where this cannot be read.
            let _ = stderr.read_to_string(&mut said);
        }
        let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("").trim();
        let last = last.strip_prefix("l2p-engine: ").unwrap_or(last);
        match self.child.wait() {
            Ok(status) if last.is_empty() => format!("its process ended ({status})"),
            Ok(status) => format!("its process ended ({status}): {last}"),
            Err(why) => format!("its process ended: {why}"),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let begun = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && begun.elapsed() < LAST_WAIT {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The child: everything from `first` on but what is in `skip`, a line of JSON for each step on standard output. Ends with
/// its parent, which holds its standard input.
///
/// # Errors
/// `Error::Failed` if the GPU cannot be opened or the parent does not listen.
pub fn child(
    index: usize,
    shapes: Option<&StepShapes>,
    quick: bool,
    kernels: Kernels,
    repeats: usize,
    first: usize,
    skip: &[usize],
) -> Result<()> {
    std::thread::spawn(|| {
        let mut ignored = Vec::new();
        let _ = std::io::stdin().read_to_end(&mut ignored);
        std::process::exit(1);
    });
    let gpu = Gpu::open(index, embedded::image)?;
    gpu.load(embedded::IMAGES.iter().map(|(op, _)| *op))?;
    let mut bench = Bench::new(&gpu, repeats)?;
    say(&Line::Ready)?;
    let works = works(shapes, quick, kernels, gpu.multiprocessors());
    for (work, what) in works.iter().enumerate().skip(first) {
        if skip.contains(&work) {
            continue;
        }
        say(&Line::Begin { work })?;
        // The parent is gone where this fails, and so is this process soon.
        let mut launched = |kernels: &[String]| drop(say(&Line::Launched { kernels: kernels.to_vec() }));
        let (found, alive) = match what {
            Work::Op(case, form) => bench.check(case, *form, &mut launched),
            Work::Hopper(case, form, cols) => {
                gpu.use_hopper(true)?;
                gpu.force_hopper_tile(*cols);
                bench.check(case, *form, &mut launched)
            }
            Work::Widths(case, form) => widths::check(&gpu, case, *form, &mut launched),
            Work::Step(form, kernels) => step::check(&gpu, *form, *kernels, &mut launched),
        };
        gpu.use_hopper(false)?;
        gpu.force_hopper_tile(None);
        say(&Line::End { found })?;
        if !alive {
            // Whatever is launched after an error fails as well.
            std::process::exit(1);
        }
    }
    say(&Line::Done)
}

fn say(line: &Line) -> Result<()> {
    let failed = |why: &dyn std::fmt::Display| Error::failed(format!("a line to the parent: {why}"));
    let text = serde_json::to_string(line).map_err(|e| failed(&e))?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(|e| failed(&e))
}
