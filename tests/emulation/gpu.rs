//! The emulated driver through the same crate that the engine uses, and the planted kernels.

use cudarc::driver::{result, sys};
use std::ffi::{CString, c_void};
use std::sync::{Mutex, MutexGuard};

/// Seeds and errors are of the whole process: one test at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// One launch argument.
#[derive(Clone, Copy)]
#[repr(C)]
pub union Arg {
    pub pointer: u64,
    pub u32: u32,
    pub f32: f32,
}

impl From<u64> for Arg {
    fn from(pointer: u64) -> Arg {
        Arg { pointer }
    }
}

impl From<u32> for Arg {
    fn from(u32: u32) -> Arg {
        Arg { u32 }
    }
}

impl From<f32> for Arg {
    fn from(f32: f32) -> Arg {
        Arg { f32 }
    }
}

pub struct Gpu {
    device: sys::CUdevice,
    module: sys::CUmodule,
    memory: Vec<u64>,
    pub streams: [sys::CUstream; 3],
    _alone: MutexGuard<'static, ()>,
}

/// The emulated GPU with this seed, or `None`, said on the way, without a host compiler.
pub fn open(seed: u64) -> Option<Gpu> {
    let alone = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Err(why) = super::emulation::compiler() {
        eprintln!("skipped: {why}");
        return None;
    }
    let planted = super::emulation::root().join("tests/emulation/planted");
    // SAFETY: read by the driver, which starts below; the other tests of this program wait for the lock above.
    unsafe {
        std::env::set_var("L2P_EMU_DEVICES", "2");
        std::env::set_var("L2P_EMU_CAPABILITY", "90,80");
    }
    super::emulation::install_from(|| super::emulation::library_of(&planted)).expect("the planted kernels");
    super::emulation::set_seed(seed);
    // SAFETY: the library is there; handles are used as the driver gives them out.
    unsafe {
        assert!(sys::is_culib_present());
        result::init().expect("cuInit");
        let device = result::device::get(0).expect("a device");
        assert_eq!(result::device::get_name(device).expect("a name"), "Emulated GPU");
        result::ctx::set_current(result::primary_ctx::retain(device).expect("a context")).expect("current");
        let module = result::module::load_data(c"not looked at".as_ptr().cast()).expect("a module");
        let stream = || result::stream::create(result::stream::StreamKind::NonBlocking).expect("a stream");
        Some(Gpu {
            device,
            module,
            memory: Vec::new(),
            streams: [stream(), stream(), stream()],
            _alone: alone,
        })
    }
}

impl Gpu {
    pub fn alloc(&mut self, bytes: usize) -> u64 {
        // SAFETY: freed by `drop`.
        let address = unsafe { result::malloc_sync(bytes) }.expect("memory");
        self.memory.push(address);
        address
    }

    /// Memory of the second device.
    pub fn alloc_elsewhere(&mut self, bytes: usize) -> u64 {
        // SAFETY: handles are used as the driver gives them out; `drop` frees the memory.
        unsafe {
            let here = result::ctx::get_current().expect("a context").expect("that of `open`");
            let there = result::primary_ctx::retain(result::device::get(1).expect("a device"));
            result::ctx::set_current(there.expect("a context")).expect("current");
            let address = self.alloc(bytes);
            result::ctx::set_current(here).expect("current");
            address
        }
    }

    pub fn upload<T: bytemuck::NoUninit>(&mut self, values: &[T]) -> u64 {
        let address = self.alloc(size_of_val(values));
        // SAFETY: just allocated, of this size.
        unsafe { result::memcpy_htod_sync(address, values) }.expect("a copy");
        address
    }

    /// After all three streams.
    pub fn download<T: bytemuck::AnyBitPattern>(&self, address: u64, n: usize) -> Vec<T> {
        self.synchronize().expect("no error");
        let mut values = vec![T::zeroed(); n];
        // SAFETY: the caller's address and length.
        unsafe { result::memcpy_dtoh_sync(&mut values, address) }.expect("a copy");
        values
    }

    pub fn synchronize(&self) -> Result<(), String> {
        for &stream in &self.streams {
            // SAFETY: created by `open`.
            unsafe { result::stream::synchronize(stream) }
                .map_err(|e| e.error_string().expect("a text").to_string_lossy().into_owned())?;
        }
        Ok(())
    }

    pub fn launch(&self, name: &str, blocks: u32, threads: u32, smem: u32, stream: usize, args: &[Arg]) {
        let mut values = args.to_vec();
        let mut pointers: Vec<*mut c_void> =
            values.iter_mut().map(|v| std::ptr::from_mut(v).cast()).collect();
        self.launch_at(name, blocks, threads, smem, stream, &mut pointers);
    }

    /// The same with arguments of any size, by their addresses.
    pub fn launch_at(
        &self,
        name: &str,
        blocks: u32,
        threads: u32,
        smem: u32,
        stream: usize,
        pointers: &mut [*mut c_void],
    ) {
        let name = CString::new(name).expect("a name");
        // SAFETY: the planted kernels break the rules on purpose, which the emulation survives.
        unsafe {
            let function = result::module::get_function(self.module, name).expect("a kernel");
            result::launch_kernel(
                function,
                (blocks, 1, 1),
                (threads, 1, 1),
                smem,
                self.streams[stream],
                pointers,
            )
            .expect("a launch");
        }
    }

    /// The same in clusters of blocks, on the first stream.
    pub fn launch_clusters(
        &self,
        name: &str,
        (blocks, cluster): (u32, u32),
        threads: u32,
        smem: u32,
        pointers: &mut [*mut c_void],
    ) -> sys::CUresult {
        let name = CString::new(name).expect("a name");
        let extents = sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x: cluster, y: 1, z: 1 };
        let mut attribute = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue { clusterDim: extents },
        };
        let config = sys::CUlaunchConfig {
            gridDimX: blocks,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: smem,
            hStream: self.streams[0],
            attrs: &raw mut attribute,
            numAttrs: 1,
        };
        // SAFETY: as above; the attribute lives until the call returns.
        unsafe {
            let function = result::module::get_function(self.module, name).expect("a kernel");
            sys::cuLaunchKernelEx(&raw const config, function, pointers.as_mut_ptr(), std::ptr::null_mut())
        }
    }

    /// y = 2 x + a, on a stream.
    pub fn twice_plus(&self, stream: usize, y: u64, x: u64, n: u32, a: f32) {
        self.launch("twice_plus", n.div_ceil(64), 64, 0, stream, &[y.into(), x.into(), n.into(), a.into()]);
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // SAFETY: all of it was created here. A planted bug leaves an error behind, which the reset clears.
        unsafe {
            let _ = sys::cuDevicePrimaryCtxReset_v2(self.device);
            for &address in &self.memory {
                let _ = result::free_sync(address);
            }
            for &stream in &self.streams {
                let _ = result::stream::destroy(stream);
            }
            let _ = result::module::unload(self.module);
            let _ = result::primary_ctx::release(self.device);
        }
    }
}
