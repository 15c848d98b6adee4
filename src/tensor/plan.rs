//! The memory plan: every tensor of a run by name, shape and type, allocated once before the first
//! step and printed with its total, so that "does it fit" is known before anything runs.

use super::{DType, Shape, Tensor};

/// One line of the plan.
#[derive(Debug, Clone)]
pub struct Row {
    pub group: &'static str,
    pub name: String,
    pub shape: Shape,
    pub dtype: DType,
}

impl Row {
    pub fn bytes(&self) -> usize {
        self.shape.len() * self.dtype.size_bytes()
    }
}

/// Hands out tensors and remembers them.
#[derive(Debug, Default)]
pub struct Plan {
    rows: Vec<Row>,
    group: &'static str,
    dry: bool,
}

impl Plan {
    pub fn new() -> Plan {
        Plan::default()
    }

    /// A plan that only counts: its tensors have no memory behind them and must not be used.
    pub fn dry() -> Plan {
        Plan { dry: true, ..Plan::default() }
    }

    /// The heading under which the following tensors are counted.
    pub fn group(&mut self, group: &'static str) {
        self.group = group;
    }

    pub fn tensor(&mut self, name: impl Into<String>, shape: impl Into<Shape>, dtype: DType) -> Tensor {
        let shape = shape.into();
        self.rows.push(Row { group: self.group, name: name.into(), shape, dtype });
        if self.dry { Tensor::zeros([0], dtype) } else { Tensor::zeros(shape, dtype) }
    }

    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    pub fn total_bytes(&self) -> usize {
        self.rows.iter().map(Row::bytes).sum()
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
