//! The ranks of a run: who they are, how they meet, and how one learns that another cannot go on.
//!
//! Every rank runs the same program; it is a thread of this process ([`run`]) or of another one that was
//! launched with it ([`Launch`]). Ranks of a process meet in memory (`hub`); the last to arrive meets the
//! other processes over TCP, in a star around process 0 (`rendezvous`, `link`). What is exchanged is small or
//! rare: names, flags, checks, gradients of ranks without a GPU. Ranks on GPUs exchange gradients by
//! themselves; they find each other here and hear here that one cannot go on.
//!
//! No call waits for ever. Process 0 decides what the failure of a run is, and all say the same sentence.

mod failure;
mod hub;
mod launch;
mod link;
mod rendezvous;
mod sum;
mod topology;
mod wire;

pub use launch::{Launch, first_host};

use crate::error::{Error, Result};
use failure::Failure;
use hub::Hub;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::thread::{Scope, ScopedJoinHandle};
use std::time::Duration;

/// The ranks of a run, seen from one of them. Cheap to clone; one rank makes one call at a time.
///
/// All ranks make the same calls in the same order. A call returns when every rank has made it, or with
/// the one sentence that says why that will not happen: a rank has failed, has ended, has not been heard of
/// for [`Launch::rank_timeout`], or is in another call.
#[derive(Debug, Clone)]
pub struct Comm {
    /// `None` for a run of one rank.
    seat: Option<Seat>,
}

#[derive(Debug, Clone)]
struct Seat {
    hub: Arc<Hub>,
    /// The number of this rank within its process.
    local: usize,
}

impl Comm {
    /// The only rank of a run: every call returns at once.
    pub fn alone() -> Comm {
        Comm { seat: None }
    }

    /// The number of this rank, from 0.
    pub fn rank(&self) -> usize {
        self.seat.as_ref().map_or(0, |s| s.hub.places().first_here() + s.local)
    }

    /// The number of ranks.
    pub fn size(&self) -> usize {
        self.seat.as_ref().map_or(1, |s| s.hub.places().size())
    }

    /// The number of this rank among those of its process.
    pub fn local_rank(&self) -> usize {
        self.seat.as_ref().map_or(0, |s| s.local)
    }

    /// The number of ranks in this process.
    pub fn local_size(&self) -> usize {
        self.seat.as_ref().map_or(1, |s| s.hub.places().here())
    }

    /// Whether this is rank 0, who writes files and speaks to the user.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    pub fn is_alone(&self) -> bool {
        self.seat.is_none()
    }

    /// Everyone's bytes in rank order; `what` names the purpose.
    ///
    /// # Errors
    /// The sentence that stopped the run; a sentence naming both purposes where two ranks differ in them.
    pub fn all_gather(&self, what: &str, bytes: Vec<u8>) -> Result<Arc<Vec<Vec<u8>>>> {
        match &self.seat {
            None => Ok(Arc::new(vec![bytes])),
            Some(s) => s.hub.meet(s.local, &format!("gathering `{what}`"), bytes, |all| all),
        }
    }

    /// Rank 0's bytes; those of others do not count and may be empty.
    ///
    /// # Errors
    /// As [`Comm::all_gather`].
    pub fn broadcast(&self, what: &str, bytes: Vec<u8>) -> Result<Vec<u8>> {
        let Some(s) = &self.seat else { return Ok(bytes) };
        let offer = if self.is_first() { bytes } else { Vec::new() };
        let all = s.hub.meet(s.local, &format!("broadcasting `{what}`"), offer, |mut all| {
            all.truncate(1);
            all
        })?;
        Ok(all[0].clone())
    }

    /// Whether any rank has said so.
    ///
    /// # Errors
    /// As [`Comm::all_gather`].
    pub fn any(&self, what: &str, flag: bool) -> Result<bool> {
        let Some(s) = &self.seat else { return Ok(flag) };
        let all =
            s.hub.meet(s.local, &format!("asking for any `{what}`"), vec![u8::from(flag)], |all| all)?;
        Ok(all.iter().any(|flag| flag.first() == Some(&1)))
    }

    /// Returns when every rank is here.
    ///
    /// # Errors
    /// As [`Comm::all_gather`].
    pub fn barrier(&self, what: &str) -> Result<()> {
        let Some(s) = &self.seat else { return Ok(()) };
        s.hub.meet(s.local, &format!("waiting at `{what}`"), Vec::new(), |_| Vec::new()).map(|_| ())
    }

    /// `buffer` becomes the sum of everyone's: ((rank 0 + rank 1) + rank 2) …, element by element, the same
    /// bits on every rank however the ranks are spread over processes.
    ///
    /// # Errors
    /// As [`Comm::all_gather`]; the length is part of the purpose.
    pub fn sum_f32(&self, what: &str, buffer: &mut [f32]) -> Result<()> {
        self.sum(what, buffer)
    }

    /// [`Comm::sum_f32`] in double precision.
    ///
    /// # Errors
    /// As [`Comm::sum_f32`].
    pub fn sum_f64(&self, what: &str, buffer: &mut [f64]) -> Result<()> {
        self.sum(what, buffer)
    }

    fn sum<T: sum::Addend>(&self, what: &str, buffer: &mut [T]) -> Result<()> {
        match &self.seat {
            None => Ok(()),
            Some(s) => sum::all_ranks(&s.hub, s.local, what, buffer),
        }
    }

    /// Checks that every rank has the bytes of rank 0, such as a checksum of `what`. If not, the run fails.
    ///
    /// # Errors
    /// The same sentence on every rank, naming those that differ; otherwise as [`Comm::all_gather`].
    pub fn expect_same(&self, what: &str, digest: &[u8]) -> Result<()> {
        let Some(s) = &self.seat else { return Ok(()) };
        let all = s.hub.meet(s.local, &format!("comparing `{what}`"), digest.to_vec(), |all| all)?;
        let odd: Vec<usize> = (0..all.len()).filter(|r| all[*r] != all[0]).collect();
        let Some(first) = odd.first() else { return Ok(()) };
        let (names, there, here) = (s.hub.places().names(&odd), hex(&all[*first]), hex(&all[0]));
        Err(s.hub.found(format!("{what} of {names} differ from rank 0's: {there} there, {here} here")))
    }

    /// Says that this rank is alive, which every call says too, and asks whether the run still is. Long work
    /// without calls (reading images, an evaluation on rank 0) does so now and then: a rank that says
    /// nothing for [`Launch::rank_timeout`] is taken to hang.
    ///
    /// # Errors
    /// The sentence that stopped the run.
    pub fn check(&self) -> Result<()> {
        self.seat.as_ref().map_or(Ok(()), |s| s.hub.check(s.local))
    }

    /// Does long work that makes no calls and cannot say so itself (reading a data set), and says meanwhile that this
    /// rank is alive.
    pub fn alive<T>(&self, work: impl FnOnce() -> T) -> T {
        const EVERY: Duration = Duration::from_secs(1);
        if self.is_alone() {
            return work();
        }
        let (done, end) = std::sync::mpsc::channel::<()>();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                // A failure elsewhere is found by the rank's own next call.
                while end.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) && self.check().is_ok() {}
            });
            let result = work();
            drop(done);
            result
        })
    }

    /// Tells the others that this rank cannot go on: their pending and later calls return "rank 2: `why`".
    /// The first failure of a run is its only one; [`run`] does this with an error that a rank returns.
    pub fn fail(&self, why: &Error) {
        if let Some(s) = &self.seat {
            s.hub.fail(s.local, why);
        }
    }

    /// Has `call` called once, on a thread of its own, when the run has failed anywhere: for stopping work
    /// on a device that waits for others. At once if it has failed already; never if it does not.
    pub fn on_failure(&self, call: impl FnOnce() + Send + 'static) {
        if let Some(s) = &self.seat {
            s.hub.on_failure(Box::new(call));
        }
    }
}

/// The start of a digest, for a message.
fn hex(bytes: &[u8]) -> String {
    let digits: String = bytes.iter().take(8).map(|b| format!("{b:02x}")).collect();
    if bytes.len() > 8 { format!("{digits}…") } else { digits }
}

/// Runs `work` as `local` ranks on threads of this process, beside those of the processes that were
/// launched with it, and returns what the first rank of this process returned. A single rank runs on this
/// thread.
///
/// If a rank fails or panics, every process returns that first failure, naming the rank, and not what
/// followed from it. Where all ranks of the only process end with the same sentence, that error is returned
/// as it is; so is an [`Error::Interrupted`] where no rank failed.
///
/// # Errors
/// As described; also if the processes of a launch do not find each other.
pub fn run<T: Send>(launch: &Launch, local: usize, work: impl Fn(Comm) -> Result<T> + Sync) -> Result<T> {
    if local == 0 {
        return Err(Error::config("a run needs at least one rank in every process"));
    }
    if launch.is_single() && local == 1 {
        return work(Comm::alone());
    }
    let met = rendezvous::meet(launch, local)?;
    let (line, cables) = link::Line::new(met.streams);
    let hub = Arc::new(Hub::new(met.places, line, met.rank_timeout, launch.grace));
    let results = std::thread::scope(|scope| {
        let (hub, work) = (&hub, &work);
        if let Err(why) = start_helpers(scope, hub, cables) {
            (0..local).for_each(|local| hub.end(local, Err(&why)));
        }
        let begin = |local| {
            let name = format!("rank {}", hub.places().first_here() + local);
            let rank = start(scope, &name, move || one_rank(hub, local, work));
            // A thread that does not start is a rank that has failed.
            rank.inspect_err(|why| hub.end(local, Err(why)))
        };
        let ranks: Vec<_> = (0..local).map(begin).collect();
        let end =
            |rank: Result<ScopedJoinHandle<Result<T>>>| rank?.join().unwrap_or_else(|p| Err(panicked(&*p)));
        let results: Vec<Result<T>> = ranks.into_iter().map(end).collect();
        hub.finish();
        results
    });
    drop(met.door);
    outcome(results, hub.failure(), hub.places().processes() == 1)
}

/// The threads that look after the ranks and the connections.
fn start_helpers<'scope>(
    scope: &'scope Scope<'scope, '_>,
    hub: &'scope Hub,
    cables: Vec<link::Cable>,
) -> Result<()> {
    start(scope, "watch", || hub.watch())?;
    for cable in cables {
        let (read, write) = cable.split(hub);
        start(scope, "reader", read)?;
        start(scope, "writer", write)?;
    }
    Ok(())
}

fn start<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>> {
    let started = std::thread::Builder::new().name(name.into()).spawn_scoped(scope, work);
    started.map_err(|e| Error::failed(format!("a thread for {name} cannot be started: {e}")))
}

fn one_rank<T>(hub: &Arc<Hub>, local: usize, work: &impl Fn(Comm) -> Result<T>) -> Result<T> {
    let comm = Comm { seat: Some(Seat { hub: hub.clone(), local }) };
    let result = catch_unwind(AssertUnwindSafe(|| work(comm))).unwrap_or_else(|p| Err(panicked(&*p)));
    hub.end(local, result.as_ref().map(|_| ()));
    result
}

/// A panic as an error; where it was, the panic hook has said.
fn panicked(panic: &(dyn Any + Send)) -> Error {
    let text = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
    Error::failed(format!("panicked: {}", text.unwrap_or("no message")))
}

fn outcome<T>(results: Vec<Result<T>>, failure: Option<Failure>, all_are_here: bool) -> Result<T> {
    let Some(failure) = failure else {
        let stopped = results.iter().position(Result::is_err).unwrap_or(0);
        return results.into_iter().nth(stopped).expect("at least one rank");
    };
    let alike = all_are_here && results.iter().all(|r| r.as_ref().is_err_and(|e| failure.is_only(e)));
    match results.into_iter().next() {
        Some(Err(own)) if alike => Err(own),
        _ => Err(failure.error()),
    }
}
