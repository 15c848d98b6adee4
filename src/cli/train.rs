//! `l2p-engine train`.

use super::{ConfigArgs, print};
use crate::comm::Launch;
use crate::config::Config;
use crate::device::published_gpus::PublishedGpu;
use crate::device::{Choice, Device, probe};
use crate::error::{Error, Result};
use crate::learner::{Position, backbone, locate_backbone};
use crate::output::checkpoint::Store;
use crate::output::table::{self, Style};
use crate::output::workdir::{CHECKPOINTS, CONFIG};
use crate::output::{atomic, say};
use crate::train::forecast::PlannedDevice;
use crate::train::{Options, find_rate, forecast, report, run, seeds};
use clap::Args;
use std::path::{Path, PathBuf};

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
    /// With `--dry-run`: plan for this GPU instead of a device of this machine; a name such as h200 or rtx4090 (an
    /// unknown one lists all), or a size of memory such as 12GB. `--device cuda:0,1` plans for two of them.
    #[arg(long, value_name = "NAME|SIZE", requires = "dry_run", conflicts_with = "ranks")]
    gpu: Option<String>,
    /// Try learning rates on the first task with a few steps each, print a table and a suggestion, and stop. Changes and
    /// writes nothing; test images are not used.
    #[arg(long, conflicts_with_all = ["resume", "dry_run", "seeds", "ranks", "profile"])]
    find_lr: bool,
    /// Time phases and ops: a table at the end, in the report, and lines `profile` in the log. On a GPU every op is
    /// waited for and nothing is captured as a graph, which makes the run slower.
    #[arg(long)]
    profile: bool,
    /// Print the final tables only.
    #[arg(long)]
    quiet: bool,
}

impl Train {
    pub fn run(self) -> Result<()> {
        let seeds = self.seeds.as_deref().map(|text| seeds::parse("--seeds", text)).transpose()?;
        let run = self.resumed(seeds.as_deref());
        let saved = run.as_ref().map(|run| run.join(CONFIG));
        let mut loaded = self.config.load_over(saved.as_deref())?;
        if !self.quiet {
            loaded.notes.iter().for_each(|note| say(&format!("note: {note}")));
            if let (Some(text), Some(seeds)) = (&self.seeds, &seeds)
                && text.contains("..")
            {
                let each: Vec<String> = seeds.iter().map(u64::to_string).collect();
                say(&format!("note: --seeds {text} are {} seeds: {}", seeds.len(), each.join(", ")));
            }
        }
        if self.print_config {
            print(loaded.config.to_toml().trim_end());
            return Ok(());
        }
        let launch = Launch::from_env(|name| std::env::var(name).ok())?;
        let planned = self.gpu.as_deref().map(PublishedGpu::parse).transpose()?;
        if !self.quiet {
            // A backbone that cannot be read is an error later, if it is needed.
            let backbone = backbone::contradictions(&loaded.config).unwrap_or_default();
            let traps = loaded.config.traps().into_iter().chain(backbone);
            traps.for_each(|trap| say(&format!("warning: {trap}")));
        }
        if self.dry_run {
            let (place, each) = match planned {
                Some(gpu) => (PlannedDevice::Elsewhere(gpu), Device::count_absent(&self.device)?),
                None => {
                    let choices = self.devices(&launch)?;
                    (PlannedDevice::Here(choices[0].clone()), choices.len())
                }
            };
            let plan = forecast::forecast(loaded.config, place, each * launch.processes)?;
            print(&forecast::text::of(&plan, Style::detect()));
            return Ok(());
        }
        let mut choices = self.devices(&launch)?;
        super::all_checked(&mut choices, &mut loaded.config)?;
        if self.find_lr {
            let sweep = find_rate::find_rate(&loaded.config, choices[0].clone(), self.quiet)?;
            print(&find_rate::text(&sweep, loaded.config.optim.learning_rate, Style::detect()));
            return Ok(());
        }
        if let Some(run) = &run {
            self.find_backbone(run, &mut loaded.config)?;
        }
        let (workdir, claimed) = match self.workdir {
            Some(dir) => (dir, false),
            // The other processes of a launch write nothing.
            None if self.resume || !launch.is_first() => (PathBuf::from(DEFAULT), false),
            None => (claim_workdir()?, true),
        };
        let quiet = self.quiet || !launch.is_first();
        let (resume, profile) = (self.resume, self.profile);
        let options =
            Options { workdir: workdir.clone(), resume, quiet, profile, choices, launch, listener: None };
        let prints = options.launch.is_first();
        if let Some(seeds) = seeds {
            let found = kept(seeds::train(&loaded.config, &seeds, &options), &workdir, claimed)?;
            if !prints {
                return Ok(());
            }
            print(&table::seeds(&found, loaded.config.prompt_pool.votes(), Style::detect()));
            print(&format!("written to {}: seeds.json and a folder per seed", workdir.display()));
            return Ok(());
        }
        let votes = loaded.config.prompt_pool.votes();
        let results = kept(run::train(loaded.config, &options), &workdir, claimed)?;
        if !prints {
            return Ok(());
        }
        print(&report::closing(&results, votes, &workdir, Style::detect()));
        Ok(())
    }
}

/// The most ranks of one process; a larger number is taken for a typing error.
const MAX_RANKS: usize = 256;

impl Train {
    /// The folder of the run that is to be resumed, if there is one: with `seeds` that of the first which has begun.
    fn resumed(&self, seeds: Option<&[u64]>) -> Option<PathBuf> {
        if !self.resume {
            return None;
        }
        let dir = self.workdir.clone().unwrap_or_else(|| DEFAULT.into());
        let runs: Vec<PathBuf> = match seeds {
            Some(seeds) => seeds.iter().map(|seed| dir.join(format!("seed_{seed}"))).collect(),
            None => vec![dir],
        };
        runs.into_iter().find(|run| run.join(CONFIG).is_file())
    }

    /// Finds the backbone of the run in `run` again after either has moved.
    fn find_backbone(&self, run: &Path, config: &mut Config) -> Result<()> {
        let recorded = config.model.init_checkpoint.clone();
        // What was given counts as it is; its checksum is compared when it is read.
        if self.config.init_checkpoint.is_some() || recorded.is_empty() {
            return Ok(());
        }
        let at = Store::latest_meta(&run.join(CHECKPOINTS));
        let at = at.and_then(|meta| serde_json::from_value::<Position>(meta).ok());
        let found =
            locate_backbone(&recorded, None, run, at.as_ref().map(|at| at.checkpoint_sha256.as_str()))?;
        if found != recorded && !self.quiet {
            say(&format!("note: the backbone {recorded} of the run is {found} now"));
        }
        config.model.init_checkpoint = found;
        Ok(())
    }

    /// The devices of this process, one for each of its ranks.
    fn devices(&self, launch: &Launch) -> Result<Vec<Choice>> {
        // A process of several on a machine takes the GPU with its number there, unless `--device` names one.
        let one_each = launch.processes > 1 && matches!(self.device.as_str(), "auto" | "cuda");
        let word = match one_each.then(probe::gpus) {
            Some(Ok(gpus)) if gpus.len() > 1 => format!("cuda:{}", launch.local_process),
            _ => self.device.clone(),
        };
        let (mut choices, note) = Device::choose_all(&word)?;
        note.iter().for_each(|note| say(note));
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

/// Where a run goes that was not told where to go.
const DEFAULT: &str = "runs/default";

/// Makes the first folder of `runs/default`, `runs/default-2`, … that is not there yet. Of several processes that
/// start at the same instant each gets its own.
fn claim_workdir() -> Result<PathBuf> {
    let fail = |dir: &Path, e: std::io::Error| Error::file(dir, atomic::explain(&e, "made"));
    let first = PathBuf::from(DEFAULT);
    let parent = first.parent().unwrap_or(Path::new(""));
    std::fs::create_dir_all(parent).map_err(|e| fail(parent, e))?;
    let mut dir = first;
    for n in 2u64.. {
        match std::fs::create_dir(&dir) {
            Ok(()) => return Ok(dir),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                dir = PathBuf::from(format!("{DEFAULT}-{n}"));
            }
            Err(e) => return Err(fail(&dir, e)),
        }
    }
    unreachable!("there are fewer folders than numbers")
}

/// The outcome of a run. If it failed before it wrote anything, the folder that was made for it goes again.
fn kept<T>(outcome: Result<T>, workdir: &Path, claimed: bool) -> Result<T> {
    if outcome.is_err() && claimed {
        // Only an empty folder can be removed.
        let _ = std::fs::remove_dir(workdir);
    }
    outcome
}
