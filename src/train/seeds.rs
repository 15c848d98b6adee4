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
