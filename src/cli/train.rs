//! `l2p-engine train`.

use super::{ConfigArgs, print};
use crate::comm::Launch;
use crate::device::{Choice, Device, probe};
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
    /// `auto`, `cpu`, `cuda`, `cuda:N`; on several GPUs of this machine `cuda:0,1,…` or `cuda:all`.
    #[arg(long, default_value = "auto")]
    device: String,
    /// With `--device cpu`: train on so many ranks, which are threads of this process.
    #[arg(long, value_name = "N")]
    ranks: Option<usize>,
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
        let launch = Launch::from_env(|name| std::env::var(name).ok())?;
        let choices = self.devices(&launch)?;
        if self.dry_run {
            let ranks = choices.len() * launch.processes;
            let plan = forecast::forecast(loaded.config, choices[0].clone(), ranks)?;
            print(&report::forecast(&plan, Style::detect()));
            return Ok(());
        }
        let workdir = self.workdir.unwrap_or_else(|| free_workdir(self.resume));
        let quiet = self.quiet || !launch.is_first();
        let options = Options { workdir: workdir.clone(), resume: self.resume, quiet, choices, launch };
        let prints = options.launch.is_first();
        if let Some(seeds) = seeds {
            let found = seeds::train(&loaded.config, &seeds, &options)?;
            if !prints {
                return Ok(());
            }
            print(&table::seeds(&found, loaded.config.prompt_pool.pool_size > 0, Style::detect()));
            print(&format!("written to {}: seeds.json and a folder per seed", workdir.display()));
            return Ok(());
        }
        let results = run::train(loaded.config, &options)?;
        if !prints {
            return Ok(());
        }
        print(&report::closing(&results, &workdir, Style::detect()));
        Ok(())
    }
}

/// The most ranks of one process; a larger number is taken for a typing error.
const MAX_RANKS: usize = 256;

impl Train {
    /// The devices of this process, one for each of its ranks.
    fn devices(&self, launch: &Launch) -> Result<Vec<Choice>> {
        // A process of several on a machine takes the GPU with its number there, unless `--device` names one.
        let one_each = launch.processes > 1 && matches!(self.device.as_str(), "auto" | "cuda");
        let word = match one_each.then(probe::gpus) {
            Some(Ok(gpus)) if gpus.len() > 1 => format!("cuda:{}", launch.local_process),
            _ => self.device.clone(),
        };
        let (mut choices, note) = Device::choose_all(&word)?;
        note.iter().for_each(|note| crate::output::say(note));
        let Some(ranks) = self.ranks else { return Ok(choices) };
        if ranks == 0 || ranks > MAX_RANKS {
            return Err(Error::config(format!("--ranks: wanted from 1 to {MAX_RANKS}, found {ranks}")));
        }
        if ranks != choices.len() && choices[0].device.gpu().is_some() {
            return Err(Error::config(format!(
                "--ranks {ranks}: on GPUs there is one rank for each; name them with `--device cuda:0,1,…`, or use \
                 `--device cpu`"
            )));
        }
        choices.resize(ranks, choices[0].clone());
        Ok(choices)
    }
}

/// The folder of a run without `--workdir`.
fn free_workdir(resume: bool) -> PathBuf {
    let first = PathBuf::from("runs/default");
    let taken = |dir: &PathBuf| dir.read_dir().is_ok_and(|mut entries| entries.next().is_some());
    if resume || !taken(&first) {
        return first;
    }
    let numbered = (2..).map(|n| PathBuf::from(format!("runs/default-{n}")));
    numbered.into_iter().find(|dir| !taken(dir)).unwrap_or(first)
}

/// The most seeds; a larger number is taken for a typing error.
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
