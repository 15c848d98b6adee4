//! What all requests share.

use super::batcher::Batcher;
use super::guard::Guard;
use super::intake::Intake;
use super::jobs::{Jobs, Teacher};
use super::limits::Limits;
use super::metrics::{Metrics, Now};
use super::refusal::Refusal;
use super::versions::{Loading, Versions};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// What does not change while the server runs.
#[derive(Debug, Clone)]
pub struct About {
    pub method: String,
    pub backbone: String,
    pub device: String,
    pub input_size: usize,
    /// Why nothing can be taught, where that is so.
    pub not_taught: Option<String>,
}

/// The server.
pub struct App {
    pub limits: Limits,
    pub about: About,
    pub guard: Guard,
    pub metrics: Arc<Metrics>,
    pub batcher: Arc<Batcher>,
    pub intake: Arc<Intake>,
    pub versions: Arc<Mutex<Versions>>,
    /// Held by whoever lets another version answer: what the index says is what answers.
    pub changing: Arc<Mutex<()>>,
    pub jobs: Jobs,
    pub loading: Loading,
    pub run_images: Option<String>,
    /// One class is taught at a time.
    pub teaching: Arc<Semaphore>,
    /// KiB of bodies that may be read.
    pub reading: Arc<Semaphore>,
    pub connections: AtomicUsize,
    /// Becomes true when the server is asked to stop.
    pub stopping: watch::Receiver<bool>,
}

impl App {
    pub fn versions(&self) -> MutexGuard<'_, Versions> {
        self.versions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for a body of up to `bytes`.
    ///
    /// # Errors
    /// 503 while other bodies have it.
    pub fn room_to_read(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Refusal> {
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        let room = self.reading.clone().try_acquire_many_owned(kib);
        room.map_err(|_| Refusal::busy("too many bytes are being read already: send the request again later"))
    }

    /// # Errors
    /// 503 when the server is about to end.
    pub fn expect_open(&self) -> Result<(), Refusal> {
        if *self.stopping.borrow() {
            return Err(Refusal::busy("the server is stopping"));
        }
        Ok(())
    }

    pub fn teacher(&self) -> Teacher {
        Teacher {
            changing: self.changing.clone(),
            versions: self.versions.clone(),
            batcher: self.batcher.clone(),
            intake: self.intake.clone(),
            loading: self.loading.clone(),
            run_images: self.run_images.clone(),
        }
    }

    pub fn now(&self) -> Now {
        let (version, versions) = {
            let versions = self.versions();
            (versions.active().number, versions.list().len())
        };
        Now {
            waiting: self.batcher.waiting(),
            connections: self.connections.load(Ordering::SeqCst),
            version,
            versions,
            teaching: self.teaching.available_permits() == 0,
        }
    }
}
