//! Several runs of one configuration, each with a seed and a folder of its own.

use super::options::Options;
use super::run;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::output::say;
use crate::output::seeds::{FILE, Seeds};
use crate::output::workdir::Workdir;
use std::path::PathBuf;

/// Trains once per seed below `options.workdir`, in `seed_N`, and keeps `seeds.json` there up to date. With
/// `options.resume` finished runs are only read and a stopped one goes on.
///
/// # Errors
/// Those of [`run::train`], of the first run that fails; the runs before it are in `seeds.json`.
/// `Error::Config` if the folder itself is a run.
pub fn train(config: &Config, seeds: &[u64], options: &Options) -> Result<Seeds> {
    let dir = &options.workdir;
    if Workdir::saved_config(dir)?.is_some() {
        return Err(Error::config(format!(
            "{} holds a single run; choose another `--workdir` for the folders of several seeds",
            dir.display()
        )));
    }
    let file = dir.join(FILE);
    let mut finished = Vec::new();
    for (n, &seed) in seeds.iter().enumerate() {
        if !options.quiet {
            say(&format!("seed {seed}, run {} of {}", n + 1, seeds.len()));
        }
        let workdir = PathBuf::from(format!("seed_{seed}"));
        let mut config = config.clone();
        config.seed = seed;
        let options = Options { workdir: dir.join(&workdir), ..options.clone() };
        let results = run::train(config, &options).map_err(|e| match e {
            Error::Failed(what) => Error::failed(format!("seed {seed}: {what}")),
            // The others name a file in the folder of the seed.
            other => other,
        })?;
        finished.push((seed, workdir, results));
        if options.launch.is_first() {
            Seeds::of(seeds, &finished).write(&file)?;
        }
    }
    Ok(Seeds::of(seeds, &finished))
}

/// The most seeds; a larger number is taken for a typing error.
const MAX_SEEDS: usize = 1000;

/// The seeds of `A..B`, `A..=B` or `A,B,…`, which `key` has.
///
/// # Errors
/// `Error::Config` for anything else, for none, for too many, and for one that stands there twice.
pub fn parse(key: &str, text: &str) -> Result<Vec<u64>> {
    let wrong = |found: String| {
        Error::config(format!(
            "{key}: wanted `0..4` (0, 1, 2, 3), `0..=4` or `1,2,5`, found `{text}`: {found}"
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
