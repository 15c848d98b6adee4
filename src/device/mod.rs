//! Where tensors live and ops run: the CPU, or a CUDA device whose driver is found at run time.

mod cuda;
mod kernel;

pub use cuda::{Event, Gpu, Graph, Lane, Memory, Pinned, Scratch, probe};
pub use kernel::{Arg, Argument, Cell, Form, Grid, Kernel};
pub(crate) use kernel::{args, kernel, vectors};

use crate::error::{Error, Result};
use std::sync::Arc;

/// The kernels that this program holds.
pub mod embedded {
    /// Images start where the driver may read words of any size. (Not used where nvcc was missing.)
    #[allow(dead_code)]
    #[repr(C, align(64))]
    struct Aligned<T: ?Sized>(T);

    #[allow(unused_macros)]
    macro_rules! aligned {
        ($path:literal) => {{
            static IMAGE: &Aligned<[u8]> = &Aligned(*include_bytes!($path));
            &IMAGE.0
        }};
    }
    include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

    /// The image of `kernels/<op>.cu`; `None` if the program was built without nvcc, or there is no such
    /// file.
    pub fn image(op: &str) -> Option<&'static [u8]> {
        IMAGES.iter().find(|(name, _)| *name == op).and_then(|(_, image)| *image)
    }
}

/// A device that ops are dispatched to.
#[derive(Debug, Clone)]
pub enum Device {
    /// All cores of this machine, through the global thread pool.
    Cpu,
    /// One GPU.
    Cuda(Arc<Gpu>),
}

/// Why no run is given a GPU yet.
const UNFINISHED: &str =
    "the kernels of selection, loss and optimizer are still missing, so this version computes on the CPU";

impl Device {
    /// Chooses a device from the command line's word: `auto`, `cpu`, `cuda` or `cuda:N`. With `auto` also a
    /// sentence, if there is a GPU that cannot be used.
    ///
    /// # Errors
    /// `Error::Config` for an unknown word, `Error::Failed` for a device that cannot be used.
    pub fn choose(word: &str) -> Result<(Device, Option<String>)> {
        let index = match word {
            "cpu" => return Ok((Device::Cpu, None)),
            "auto" | "cuda" => Some(0),
            _ => word.strip_prefix("cuda:").and_then(|n| n.parse().ok()),
        };
        let Some(index) = index else {
            return Err(Error::config(format!(
                "--device: wanted `auto`, `cpu`, `cuda` or `cuda:N`, found `{word}`"
            )));
        };
        let gpu = Gpu::open(index, embedded::image).and_then(|_| Err(Error::failed(UNFINISHED)));
        match gpu {
            Ok(gpu) => Ok((Device::Cuda(gpu), None)),
            Err(why) if word == "auto" => {
                let has_one = probe::gpus().is_ok_and(|gpus| !gpus.is_empty());
                Ok((Device::Cpu, has_one.then(|| format!("the GPU is not used: {why}"))))
            }
            Err(why) => Err(Error::failed(format!("--device {word}: {why}"))),
        }
    }

    /// `cpu`, `cuda:0`, …
    pub fn name(&self) -> String {
        match self {
            Device::Cpu => "cpu".into(),
            Device::Cuda(gpu) => gpu.name(),
        }
    }

    /// The GPU, if it is one.
    pub fn gpu(&self) -> Option<&Arc<Gpu>> {
        match self {
            Device::Cpu => None,
            Device::Cuda(gpu) => Some(gpu),
        }
    }
}
