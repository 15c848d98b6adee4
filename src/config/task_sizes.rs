//! How many classes each task has: `continual.num_classes_per_task`.

use super::kinds::{Field, KeyKind};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Range;

/// One number for all tasks, or one for each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TaskSizes {
    Same(usize),
    Each(Vec<usize>),
}

impl TaskSizes {
    /// Classes of a task; 0 past the last one of a list.
    pub fn of(&self, task: usize) -> usize {
        match self {
            TaskSizes::Same(n) => *n,
            TaskSizes::Each(sizes) => sizes.get(task).copied().unwrap_or(0),
        }
    }

    /// Classes of the first `tasks` tasks together.
    pub fn upto(&self, tasks: usize) -> usize {
        match self {
            TaskSizes::Same(n) => n.saturating_mul(tasks),
            TaskSizes::Each(sizes) => {
                sizes.iter().take(tasks).fold(0, |sum: usize, n| sum.saturating_add(*n))
            }
        }
    }

    /// The classes of a task, of those that are numbered in the order in which they are learned.
    pub fn range(&self, task: usize) -> Range<usize> {
        let start = self.upto(task);
        start..start.saturating_add(self.of(task))
    }

    /// The classes of the task that learns `class`; those behind the last task of a list are a task of their own.
    pub fn range_with(&self, class: usize, classes: usize) -> Range<usize> {
        match self {
            TaskSizes::Same(n) => self.range(class / n.max(&1)),
            TaskSizes::Each(sizes) => (0..sizes.len())
                .map(|task| self.range(task))
                .find(|range| range.contains(&class))
                .unwrap_or(self.upto(sizes.len())..classes),
        }
    }

    /// The number where all tasks have the same.
    pub fn same(&self) -> Option<usize> {
        match self {
            TaskSizes::Same(n) => Some(*n),
            TaskSizes::Each(sizes) => {
                let first = *sizes.first()?;
                sizes.iter().all(|n| *n == first).then_some(first)
            }
        }
    }

    /// The smallest; 0 of an empty list.
    pub fn smallest(&self) -> usize {
        match self {
            TaskSizes::Same(n) => *n,
            TaskSizes::Each(sizes) => sizes.iter().copied().min().unwrap_or(0),
        }
    }
}

impl From<usize> for TaskSizes {
    fn from(n: usize) -> TaskSizes {
        TaskSizes::Same(n)
    }
}

impl fmt::Display for TaskSizes {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            TaskSizes::Same(n) => write!(f, "{n}"),
            TaskSizes::Each(sizes) => write!(f, "{sizes:?}"),
        }
    }
}

impl Field for TaskSizes {
    const KIND: KeyKind = KeyKind::SizeOrSizes;
}

/// Class names, numbers or a file of them: `data.classes`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Names(pub Vec<String>);

impl Field for Names {
    const KIND: KeyKind = KeyKind::Names;
}
