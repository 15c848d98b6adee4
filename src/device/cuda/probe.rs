//! What the machine has, without needing any of it.

use super::{result, say, sys};

/// One GPU as the driver describes it.
#[derive(Debug, Clone)]
pub struct Found {
    pub index: usize,
    pub name: String,
    pub memory_bytes: usize,
    pub compute_capability: (i32, i32),
    pub multiprocessors: usize,
    /// The cache that all of them share.
    pub l2_bytes: usize,
}

/// The GPUs of this machine, or a sentence why none can be used.
pub fn gpus() -> Result<Vec<Found>, String> {
    // SAFETY: only looks for the shared library; every other call panics when it is missing.
    if !unsafe { sys::is_culib_present() } {
        return Err("no NVIDIA driver: libcuda.so.1 was not found".into());
    }
    result::init().map_err(|e| format!("the NVIDIA driver does not start: {}", say(e)))?;
    let count = result::device::get_count().map_err(|e| format!("the driver lists no device: {}", say(e)))?;
    let mut gpus = Vec::new();
    for index in 0..count {
        let device = result::device::get(index).map_err(|e| format!("GPU {index}: {}", say(e)))?;
        let name = result::device::get_name(device).unwrap_or_else(|_| "unnamed".into());
        // SAFETY: `device` was handed out by the driver just above.
        let memory_bytes = unsafe { result::device::total_mem(device) }.unwrap_or(0);
        let attribute = |a| {
            // SAFETY: as above.
            unsafe { result::device::get_attribute(device, a) }.unwrap_or(0)
        };
        use sys::CUdevice_attribute as A;
        let major = attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
        let minor = attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
        let count = |a| usize::try_from(attribute(a)).unwrap_or(0);
        gpus.push(Found {
            index: index as usize,
            name,
            memory_bytes,
            compute_capability: (major, minor),
            multiprocessors: count(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT),
            l2_bytes: count(A::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE),
        });
    }
    Ok(gpus)
}

/// 13000 for CUDA 13.0; 0 if the driver does not say.
pub fn driver_version() -> i32 {
    let mut version = 0;
    // SAFETY: writes one number. `gpus` has found the library before.
    let told = unsafe { sys::cuDriverGetVersion(&raw mut version) }.result();
    told.map_or(0, |()| version)
}
