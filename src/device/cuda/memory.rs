//! Memory of a device, and host memory that it reads and writes by itself.

use super::{Event, Gpu, Handle, StreamKind, locked};
use crate::device::{Argument, Cell};
use crate::error::{Error, Result};
use cudarc::driver::{result, sys};
use std::ffi::c_void;
use std::fmt;
use std::sync::Arc;

/// Device memory. Freed memory is handed out again at once, which is right as long as all that touch it
/// run on the compute stream or are ordered with it by events.
pub struct GpuMemory {
    pub(super) gpu: Arc<Gpu>,
    pub(super) address: u64,
    pub(super) bytes: usize,
}

impl fmt::Debug for GpuMemory {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} bytes on {}", self.bytes, self.gpu.name())
    }
}

impl GpuMemory {
    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The device address of byte `at`.
    pub fn address(&self, at: usize) -> u64 {
        assert!(at <= self.bytes, "byte {at} of {}", self.bytes);
        self.address + at as u64
    }

    /// The address of `bytes` bytes from `at`, after a check that they are there.
    pub(super) fn range(&self, at: usize, bytes: usize) -> u64 {
        assert!(bytes <= self.bytes && at <= self.bytes - bytes, "{at}..+{bytes} of {}", self.bytes);
        self.address + at as u64
    }

    /// Sets bytes from the host and waits until they are there.
    pub fn write(&self, at: usize, from: &[u8]) -> Result<()> {
        let to = self.range(at, from.len());
        if from.is_empty() {
            return Ok(());
        }
        self.gpu.bind()?;
        // SAFETY: the range was checked; `from` is borrowed until the copy has been waited for.
        unsafe { result::memcpy_htod_async(to, from, self.gpu.stream(StreamKind::Compute)) }
            .map_err(|e| self.gpu.failed("copying to the device", e))?;
        self.gpu.synchronize(StreamKind::Compute)
    }

    /// Waits for the compute stream and reads bytes to the host.
    pub fn read(&self, at: usize, to: &mut [u8]) -> Result<()> {
        let from = self.range(at, to.len());
        if to.is_empty() {
            return Ok(());
        }
        self.gpu.bind()?;
        // SAFETY: the range was checked; `to` is borrowed until the copy has been waited for.
        unsafe { result::memcpy_dtoh_async(to, from, self.gpu.stream(StreamKind::Compute)) }
            .map_err(|e| self.gpu.failed("copying from the device", e))?;
        self.gpu.synchronize(StreamKind::Compute)
    }

    /// Copies bytes of other memory of the same device.
    pub fn copy(&self, at: usize, from: &GpuMemory, from_at: usize, bytes: usize) -> Result<()> {
        let (to, start) = (self.range(at, bytes), from.range(from_at, bytes));
        if !Arc::ptr_eq(&self.gpu, &from.gpu) {
            return Err(Error::failed(format!("a copy from {} to {}", from.gpu.name(), self.gpu.name())));
        }
        if bytes == 0 {
            return Ok(());
        }
        self.gpu.bind()?;
        // SAFETY: both ranges were checked; the compute stream orders the copy with what came before.
        unsafe { result::memcpy_dtod_async(to, start, bytes, self.gpu.stream(StreamKind::Compute)) }
            .map_err(|e| self.gpu.failed("copying on the device", e))
    }

    /// Repeats an element of one, two or four bytes `n` times.
    pub fn fill(&self, at: usize, element: &[u8], n: usize) -> Result<()> {
        let (to, stream) = (self.range(at, element.len() * n), self.gpu.stream(StreamKind::Compute));
        if n == 0 {
            return Ok(());
        }
        self.gpu.bind()?;
        let done = match *element {
            // SAFETY: the range was checked, and elements are aligned to their size.
            [a] => unsafe { sys::cuMemsetD8Async(to, a, n, stream) },
            // SAFETY: as above.
            [a, b] => unsafe { sys::cuMemsetD16Async(to, u16::from_le_bytes([a, b]), n, stream) },
            // SAFETY: as above.
            [a, b, c, d] => unsafe { sys::cuMemsetD32Async(to, u32::from_le_bytes([a, b, c, d]), n, stream) },
            _ => return Err(Error::failed(format!("GPU memory is not filled with {} bytes", element.len()))),
        };
        done.result().map_err(|e| self.gpu.failed("filling memory", e))
    }
}

impl Drop for GpuMemory {
    fn drop(&mut self) {
        if self.bytes > 0 {
            locked(&self.gpu.cache).free.entry(self.bytes).or_default().push(self.address);
        }
    }
}

/// f32 memory of the arena; see [`Gpu::scratch`].
#[derive(Debug, Clone, Copy)]
pub struct ScratchBuffer {
    pub(super) address: u64,
    pub(super) len: usize,
}

impl ScratchBuffer {
    /// What is left behind the first `n` elements.
    pub fn after(self, n: usize) -> ScratchBuffer {
        assert!(n <= self.len, "{n} of {} elements", self.len);
        ScratchBuffer { address: self.address + 4 * n as u64, len: self.len - n }
    }
}

impl Argument for ScratchBuffer {
    fn argument(&self) -> (&'static str, Cell) {
        ("*f32", Cell::Pointer(self.address))
    }
}

/// Host memory that the device reads and writes while the program goes on.
pub struct Pinned {
    gpu: Arc<Gpu>,
    start: Handle<*mut u8>,
    bytes: usize,
    /// The last copy from or to it.
    used: Event,
}

impl fmt::Debug for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} pinned bytes of {}", self.bytes, self.gpu.name())
    }
}

impl Pinned {
    /// Zeros.
    pub fn new(gpu: &Arc<Gpu>, bytes: usize) -> Result<Pinned> {
        gpu.bind()?;
        let used = Event::new(gpu)?;
        // SAFETY: initialised below; `drop` frees it.
        let start = unsafe { result::malloc_host(bytes.max(1), 0) };
        let start = start.map_err(|e| gpu.failed(format!("{bytes} bytes of pinned memory"), e))?.cast::<u8>();
        // SAFETY: just allocated, of this size.
        unsafe { start.write_bytes(0, bytes) };
        Ok(Pinned { gpu: gpu.clone(), start: Handle(start), bytes, used })
    }

    /// The bytes, once no copy is under way.
    pub fn bytes_mut(&mut self) -> Result<&mut [u8]> {
        self.used.wait()?;
        // SAFETY: allocated with this size and initialised; the device has let go of it.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.start.0, self.bytes) })
    }

    /// Starts copying the first `bytes` to byte `at` of device memory.
    pub fn upload(&mut self, to: &GpuMemory, at: usize, bytes: usize, stream: StreamKind) -> Result<()> {
        assert!(bytes <= self.bytes, "{bytes} of {}", self.bytes);
        let to = to.range(at, bytes);
        self.gpu.bind()?;
        // SAFETY: both ranges were checked; `used` keeps the host from the bytes until they are copied.
        unsafe {
            sys::cuMemcpyHtoDAsync_v2(to, self.start.0.cast::<c_void>(), bytes, self.gpu.stream(stream))
                .result()
        }
        .map_err(|e| self.gpu.failed("copying to the device", e))?;
        self.used.record(stream)
    }

    /// Starts copying `bytes` from byte `at` of device memory to the front.
    pub fn download(&mut self, from: &GpuMemory, at: usize, bytes: usize, stream: StreamKind) -> Result<()> {
        assert!(bytes <= self.bytes, "{bytes} of {}", self.bytes);
        let from = from.range(at, bytes);
        self.gpu.bind()?;
        // SAFETY: as for `upload`.
        unsafe {
            sys::cuMemcpyDtoHAsync_v2(self.start.0.cast::<c_void>(), from, bytes, self.gpu.stream(stream))
                .result()
        }
        .map_err(|e| self.gpu.failed("copying from the device", e))?;
        self.used.record(stream)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.gpu.bind().is_ok() && self.used.reached().is_ok() {
            // SAFETY: allocated by `new`, freed once, and no copy is under way.
            let _ = unsafe { result::free_host(self.start.0.cast::<c_void>()) };
        }
    }
}
