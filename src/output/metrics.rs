//! The metrics of continual learning, as fractions. `docs/metrics.md` has the formula and the source of each.
//!
//! avg_acc, learning_acc, forgetting and backward are those of the official code (google-research/l2p @ dd8836e,
//! `train_continual.py`, 829-857). With a[t][i] the accuracy on task i after task t, after task t:
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
    #[serde(flatten)]
    pub further: Further,
}

/// Metrics beside those of the official code; `None` where one is not defined.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Further {
    /// Over all test images of the tasks learned so far, whatever the sizes of the test sets.
    pub seen_acc: Option<f64>,
    /// Mean of `seen_acc` over the tests so far.
    pub incremental_acc: Option<f64>,
    /// Mean of `avg_acc` over the tests so far.
    pub anytime_acc: Option<f64>,
    /// Mean over the classes that have test images.
    pub macro_acc: Option<f64>,
    /// Over the test images of the first task, of all later ones, and the harmonic mean of both.
    pub base_acc: Option<f64>,
    pub novel_acc: Option<f64>,
    pub harmonic_acc: Option<f64>,
    /// Accuracy on each task just before it is learned, less that of the network before its first step.
    pub forward: Option<f64>,
    /// `forgetting` divided by the number of tasks instead of that of the earlier ones.
    pub forgetting_all_tasks: Option<f64>,
    /// Mean drop from one task to the next.
    pub forgetting_stepwise: Option<f64>,
}

/// A metric by the name that files have for it.
pub struct Metric {
    pub key: &'static str,
    /// For people.
    pub name: &'static str,
    pub of: fn(&Metrics) -> Option<f64>,
}

impl Metric {
    /// Its value after the last test of a score.
    pub fn last(&self, after: &[Metrics]) -> Option<f64> {
        (self.of)(after.last()?).filter(|value| value.is_finite())
    }
}

/// Every metric, in the order of tables.
pub const METRICS: [Metric; 14] = [
    Metric { key: "avg_acc", name: "average accuracy", of: |m| Some(m.avg_acc) },
    Metric { key: "forgetting", name: "forgetting", of: |m| m.forgetting },
    Metric { key: "backward", name: "backward transfer", of: |m| m.backward },
    Metric { key: "learning_acc", name: "learning accuracy", of: |m| Some(m.learning_acc) },
    Metric { key: "seen_acc", name: "accuracy over images", of: |m| m.further.seen_acc },
    Metric {
        key: "incremental_acc",
        name: "average incremental accuracy",
        of: |m| m.further.incremental_acc,
    },
    Metric { key: "anytime_acc", name: "anytime accuracy", of: |m| m.further.anytime_acc },
    Metric { key: "macro_acc", name: "macro accuracy", of: |m| m.further.macro_acc },
    Metric { key: "base_acc", name: "base accuracy", of: |m| m.further.base_acc },
    Metric { key: "novel_acc", name: "novel accuracy", of: |m| m.further.novel_acc },
    Metric { key: "harmonic_acc", name: "harmonic mean of base and novel", of: |m| m.further.harmonic_acc },
    Metric { key: "forward", name: "forward transfer", of: |m| m.further.forward },
    Metric {
        key: "forgetting_all_tasks",
        name: "forgetting, divided by all tasks",
        of: |m| m.further.forgetting_all_tasks,
    },
    Metric {
        key: "forgetting_stepwise",
        name: "forgetting, step by step",
        of: |m| m.further.forgetting_stepwise,
    },
];

impl Metrics {
    /// The metrics after every task that the matrix alone tells.
    ///
    /// # Shapes
    /// `a[t]`: the t + 1 accuracies after task t, one per task learned so far; or one each, on a test set that
    /// all tasks share: then `avg_acc` is that accuracy, `anytime_acc` its mean, and nothing else means anything.
    ///
    /// # Errors
    /// [`Error::Failed`] if a row has another length.
    pub fn from_matrix(a: &[Vec<f64>]) -> Result<Vec<Metrics>> {
        let mut all: Vec<Metrics> = if a.len() > 1 && a.iter().all(|row| row.len() == 1) {
            let row = |(task, row): (usize, &Vec<f64>)| Metrics {
                task,
                avg_acc: row[0],
                learning_acc: f64::NAN,
                forgetting: None,
                backward: None,
                further: Further::default(),
            };
            a.iter().enumerate().map(row).collect()
        } else {
            for (t, row) in a.iter().enumerate() {
                if row.len() != t + 1 {
                    return Err(Error::failed(format!(
                        "row {t} of an accuracy matrix must have {} values, one per task learned so far, found {}",
                        t + 1,
                        row.len()
                    )));
                }
            }
            (0..a.len()).map(|t| Metrics::of_row(a, t)).collect()
        };
        let averages: Vec<f64> = all.iter().map(|m| m.avg_acc).collect();
        for (t, metrics) in all.iter_mut().enumerate() {
            metrics.further.anytime_acc = defined(mean(averages[..=t].iter().copied()));
        }
        Ok(all)
    }

    fn of_row(a: &[Vec<f64>], t: usize) -> Metrics {
        let mut metrics = after(t, |s, i| a[s][i], mean((0..=t).map(|i| a[t][i])));
        let drop = |s: usize| mean((0..s).map(|i| a[s - 1][i] - a[s][i]));
        metrics.further.forgetting_all_tasks = metrics.forgetting.map(|f| f * t as f64 / (t + 1) as f64);
        metrics.further.forgetting_stepwise = (t > 0).then(|| mean((1..=t).map(drop)));
        metrics
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

    /// Fills in what depends on the sizes of the test sets. `images[i]`: test images of task i. `new_classes`: tasks
    /// bring classes of their own, so that those of the first are the base and all others are novel.
    ///
    /// # Shapes
    /// `a`, `all`: as in [`Metrics::from_matrix`], with a test set per task.
    pub fn add_images(all: &mut [Metrics], a: &[Vec<f64>], images: &[usize], new_classes: bool) {
        // Accuracies are quotients of counts, which these are again.
        let right = |t: usize, i: usize| (a[t][i] * images[i] as f64).round();
        let over = |t: usize, tasks: std::ops::Range<usize>| {
            let n: usize = images[tasks.clone()].iter().sum();
            defined(tasks.map(|i| right(t, i)).sum::<f64>() / n as f64)
        };
        let mut seen = Vec::new();
        for (t, metrics) in all.iter_mut().enumerate() {
            let further = &mut metrics.further;
            further.seen_acc = over(t, 0..t + 1);
            seen.push(further.seen_acc);
            let so_far: Option<Vec<f64>> = seen.iter().copied().collect();
            further.incremental_acc = so_far.and_then(|values| defined(mean(values.into_iter())));
            if new_classes {
                (further.base_acc, further.novel_acc) = (over(t, 0..1), over(t, 1..t + 1));
                further.harmonic_acc = further.base_acc.zip(further.novel_acc).map(harmonic_mean);
            }
        }
    }

    /// Fills in the forward transfer: after task t, mean over 1 <= i <= t of `ahead[i - 1]` - `fresh[i - 1]`.
    /// Source: Lopez-Paz and Ranzato 2017, arXiv:1706.08840, equation 4.
    ///
    /// # Shapes
    /// `ahead[t]`: the accuracy on task t + 1 after task t; `fresh[t]`: that before the first step.
    pub fn add_forward(all: &mut [Metrics], ahead: &[f64], fresh: &[f64]) {
        for (t, metrics) in all.iter_mut().enumerate().skip(1) {
            if ahead.len() >= t && fresh.len() >= t {
                metrics.further.forward = defined(mean((0..t).map(|i| ahead[i] - fresh[i])));
            }
        }
    }
}

/// 2 a b / (a + b), 0 where both are.
fn harmonic_mean((a, b): (f64, f64)) -> f64 {
    if a + b > 0.0 { 2.0 * a * b / (a + b) } else { 0.0 }
}

fn defined(value: f64) -> Option<f64> {
    Some(value).filter(|value| value.is_finite())
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
        further: Further::default(),
    }
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, n) = values.fold((0.0, 0.0), |(sum, n), v| (sum + v, n + 1.0));
    sum / n
}
