//! `l2p-engine eval`.

use super::print;
use crate::error::{Error, Result};
use crate::output::checkpoint::Store;
use crate::output::results::Score;
use crate::output::table::{self, Style};
use crate::output::workdir::Workdir;
use crate::train::Session;
use crate::train::evaluate::{self, QueryCache};
use crate::train::run::Position;
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
    /// Where the raw data set lies now, if it has moved.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Print JSON instead of tables.
    #[arg(long)]
    json: bool,
}

impl Eval {
    pub fn run(self) -> Result<()> {
        let dev = super::device(&self.device)?;
        let mut config = saved_config(&self.workdir)?;
        let hash = config.identity().config_hash();
        if let Some(dir) = self.data_dir {
            config.data.dir = dir;
        }
        if let Some(n) = self.batch_size {
            config.set(&format!("train.eval_batch_size={n}"))?;
            config.check()?;
        }
        let mut session = Session::new(config, dev)?;
        let at = restore(&mut session, &self.workdir, &hash)?;
        let tasks = at.per_image.len();
        if tasks == 0 {
            return Err(Error::failed(format!(
                "{}: no task is finished yet, so there is nothing to evaluate; finish one with `train --resume`",
                self.workdir.display()
            )));
        }
        let mut cache = QueryCache::new(session.split.tasks.len());
        let scores: Result<Vec<_>> =
            (0..tasks).map(|i| evaluate::task(&mut session, &mut cache, i)).collect();
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

/// The configuration that a run was started with.
pub fn saved_config(workdir: &std::path::Path) -> Result<crate::config::Config> {
    Workdir::saved_config(workdir)?.ok_or_else(|| {
        Error::file(workdir, "holds no run (no config.toml); wanted the --workdir of a finished `train`")
    })
}

/// Puts the last checkpoint of a run into a session.
pub fn restore(session: &mut Session, workdir: &std::path::Path, hash: &str) -> Result<Position> {
    let at = last_position(workdir, hash, |at, tensors| {
        if at.checkpoint_sha256 != session.backbone.sha256 {
            return Err(Error::failed(format!(
                "{}: the run was made on a backbone with sha256 {}, {} has {}; wanted the same file",
                workdir.display(),
                at.checkpoint_sha256,
                session.config.model.init_checkpoint,
                session.backbone.sha256
            )));
        }
        session.method.restore(tensors, at.optimizer_step)
    })?;
    Ok(at)
}

/// Reads the last checkpoint and hands it to `use_it`.
pub fn last_position(
    workdir: &std::path::Path,
    hash: &str,
    use_it: impl FnOnce(&Position, &crate::methods::Tensors) -> Result<()>,
) -> Result<Position> {
    let dir = workdir.join("checkpoints");
    if !dir.is_dir() {
        return Err(Error::file(&dir, "is missing: the run has no checkpoint yet; train it first"));
    }
    let mut warnings = Vec::new();
    let state = Store::open(&dir, hash)?.load_latest(&mut warnings)?;
    warnings.iter().for_each(|w| crate::output::say(&format!("warning: {w}")));
    let state = state.ok_or_else(|| Error::file(&dir, "holds no checkpoint yet; train the run first"))?;
    let at = Position::of(&state)?;
    use_it(&at, &state.tensors)?;
    Ok(at)
}
