//! `seeds.json`: what several runs of one configuration found, each with a seed of its own.

use super::atomic;
use super::metrics::{METRICS, Metric, Metrics};
use super::results::{Results, Score};
use super::spread::Spread;
use crate::error::Result;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub const FILE: &str = "seeds.json";

/// Runs below one folder. Accuracies are fractions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Seeds {
    pub engine_version: String,
    pub rule_set: String,
    pub method: String,
    pub dataset: String,
    /// Every seed that was asked for.
    pub seeds: Vec<u64>,
    /// All of them are done.
    pub complete: bool,
    /// The finished ones, in the order of `seeds`.
    pub runs: Vec<SeedRun>,
    /// `None` until a run is finished.
    pub per_image: Option<Spreads>,
    pub per_batch: Option<Spreads>,
}

/// One finished run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SeedRun {
    pub seed: u64,
    /// Relative to the folder of this file.
    pub workdir: PathBuf,
    pub per_image: FinalMetrics,
    pub per_batch: FinalMetrics,
    #[serde(with = "super::nullable::number")]
    pub seconds: f64,
}

/// Something for each metric by its key, in the order of [`METRICS`]; `None` where it is not defined.
#[derive(Debug, Clone, PartialEq)]
pub struct ByMetric<T>([Option<T>; METRICS.len()]);

/// The metrics after the last task.
pub type FinalMetrics = ByMetric<f64>;

/// Mean and deviation of each metric.
pub type Spreads = ByMetric<Spread>;

impl<T: Copy> ByMetric<T> {
    fn of(value: impl FnMut(&Metric) -> Option<T>) -> ByMetric<T> {
        ByMetric(METRICS.each_ref().map(value))
    }

    /// That of the metric `key`; `None` for a key that is none, too.
    pub fn get(&self, key: &str) -> Option<T> {
        self.0[METRICS.iter().position(|metric| metric.key == key)?]
    }
}

impl<T: Serialize> Serialize for ByMetric<T> {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        to.collect_map(METRICS.iter().map(|metric| metric.key).zip(&self.0))
    }
}

impl<'de, T: Deserialize<'de> + Copy> Deserialize<'de> for ByMetric<T> {
    /// Files of earlier versions have some of the metrics.
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<ByMetric<T>, D::Error> {
        let found = BTreeMap::<String, Option<T>>::deserialize(from)?;
        Ok(ByMetric::of(|metric| found.get(metric.key).copied().flatten()))
    }
}

impl From<&Score> for FinalMetrics {
    fn from(score: &Score) -> FinalMetrics {
        let Score { avg_acc, forgetting, backward, learning_acc, further, .. } = *score;
        let last = Metrics { task: 0, avg_acc, forgetting, backward, learning_acc, further };
        ByMetric::of(|metric| (metric.of)(&last).filter(|value| value.is_finite()))
    }
}

impl Spreads {
    /// Over the runs in which a metric is defined; `None` of no run.
    pub fn over(runs: &[&FinalMetrics]) -> Option<Spreads> {
        let of = |metric: &Metric| Spread::of_some(runs.iter().map(|run| run.get(metric.key)));
        (!runs.is_empty()).then(|| ByMetric::of(of))
    }
}

impl Seeds {
    /// What the finished runs have in common; `finished`: seed, folder relative to this file, results.
    pub fn of(seeds: &[u64], finished: &[(u64, PathBuf, Results)]) -> Seeds {
        let runs: Vec<SeedRun> = finished
            .iter()
            .map(|(seed, workdir, results)| SeedRun {
                seed: *seed,
                workdir: workdir.clone(),
                per_image: (&results.per_image).into(),
                per_batch: (&results.per_batch).into(),
                seconds: results.seconds,
            })
            .collect();
        let first = finished.first().map(|(.., results)| results.clone()).unwrap_or_default();
        Seeds {
            engine_version: env!("CARGO_PKG_VERSION").into(),
            rule_set: first.rule_set,
            method: first.method,
            dataset: first.dataset,
            seeds: seeds.to_vec(),
            complete: runs.len() == seeds.len(),
            per_image: Spreads::over(&runs.iter().map(|r| &r.per_image).collect::<Vec<_>>()),
            per_batch: Spreads::over(&runs.iter().map(|r| &r.per_batch).collect::<Vec<_>>()),
            runs,
        }
    }

    /// Replaces `path` with these.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be written; the old file is then untouched.
    pub fn write(&self, path: &Path) -> Result<()> {
        atomic::write_json(path, self)
    }

    /// # Errors
    /// [`Error::File`] if the file cannot be read or is no `seeds.json`.
    pub fn read(path: &Path) -> Result<Seeds> {
        atomic::read_json(path, "a seeds.json")
    }
}
