//! `l2p-engine devices`.

use super::print;
use crate::device::{NO_GPU, embedded, nccl_version, probe};
use crate::error::Result;
use crate::ops::matmul::bf16::Arithmetic;
use crate::self_check::Verdict;
use clap::Args;

#[derive(Debug, Args)]
pub struct Devices {}

/// What a check has found of its kernels.
fn known(gpu: &probe::FoundGpu) -> String {
    let Some(verdict) = Verdict::about(gpu) else {
        return "not checked yet with this driver and program".into();
    };
    match verdict.failed().count() {
        0 => format!("checked, {} kernels compute what they should", verdict.kernels()),
        n => format!("checked, {n} kernels failed: l2p-engine check-device --device cuda:{}", gpu.index),
    }
}

impl Devices {
    pub fn run(self) -> Result<()> {
        let arithmetic = Arithmetic::of_process()?.word();
        print(&format!("cpu: {} threads, usable; bf16 by `{arithmetic}`", rayon::current_num_threads()));
        match probe::gpus() {
            Ok(gpus) => {
                for gpu in &gpus {
                    let (major, minor) = gpu.compute_capability;
                    let gib = gpu.memory_bytes as f64 / f64::from(1 << 30);
                    let name = &gpu.name;
                    let usable = match gpu.unusable() {
                        Some(why) => format!("not usable: {why}"),
                        None => known(gpu),
                    };
                    print(&format!(
                        "cuda:{}: {name}, {gib:.1} GiB, compute capability {major}.{minor}; {usable}",
                        gpu.index
                    ));
                }
                if gpus.is_empty() {
                    print(&format!("cuda: {NO_GPU}"));
                }
            }
            Err(why) => print(&format!("cuda: {why}")),
        }
        print(&match embedded::TOOLKIT {
            None => "this program holds no CUDA kernels: there was no nvcc when it was built".to_string(),
            Some(version) => format!("this program holds kernels for {} (CUDA {version})", embedded::TARGETS),
        });
        match nccl_version() {
            Ok(version) => print(&format!("several GPUs: NCCL {version}")),
            Err(why) => print(&format!("several GPUs: {why}")),
        }
        Ok(())
    }
}
