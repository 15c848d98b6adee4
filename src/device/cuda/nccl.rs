//! Sums over the GPUs of several threads, processes or machines, by NCCL on the communication stream.
//!
//! On the host only [`NcclComm::join`] waits for another GPU, and asks repeatedly whether to go on. A kernel that waits
//! on the device for a GPU that has failed waits for ever, until [`Watch::abort`] is called by the thread that has detected
//! the failure. From then on every wait for this GPU returns an error with the reason, as its results cannot be used.

mod library;

pub use library::nccl_version;

use super::{Event, Gpu, GpuMemory, Handle, StreamKind, locked};
use crate::error::{Error, Result};
use library::{Code, Config, FLOAT32, ID_BYTES, IN_PROGRESS, Nccl, RawComm, SUCCESS, SUM, UniqueId, nccl};
use std::ffi::{c_int, c_void};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long [`NcclComm`] waits for its last sums when it is dropped, before it aborts them.
const LEAVE: Duration = Duration::from_secs(10);
/// Between two checks whether all members have joined.
const JOIN_POLL: Duration = Duration::from_millis(2);
/// Checks without a pause whether a group has been launched; after so many the thread sleeps between them.
const BUSY_POLLS: usize = 200;

/// Identifies one communicator: made by one member, passed to the others.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct NcclId([u8; ID_BYTES]);

impl fmt::Debug for NcclId {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "NcclId({:02x}{:02x}…)", self.0[0], self.0[1])
    }
}

impl NcclId {
    pub const BYTES: usize = ID_BYTES;

    /// A new one. The process that makes it listens for the members that join, so it must be one of them.
    ///
    /// # Errors
    /// `Error::Failed`: no NCCL (see [`nccl_version`]), or no network interface that it can use.
    pub fn new() -> Result<NcclId> {
        let nccl = nccl()?;
        let mut id = UniqueId([0; ID_BYTES]);
        // SAFETY: writes 128 bytes.
        let code = unsafe { (nccl.get_unique_id)(&raw mut id) };
        if code != SUCCESS {
            return Err(Error::failed(format!("NCCL gives no id: {}", nccl.describe(code))));
        }
        Ok(NcclId(id.0))
    }

    pub fn bytes(&self) -> &[u8; ID_BYTES] {
        &self.0
    }
}

impl From<[u8; ID_BYTES]> for NcclId {
    fn from(bytes: [u8; ID_BYTES]) -> NcclId {
        NcclId(bytes)
    }
}

enum Membership {
    Joined {
        comm: Handle<RawComm>,
        /// NCCL has reported an error: the others cannot be waited for.
        failed: bool,
    },
    /// Why nothing can be asked of it any more.
    Over(String),
}

/// A membership, also for those who watch it.
struct NcclMember {
    gpu: Arc<Gpu>,
    nccl: &'static Nccl,
    /// `rank 1 of 4`.
    place: String,
    state: Mutex<Membership>,
}

impl NcclMember {
    /// Calls NCCL with the communicator, unless it is over.
    fn with<R>(&self, call: impl FnOnce(RawComm) -> R) -> Result<R> {
        match &*locked(&self.state) {
            Membership::Joined { comm, .. } => Ok(call(comm.0)),
            Membership::Over(why) => Err(self.error(why)),
        }
    }

    fn error(&self, what: impl fmt::Display) -> Error {
        Error::failed(format!("{}, {}: {what}", self.gpu.name(), self.place))
    }

    /// An error for a code that is neither success nor "in progress".
    fn result(&self, what: &str, code: Code) -> Result<()> {
        if code == SUCCESS || code == IN_PROGRESS {
            return Ok(());
        }
        self.mark_failed();
        Err(self.error(format!("{what}: {}", self.nccl.describe(code))))
    }

    fn mark_failed(&self) {
        if let Membership::Joined { failed, .. } = &mut *locked(&self.state) {
            *failed = true;
        }
    }

    /// Whether NCCL is done with what it was given last; or its error.
    fn settled(&self) -> Result<bool> {
        let mut state = SUCCESS;
        // SAFETY: the communicator is alive; writes one number.
        let asked = self.with(|comm| unsafe { (self.nccl.comm_get_async_error)(comm, &raw mut state) })?;
        self.result("NCCL does not tell its state", asked)?;
        self.result("the exchange with the other GPUs failed", state)?;
        Ok(state == SUCCESS)
    }

    /// Ends the membership and what it has queued. The GPU's waits fail from here on, first those that end
    /// because of this.
    fn abort(&self, why: &str) {
        let mut state = locked(&self.state);
        let Membership::Joined { comm, .. } = &*state else { return };
        self.gpu.give_up(&format!("{}: the exchange with the other GPUs was aborted: {why}", self.place));
        // Errors of a thread that cannot have the context come back from the call below.
        let _ = self.gpu.bind();
        // SAFETY: the communicator is alive, and no other thread uses it while `state` is locked.
        let _ = unsafe { (self.nccl.comm_abort)(comm.0) };
        *state = Membership::Over(format!("the exchange with the other GPUs was aborted: {why}"));
    }

    /// Leaves in peace, if the others let it.
    fn leave(&self) {
        let mut state = locked(&self.state);
        let &Membership::Joined { comm, failed } = &*state else { return };
        *state = Membership::Over("it has left the other GPUs".into());
        drop(state);
        let in_peace = self.gpu.bind().is_ok() && self.gpu.check().is_ok() && !failed;
        let end =
            if in_peace && self.finalized(comm) { self.nccl.comm_destroy } else { self.nccl.comm_abort };
        // SAFETY: the communicator is alive and not used again. Errors cannot be returned from `drop`.
        let _ = unsafe { end(comm.0) };
    }

    /// Waits for the last sums and the farewell of the others; whether they came.
    fn finalized(&self, comm: Handle<RawComm>) -> bool {
        // SAFETY: the communicator is alive; this thread alone has it.
        let mut code = unsafe { (self.nccl.comm_finalize)(comm.0) };
        let begun = Instant::now();
        while code == IN_PROGRESS && begun.elapsed() < LEAVE {
            std::thread::sleep(JOIN_POLL);
            // SAFETY: as above; writes one number.
            let asked = unsafe { (self.nccl.comm_get_async_error)(comm.0, &raw mut code) };
            code = if asked == SUCCESS { code } else { asked };
        }
        code == SUCCESS
    }
}

/// One rank's membership in a communicator in which each member has its own GPU. All members drop theirs at about the
/// same time; graphs that hold its sums must be dropped before.
pub struct NcclComm {
    member: Arc<NcclMember>,
    /// What the compute stream had been given when the sums were started.
    given: Event,
    summed: Event,
}

impl fmt::Debug for NcclComm {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} on {}", self.member.place, self.member.gpu.name())
    }
}

impl NcclComm {
    /// Becomes member `rank` of `size`, and waits until all are there. NCCL takes memory of the GPU for itself, so that
    /// this comes before it is asked how much is free.
    ///
    /// `go_on` is called every few milliseconds of the wait; its error ends it.
    ///
    /// # Errors
    /// That of `go_on`; `Error::Failed`: no NCCL, or what it complains about.
    pub fn join(
        gpu: &Arc<Gpu>,
        id: &NcclId,
        rank: usize,
        size: usize,
        mut go_on: impl FnMut() -> Result<()>,
    ) -> Result<NcclComm> {
        let place = format!("rank {rank} of {size}");
        let number = |n: usize| c_int::try_from(n).ok().filter(|_| rank < size);
        let (Some(ranks), Some(own)) = (number(size), number(rank)) else {
            return Err(Error::failed(format!("{}: there is no {place}", gpu.name())));
        };
        let nccl = nccl()?;
        let (given, summed) = (Event::new(gpu)?, Event::new(gpu)?);
        gpu.bind()?;
        let (mut comm, mut config) = (std::ptr::null_mut(), Config::NOT_BLOCKING);
        // SAFETY: writes a handle; configuration and id are those of the header. The GPU is that of the current context.
        let code = unsafe { (nccl.comm_init)(&raw mut comm, ranks, UniqueId(id.0), own, &raw mut config) };
        if comm.is_null() {
            return Err(Error::failed(format!(
                "{}, {place}: NCCL cannot join: {}",
                gpu.name(),
                nccl.describe(code)
            )));
        }
        let state = Mutex::new(Membership::Joined { comm: Handle(comm), failed: false });
        let joined =
            NcclComm { member: Arc::new(NcclMember { gpu: gpu.clone(), nccl, place, state }), given, summed };
        let member = &joined.member;
        let mut wait = || {
            member.result("NCCL cannot join", code)?;
            while !member.settled()? {
                go_on()?;
                std::thread::sleep(JOIN_POLL);
            }
            Ok(())
        };
        // After a failure the drop does not wait for the other members. The GPU itself stays usable.
        wait().inspect_err(|_| member.mark_failed())?;
        Ok(joined)
    }

    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.member.gpu
    }

    /// Queues on the communication stream, after all that the compute stream has been given: the f32 numbers in each
    /// range of bytes = their sums over all ranks, in place. All ranks start ranges of the same lengths in the same
    /// order. Returns at once, but for the first time, when the ranks connect. [`NcclComm::finish`] makes the compute
    /// stream wait; before that nothing may touch the numbers. Both may be captured, in one graph.
    ///
    /// A kernel of NCCL runs until those of the other ranks have come. Where they are threads of this process, no rank may
    /// wait for the driver meanwhile in a way that holds up another's launches: what loads kernels and allocates (the
    /// first step) comes before the first sums.
    ///
    /// # Errors
    /// `Error::Failed` if the memory is another GPU's, if NCCL refuses, or after [`Watch::abort`].
    pub fn start(&self, ranges: &[(&GpuMemory, usize, usize)]) -> Result<()> {
        let mut buffers = Vec::with_capacity(ranges.len());
        for &(memory, at, bytes) in ranges {
            if !Arc::ptr_eq(&memory.gpu, &self.member.gpu) {
                let whose = memory.gpu.name();
                return Err(self.member.error(format!("memory of {whose} cannot be summed from here")));
            }
            assert!(bytes.is_multiple_of(4), "{bytes} bytes of f32 numbers");
            buffers.push((memory.range(at, bytes) as *mut c_void, bytes / 4));
        }
        let member = &self.member;
        let stream = member.gpu.raw_stream(StreamKind::Communication)?;
        self.given.record(StreamKind::Compute)?;
        self.given.hold(StreamKind::Communication)?;
        let queued = member.with(|comm| {
            let nccl = member.nccl;
            // SAFETY: begins a group of this thread, which ends below whatever happens.
            let mut code = unsafe { (nccl.group_start)() };
            if code != SUCCESS {
                return code;
            }
            for &(at, len) in &buffers {
                // SAFETY: the communicator is alive; the ranges were checked, and memory that is
                // freed meanwhile is handed out to work of the compute stream only, which waits in `finish`.
                let one = unsafe { (nccl.all_reduce)(at, at, len, FLOAT32, SUM, comm, stream) };
                code = if one == SUCCESS || one == IN_PROGRESS { code } else { one };
            }
            // SAFETY: begun above.
            let end = unsafe { (nccl.group_end)() };
            if code == SUCCESS { end } else { code }
        })?;
        member.result("the other GPUs cannot be reached", queued)?;
        // NCCL queues its kernels from a thread of its own; what follows in the stream has to follow them.
        let mut polls = 0;
        while !member.settled()? {
            polls += 1;
            if polls > BUSY_POLLS {
                std::thread::sleep(Duration::from_micros(50));
            }
        }
        self.summed.record(StreamKind::Communication)
    }

    /// What the compute stream is given from now on waits for what was started last. Nothing on the host waits.
    pub fn finish(&self) -> Result<()> {
        self.member.with(|_| ())?;
        self.summed.hold(StreamKind::Compute)
    }

    /// For another thread, which sees what this one waits for.
    pub fn watch(&self) -> Watch {
        Watch(self.member.clone())
    }
}

impl Drop for NcclComm {
    fn drop(&mut self) {
        self.member.leave();
    }
}

/// Checks and aborts a [`NcclComm`] from another thread.
#[derive(Clone)]
pub struct Watch(Arc<NcclMember>);

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "a watch of {} on {}", self.0.place, self.0.gpu.name())
    }
}

impl Watch {
    /// The errors that NCCL has found: a broken connection, a failed kernel. Kernels that wait on the device go on
    /// waiting until [`Watch::abort`].
    ///
    /// # Errors
    /// `Error::Failed` with NCCL's error, or with the reason of an earlier abort.
    pub fn check(&self) -> Result<()> {
        self.0.settled().map(|_| ())
    }

    /// Ends the communicator's work on its GPU, also kernels that wait for another GPU. Every wait for this GPU fails
    /// from now on, with `why`. Later calls do nothing.
    pub fn abort(&self, why: &str) {
        self.0.abort(why);
    }
}
