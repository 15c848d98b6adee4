//! `l2p-engine train`.

use super::{ConfigArgs, print};
use crate::error::Result;
use crate::output::table::Style;
use crate::train::{Options, forecast, report, run};
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct Train {
    #[command(flatten)]
    config: ConfigArgs,
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
        let results = run::train(loaded.config, &options)?;
        print(&report::closing(&results, &workdir, Style::detect()));
        Ok(())
    }
}

/// Where a run goes that was not told where to go.
fn free_workdir(resume: bool) -> PathBuf {
    let first = PathBuf::from("runs/default");
    let taken = |dir: &PathBuf| dir.join("config.toml").exists();
    if resume || !taken(&first) {
        return first;
    }
    let numbered = (2..).map(|n| PathBuf::from(format!("runs/default-{n}")));
    numbered.into_iter().find(|dir| !taken(dir)).unwrap_or(first)
}
