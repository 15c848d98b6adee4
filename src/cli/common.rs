//! What several commands share: where the configuration comes from, the device, standard output.

use crate::config::schema::Kernels;
use crate::config::{Config, LoadedConfig};
use crate::device::{Choice, Device};
use crate::error::Result;
use crate::learner::SavedRun;
use crate::output;
use crate::self_check;
use clap::Args;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Where the configuration comes from; later flags win.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// TOML file; without it, the built-in default, or with --resume that of the run.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Pre-trained backbone: `.npz`, `.safetensors` or `bundled:micro`.
    #[arg(long, value_name = "FILE")]
    pub init_checkpoint: Option<String>,
    /// Folder of the raw data set.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// Seed of every random number.
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Set one configuration key, such as `--set prompt_pool.length=5`. Repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

impl ConfigArgs {
    pub fn load(&self) -> Result<LoadedConfig> {
        self.load_over(None)
    }

    /// The same, where `saved` takes the place of the built-in default.
    pub fn load_over(&self, saved: Option<&Path>) -> Result<LoadedConfig> {
        let (checkpoint, data) = (self.init_checkpoint.as_deref(), self.data_dir.as_deref());
        let file = self.config.as_deref().or(saved);
        crate::config::load_with_notes(file, &self.set, self.seed, checkpoint, data)
    }
}

/// The device that `--device` names; prints why where `auto` does not use a GPU.
pub fn device(word: &str) -> Result<Choice> {
    let (choice, note) = Device::choose(word)?;
    if let Some(note) = note {
        output::say(&note);
    }
    Ok(choice)
}

/// The same device, if a run of `config` may use it; `config` then says in what precision.
pub fn checked(choice: Choice, config: &mut Config) -> Result<Choice> {
    let mut choices = vec![choice];
    all_checked(&mut choices, config)?;
    Ok(choices.remove(0))
}

/// The same for a finished run that answers: a GPU of another compute capability takes portable kernels in place of the run's
/// Hopper kernels, with a note.
pub fn checked_to_answer(choice: Choice, config: &mut Config) -> Result<Choice> {
    let mut here = config.clone();
    if config.train.kernels == Kernels::Hopper
        && let Some(gpu) = choice.device.gpu().filter(|gpu| !gpu.has_hopper())
    {
        output::say(&format!(
            "note: the run has train.kernels = \"hopper\"; {} has no such kernels, and portable ones answer, which may round \
             in another way",
            gpu.name()
        ));
        here.train.kernels = Kernels::Portable;
    }
    let choice = checked(choice, &mut here)?;
    config.precision = here.precision;
    Ok(choice)
}

/// The same for several devices; see [`self_check::checked`].
pub fn all_checked(choices: &mut Vec<Choice>, config: &mut Config) -> Result<()> {
    let checked = self_check::checked(std::mem::take(choices), config)?;
    config.precision = checked.precision.unwrap_or(config.precision);
    *choices = checked.choices;
    Ok(())
}

/// The device that `--device` names, for more learning of the run or exported run in `workdir`.
pub fn device_of_run(word: &str, workdir: &Path) -> Result<Choice> {
    of_run(word, workdir, checked)
}

/// The same for its answers.
pub fn device_to_answer(word: &str, workdir: &Path) -> Result<Choice> {
    of_run(word, workdir, checked_to_answer)
}

fn of_run(
    word: &str,
    workdir: &Path,
    check: impl Fn(Choice, &mut Config) -> Result<Choice>,
) -> Result<Choice> {
    let choice = device(word)?;
    if choice.device.gpu().is_none() {
        return Ok(choice);
    }
    let mut config =
        if workdir.is_file() { SavedRun::read(workdir)?.config } else { SavedRun::config(workdir)? };
    check(choice, &mut config)
}

/// Prints a line to standard output. Ends the program if that fails.
pub fn print(text: &str) {
    print_bytes(format!("{text}\n").as_bytes());
}

/// Prints to standard output as it is. Ends the program if that fails.
pub fn print_bytes(bytes: &[u8]) {
    let mut out = std::io::stdout();
    if let Err(why) = out.write_all(bytes).and_then(|()| out.flush()) {
        std::process::exit(unwritten(&why));
    }
}

/// The exit code after output that could not be written: 0 where the reader has closed the pipe, as `head` does;
/// otherwise 1, with a sentence.
pub fn unwritten(why: &std::io::Error) -> i32 {
    if why.kind() == std::io::ErrorKind::BrokenPipe {
        return 0;
    }
    let why = output::atomic::explain(why, "written");
    output::say(&format!("l2p-engine: standard output: {why}"));
    1
}
