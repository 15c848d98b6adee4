//! Where tensors live and ops run. The CPU is a device like any other; CUDA devices join here.

use crate::error::{Error, Result};

/// A device that ops are dispatched to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// All cores of this machine, through the global thread pool.
    Cpu,
}

impl Device {
    /// Chooses a device from the command line's word: `auto`, `cpu`, `cuda` or `cuda:0,1,…`.
    ///
    /// # Errors
    /// `Error::Config` for an unknown word, `Error::Failed` for a device this build cannot drive.
    pub fn choose(word: &str) -> Result<Device> {
        match word {
            "auto" | "cpu" => Ok(Device::Cpu),
            _ if word == "cuda" || word.starts_with("cuda:") => Err(Error::failed(format!(
                "--device {word}: this version of l2p-engine trains on the CPU only; wanted `auto` or `cpu` \
                 ({})",
                probe::summary()
            ))),
            _ => Err(Error::config(format!(
                "--device: wanted `auto`, `cpu`, `cuda` or `cuda:0,1,…`, found `{word}`"
            ))),
        }
    }

    pub fn name(&self) -> &'static str {
        match self {
            Device::Cpu => "cpu",
        }
    }
}

pub mod probe {
    //! What the machine has, without needing any of it. The only module that names the driver crate.

    use cudarc::driver::{result, sys};

    /// One GPU as the driver describes it.
    #[derive(Debug, Clone)]
    pub struct Gpu {
        pub index: usize,
        pub name: String,
        pub memory_bytes: usize,
        pub compute_capability: (i32, i32),
    }

    /// The GPUs of this machine, or a sentence why none can be used.
    pub fn gpus() -> Result<Vec<Gpu>, String> {
        // SAFETY: only looks for the shared library; every other call panics when it is missing.
        if !unsafe { sys::is_culib_present() } {
            return Err("no NVIDIA driver: libcuda.so.1 was not found".into());
        }
        result::init().map_err(|e| format!("the NVIDIA driver does not start: {e:?}"))?;
        let count = result::device::get_count().map_err(|e| format!("the driver lists no device: {e:?}"))?;
        let mut gpus = Vec::new();
        for index in 0..count {
            let device = result::device::get(index).map_err(|e| format!("GPU {index}: {e:?}"))?;
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
            gpus.push(Gpu { index: index as usize, name, memory_bytes, compute_capability: (major, minor) });
        }
        Ok(gpus)
    }

    /// One line for messages.
    pub fn summary() -> String {
        match gpus() {
            Err(why) => why,
            Ok(gpus) if gpus.is_empty() => "the driver is there, but no GPU".into(),
            Ok(gpus) => format!(
                "this machine has {}",
                gpus.iter().map(|g| g.name.as_str()).collect::<Vec<_>>().join(", ")
            ),
        }
    }
}
