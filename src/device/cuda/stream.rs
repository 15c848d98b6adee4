//! Events (points in streams that other streams wait for) and graphs (work that is recorded once and started often).

use super::{Gpu, Handle, StreamKind};
use crate::error::{Error, Result};
use cudarc::driver::{result, sys};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A point in a stream.
pub struct Event {
    gpu: Arc<Gpu>,
    handle: Handle<sys::CUevent>,
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "an event on {}", self.gpu.name())
    }
}

impl Event {
    pub fn new(gpu: &Arc<Gpu>) -> Result<Event> {
        Event::with(gpu, sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)
    }

    /// An event with a time stamp; see [`Event::ms_since`].
    pub fn timed(gpu: &Arc<Gpu>) -> Result<Event> {
        Event::with(gpu, sys::CUevent_flags::CU_EVENT_DEFAULT)
    }

    fn with(gpu: &Arc<Gpu>, flags: sys::CUevent_flags) -> Result<Event> {
        gpu.bind()?;
        let handle = result::event::create(flags);
        let handle = Handle(handle.map_err(|e| gpu.failed("gives no event", e))?);
        Ok(Event { gpu: gpu.clone(), handle })
    }

    /// Marks what the stream has been given so far.
    pub fn record(&self, stream: StreamKind) -> Result<()> {
        self.gpu.bind()?;
        // SAFETY: event and stream are alive and of one context.
        unsafe { result::event::record(self.handle.0, self.gpu.stream(stream)) }
            .map_err(|e| self.gpu.failed("recording an event", e))
    }

    /// What the stream is given from now on waits for the mark.
    pub fn hold(&self, stream: StreamKind) -> Result<()> {
        self.gpu.bind()?;
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: as above.
        unsafe { result::stream::wait_event(self.gpu.stream(stream), self.handle.0, flags) }
            .map_err(|e| self.gpu.failed("waiting for an event", e))
    }

    /// Waits for the mark on this thread.
    pub fn wait(&self) -> Result<()> {
        self.gpu.bind()?;
        self.gpu.waited(self.reached())
    }

    /// Waits for the mark, also after [`Gpu::give_up`]. The context is current.
    pub(super) fn reached(&self) -> std::result::Result<(), result::DriverError> {
        // SAFETY: the event is alive.
        unsafe { result::event::synchronize(self.handle.0) }
    }

    /// Waits for the mark. The milliseconds on the device between the two, both made by [`Event::timed`] and
    /// recorded.
    pub fn ms_since(&self, start: &Event) -> Result<f64> {
        self.wait()?;
        // SAFETY: both events are alive; this one has been reached, and `start` came before it.
        unsafe { result::event::elapsed(start.handle.0, self.handle.0) }
            .map(f64::from)
            .map_err(|e| self.gpu.failed("reading the time of an event", e))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.gpu.bind().is_ok() {
            // SAFETY: created by `new`, destroyed once; the driver keeps it until it has been reached.
            let _ = unsafe { result::event::destroy(self.handle.0) };
        }
    }
}

/// A sequence of launches, copies and fills that is started as one.
pub struct Graph {
    gpu: Arc<Gpu>,
    exec: Handle<sys::CUgraphExec>,
}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "a graph on {}", self.gpu.name())
    }
}

impl Graph {
    /// Records what `work` queues on the compute stream instead of running it. What it refers to (memory,
    /// scratch, kernels) must have been there before: `work` has run once.
    pub fn capture(gpu: &Arc<Gpu>, work: impl FnOnce() -> Result<()>) -> Result<Graph> {
        if let Some(why) = gpu.no_graphs.get() {
            return Err(Error::failed(format!("{}: no graph is recorded: {why}", gpu.name())));
        }
        gpu.bind()?;
        let (stream, mode) = (
            gpu.stream(StreamKind::Compute),
            // Other threads may go on using the driver.
            sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL,
        );
        let failed = |e| gpu.failed("capturing a graph", e);
        // SAFETY: the stream lives as long as the device.
        unsafe { result::stream::begin_capture(stream, mode) }.map_err(failed)?;
        gpu.capturing.store(true, Ordering::Relaxed);
        let done = work();
        gpu.capturing.store(false, Ordering::Relaxed);
        // SAFETY: capturing began above. It ends also where `work` failed.
        let graph = unsafe { result::stream::end_capture(stream) };
        done?;
        let graph = graph.map_err(failed)?;
        let flags = sys::CUgraphInstantiate_flags(0);
        // SAFETY: the graph was just made; the executable copy does not need it.
        let exec = unsafe { result::graph::instantiate(graph, flags) };
        // SAFETY: destroyed once.
        let _ = unsafe { result::graph::destroy(graph) };
        Ok(Graph { gpu: gpu.clone(), exec: Handle(exec.map_err(failed)?) })
    }

    /// Queues all of it.
    pub fn launch(&self) -> Result<()> {
        self.gpu.bind()?;
        // SAFETY: the memory that it touches belongs to tensors that its maker keeps.
        unsafe { result::graph::launch(self.exec.0, self.gpu.stream(StreamKind::Compute)) }
            .map_err(|e| self.gpu.failed("launching a graph", e))
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.gpu.bind().is_ok() {
            // SAFETY: instantiated by `capture`, destroyed once; the driver keeps it until it has run.
            let _ = unsafe { result::graph::exec_destroy(self.exec.0) };
        }
    }
}
