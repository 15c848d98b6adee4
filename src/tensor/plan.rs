//! The memory plan: every tensor of a run by name, shape and type, allocated once before the first
//! step and printed with its total, so that "does it fit" is known before anything runs.

use super::dtype::DType;
use super::owned::Tensor;
use super::shape::Shape;
use crate::device::{Device, available_memory};
use crate::error::{Error, Result};

/// One line of the plan.
#[derive(Debug, Clone)]
pub struct PlannedTensor {
    pub group: &'static str,
    pub name: String,
    pub shape: Shape,
    pub dtype: DType,
}

impl PlannedTensor {
    pub fn bytes(&self) -> usize {
        self.shape.len() * self.dtype.size_bytes()
    }
}

/// Hands out tensors and remembers them.
#[derive(Debug)]
pub struct Plan {
    dev: Device,
    /// The tensors are, or would be, in the memory of a GPU.
    on_gpu: bool,
    rows: Vec<PlannedTensor>,
    /// Bytes in host memory beside those of a GPU.
    host_bytes: usize,
    group: &'static str,
    dry: bool,
    failure: Option<Error>,
}

impl Default for Plan {
    fn default() -> Plan {
        Plan::on(&Device::Cpu)
    }
}

impl Plan {
    pub fn new() -> Plan {
        Plan::default()
    }

    /// A plan of the memory of a device.
    pub fn on(dev: &Device) -> Plan {
        let on_gpu = dev.gpu().is_some();
        Plan {
            dev: dev.clone(),
            on_gpu,
            rows: Vec::new(),
            host_bytes: 0,
            group: "",
            dry: false,
            failure: None,
        }
    }

    /// A plan that only counts: its tensors have no memory behind them and must not be used.
    pub fn dry(dev: &Device) -> Plan {
        Plan { dry: true, ..Plan::on(dev) }
    }

    /// The same of a GPU that is not there.
    pub fn dry_on_gpu() -> Plan {
        Plan { on_gpu: true, ..Plan::dry(&Device::Cpu) }
    }

    pub fn is_on_gpu(&self) -> bool {
        self.on_gpu
    }

    /// Where its tensors are.
    pub fn device(&self) -> &Device {
        &self.dev
    }

    /// The heading under which the following tensors are counted.
    pub fn group(&mut self, group: &'static str) {
        self.group = group;
    }

    pub fn tensor(&mut self, name: impl Into<String>, shape: impl Into<Shape>, dtype: DType) -> Tensor {
        let shape = shape.into();
        self.rows.push(PlannedTensor { group: self.group, name: name.into(), shape, dtype });
        if self.dry || self.failure.is_some() {
            return Tensor::hollow(shape, dtype);
        }
        Tensor::zeros_on(&self.dev, shape, dtype).unwrap_or_else(|e| {
            let row = self.rows.last().expect("pushed above");
            self.failure = Some(Error::failed(format!("{}, {:?}: {e}", row.name, row.shape)));
            Tensor::hollow(shape, dtype)
        })
    }

    /// A tensor in host memory, whatever the device of the plan: for what the CPU computes beside a GPU. A plan of the
    /// CPU counts it; a plan of a GPU counts GPU memory only. Too little free memory is a failure of the plan, unless
    /// the plan is for a GPU that is not there.
    pub fn on_host(&mut self, name: impl Into<String>, shape: impl Into<Shape>, dtype: DType) -> Tensor {
        let (name, shape) = (name.into(), shape.into());
        let bytes = shape.len() * dtype.size_bytes();
        let elsewhere = self.on_gpu && self.dev.gpu().is_none();
        let planned = if self.on_gpu { self.host_bytes } else { self.total_bytes() };
        if let Some(free) = available_memory().filter(|free| planned + bytes > *free && !elsewhere) {
            let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
            self.failure.get_or_insert(Error::failed(format!(
                "{}, {name} {shape:?}: wants {:.0} MiB of host memory beside {:.0} MiB that are planned already, {:.0} MiB \
                 are free",
                self.group,
                mib(bytes),
                mib(planned),
                mib(free)
            )));
        }
        if !self.on_gpu {
            return self.tensor(name, shape, dtype);
        }
        self.host_bytes += bytes;
        match self.dry || self.failure.is_some() {
            true => Tensor::hollow(shape, dtype),
            false => Tensor::zeros(shape, dtype),
        }
    }

    /// Returns the first failure of an allocation; the tensors after it have no memory.
    ///
    /// # Errors
    /// `Error::Failed` with the name of the tensor, what was wanted and what was free.
    pub fn check(&mut self) -> Result<()> {
        self.failure.take().map_or(Ok(()), Err)
    }

    /// The type of single numbers such as losses and norms, summed in f64 where there is one.
    pub fn number(&self) -> DType {
        if self.on_gpu { DType::F32 } else { DType::F64 }
    }

    pub fn rows(&self) -> &[PlannedTensor] {
        &self.rows
    }

    pub fn total_bytes(&self) -> usize {
        self.rows.iter().map(PlannedTensor::bytes).sum()
    }

    /// Bytes by group, in order of first appearance.
    pub fn by_group(&self) -> Vec<(&'static str, usize)> {
        let mut groups: Vec<(&'static str, usize)> = Vec::new();
        for row in &self.rows {
            match groups.iter_mut().find(|(name, _)| *name == row.group) {
                Some((_, bytes)) => *bytes += row.bytes(),
                None => groups.push((row.group, row.bytes())),
            }
        }
        groups
    }
}
