//! Named ranges on a profiler's time line: NVTX, found at run time.
//! Source: NVIDIA, `nvToolsExt.h`, `nvtxRangePushA` and `nvtxRangePop`.

use libloading::os::unix::{Library, Symbol};
use std::ffi::{CStr, c_char, c_int};
use std::sync::OnceLock;

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

/// Ends where it is dropped.
#[must_use]
pub struct Range(Option<&'static Nvtx>);

/// Begins a range on this thread, if `L2P_NVTX=1` and `libnvToolsExt.so.1` is there; otherwise it costs a
/// load and a branch.
pub fn range(name: &'static CStr) -> Range {
    let nvtx = nvtx();
    if let Some(nvtx) = nvtx {
        // SAFETY: the name ends with a zero and is static.
        unsafe { (nvtx.push)(name.as_ptr()) };
    }
    Range(nvtx)
}

impl Drop for Range {
    fn drop(&mut self) {
        if let Some(nvtx) = self.0 {
            // SAFETY: ends the range that this thread began last: ranges are dropped in the order of their blocks.
            unsafe { (nvtx.pop)() };
        }
    }
}
