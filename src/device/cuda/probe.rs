//! The GPUs of this machine and its driver. Nothing here needs either to exist.

use super::driver_error::describe;
use super::driver_version;
use crate::device::embedded;
use cudarc::driver::{result, sys};

/// The oldest compute capability that the kernels run on.
const OLDEST: (i32, i32) = (8, 0);

/// One GPU as the driver describes it.
#[derive(Debug, Clone)]
pub struct FoundGpu {
    pub index: usize,
    pub name: String,
    /// As `nvidia-smi -L` lists it, without `GPU-`; empty if the driver does not say.
    pub uuid: String,
    pub memory_bytes: usize,
    pub compute_capability: (i32, i32),
    pub multiprocessors: usize,
    /// The cache that all of them share.
    pub l2_bytes: usize,
}

impl FoundGpu {
    /// Why the kernels of this program cannot run on it, if so.
    pub fn unusable(&self) -> Option<String> {
        let ((major, minor), (least, _)) = (self.compute_capability, OLDEST);
        if self.compute_capability < OLDEST {
            return Some(format!(
                "compute capability {major}.{minor}, the kernels of this program need {least}.0 or newer"
            ));
        }
        driver_version::check(driver_version(), embedded::TOOLKIT, self.compute_capability)
            .err()
            .map(|why| why.to_string())
    }
}

/// The GPUs of this machine, or a sentence why none can be used.
pub fn gpus() -> Result<Vec<FoundGpu>, String> {
    if !has_driver() {
        return Err("no NVIDIA driver: libcuda.so.1 was not found".into());
    }
    result::init()
        .map_err(|e| format!("the NVIDIA driver does not start: {}{}", describe(e), advice(e.0)))?;
    let count =
        result::device::get_count().map_err(|e| format!("the driver lists no device: {}", describe(e)))?;
    let mut gpus = Vec::new();
    for index in 0..count {
        let device = result::device::get(index).map_err(|e| format!("GPU {index}: {}", describe(e)))?;
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
        gpus.push(FoundGpu {
            index: index as usize,
            name,
            uuid: result::device::get_uuid(device).map_or(String::new(), |uuid| hex(&uuid.bytes)),
            memory_bytes,
            compute_capability: (major, minor),
            multiprocessors: count(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT),
            l2_bytes: count(A::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE),
        });
    }
    Ok(gpus)
}

/// 16 bytes in the usual groups.
fn hex(bytes: &[std::ffi::c_char; 16]) -> String {
    let digits = |range: std::ops::Range<usize>| -> String {
        bytes[range].iter().map(|byte| format!("{:02x}", byte.to_ne_bytes()[0])).collect()
    };
    [0..4, 4..6, 6..8, 8..10, 10..16].map(digits).join("-")
}

/// Whether there is a library of the driver.
pub fn has_driver() -> bool {
    // SAFETY: only looks for the shared library; every other call panics when it is missing.
    unsafe { sys::is_culib_present() }
}

/// What to do about a driver that does not start.
fn advice(code: sys::CUresult) -> &'static str {
    match code {
        sys::CUresult::CUDA_ERROR_STUB_LIBRARY => {
            "; this is the stub library of the toolkit: take its folder, lib64/stubs, out of LD_LIBRARY_PATH"
        }
        sys::CUresult::CUDA_ERROR_NO_DEVICE => {
            "; check CUDA_VISIBLE_DEVICES, and start a container with its GPUs (docker run --gpus all)"
        }
        sys::CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH => {
            "; the library and the kernel module are of different versions: reload the module or reboot"
        }
        sys::CUresult::CUDA_ERROR_UNKNOWN => {
            "; after a suspend, reload the kernel module nvidia_uvm or reboot"
        }
        _ => "",
    }
}

/// 13000 for CUDA 13.0; 0 if the driver does not say.
pub fn driver_version() -> i32 {
    let mut version = 0;
    // SAFETY: writes one number. `gpus` has found the library before.
    let told = unsafe { sys::cuDriverGetVersion(&raw mut version) }.result();
    told.map_or(0, |()| version)
}
