//! The ranks of a run: their numbers, the calls that all of them make together, and how a failure of one
//! reaches the others.
//!
//! Every rank runs the same program, on a thread of this process ([`run`]) or of another one that was launched
//! with it ([`Launch`]). The ranks of a process exchange data in memory (`coordinator`); the last to arrive
//! exchanges it with the other processes over TCP, in a star around process 0 (`rendezvous`, `acceptor`,
//! `handshake`, `connection`). What is exchanged is small or rare: names, flags, checks, gradients of ranks
//! without a GPU. Ranks on GPUs exchange gradients through NCCL, and use this for the rest.
//!
//! No call waits for ever. Process 0 decides what the failure of a run is, and all ranks return the same
//! sentence.

mod acceptor;
mod connection;
mod coordinator;
mod failure;
mod handshake;
mod launch;
mod rendezvous;
mod sum;
mod topology;
pub mod wire;

pub use launch::{Launch, first_host};

use crate::error::{Error, Result};
use acceptor::{Acceptor, Joined};
use connection::{Connection, Connections};
use coordinator::Coordinator;
use failure::Failure;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::Duration;

/// One rank's access to the others. Cheap to clone; one rank makes one call at a time.
///
/// All ranks make the same calls in the same order. A call returns when every rank has made it, or with the
/// failure of the run: a rank has failed, has ended, has not been heard of for [`Launch::rank_timeout`], or is
/// in another call.
#[derive(Debug, Clone)]
pub struct Comm {
    /// `None` for a run of one rank.
    member: Option<Member>,
}

#[derive(Debug, Clone)]
struct Member {
    coordinator: Arc<Coordinator>,
    /// The number of this rank within its process.
    local: usize,
}

impl Comm {
    /// The only rank of a run: every call returns at once.
    pub fn alone() -> Comm {
        Comm { member: None }
    }

    /// The number of this rank, from 0.
    pub fn rank(&self) -> usize {
        self.member.as_ref().map_or(0, |s| s.coordinator.topology().first_here() + s.local)
    }

    /// The number of ranks.
    pub fn size(&self) -> usize {
        self.member.as_ref().map_or(1, |s| s.coordinator.topology().size())
    }

    /// The number of this rank among those of its process.
    pub fn local_rank(&self) -> usize {
        self.member.as_ref().map_or(0, |s| s.local)
    }

    /// The number of ranks in this process.
    pub fn local_size(&self) -> usize {
        self.member.as_ref().map_or(1, |s| s.coordinator.topology().here())
    }

    /// Whether this is rank 0, which writes files and prints messages.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    pub fn is_alone(&self) -> bool {
        self.member.is_none()
    }

    /// The bytes of every rank, in rank order. `what` names the purpose in messages.
    ///
    /// # Errors
    /// The failure of the run; where two ranks differ in their purposes, it names both.
    pub fn all_gather(&self, what: &str, bytes: Vec<u8>) -> Result<Arc<Vec<Vec<u8>>>> {
        match &self.member {
            None => Ok(Arc::new(vec![bytes])),
            Some(s) => s.coordinator.exchange(s.local, &format!("gathering `{what}`"), bytes, |all| all),
        }
    }

    /// [`Comm::all_gather`] for any number of bytes, which travel in messages of at most `piece` bytes of each rank.
    ///
    /// # Errors
    /// As [`Comm::all_gather`].
    pub fn all_gather_in_pieces(&self, what: &str, bytes: &[u8], piece: usize) -> Result<Vec<Vec<u8>>> {
        const HEAD: usize = size_of::<u64>();
        let piece = piece.max(1);
        // The length of all comes before the first piece.
        let mut first = (bytes.len() as u64).to_le_bytes().to_vec();
        first.extend(&bytes[..bytes.len().min(piece)]);
        let received = self.all_gather(what, first)?;
        let mut lengths = Vec::with_capacity(received.len());
        let mut all = Vec::with_capacity(received.len());
        for bytes in received.iter() {
            let (length, rest) = bytes.split_first_chunk::<HEAD>().ok_or_else(|| {
                Error::failed(format!("a rank has sent {} bytes of `{what}`, which is no start", bytes.len()))
            })?;
            lengths.push(u64::from_le_bytes(*length));
            all.push(rest.to_vec());
        }
        while all.iter().zip(&lengths).any(|(bytes, &length)| (bytes.len() as u64) < length) {
            let sent = all[self.rank()].len();
            let next = bytes[sent..bytes.len().min(sent + piece)].to_vec();
            let received = self.all_gather(what, next)?;
            if received.iter().all(Vec::is_empty) {
                return Err(Error::failed(format!("fewer bytes of `{what}` were sent than were announced")));
            }
            all.iter_mut().zip(received.iter()).for_each(|(all, piece)| all.extend(piece));
        }
        Ok(all)
    }

    /// The bytes of rank 0; those of the others are ignored and may be empty.
    ///
    /// # Errors
    /// As [`Comm::all_gather`].
    pub fn broadcast(&self, what: &str, bytes: Vec<u8>) -> Result<Vec<u8>> {
        let Some(s) = &self.member else { return Ok(bytes) };
        let offer = if self.is_first() { bytes } else { Vec::new() };
        let all = s.coordinator.exchange(s.local, &format!("broadcasting `{what}`"), offer, |mut all| {
            all.truncate(1);
            all
        })?;
        Ok(all[0].clone())
    }

    /// Whether `flag` is true on any rank.
    ///
    /// # Errors
    /// As [`Comm::all_gather`].
    pub fn any(&self, what: &str, flag: bool) -> Result<bool> {
        let Some(s) = &self.member else { return Ok(flag) };
        let all = s.coordinator.exchange(
            s.local,
            &format!("asking for any `{what}`"),
            vec![u8::from(flag)],
            |all| all,
        )?;
        Ok(all.iter().any(|flag| flag.first() == Some(&1)))
    }

    /// Returns when every rank has made this call.
    ///
    /// # Errors
    /// As [`Comm::all_gather`].
    pub fn barrier(&self, what: &str) -> Result<()> {
        let Some(s) = &self.member else { return Ok(()) };
        s.coordinator
            .exchange(s.local, &format!("waiting at `{what}`"), Vec::new(), |_| Vec::new())
            .map(|_| ())
    }

    /// Replaces `buffer` by the sum over ranks, ((rank 0 + rank 1) + rank 2) …, element by element: the same bits
    /// on every rank, for any distribution of the ranks over processes.
    ///
    /// # Errors
    /// As [`Comm::all_gather`]; buffers of different lengths are different purposes.
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
        match &self.member {
            None => Ok(()),
            Some(s) => sum::all_ranks(&s.coordinator, s.local, what, buffer),
        }
    }

    /// Checks that every rank has the bytes of rank 0, such as a checksum of `what`. If not, the run fails.
    ///
    /// # Errors
    /// The same sentence on every rank, naming those that differ; otherwise as [`Comm::all_gather`].
    pub fn expect_same(&self, what: &str, digest: &[u8]) -> Result<()> {
        let Some(s) = &self.member else { return Ok(()) };
        let all =
            s.coordinator.exchange(s.local, &format!("comparing `{what}`"), digest.to_vec(), |all| all)?;
        let odd: Vec<usize> = (0..all.len()).filter(|r| all[*r] != all[0]).collect();
        let Some(first) = odd.first() else { return Ok(()) };
        let (names, there, here) = (s.coordinator.topology().names(&odd), hex(&all[*first]), hex(&all[0]));
        Err(s
            .coordinator
            .fail_together(format!("{what} of {names} differ from rank 0's: {there} there, {here} here")))
    }

    /// Reports that this rank is alive, as every call does, and whether the run has failed. Long work without
    /// calls (reading images, an evaluation on rank 0) calls this now and then: a rank that makes no call for
    /// [`Launch::rank_timeout`] is taken to hang.
    ///
    /// # Errors
    /// The failure of the run.
    pub fn check(&self) -> Result<()> {
        self.member.as_ref().map_or(Ok(()), |s| s.coordinator.check(s.local))
    }

    /// Does long work that cannot call [`Comm::check`] itself (reading a data set), with a thread that calls it
    /// meanwhile.
    pub fn alive<T>(&self, work: impl FnOnce() -> T) -> T {
        const EVERY: Duration = Duration::from_secs(1);
        if self.is_alone() {
            return work();
        }
        let (done, end) = std::sync::mpsc::channel::<()>();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                // The rank's own next call returns a failure of the run.
                while end.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) && self.check().is_ok() {}
            });
            let result = work();
            drop(done);
            result
        })
    }

    /// Fails the run because this rank cannot go on: pending and later calls of the others return
    /// "rank 2: `why`". Only the first failure of a run counts. [`run`] calls this with an error that a rank
    /// returns.
    pub fn fail(&self, why: &Error) {
        if let Some(s) = &self.member {
            s.coordinator.fail(s.local, why);
        }
    }

    /// Calls `call` once, on a thread of its own, when the run fails, or at once if it has failed already: for
    /// stopping work on a device that waits for other ranks.
    pub fn on_failure(&self, call: impl FnOnce() + Send + 'static) {
        if let Some(s) = &self.member {
            s.coordinator.on_failure(Box::new(call));
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
/// If a rank fails or panics, every process returns that first failure, with the name of the rank, and not the
/// errors that followed from it. Where all ranks of the only process end with the same error, that error is
/// returned unchanged; so is an [`Error::Interrupted`] where no rank failed.
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
    let Joined { topology, streams, rank_timeout, acceptor } = rendezvous::meet(launch, local)?;
    let (sending, connections) = Connections::new(streams);
    let coordinator = Arc::new(Coordinator::new(topology, sending, rank_timeout, launch.grace));
    let listening = Listening { acceptor: Mutex::new(acceptor), working: AtomicUsize::new(local) };
    let results = std::thread::scope(|scope| {
        let (coordinator, listening, work) = (&coordinator, &listening, &work);
        if let Err(why) = start_helpers(scope, coordinator, connections) {
            (0..local).for_each(|local| coordinator.end(local, Err(&why)));
        }
        let begin = |local| {
            let name = format!("rank {}", coordinator.topology().first_here() + local);
            let rank = start(scope, &name, move || one_rank(coordinator, listening, local, work));
            // A rank whose thread cannot be started has failed.
            rank.inspect_err(|why| {
                listening.rank_ends();
                coordinator.end(local, Err(why));
            })
        };
        let ranks: Vec<_> = (0..local).map(begin).collect();
        let end =
            |rank: Result<ScopedJoinHandle<Result<T>>>| rank?.join().unwrap_or_else(|p| Err(panicked(&*p)));
        let results: Vec<Result<T>> = ranks.into_iter().map(end).collect();
        coordinator.finish();
        results
    });
    outcome(results, coordinator.failure(), coordinator.topology().processes() == 1)
}

/// Stops listening when the last rank of process 0 ends, which is before any process hears that the run is
/// over: a process that goes on to its next run at once then does not meet the listener of this one.
struct Listening {
    acceptor: Mutex<Option<Acceptor>>,
    /// The ranks of this process whose work has not ended.
    working: AtomicUsize,
}

impl Listening {
    fn rank_ends(&self) {
        if self.working.fetch_sub(1, Ordering::SeqCst) == 1 {
            drop(self.acceptor.lock().unwrap_or_else(PoisonError::into_inner).take());
        }
    }
}

/// Starts the watch thread, and two threads for each connection.
fn start_helpers<'scope>(
    scope: &'scope Scope<'scope, '_>,
    coordinator: &'scope Arc<Coordinator>,
    connections: Vec<Connection>,
) -> Result<()> {
    start(scope, "watch", || coordinator.watch())?;
    for connection in connections {
        let (read, write) = connection.split(&**coordinator, coordinator.alive_every());
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

fn one_rank<T>(
    coordinator: &Arc<Coordinator>,
    listening: &Listening,
    local: usize,
    work: &impl Fn(Comm) -> Result<T>,
) -> Result<T> {
    let comm = Comm { member: Some(Member { coordinator: coordinator.clone(), local }) };
    let result = catch_unwind(AssertUnwindSafe(|| work(comm))).unwrap_or_else(|p| Err(panicked(&*p)));
    listening.rank_ends();
    coordinator.end(local, result.as_ref().map(|_| ()));
    result
}

/// A panic as an error. The panic hook has printed where it was.
fn panicked(panic: &(dyn Any + Send)) -> Error {
    let text = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
    Error::failed(format!("panicked: {}", text.unwrap_or("no message")))
}

fn outcome<T>(results: Vec<Result<T>>, failure: Option<Failure>, all_are_here: bool) -> Result<T> {
    let Some(failure) = failure else {
        let stopped = results.iter().position(Result::is_err).unwrap_or(0);
        return results.into_iter().nth(stopped).expect("at least one rank");
    };
    let alike = all_are_here && results.iter().all(|r| r.as_ref().is_err_and(|e| failure.has_cause(e)));
    match results.into_iter().next() {
        Some(Err(own)) if alike => Err(own),
        _ => Err(failure.error()),
    }
}
