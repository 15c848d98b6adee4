//! One GPU through the CUDA driver: context, kernels, three streams, memory. Only this folder names the
//! driver crate.
//!
//! All work on tensors goes to the compute stream, in the order of the calls; what another stream does
//! with them is ordered by events. Nothing uses the default stream, and nothing waits for the whole device.
//! A [`Gpu`] serves one thread at a time: two that launch at once would share its scratch memory.

mod driver_error;
mod driver_version;
mod memory;
mod nccl;
pub mod probe;
mod stream;
mod tensor_map;

pub use memory::{GpuMemory, Pinned, ScratchBuffer};
pub use nccl::{NcclComm, NcclId, Watch, nccl_version};
pub use stream::{Event, Graph};

use self::driver_error::describe;
use super::kernel::{Arg, Cell, ElementType, Grid, Kernel};
use crate::error::{Error, Result};
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

/// Dynamic shared memory that a kernel may use without asking.
const SMEM_WITHOUT_ASKING: usize = 48 * 1024;

/// Where the image of `kernels/<op>.cu` is found.
pub type KernelImages = fn(&str) -> Option<&'static [u8]>;

/// The streams of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamKind {
    /// Kernels, and copies that they wait for.
    Compute,
    /// Images on their way to the device, numbers on their way back.
    Copy,
    /// Exchange with other devices.
    Communication,
}

const STREAMS: usize = 3;

/// A handle of the driver. It may be used from any thread that has made the context current.
#[derive(Clone, Copy)]
struct Handle<T>(T);

// SAFETY: the driver's handles belong to a context, not to a thread; `Gpu::bind` makes it current.
unsafe impl<T> Send for Handle<T> {}
// SAFETY: as above; the driver locks what it changes.
unsafe impl<T> Sync for Handle<T> {}

#[derive(Clone, Copy)]
struct Function {
    handle: Handle<sys::CUfunction>,
    smem_bytes: usize,
    /// Since [`Gpu::take_launched`] was last asked.
    launched: bool,
}

/// Device memory that is not in use, by size.
#[derive(Default)]
struct ModuleCache {
    free: HashMap<usize, Vec<u64>>,
}

/// Memory that ops share for partial results. What a captured graph refers to stays where it is, so that
/// growing keeps the old pieces.
#[derive(Default)]
struct Arena {
    pieces: Vec<u64>,
    bytes: usize,
}

/// A GPU that has been opened.
pub struct Gpu {
    index: usize,
    label: String,
    context: Handle<sys::CUcontext>,
    device: sys::CUdevice,
    compute_capability: (i32, i32),
    multiprocessors: usize,
    /// Whether the kernels of 9.0 are used.
    hopper: AtomicBool,
    /// Columns of their tiles; 0: those that suit a product.
    hopper_tile: AtomicUsize,
    streams: [Handle<sys::CUstream>; STREAMS],
    images: KernelImages,
    modules: Mutex<HashMap<&'static str, Handle<sys::CUmodule>>>,
    functions: Mutex<HashMap<(&'static str, ElementType), Function>>,
    cache: Mutex<ModuleCache>,
    arena: Mutex<Arena>,
    capturing: AtomicBool,
    /// Kernels that must not be launched, by name, and why.
    refused: Mutex<HashMap<String, String>>,
    /// What is known of its kernels.
    verdict: OnceLock<String>,
    /// Why no graph is recorded.
    no_graphs: OnceLock<String>,
    /// Why its results cannot be used any more.
    lost: OnceLock<String>,
}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.label)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no thread panics while it holds a device's table")
}

impl Gpu {
    /// Opens GPU `index`. Kernels that [`Gpu::load`] has not loaded are loaded when they are first launched.
    ///
    /// # Errors
    /// `Error::Failed` with the reason: no driver, no such GPU, too old a GPU or driver.
    pub fn open(index: usize, images: KernelImages) -> Result<Arc<Gpu>> {
        let gpus = probe::gpus().map_err(Error::failed)?;
        let Some(found) = gpus.get(index) else {
            let has = match gpus.len() {
                0 => "no GPU".to_string(),
                1 => "one GPU, cuda:0".to_string(),
                n => format!("{n} GPUs, cuda:0 to cuda:{}", n - 1),
            };
            return Err(Error::failed(format!("there is no cuda:{index}: this machine has {has}")));
        };
        if let Some(why) = found.unusable() {
            return Err(Error::failed(format!("cuda:{index} ({}): {why}", found.name)));
        }
        let fail =
            |what: &str, e: DriverError| Error::failed(format!("cuda:{index}: {what}: {}", describe(e)));
        let ordinal = i32::try_from(index).expect("an index below the number of GPUs");
        let device = result::device::get(ordinal).map_err(|e| fail("cannot be opened", e))?;
        // SAFETY: `device` was handed out by the driver just above; `drop` releases the context.
        let context = unsafe { result::primary_ctx::retain(device) };
        let context = Handle(context.map_err(|e| fail("gives no context", e))?);
        // SAFETY: the context is alive.
        unsafe { result::ctx::set_current(context.0) }.map_err(|e| fail("gives no context", e))?;
        let stream = || {
            let stream = result::stream::create(result::stream::StreamKind::NonBlocking);
            stream.map(Handle).map_err(|e| fail("gives no stream", e))
        };
        Ok(Arc::new(Gpu {
            index,
            label: found.name.clone(),
            context,
            device,
            compute_capability: found.compute_capability,
            multiprocessors: found.multiprocessors,
            hopper: AtomicBool::new(false),
            hopper_tile: AtomicUsize::new(0),
            streams: [stream()?, stream()?, stream()?],
            images,
            modules: Mutex::default(),
            functions: Mutex::default(),
            cache: Mutex::default(),
            arena: Mutex::default(),
            capturing: AtomicBool::new(false),
            refused: Mutex::default(),
            verdict: OnceLock::new(),
            no_graphs: OnceLock::new(),
            lost: OnceLock::new(),
        }))
    }

    /// `cuda:0`, …
    pub fn name(&self) -> String {
        format!("cuda:{}", self.index)
    }

    fn failed(&self, what: impl fmt::Display, error: DriverError) -> Error {
        Error::failed(format!("{}: {what}: {}", self.name(), describe(error)))
    }

    /// Makes the context current on the calling thread, which every call of the driver needs.
    fn bind(&self) -> Result<()> {
        // SAFETY: the context lives as long as `self`.
        unsafe { result::ctx::set_current(self.context.0) }.map_err(|e| self.failed("lost its context", e))
    }

    fn stream(&self, stream: StreamKind) -> sys::CUstream {
        self.streams[stream as usize].0
    }

    /// Waits until the stream has done what it was given.
    pub fn synchronize(&self, stream: StreamKind) -> Result<()> {
        self.bind()?;
        // SAFETY: the stream lives as long as `self`.
        let done = unsafe { result::stream::synchronize(self.stream(stream)) };
        self.waited(done)
    }

    /// The result of a wait.
    fn waited(&self, done: std::result::Result<(), DriverError>) -> Result<()> {
        self.check()?;
        done.map_err(|e| self.failed("work on the device failed", e))
    }

    /// Makes every wait from now on fail with `why`: results that are computed from now on cannot be used.
    fn give_up(&self, why: &str) {
        // Only the first reason is kept.
        let _ = self.lost.set(why.into());
    }

    /// Fails after [`Gpu::give_up`].
    fn check(&self) -> Result<()> {
        match self.lost.get() {
            None => Ok(()),
            Some(why) => Err(Error::failed(format!("{}, {why}", self.name()))),
        }
    }

    /// The handle of a stream, for libraries that queue work themselves (those compared in `benches/`). Makes the
    /// context current on the calling thread.
    pub fn raw_stream(&self, stream: StreamKind) -> Result<*mut c_void> {
        self.bind()?;
        Ok(self.stream(stream).cast())
    }

    /// How many blocks of a large kernel run at a time.
    pub fn multiprocessors(&self) -> usize {
        self.multiprocessors
    }

    /// Whether the kernels for compute capability 9.0 are used where they fit, instead of the portable ones. They are not until
    /// this is called.
    ///
    /// # Errors
    /// `Error::Failed` on a GPU of another compute capability, whose code the kernels are not.
    pub fn use_hopper(&self, on: bool) -> Result<()> {
        if on && !self.has_hopper() {
            let (major, minor) = self.compute_capability;
            return Err(Error::failed(format!(
                "{} ({}) has compute capability {major}.{minor}, the Hopper kernels are for 9.0",
                self.name(),
                self.label
            )));
        }
        self.hopper.store(on, Ordering::Relaxed);
        Ok(())
    }

    /// Whether [`Gpu::use_hopper`] can switch them on.
    pub fn has_hopper(&self) -> bool {
        self.compute_capability == (9, 0)
    }

    /// What [`Gpu::use_hopper`] was told.
    pub fn uses_hopper(&self) -> bool {
        self.hopper.load(Ordering::Relaxed)
    }

    /// Makes the kernels of 9.0 take tiles of so many columns, for checks; `None`: those that suit a product.
    pub fn force_hopper_tile(&self, cols: Option<usize>) {
        self.hopper_tile.store(cols.unwrap_or(0), Ordering::Relaxed);
    }

    /// What [`Gpu::force_hopper_tile`] was told.
    pub fn hopper_tile(&self) -> Option<usize> {
        Some(self.hopper_tile.load(Ordering::Relaxed)).filter(|cols| *cols > 0)
    }

    /// Loads the kernels of `ops`. Loading one later may wait for all work on the device, and never returns where
    /// that work waits for another GPU.
    ///
    /// # Errors
    /// `Error::Failed` if the driver does not load or translate one.
    pub fn load(&self, ops: impl IntoIterator<Item = &'static str>) -> Result<()> {
        self.bind()?;
        ops.into_iter().try_for_each(|op| self.module(op).map(|_| ()))
    }

    /// From now on a launch of this kernel is an error that says why. Must come before its first launch.
    pub fn refuse(&self, symbol: &str, why: &str) {
        locked(&self.refused).insert(symbol.into(), why.into());
    }

    /// Whether [`Gpu::refuse`] was told of this kernel.
    pub fn refuses(&self, kernel: &Kernel, form: ElementType) -> bool {
        let refused = locked(&self.refused);
        !refused.is_empty() && refused.contains_key(&kernel.symbol(form))
    }

    /// From now on [`Graph::capture`] is an error that says why.
    pub fn refuse_graphs(&self, why: &str) {
        // Only the first reason is kept.
        let _ = self.no_graphs.set(why.into());
    }

    /// Keeps in words what is known of its kernels; see [`Gpu::verdict`].
    pub fn set_verdict(&self, words: &str) {
        // What was known first is what the runs of this process are told.
        let _ = self.verdict.set(words.into());
    }

    /// What [`Gpu::set_verdict`] kept, the first time it was called.
    pub fn verdict(&self) -> Option<&str> {
        self.verdict.get().map(String::as_str)
    }

    /// The names of the kernels that were launched since this was last asked, sorted.
    pub fn take_launched(&self) -> Vec<String> {
        let mut functions = locked(&self.functions);
        let launched =
            functions.iter_mut().filter_map(|(name, f)| std::mem::take(&mut f.launched).then_some(name));
        let mut names: Vec<String> = launched.map(|(name, form)| format!("{name}_{}", form.name())).collect();
        names.sort();
        names
    }

    fn module(&self, op: &'static str) -> Result<sys::CUmodule> {
        let mut modules = locked(&self.modules);
        if let Some(module) = modules.get(op) {
            return Ok(module.0);
        }
        let image = (self.images)(op).ok_or_else(|| {
            Error::failed(format!("this program holds no CUDA kernels for `{op}`: it was built without nvcc"))
        })?;
        // SAFETY: the image is one that nvcc wrote, 64-byte aligned, and static.
        let module = unsafe { result::module::load_data(image.as_ptr().cast::<c_void>()) };
        let module = module.map_err(|e| self.failed(format!("the kernels of `{op}` do not load"), e))?;
        modules.insert(op, Handle(module));
        Ok(module)
    }

    fn function(&self, kernel: &Kernel, form: ElementType, smem_bytes: usize) -> Result<sys::CUfunction> {
        let mut functions = locked(&self.functions);
        let function = match functions.get_mut(&(kernel.name, form)) {
            Some(function) => function,
            None => {
                let module = self.module(kernel.op)?;
                let symbol = kernel.symbol(form);
                if let Some(why) = locked(&self.refused).get(&symbol) {
                    return Err(Error::failed(format!("{}: {symbol} is not used: {why}", self.name())));
                }
                let name = CString::new(symbol.clone()).expect("names of kernels have no zeros");
                // SAFETY: modules are kept until the context is released.
                let handle = unsafe { result::module::get_function(module, name) };
                let handle =
                    Handle(handle.map_err(|e| self.failed(format!("there is no kernel {symbol}"), e))?);
                let function = Function { handle, smem_bytes: SMEM_WITHOUT_ASKING, launched: false };
                functions.entry((kernel.name, form)).or_insert(function)
            }
        };
        if smem_bytes > function.smem_bytes {
            let limit = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let bytes = i32::try_from(smem_bytes).unwrap_or(i32::MAX);
            // SAFETY: the function belongs to a module that is kept.
            unsafe { result::function::set_function_attribute(function.handle.0, limit, bytes) }.map_err(
                |e| {
                    self.failed(
                        format!("{} wants {smem_bytes} bytes of shared memory", kernel.symbol(form)),
                        e,
                    )
                },
            )?;
            function.smem_bytes = smem_bytes;
        }
        function.launched = true;
        Ok(function.handle.0)
    }

    /// Queues a kernel on the compute stream. There is no other way to start one.
    ///
    /// # Safety
    /// With these arguments the kernel reads and writes inside of the tensors they came from, and writes
    /// only to those that were borrowed mutably.
    ///
    /// # Errors
    /// `Error::Shape` for a tensor in host memory, `Error::Failed` for arguments that are not the kernel's.
    pub unsafe fn launch(&self, kernel: &Kernel, form: ElementType, grid: Grid, args: &[Arg]) -> Result<()> {
        kernel.check(form, args)?;
        if grid.blocks.contains(&0) {
            return Ok(());
        }
        let refused = |arg: &Arg, wanted: &str, got: String| Error::Shape {
            op: kernel.op,
            arg: arg.name,
            wanted: wanted.into(),
            got,
        };
        let mut cells = Vec::with_capacity(args.len());
        for arg in args {
            // The driver reads as many bytes as the argument has, from the front.
            cells.push(match arg.cell {
                Cell::Pointer(p) | Cell::U64(p) => ArgBytes::of(p),
                Cell::U32(n) => ArgBytes::of(u64::from_le_bytes(pair(n.to_le_bytes()))),
                Cell::F32(x) => ArgBytes::of(u64::from_le_bytes(pair(x.to_le_bytes()))),
                Cell::Map(map) => ArgBytes(map.0),
                Cell::TooLarge(n) => return Err(refused(arg, "below 2^32", n.to_string())),
                Cell::HostMemory => return Err(refused(arg, "in GPU memory", "host memory".into())),
            });
        }
        let mut pointers: Vec<*mut c_void> =
            cells.iter_mut().map(|c| std::ptr::from_mut(c).cast::<c_void>()).collect();
        let extent = |axis: usize, most: usize| {
            let n = grid.blocks[axis];
            u32::try_from(n).ok().filter(|_| n <= most).ok_or_else(|| {
                Error::failed(format!("{}: a grid of {n} blocks in axis {axis}", kernel.symbol(form)))
            })
        };
        let blocks = (extent(0, 0x7fff_ffff)?, extent(1, 65_535)?, extent(2, 65_535)?);
        self.bind()?;
        let function = self.function(kernel, form, grid.smem_bytes)?;
        let smem = u32::try_from(grid.smem_bytes).expect("the driver has allowed this much");
        let (threads, stream) = ((grid.threads, 1, 1), self.stream(StreamKind::Compute));
        // SAFETY: the function takes these arguments (checked above); what it does with them is the
        // caller's promise. The cells live until the call returns, and the driver has copied them by then.
        unsafe { result::launch_kernel(function, blocks, threads, smem, stream, &mut pointers) }
            .map_err(|e| self.failed(format!("launching {}", kernel.symbol(form)), e))
    }

    /// Device memory of exactly `bytes`, not initialised.
    ///
    /// # Errors
    /// `Error::Failed`, naming what was wanted and what is free.
    pub fn allocate(self: &Arc<Self>, bytes: usize) -> Result<GpuMemory> {
        let address = if bytes == 0 { 0 } else { self.take(bytes)? };
        Ok(GpuMemory { gpu: self.clone(), address, bytes })
    }

    fn take(&self, bytes: usize) -> Result<u64> {
        let mut cache = locked(&self.cache);
        if let Some(address) = cache.free.get_mut(&bytes).and_then(Vec::pop) {
            return Ok(address);
        }
        self.bind()?;
        // SAFETY: the memory is written before it is read, as `GpuMemory` requires.
        unsafe { result::malloc_sync(bytes) }
            .or_else(|_| {
                self.release(&mut cache);
                // SAFETY: as above.
                unsafe { result::malloc_sync(bytes) }
            })
            .map_err(|e| {
                let mib = |n: usize| format!("{:.1} MiB", n as f64 / f64::from(1 << 20));
                let free = result::mem_get_info().map_or("unknown".into(), |(free, _)| mib(free));
                self.failed(format!("wanted {} of GPU memory, {free} are free", mib(bytes)), e)
            })
    }

    /// Free memory of the device. Memory that this program has freed and keeps for reuse does not count.
    pub fn free_bytes(&self) -> Result<usize> {
        self.bind()?;
        let (free, _) =
            result::mem_get_info().map_err(|e| self.failed("does not tell its free memory", e))?;
        Ok(free)
    }

    fn release(&self, cache: &mut ModuleCache) {
        for (_, addresses) in cache.free.drain() {
            for address in addresses {
                // SAFETY: came from `malloc_sync`, and no tensor has it. The driver waits for work that uses it. An
                // error would be one of earlier work, which the next call reports as well.
                let _ = unsafe { result::free_sync(address) };
            }
        }
    }

    /// f32 scratch memory for the launches of one op, until the next op asks for some. Grows, but not
    /// while a graph is captured.
    pub fn scratch(&self, len: usize) -> Result<ScratchBuffer> {
        let bytes = len * 4;
        let mut arena = locked(&self.arena);
        if bytes > arena.bytes && self.capturing.load(Ordering::Relaxed) {
            return Err(Error::failed(
                "a graph is captured before the work has run once: scratch memory grows",
            ));
        }
        if bytes > arena.bytes {
            let grown = bytes.max(2 * arena.bytes).next_multiple_of(1 << 16);
            let address = self.take(grown)?;
            arena.pieces.push(address);
            arena.bytes = grown;
        }
        Ok(ScratchBuffer { address: arena.pieces.last().copied().unwrap_or(0), len })
    }
}

/// Room for any argument, aligned as tensor maps are.
#[repr(C, align(128))]
struct ArgBytes([u64; 16]);

impl ArgBytes {
    fn of(word: u64) -> ArgBytes {
        let mut bytes = [0; 16];
        bytes[0] = word;
        ArgBytes(bytes)
    }
}

/// Four bytes at the front of eight.
fn pair([a, b, c, d]: [u8; 4]) -> [u8; 8] {
    [a, b, c, d, 0, 0, 0, 0]
}

impl Drop for Gpu {
    fn drop(&mut self) {
        if self.bind().is_err() {
            return;
        }
        let mut cache = std::mem::take(&mut *locked(&self.cache));
        cache.free.entry(0).or_default().append(&mut locked(&self.arena).pieces);
        self.release(&mut cache);
        for stream in &self.streams {
            // SAFETY: created by `open`, destroyed once. Errors cannot be returned from here.
            let _ = unsafe { result::stream::destroy(stream.0) };
        }
        for module in locked(&self.modules).values() {
            // SAFETY: loaded by `module`, unloaded once; the memory that kernels used is gone.
            let _ = unsafe { result::module::unload(module.0) };
        }
        // SAFETY: retained by `open`.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}
