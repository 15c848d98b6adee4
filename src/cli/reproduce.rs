//! `l2p-engine reproduce`.

use super::print;
use crate::comm::Launch;
use crate::device::Device;
use crate::device::published_gpus::PublishedGpu;
use crate::error::{Error, Result};
use crate::output::table::Style;
use crate::output::{atomic, report};
use crate::train::Options;
use crate::train::forecast::PlannedDevice;
use crate::train::reproduce::{self, Given, Recipe, Verdict};
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct Reproduce {
    /// The file of rows; `configs/reproduce` has the papers' tables.
    #[arg(value_name = "FILE")]
    recipe: PathBuf,
    /// Where the runs go, a folder for each row; by default runs/reproduce/NAME, after the file.
    #[arg(long, value_name = "DIR")]
    workdir: Option<PathBuf>,
    /// Folder of the raw data sets.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Folder of the weight files that the configurations name.
    #[arg(long, value_name = "DIR")]
    weights_dir: Option<PathBuf>,
    /// One backbone for all rows, instead of those that the configurations name.
    #[arg(long, value_name = "FILE", conflicts_with = "weights_dir")]
    init_checkpoint: Option<String>,
    /// Set a configuration key in all rows, which are then not comparable. Repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Only these rows.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// `auto`, `cpu`, `cuda`, `cuda:N`; on several GPUs of this machine `cuda:0,1,…` or `cuda:all`.
    #[arg(long, default_value = "auto")]
    device: String,
    /// Print steps, memory, work and hours of each row, and stop. Needs neither the images of a published data set
    /// nor weights.
    #[arg(long)]
    dry_run: bool,
    /// With `--dry-run`: plan for this GPU instead of a device of this machine.
    #[arg(long, value_name = "NAME|SIZE", requires = "dry_run")]
    gpu: Option<String>,
    /// Print the final table only.
    #[arg(long)]
    quiet: bool,
}

impl Reproduce {
    pub fn run(self) -> Result<()> {
        let given = Given {
            data_dir: self.data_dir,
            weights_dir: self.weights_dir,
            init_checkpoint: self.init_checkpoint,
            set: self.set,
            only: self.only,
        };
        let mut recipe = Recipe::read(&self.recipe, &given)?;
        if self.dry_run {
            let (place, ranks) = match self.gpu.as_deref().map(PublishedGpu::parse).transpose()? {
                Some(gpu) => (PlannedDevice::Elsewhere(gpu), Device::count_absent(&self.device)?),
                None => {
                    let (choices, _) = Device::choose_all(&self.device)?;
                    (PlannedDevice::Here(choices[0].clone()), choices.len())
                }
            };
            print(&reproduce::plan(&recipe, &place, ranks, Style::detect())?);
            return Ok(());
        }
        let launch = Launch::from_env(|name| std::env::var(name).ok())?;
        if launch.processes > 1 {
            return Err(Error::config(
                "reproduce runs in one process, on one GPU or several; start it without a launcher, or run `train` of \
                 each row with one",
            ));
        }
        let (mut choices, note) = Device::choose_all(&self.device)?;
        note.iter().for_each(|note| crate::output::say(note));
        for row in &mut recipe.rows {
            super::all_checked(&mut choices, &mut row.config)?;
        }
        let name = self.recipe.file_stem().map(PathBuf::from).unwrap_or_default();
        let workdir = self.workdir.unwrap_or_else(|| PathBuf::from("runs/reproduce").join(name));
        std::fs::create_dir_all(&workdir).map_err(|e| Error::file(&workdir, atomic::explain(&e, "made")))?;
        let quiet = self.quiet;
        let options = Options {
            workdir: workdir.clone(),
            resume: false,
            quiet,
            profile: false,
            choices,
            launch,
            listener: None,
        };
        let done = reproduce::run(&recipe, &options)?;
        let ran = recipe.rows.iter().map(|row| workdir.join(&row.name)).filter(|dir| dir.is_dir());
        let groups = report::read(&ran.collect::<Vec<_>>())?;
        let page = workdir.join("report.html");
        let front = report::verdicts(&done.title, &done.rows.iter().map(verdict).collect::<Vec<_>>());
        atomic::write(&page, report::html_with(&groups, &front).as_bytes())?;
        print(&reproduce::table(&done, Style::detect()));
        print(&format!(
            "written to {}: report.html, {}, a folder per row",
            workdir.display(),
            reproduce::REPRODUCTION
        ));
        let failed = done.rows.iter().filter(|row| matches!(row.verdict, Verdict::NotRun(_))).count();
        match failed {
            0 => Ok(()),
            n => Err(Error::failed(format!(
                "{n} of {} rows could not be run; the same command runs them once that is mended",
                done.rows.len()
            ))),
        }
    }
}

/// A row as the page shows it.
fn verdict(row: &reproduce::Outcome) -> [String; 7] {
    let percent =
        |spread: Option<crate::output::spread::Spread>| spread.map_or("–".into(), |s| s.percent());
    [
        row.name.clone(),
        row.method.clone(),
        row.rule_set.clone(),
        format!("{} of {}", row.seeds.0, row.seeds.1),
        format!("{} ({})", percent(row.average_accuracy), row.compared),
        row.published.clone().unwrap_or_else(|| "–".into()),
        row.verdict.words(),
    ]
}
