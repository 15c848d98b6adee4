//! `l2p-engine report`.

use super::print;
use crate::error::{Error, Result};
use crate::output::atomic;
use crate::output::report;
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct Report {
    /// Work directories that `train` wrote, also with --seeds. Runs that differ in nothing but their seed
    /// are shown together.
    #[arg(long, value_name = "DIR", num_args = 1.., required = true)]
    workdir: Vec<PathBuf>,
    /// The page.
    #[arg(long, value_name = "FILE", default_value = "report.html")]
    out: PathBuf,
    /// Also write every drawing as an SVG file into this folder.
    #[arg(long, value_name = "DIR")]
    svg: Option<PathBuf>,
    /// Print nothing.
    #[arg(long)]
    quiet: bool,
}

impl Report {
    pub fn run(self) -> Result<()> {
        let groups = report::read(&self.workdir)?;
        if groups.is_empty() {
            return Err(Error::failed("none of the folders holds a finished task yet; train the runs first"));
        }
        atomic::write(&self.out, report::html(&groups).as_bytes())?;
        let runs: usize = groups.iter().map(|g| g.runs.len()).sum();
        let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        let (runs, configurations) = (count(runs, "run"), count(groups.len(), "configuration"));
        let mut said = format!("{runs} of {configurations}, written to {}", self.out.display());
        if let Some(dir) = &self.svg {
            std::fs::create_dir_all(dir).map_err(|e| Error::file(dir, atomic::explain(&e, "made")))?;
            let figures = report::figures(&groups);
            for figure in &figures {
                atomic::write(&dir.join(format!("{}.svg", figure.name)), figure.file().as_bytes())?;
            }
            said += &format!(", {} drawings to {}", figures.len(), dir.display());
        }
        if !self.quiet {
            print(&said);
        }
        Ok(())
    }
}
