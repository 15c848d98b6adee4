//! `l2p-engine eval`.

use super::print;
use crate::error::{Error, Result};
use crate::learner::Saved;
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
        let mut saved = Saved::read(&self.workdir)?;
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
        config.precision = crate::train::reading_precision(config.precision, &choice.device);
        let images = saved.at.images(&config);
        let mut session = Session::new(config, choice, images)?;
        saved.restore_session(&mut session)?;
        let at = saved.at;
        let tasks = at.per_image.len();
        if tasks == 0 {
            return Err(Error::failed(format!(
                "{}: no task is finished yet, so there is nothing to evaluate; finish one with `train --resume`",
                self.workdir.display()
            )));
        }
        let tests = session.split.tests_after(tasks - 1);
        let mut cache = QueryCache::new(session.split.tasks.len());
        let scores: Result<Vec<_>> =
            (0..tests).map(|i| evaluate::task(&mut session, &mut cache, i)).collect();
        let scores = scores?;
        // Rows of earlier moments are history: they come from the run, the last one from now.
        let matrix = |mut rows: Vec<Vec<f64>>, now: Vec<f64>| {
            rows.pop();
            rows.push(now);
            Score::from_matrix(rows)
        };
        let own = matrix(at.per_image.clone(), scores.iter().map(|s| s.per_image).collect())?;
        let voted = matrix(at.per_batch.clone(), scores.iter().map(|s| s.per_batch).collect())?;
        let vote = session.method.model().setup.pool.is_some().then_some(&voted);
        if self.json {
            let value = serde_json::json!({
                "per_image": own, "per_batch": voted, "step": at.step, "config_hash": hash,
                "checkpoint_sha256": at.checkpoint_sha256,
                "images": scores.iter().map(|s| s.images).collect::<Vec<_>>(),
                "loss": scores.iter().map(|s| s.loss).collect::<Vec<_>>(),
                "prompt_usage": scores.iter().map(|s| &s.usage).collect::<Vec<_>>(),
            });
            print(&format!("{value:#}"));
        } else {
            print(&table::accuracy(&own, vote, Style::detect()));
            print(&table::summary(&own, vote, Style::detect()));
        }
        Ok(())
    }
}
