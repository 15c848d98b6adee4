//! `seeds.json`: what several runs of one configuration found, each with a seed of its own.

use super::atomic;
use super::results::{Results, Score};
use super::spread::Spread;
use crate::error::Result;
use serde::{Deserialize, Serialize};
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

/// The metrics after the last task.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct FinalMetrics {
    #[serde(with = "super::nullable::number")]
    pub avg_acc: f64,
    pub forgetting: Option<f64>,
    pub backward: Option<f64>,
    #[serde(with = "super::nullable::number")]
    pub learning_acc: f64,
}

/// Mean and deviation of each metric.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spreads {
    pub avg_acc: Spread,
    pub forgetting: Option<Spread>,
    pub backward: Option<Spread>,
    pub learning_acc: Spread,
}

impl From<&Score> for FinalMetrics {
    fn from(score: &Score) -> FinalMetrics {
        let Score { avg_acc, forgetting, backward, learning_acc, .. } = *score;
        FinalMetrics { avg_acc, forgetting, backward, learning_acc }
    }
}

impl Spreads {
    /// `None` of no run.
    pub fn of(runs: &[FinalMetrics]) -> Option<Spreads> {
        let of = |read: fn(&FinalMetrics) -> Option<f64>| Spread::of_some(runs.iter().map(read));
        Some(Spreads {
            avg_acc: of(|m| Some(m.avg_acc))?,
            forgetting: of(|m| m.forgetting),
            backward: of(|m| m.backward),
            learning_acc: of(|m| Some(m.learning_acc))?,
        })
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
            per_image: Spreads::of(&runs.iter().map(|r| r.per_image).collect::<Vec<_>>()),
            per_batch: Spreads::of(&runs.iter().map(|r| r.per_batch).collect::<Vec<_>>()),
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
