//! `l2p-engine report`.

use super::print;
use crate::error::{Error, Result};
use crate::output::atomic;
use crate::output::report;
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct Report {
    /// Work directories that `train` wrote, also with --seeds, or folders above them. Runs that differ in
    /// nothing but their seed are shown together.
    #[arg(long, value_name = "DIR", num_args = 1.., required = true)]
    workdir: Vec<PathBuf>,
    /// The page to write; by default report.html, and none with --csv, --json or --latex.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Also write every drawing as an SVG file into this folder.
    #[arg(long, value_name = "DIR")]
    svg: Option<PathBuf>,
    /// Print a row per configuration and result: mean and deviation over its runs, as fractions.
    #[arg(long, group = "numbers")]
    csv: bool,
    /// Print the same as JSON, with the values of each seed.
    #[arg(long, group = "numbers")]
    json: bool,
    /// Print a LaTeX table in percent.
    #[arg(long, group = "numbers")]
    latex: bool,
    /// Do not say what was written.
    #[arg(long)]
    quiet: bool,
}

impl Report {
    pub fn run(self) -> Result<()> {
        let groups = report::read(&self.workdir)?;
        if groups.is_empty() {
            return Err(Error::failed("none of the folders holds a finished task yet; train the runs first"));
        }
        let numbers = match (self.csv, self.json, self.latex) {
            (true, ..) => Some(report::csv(&groups)?),
            (_, true, _) => Some(report::json(&groups)?),
            (.., true) => Some(report::latex(&groups)),
            _ => None,
        };
        if let Some(numbers) = &numbers {
            print(numbers.trim_end());
        }
        let mut written = Vec::new();
        let out = self.out.or_else(|| numbers.is_none().then(|| "report.html".into()));
        if let Some(out) = &out {
            atomic::write(out, report::html(&groups).as_bytes())?;
            written.push(out.display().to_string());
        }
        let runs: usize = groups.iter().map(|g| g.runs.len()).sum();
        let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        let (runs, configurations) = (count(runs, "run"), count(groups.len(), "configuration"));
        if let Some(dir) = &self.svg {
            std::fs::create_dir_all(dir).map_err(|e| Error::file(dir, atomic::explain(&e, "made")))?;
            let figures = report::figures(&groups);
            for figure in &figures {
                atomic::write(&dir.join(format!("{}.svg", figure.name)), figure.file().as_bytes())?;
            }
            written.push(format!("{} drawings to {}", figures.len(), dir.display()));
        }
        if !self.quiet && !written.is_empty() {
            let said = format!("{runs} of {configurations}, written to {}", written.join(", "));
            // Standard output then holds the numbers and nothing else.
            if numbers.is_some() { crate::output::say(&said) } else { print(&said) }
        }
        Ok(())
    }
}
