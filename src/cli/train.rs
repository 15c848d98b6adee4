//! `l2p-engine train`.

use super::{ConfigArgs, print};
use crate::error::{Error, Result};
use crate::output::table::{self, Style};
use crate::train::{Options, forecast, report, run, seeds};
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct Train {
    #[command(flatten)]
    config: ConfigArgs,
    /// Train once per seed, each in a folder of its own below the work directory: `0..4` (0, 1, 2, 3),
    /// `0..=4` or `1,2,5`.
    #[arg(long, value_name = "SEEDS", conflicts_with = "seed")]
    seeds: Option<String>,
    /// Where results, checkpoints and events go; by default the first free one of runs/default,
    /// runs/default-2, … (with --resume: runs/default).
    #[arg(long, value_name = "DIR")]
    workdir: Option<PathBuf>,
    /// `auto`, `cpu`, `cuda` or `cuda:0,1,…`.
    #[arg(long, default_value = "auto")]
    device: String,
    /// Go on with the run in the work directory.
    #[arg(long)]
    resume: bool,
    /// Print the resolved configuration and stop.
    #[arg(long)]
    print_config: bool,
    /// Print tasks, steps, memory and an estimate of the time, and stop. Needs neither the images of
    /// a published data set nor the backbone.
    #[arg(long)]
    dry_run: bool,
    /// Print the final tables only.
    #[arg(long)]
    quiet: bool,
}

impl Train {
    pub fn run(self) -> Result<()> {
        let loaded = self.config.load()?;
        if !self.quiet {
            loaded.notes.iter().for_each(|note| crate::output::say(&format!("note: {note}")));
        }
        let seeds = self.seeds.as_deref().map(parse_seeds).transpose()?;
        if self.print_config {
            print(loaded.config.to_toml().trim_end());
            return Ok(());
        }
        let choice = super::device(&self.device)?;
        if self.dry_run {
            let plan = forecast::forecast(loaded.config, choice)?;
            print(&report::forecast(&plan, Style::detect()));
            return Ok(());
        }
        let workdir = self.workdir.unwrap_or_else(|| free_workdir(self.resume));
        let options = Options { workdir: workdir.clone(), resume: self.resume, quiet: self.quiet, choice };
        if let Some(seeds) = seeds {
            let found = seeds::train(&loaded.config, &seeds, &options)?;
            print(&table::seeds(&found, loaded.config.prompt_pool.pool_size > 0, Style::detect()));
            print(&format!("written to {}: seeds.json and a folder per seed", workdir.display()));
            return Ok(());
        }
        let results = run::train(loaded.config, &options)?;
        print(&report::closing(&results, &workdir, Style::detect()));
        Ok(())
    }
}

/// Where a run goes that was not told where to go.
fn free_workdir(resume: bool) -> PathBuf {
    let first = PathBuf::from("runs/default");
    let taken = |dir: &PathBuf| dir.read_dir().is_ok_and(|mut entries| entries.next().is_some());
    if resume || !taken(&first) {
        return first;
    }
    let numbered = (2..).map(|n| PathBuf::from(format!("runs/default-{n}")));
    numbered.into_iter().find(|dir| !taken(dir)).unwrap_or(first)
}

/// More are a slip of the pen.
const MAX_SEEDS: usize = 1000;

/// The seeds of `A..B`, `A..=B` or `A,B,…`.
fn parse_seeds(text: &str) -> Result<Vec<u64>> {
    let wrong = |found: String| {
        Error::config(format!(
            "--seeds: wanted `0..4` (0, 1, 2, 3), `0..=4` or `1,2,5`, found `{text}`: {found}"
        ))
    };
    let number = |text: &str| match text.trim().parse::<u64>() {
        Ok(seed) if seed <= i64::MAX as u64 => Ok(seed),
        _ => Err(wrong(format!("`{}` is no whole number from 0 to {}", text.trim(), i64::MAX))),
    };
    let seeds: Vec<u64> = match text.split_once("..") {
        Some((first, end)) => {
            let first = number(first)?;
            let end = match end.strip_prefix('=') {
                Some(last) => number(last)? + 1,
                None => number(end)?,
            };
            (first..end).take(MAX_SEEDS + 1).collect()
        }
        None => text.split(',').map(number).collect::<Result<_>>()?,
    };
    if seeds.is_empty() || seeds.len() > MAX_SEEDS {
        return Err(wrong(format!("wanted from 1 to {MAX_SEEDS} seeds")));
    }
    let mut different = seeds.clone();
    different.sort_unstable();
    different.dedup();
    if different.len() < seeds.len() {
        return Err(wrong("a seed stands there twice".into()));
    }
    Ok(seeds)
}
