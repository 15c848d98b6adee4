//! The continual-learning metrics of the official code (google-research/l2p @ dd8836e,
//! `train_continual.py`, 829-857), as fractions.
//!
//! With a[t][i] the accuracy on task i after task t, after task t:
//! avg_acc = mean over i <= t of a[t][i]; learning_acc = mean over i <= t of a[i][i]; and for t > 0
//! forgetting = mean over i < t of (max over s <= t of a[s][i] - a[t][i]),
//! backward = mean over i < t of (a[t][i] - a[i][i]).

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// The task after which these hold, from 0: the place of their row, where tests do not come more seldom.
    pub task: usize,
    #[serde(with = "super::nullable::number")]
    pub avg_acc: f64,
    #[serde(with = "super::nullable::number")]
    pub learning_acc: f64,
    /// `None` after the first task.
    pub forgetting: Option<f64>,
    /// `None` after the first task.
    pub backward: Option<f64>,
}

impl Metrics {
    /// The metrics after every task.
    ///
    /// # Shapes
    /// `a[t]`: the t + 1 accuracies after task t, one per task learned so far; or one each, on a test set that
    /// all tasks share: then `avg_acc` is that accuracy, and nothing else means anything.
    ///
    /// # Errors
    /// [`Error::Failed`] if a row has another length.
    pub fn from_matrix(a: &[Vec<f64>]) -> Result<Vec<Metrics>> {
        if a.len() > 1 && a.iter().all(|row| row.len() == 1) {
            let row = |(task, row): (usize, &Vec<f64>)| Metrics {
                task,
                avg_acc: row[0],
                learning_acc: f64::NAN,
                forgetting: None,
                backward: None,
            };
            return Ok(a.iter().enumerate().map(row).collect());
        }
        for (t, row) in a.iter().enumerate() {
            if row.len() != t + 1 {
                return Err(Error::failed(format!(
                    "row {t} of an accuracy matrix must have {} values, one per task learned so far, found {}",
                    t + 1,
                    row.len()
                )));
            }
        }
        Ok((0..a.len()).map(|t| after(t, |s, i| a[s][i], mean((0..=t).map(|i| a[t][i])))).collect())
    }

    /// The same with one evaluation set for all tasks, as the official code computes it: formulas over
    /// a matrix in which only the first column is filled, and the accuracy itself as `avg_acc`. Only
    /// `avg_acc` means what its name says.
    ///
    /// # Shapes
    /// `accuracies[t]`: the accuracy after task t.
    pub fn from_shared(accuracies: &[f64]) -> Vec<Metrics> {
        let cell = |s: usize, i: usize| if i == 0 { accuracies[s] } else { 0.0 };
        (0..accuracies.len()).map(|t| after(t, cell, accuracies[t])).collect()
    }
}

fn after(t: usize, a: impl Fn(usize, usize) -> f64, avg_acc: f64) -> Metrics {
    // Before task i is learned its accuracy counts as 0.
    let best = |i: usize| (i..=t).map(|s| a(s, i)).fold(0.0, f64::max);
    Metrics {
        task: t,
        avg_acc,
        learning_acc: mean((0..=t).map(|i| a(i, i))),
        forgetting: (t > 0).then(|| mean((0..t).map(|i| best(i) - a(t, i)))),
        backward: (t > 0).then(|| mean((0..t).map(|i| a(t, i) - a(i, i)))),
    }
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, n) = values.fold((0.0, 0.0), |(sum, n), v| (sum + v, n + 1.0));
    sum / n
}
