//! `l2p-engine eval`.

use super::print;
use crate::data::Images;
use crate::error::{Error, Result};
use crate::learner::SavedRun;
use crate::output::results::Score;
use crate::output::table::{self, Style};
use crate::train::Session;
use crate::train::evaluate::{self, QueryCache};
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct Eval {
    /// A work directory that `train` wrote.
    #[arg(long, value_name = "DIR", default_value = "runs/default")]
    workdir: PathBuf,
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    #[arg(long, default_value = "auto")]
    device: String,
    /// Images per batch; the results do not depend on it.
    #[arg(long, value_name = "N")]
    batch_size: Option<usize>,
    /// Where the backbone lies now, if it has moved; its checksum must be the run's.
    #[arg(long, value_name = "FILE")]
    init_checkpoint: Option<String>,
    /// Where the raw data set lies now, if it has moved.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Print JSON instead of tables.
    #[arg(long)]
    json: bool,
}

impl Eval {
    pub fn run(self) -> Result<()> {
        let choice = super::device(&self.device)?;
        let mut saved = SavedRun::read(&self.workdir)?;
        saved.locate_backbone(self.init_checkpoint.as_deref())?;
        let mut config = saved.config.clone();
        let hash = config.identity().config_hash();
        if let Some(dir) = self.data_dir {
            config.data.dir = dir;
        }
        if let Some(n) = self.batch_size {
            config.set(&format!("train.eval_batch_size={n}"))?;
            config.check()?;
        }
        let mut session = Session::of_run(&saved, config, choice)?;
        let at = saved.at;
        let tasks = at.per_image.len();
        if tasks == 0 {
            return Err(Error::failed(format!(
                "{}: no task is finished yet, so there is nothing to evaluate; finish one with `train --resume`",
                self.workdir.display()
            )));
        }
        let tests = session.split.tests_after(tasks - 1);
        let mut cache = QueryCache::new(Images::Test, session.split.tasks.len());
        let scores: Result<Vec<_>> =
            (0..tests).map(|i| evaluate::task(&mut session, &mut cache, i)).collect();
        let scores = scores?;
        let now_own: Vec<f64> = scores.iter().map(|s| s.per_image).collect();
        let now_voted: Vec<f64> = scores.iter().map(|s| s.per_batch).collect();
        // Rows of earlier moments are history: they come from the run, the last one from now, unless the network has
        // learned on since then.
        let (within, tested) = (at.task_step > 0, session.tested_tasks());
        let matrix = |mut rows: Vec<Vec<f64>>, now: &Vec<f64>| {
            if !within {
                rows.pop();
                rows.push(now.clone());
            }
            Ok::<Score, Error>(Score::from_matrix(rows)?.after_tasks(&tested))
        };
        let own = matrix(at.per_image.clone(), &now_own)?;
        let voted = matrix(at.per_batch.clone(), &now_voted)?;
        let vote = session.learner.method.model().prompts.vote_group().map(|_| &voted);
        if self.json {
            let mut value = serde_json::json!({
                "per_image": own, "per_batch": voted, "step": at.step, "config_hash": hash,
                "checkpoint_sha256": at.checkpoint_sha256,
                "images": scores.iter().map(|s| s.images).collect::<Vec<_>>(),
                "loss": scores.iter().map(|s| s.loss).collect::<Vec<_>>(),
                "prompt_usage": scores.iter().map(|s| &s.usage).collect::<Vec<_>>(),
            });
            if within {
                value["within_task"] = serde_json::json!({
                    "task": at.task, "task_step": at.task_step, "per_image": now_own, "per_batch": now_voted,
                });
            }
            print(&format!("{value:#}"));
        } else {
            print(&table::accuracy(&own, vote, Style::detect()));
            print(&table::summary(&own, vote, Style::detect()));
            if within {
                let each: Vec<String> = now_own.iter().map(|a| table::percent(*a)).collect();
                print(&format!(
                    "the tables end with the last finished task; the network is {} steps into task {} and answers {} % \
                     by task",
                    at.task_step,
                    at.task + 1,
                    each.join(" ")
                ));
            }
        }
        Ok(())
    }
}
