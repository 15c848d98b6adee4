//! Where tensors live and ops run: the CPU, or a CUDA device whose driver is found at run time.

mod cuda;
pub mod embedded;
mod host;
mod kernel;
pub mod published_gpus;
pub mod range;
mod tensor_map;

pub use cuda::{
    Event, Gpu, GpuMemory, Graph, NcclComm, NcclId, Pinned, ScratchBuffer, StreamKind, Watch, nccl_version,
    probe,
};
pub use host::available_memory;
pub use kernel::{Arg, Argument, Cell, ElementType, Grid, Kernel};
pub(crate) use kernel::{args, kernel, vectors};
pub use range::range;
pub use tensor_map::{MappedMatrix, TensorMap};

use crate::error::{Error, Result};
use std::sync::Arc;

/// What a driver without a GPU means.
pub const NO_GPU: &str = "the NVIDIA driver lists no GPU; check CUDA_VISIBLE_DEVICES";

/// A device that ops are dispatched to.
#[derive(Debug, Clone)]
pub enum Device {
    /// All cores of this machine, through the global thread pool.
    Cpu,
    /// One GPU.
    Cuda(Arc<Gpu>),
}

/// A device that was asked for.
#[derive(Debug, Clone)]
pub struct Choice {
    pub device: Device,
    /// `auto`: where a GPU turns out to be too small, the CPU will do.
    pub auto: bool,
}

impl Choice {
    /// Where a run of so many bytes is computed: on the device that was chosen, or, with `auto`, on the CPU if
    /// the GPU has too little free memory; then also a sentence.
    ///
    /// # Errors
    /// `Error::Failed` if the GPU that was asked for has too little free memory.
    pub fn fitting(self, needed: usize) -> Result<(Device, Option<String>)> {
        let Device::Cuda(gpu) = &self.device else { return Ok((self.device, None)) };
        let free = gpu.free_bytes()?;
        if needed <= free {
            return Ok((self.device, None));
        }
        let why = too_little(needed, &gpu.name(), free);
        if !self.auto {
            return Err(Error::failed(why));
        }
        Ok((Device::Cpu, Some(format!("the GPU is not used: {why}"))))
    }
}

/// What is said of a run that a GPU cannot hold.
pub fn too_little(needed: usize, gpu: &str, free: usize) -> String {
    let gb = |bytes: usize| bytes as f64 / 1e9;
    format!(
        "this run needs {:.2} GB of GPU memory, {gpu} has {:.2} GB free; a smaller train.micro_batch, \
         train.per_device_batch_size or train.eval_batch_size needs less",
        gb(needed),
        gb(free)
    )
}

impl Device {
    /// Free memory in bytes, where it is known: of the GPU, or of the host.
    pub fn free_bytes(&self) -> Option<usize> {
        match self {
            Device::Cpu => available_memory(),
            Device::Cuda(gpu) => gpu.free_bytes().ok(),
        }
    }

    /// Chooses a device from the command line's word: `auto`, `cpu`, `cuda` or `cuda:N`. With `auto` also a
    /// sentence, if there is a GPU that cannot be used.
    ///
    /// # Errors
    /// `Error::Config` for an unknown word or one that names several, `Error::Failed` for a device that cannot
    /// be used.
    pub fn choose(word: &str) -> Result<(Choice, Option<String>)> {
        match Wanted::read(word)? {
            Wanted::Some(indices) if indices.len() == 1 => Device::one(word, Some(indices[0])),
            Wanted::Some(_) | Wanted::All => Err(Error::config(format!(
                "--device {word}: this command uses one device, `auto`, `cpu`, `cuda` or `cuda:N`"
            ))),
            Wanted::Cpu => Device::one(word, None),
        }
    }

    /// As [`Device::choose`], and several GPUs by `cuda:0,2,3` or `cuda:all`, in this order.
    pub fn choose_all(word: &str) -> Result<(Vec<Choice>, Option<String>)> {
        let indices = match Wanted::read(word)? {
            Wanted::Some(indices) if indices.len() > 1 => indices,
            Wanted::All => {
                let gpus = probe::gpus().map_err(|why| Error::failed(format!("--device {word}: {why}")))?;
                (0..gpus.len()).collect()
            }
            _ => {
                let (choice, note) = Device::choose(word)?;
                return Ok((vec![choice], note));
            }
        };
        if indices.is_empty() {
            return Err(Error::failed(format!("--device {word}: {NO_GPU}")));
        }
        let choices: Result<Vec<Choice>> =
            indices.iter().map(|&index| Ok(Device::one(word, Some(index))?.0)).collect();
        Ok((choices?, None))
    }

    /// How many GPUs a word means on a machine that is not this one.
    ///
    /// # Errors
    /// `Error::Config` for the CPU, for all GPUs of a machine, and for an unknown word.
    pub fn count_absent(word: &str) -> Result<usize> {
        match Wanted::read(word)? {
            Wanted::Some(indices) => Ok(indices.len()),
            Wanted::Cpu | Wanted::All => Err(Error::config(format!(
                "--device {word}: with --gpu, wanted `auto`, `cuda`, or the numbers of as many GPUs as are planned for, \
                 such as `cuda:0,1`"
            ))),
        }
    }

    /// The GPU of this index, or the CPU.
    fn one(word: &str, index: Option<usize>) -> Result<(Choice, Option<String>)> {
        let auto = word == "auto";
        let Some(index) = index else { return Ok((Choice { device: Device::Cpu, auto }, None)) };
        let opened = match embedded::TOOLKIT {
            Some(_) => Gpu::open(index, embedded::image).and_then(|gpu| {
                gpu.load(embedded::IMAGES.iter().map(|(op, _)| *op))?;
                Ok(gpu)
            }),
            None => {
                Err(Error::failed("this program holds no CUDA kernels: there was no nvcc when it was built"))
            }
        };
        match opened {
            Ok(gpu) => Ok((Choice { device: Device::Cuda(gpu), auto }, None)),
            Err(why) if auto => {
                let note = match probe::gpus() {
                    // A machine that is not meant to have a GPU.
                    Err(_) if !probe::has_driver() => None,
                    Err(why) => Some(format!("no GPU is used: {why}")),
                    Ok(gpus) if gpus.is_empty() => Some(format!("no GPU is used: {NO_GPU}")),
                    Ok(_) => Some(format!("the GPU is not used: {why}")),
                };
                Ok((Choice { device: Device::Cpu, auto }, note))
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

/// What a word of the command line asks for.
enum Wanted {
    Cpu,
    /// At least one, each once.
    Some(Vec<usize>),
    All,
}

impl Wanted {
    fn read(word: &str) -> Result<Wanted> {
        let list = match word {
            "cpu" => return Ok(Wanted::Cpu),
            "cuda:all" => return Ok(Wanted::All),
            "auto" | "cuda" => return Ok(Wanted::Some(vec![0])),
            _ => word.strip_prefix("cuda:"),
        };
        let numbers = list.and_then(|list| list.split(',').map(|n| n.trim().parse().ok()).collect());
        let Some(indices): Option<Vec<usize>> = numbers else {
            return Err(Error::config(format!(
                "--device: wanted `auto`, `cpu`, `cuda`, `cuda:N`, or for several GPUs `cuda:0,1` or `cuda:all`, \
                 found `{word}`"
            )));
        };
        for (i, index) in indices.iter().enumerate() {
            if indices[..i].contains(index) {
                return Err(Error::config(format!("--device {word}: cuda:{index} is named twice")));
            }
        }
        Ok(Wanted::Some(indices))
    }
}
