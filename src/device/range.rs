//! Named ranges of time: phases of a run and, within them, ops. A profiler shows them on its time line (NVTX, found at
//! run time), and a thread can record how long they take.
//! Source: NVIDIA, `nvToolsExt.h`, `nvtxRangePushA` and `nvtxRangePop`.

use super::Device;
use super::cuda::{Gpu, StreamKind};
use libloading::os::unix::{Library, Symbol};
use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_int};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

struct Nvtx {
    push: Symbol<unsafe extern "C" fn(*const c_char) -> c_int>,
    pop: Symbol<unsafe extern "C" fn() -> c_int>,
    /// The symbols are its.
    _library: Library,
}

static NVTX: OnceLock<Option<Nvtx>> = OnceLock::new();

fn nvtx() -> Option<&'static Nvtx> {
    let load = || {
        if std::env::var_os("L2P_NVTX").is_none_or(|v| v != "1") {
            return None;
        }
        // SAFETY: a library of NVIDIA's whose constructors look for a profiler and do nothing else.
        let library = unsafe { Library::new("libnvToolsExt.so.1") }.ok()?;
        // SAFETY: these are the types of the header.
        let (push, pop) =
            unsafe { (library.get(b"nvtxRangePushA\0").ok()?, library.get(b"nvtxRangePop\0").ok()?) };
        Some(Nvtx { push, pop, _library: library })
    };
    NVTX.get_or_init(load).as_ref()
}

/// How long an op took within a phase, without the ops that it calls.
#[derive(Debug, Clone, PartialEq)]
pub struct RangeTime {
    /// The outermost range.
    pub phase: &'static str,
    /// The innermost range; empty for what a phase does besides.
    pub op: &'static str,
    pub calls: u64,
    pub seconds: f64,
}

/// What a thread records.
struct Recorder {
    /// Waited for at the end of every range, so that the time of queued work is that of its range.
    gpu: Option<Arc<Gpu>>,
    open: Vec<Open>,
    rows: Vec<(Key, u64, f64)>,
}

/// The names of the outermost and of the innermost range.
type Key = (&'static CStr, &'static CStr);

struct Open {
    name: &'static CStr,
    begun: Instant,
    /// Seconds of the ranges within.
    within: f64,
}

thread_local! {
    static RECORDER: RefCell<Option<Recorder>> = const { RefCell::new(None) };
}

/// From now on the ranges of this thread, which works on `dev`, are timed.
pub fn record(dev: &Device) {
    let recorder = Recorder { gpu: dev.gpu().cloned(), open: Vec::new(), rows: Vec::new() };
    RECORDER.set(Some(recorder));
}

/// Whether the ranges of this thread are timed.
pub fn is_recording() -> bool {
    RECORDER.with_borrow(Option::is_some)
}

/// The times of the ranges that have ended since the last call.
pub fn recorded() -> Vec<RangeTime> {
    let rows = RECORDER.with_borrow_mut(|recorder| recorder.as_mut().map(|r| std::mem::take(&mut r.rows)));
    let text = |name: &'static CStr| name.to_str().unwrap_or_default();
    let row = |((phase, op), calls, seconds): (Key, u64, f64)| RangeTime {
        phase: text(phase),
        op: if op == phase { "" } else { text(op) },
        calls,
        seconds,
    };
    rows.unwrap_or_default().into_iter().map(row).collect()
}

impl Recorder {
    fn begin(&mut self, name: &'static CStr) {
        self.open.push(Open { name, begun: Instant::now(), within: 0.0 });
    }

    fn end(&mut self) {
        if let Some(gpu) = &self.gpu {
            // A failure is that of the work, which the next wait for its result reports.
            let _ = gpu.synchronize(StreamKind::Compute);
        }
        let Some(Open { name, begun, within }) = self.open.pop() else { return };
        let seconds = begun.elapsed().as_secs_f64();
        if let Some(outer) = self.open.last_mut() {
            outer.within += seconds;
        }
        let key = (self.open.first().map_or(name, |outermost| outermost.name), name);
        let own = seconds - within;
        match self.rows.iter_mut().find(|(known, ..)| *known == key) {
            Some((_, calls, seconds)) => (*calls, *seconds) = (*calls + 1, *seconds + own),
            None => self.rows.push((key, 1, own)),
        }
    }
}

/// Ends where it is dropped, on the thread on which it began.
#[must_use]
pub struct Range {
    nvtx: Option<&'static Nvtx>,
    timed: bool,
}

/// Begins a range on this thread: for a profiler, if `L2P_NVTX=1` and `libnvToolsExt.so.1` is there, and for
/// [`recorded`], if this thread records. Otherwise it costs two loads and two branches.
pub fn range(name: &'static CStr) -> Range {
    let nvtx = nvtx();
    if let Some(nvtx) = nvtx {
        // SAFETY: the name ends with a zero and is static.
        unsafe { (nvtx.push)(name.as_ptr()) };
    }
    let begin = |recorder: &mut Option<Recorder>| recorder.as_mut().map(|r| r.begin(name)).is_some();
    Range { nvtx, timed: RECORDER.with_borrow_mut(begin) }
}

impl Drop for Range {
    fn drop(&mut self) {
        if self.timed {
            RECORDER.with_borrow_mut(|recorder| recorder.as_mut().map(Recorder::end));
        }
        if let Some(nvtx) = self.nvtx {
            // SAFETY: ends the range that this thread began last: ranges are dropped in the order of their blocks.
            unsafe { (nvtx.pop)() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn busy(milliseconds: u64) {
        std::thread::sleep(Duration::from_millis(milliseconds));
    }

    #[test]
    fn an_op_is_counted_without_what_it_calls_and_under_its_phase() {
        // Nothing is kept before it is asked for.
        drop(range(c"before"));
        record(&Device::Cpu);
        for _ in 0..2 {
            let _phase = range(c"phase");
            busy(4);
            let _op = range(c"outer");
            let inner = range(c"inner");
            busy(8);
            drop(inner);
        }
        drop(range(c"inner"));
        let rows = recorded();
        let row = |phase: &str, op: &str| rows.iter().find(|row| row.phase == phase && row.op == op);
        let (phase, outer, inner) = (row("phase", ""), row("phase", "outer"), row("phase", "inner"));
        let [phase, outer, inner] = [phase, outer, inner].map(|row| row.expect("a row"));
        assert_eq!((phase.calls, outer.calls, inner.calls), (2, 2, 2));
        assert!(
            phase.seconds >= 0.008 && inner.seconds >= 0.016 && outer.seconds < inner.seconds,
            "{rows:?}"
        );
        assert_eq!(row("inner", "").map(|row| row.calls), Some(1));
        assert_eq!(rows.len(), 4);
        assert!(recorded().is_empty());
    }
}
