//! GPUs by name, for planning a run on a machine that has none.

use crate::error::{Error, Result};

/// What the maker says of a GPU.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PublishedGpu {
    pub name: &'static str,
    /// GB of memory, 10^9 bytes.
    pub memory_gb: f64,
    /// `None`: not known.
    pub rates: Option<PublishedRates>,
}

/// The two rates of a roofline.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PublishedRates {
    /// TFLOP/s of dense 16-bit products that are summed in f32.
    pub tflops: f64,
    /// TB/s between the GPU and its memory.
    pub terabytes: f64,
}

const fn gpu(name: &'static str, memory_gb: f64, tflops: f64, terabytes: f64) -> PublishedGpu {
    PublishedGpu { name, memory_gb, rates: Some(PublishedRates { tflops, terabytes }) }
}

/// Sources: NVIDIA's data sheets of H200, H100 SXM, A100 SXM and L40S, and the white papers of the architectures Ada
/// (RTX 4090) and Ampere GA102 (RTX 3090, A40), all without sparsity.
pub const PUBLISHED_GPUS: [PublishedGpu; 8] = [
    gpu("h200", 141.0, 989.0, 4.8),
    gpu("h100", 80.0, 989.0, 3.35),
    gpu("a100", 80.0, 312.0, 2.039),
    gpu("a100-40gb", 40.0, 312.0, 1.555),
    gpu("l40s", 48.0, 362.0, 0.864),
    gpu("a40", 48.0, 150.0, 0.696),
    gpu("rtx4090", 24.0, 165.0, 1.008),
    gpu("rtx3090", 24.0, 71.0, 0.936),
];

impl PublishedGpu {
    /// By name, or `12GB`: any GPU with so much memory.
    ///
    /// # Errors
    /// `Error::Config` with the known names for another word.
    pub fn parse(word: &str) -> Result<PublishedGpu> {
        let lower = word.to_lowercase().replace([' ', '_'], "");
        if let Some(known) = PUBLISHED_GPUS.iter().find(|gpu| gpu.name == lower) {
            return Ok(*known);
        }
        let size = lower.strip_suffix("gib").or(lower.strip_suffix("gb")).and_then(|n| n.parse().ok());
        match size {
            Some(memory_gb) if memory_gb > 0.0 && memory_gb <= 10_000.0 => {
                Ok(PublishedGpu { name: "a GPU", memory_gb, rates: None })
            }
            _ => {
                let names: Vec<&str> = PUBLISHED_GPUS.iter().map(|gpu| gpu.name).collect();
                Err(Error::config(format!(
                    "--gpu: wanted {} or a size of memory such as 12GB, found `{word}`",
                    names.join(", ")
                )))
            }
        }
    }

    /// Bytes that a run can have: what the driver and this program's kernels take is left out.
    pub fn usable(&self) -> usize {
        const TAKEN: f64 = 0.6e9;
        (self.memory_gb * 1e9 - TAKEN).max(0.0) as usize
    }
}
