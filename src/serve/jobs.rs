//! Classes that are being taught: one at a time, on threads of their own and with less claim to the processor than answers.
//! A version is listed only after it was loaded again and has answered for its images.

use super::batcher::Batcher;
use super::intake::Intake;
use super::versions::{Loading, Versions};
use crate::error::{Error, Result};
use crate::learner::{Answer, Learner};
use crate::output::progress::{Event, Listener};
use crate::output::{say, signal};
use crate::train::add_classes::{Addition, add_classes};
use serde::Serialize;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use utoipa::ToSchema;

/// Jobs that are remembered.
const KEPT: usize = 100;
/// How much less than answers (0 to 19, as in `nice`).
const NICE: i32 = 10;
/// Images that a new version must answer for before it is listed.
const VERIFIED: usize = 8;

/// What a job is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Images are read, prompts and head learn.
    Learning,
    /// The network is tested on earlier tasks and on the new class.
    Testing,
    /// The new version is loaded and answers for its images.
    Verifying,
    /// The new version answers.
    Done,
    /// There is no new version.
    Failed,
}

/// A class that is or was taught.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Job {
    pub job: u32,
    pub class: String,
    pub images: usize,
    pub phase: Phase,
    /// Steps of learning that are done, and how many there are at most; tasks that are tested, and how many there are.
    pub step: u64,
    pub steps: u64,
    pub loss: Option<f64>,
    /// The new version.
    pub version: Option<u32>,
    /// Why there is none.
    pub error: Option<String>,
}

impl Job {
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Done | Phase::Failed)
    }
}

/// What is needed to teach a class.
pub struct Teacher {
    /// Held by whoever lets another version answer.
    pub changing: Arc<Mutex<()>>,
    pub versions: Arc<Mutex<Versions>>,
    pub batcher: Arc<Batcher>,
    pub intake: Arc<Intake>,
    pub loading: Loading,
    /// Where the images that the run began with lie now, if they have moved.
    pub run_images: Option<String>,
}

/// A folder with new images that becomes a version, or goes away.
pub struct Lesson {
    pub number: u32,
    pub dir: PathBuf,
    pub class: String,
    pub images: usize,
    /// The class may be there already.
    pub update: bool,
    kept: bool,
}

impl Lesson {
    pub fn new(number: u32, dir: PathBuf) -> Lesson {
        Lesson { number, dir, class: String::new(), images: 0, update: false, kept: false }
    }

    /// Where the images are.
    pub fn folder(&self) -> PathBuf {
        self.dir.join("images")
    }
}

impl Drop for Lesson {
    fn drop(&mut self) {
        if !self.kept {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

/// All jobs of this process.
#[derive(Default)]
pub struct Jobs(Mutex<List>);

#[derive(Default)]
struct List {
    jobs: VecDeque<watch::Receiver<Job>>,
    last: u32,
    thread: Option<JoinHandle<()>>,
}

impl Jobs {
    fn with<T>(&self, look: impl FnOnce(&mut List) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn get(&self, job: u32) -> Option<watch::Receiver<Job>> {
        self.with(|list| list.jobs.iter().find(|known| known.borrow().job == job).cloned())
    }

    /// The last job.
    pub fn last(&self) -> Option<Job> {
        self.with(|list| list.jobs.back().map(|job| job.borrow().clone()))
    }

    /// Waits for the job that is going on, no longer than `time`: what it leaves then is removed at the next start.
    pub fn finish(&self, time: Duration) {
        let end = Instant::now() + time;
        let thread = self.with(|list| list.thread.take());
        while thread.as_ref().is_some_and(|thread| !thread.is_finished()) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Starts to teach `lesson`. `slot` is given back when the job is over.
    ///
    /// # Errors
    /// `Error::Failed` if there is no thread to be had.
    pub fn start(&self, teacher: Teacher, lesson: Lesson, slot: impl Send + 'static) -> Result<Job> {
        self.with(|list| {
            list.last += 1;
            let job = Job {
                job: list.last,
                class: lesson.class.clone(),
                images: lesson.images,
                phase: Phase::Learning,
                step: 0,
                steps: 0,
                loss: None,
                version: None,
                error: None,
            };
            let (state, seen) = watch::channel(job.clone());
            let state = Arc::new(state);
            let work = move || {
                // Panics of a thread are printed; what waits for the job must hear of it.
                let _end = End(state.clone());
                let outcome = teacher.teach(lesson, &state);
                if let Err(e) = &outcome {
                    say(&format!("teaching failed: {e}"));
                }
                // The next job may start when this one says that it is over.
                drop(slot);
                state.send_modify(|job| match outcome {
                    Ok(version) => (job.phase, job.version) = (Phase::Done, Some(version)),
                    Err(e) => (job.phase, job.error) = (Phase::Failed, Some(told(&e))),
                });
            };
            let thread = std::thread::Builder::new().name("teacher".into()).spawn(work);
            list.thread = Some(thread.map_err(|e| Error::failed(format!("cannot start a thread: {e}")))?);
            list.jobs.push_back(seen);
            if list.jobs.len() > KEPT {
                list.jobs.pop_front();
            }
            Ok(job)
        })
    }
}

/// Says that a job is over where its thread ends without having said so.
struct End(Arc<watch::Sender<Job>>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.send_if_modified(|job| {
            let open = !job.is_over();
            if open {
                (job.phase, job.error) = (Phase::Failed, Some("the teaching thread stopped".into()));
            }
            open
        });
    }
}

/// A message for a client: without the paths of this machine.
fn told(error: &Error) -> String {
    match error {
        Error::File { what, .. } => what.clone(),
        Error::Interrupted(_) => "the server was stopped; teach the class again when it is back".into(),
        other => other.to_string(),
    }
}

impl Teacher {
    /// Makes the new version and returns its number.
    fn teach(&self, mut lesson: Lesson, state: &Arc<watch::Sender<Job>>) -> Result<u32> {
        let (parent, base) = {
            let versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
            (versions.active().number, versions.active().dir.clone())
        };
        let (run, hears) = (lesson.dir.join("run"), state.clone());
        let addition = Addition {
            workdir: base,
            images: lesson.folder().to_string_lossy().into_owned(),
            into: Some(run.clone()),
            epochs: None,
            update: lesson.update,
            init_checkpoint: self.loading.init_checkpoint.clone(),
            run_images: self.run_images.clone(),
            choice: self.loading.choice.clone(),
            quiet: true,
            listener: Some(Listener::new(move |event| {
                hears.send_modify(|job| match event {
                    Event::Step { done, of, loss } => {
                        (job.phase, job.step, job.steps) = (Phase::Learning, done, of);
                        job.loss = loss.or(job.loss);
                    }
                    Event::Test { done, of } => (job.phase, job.step, job.steps) = (Phase::Testing, done, of),
                });
            })),
        };
        on_threads_of_its_own(|| add_classes(&addition))??;
        state.send_modify(|job| job.phase = Phase::Verifying);
        let saved = self.loading.saved(&run)?;
        let mut learner = saved.learner(self.loading.choice.clone(), self.loading.batch)?;
        self.verify(&mut learner, &lesson)?;
        if signal::stop_requested() {
            return Err(Error::Interrupted("the server stops".into()));
        }
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let added = {
            let mut versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
            versions.add(&saved, lesson.number, parent, &lesson.class)
        };
        added?;
        lesson.kept = true;
        self.batcher.switch(learner, lesson.number)?;
        Ok(lesson.number)
    }

    /// The new version must know the class, and answer for some of its images with probabilities, with the same bits for
    /// one image and for several.
    fn verify(&self, learner: &mut Learner, lesson: &Lesson) -> Result<()> {
        let knows = learner.classes_seen.iter().any(|&id| learner.class_names[id as usize] == lesson.class);
        if !knows {
            return Err(Error::failed(format!("the new version does not know `{}`", lesson.class)));
        }
        let files = files(&lesson.folder(), VERIFIED.min(self.loading.batch))?;
        let pixels = self.intake.prepare_all(&files).map_err(|refusal| Error::failed(refusal.what))?;
        let together = learner.answer(&pixels)?;
        let alone = learner.answer(&pixels[..self.intake.values()])?;
        let sound = |answer: &Answer| {
            let total: f64 = answer.classes.iter().map(|(_, p)| p).sum();
            (total - 1.0).abs() < 1e-6
        };
        if !together.iter().all(sound) || together.first() != alone.first() {
            return Err(Error::failed("the new version does not answer as it should, and is not listed"));
        }
        Ok(())
    }
}

/// The first `n` files of images in a folder.
fn files(dir: &Path, n: usize) -> Result<Vec<Vec<u8>>> {
    let unreadable = |e: std::io::Error| Error::file(dir, format!("cannot be read: {e}"));
    let entries = dir.read_dir().map_err(unreadable)?.flatten().map(|entry| entry.path());
    let mut paths: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|ending| ending != "txt")).collect();
    paths.sort();
    paths.iter().take(n).map(|path| std::fs::read(path).map_err(unreadable)).collect()
}

/// Runs `work` on threads that leave the processor to others where these want it.
fn on_threads_of_its_own<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T> {
    let pool = rayon::ThreadPoolBuilder::new()
        .thread_name(|i| format!("teacher {i}"))
        .start_handler(|_| {
            // On Linux this is of the calling thread alone. Without it, teaching only takes more of the processor.
            let _ = rustix::process::nice(NICE);
        })
        .build()
        .map_err(|e| Error::failed(format!("cannot start threads to teach on: {e}")))?;
    Ok(pool.install(work))
}
