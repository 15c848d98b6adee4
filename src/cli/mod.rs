//! The command line. Exit codes: 0 done, 1 failed, 2 usage or configuration, 130 interrupted after
//! saving. Errors are sentences on standard error.

mod devices;
mod eval;
mod examples;
mod inspect;
mod leakcheck;
mod predict;
mod pretrain;
mod report;
mod shell;
mod train;

use crate::config::LoadedConfig;
use crate::device::{Choice, Device};
use crate::error::Result;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// Learning to Prompt for continual learning.
#[derive(Debug, Parser)]
#[command(name = "l2p-engine", version, about, max_term_width = 100, after_help = examples::MAIN)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Learn a sequence of tasks; without flags, Split-MNIST on the bundled backbone.
    #[command(after_help = examples::TRAIN)]
    Train(train::Train),
    /// Evaluate what a run has learned.
    #[command(after_help = examples::EVAL)]
    Eval(eval::Eval),
    /// Show what the composition of test batches does to the accuracy.
    #[command(name = "leakcheck", after_help = examples::LEAKCHECK)]
    LeakCheck(leakcheck::LeakCheck),
    /// Name the class of image files.
    #[command(after_help = examples::PREDICT)]
    Predict(predict::Predict),
    /// Show what a checkpoint, a weight file or a work directory holds.
    #[command(after_help = examples::INSPECT)]
    Inspect(inspect::Inspect),
    /// Compare runs: one page of accuracies, forgetting and prompts, or their numbers as CSV, JSON or LaTeX.
    #[command(after_help = examples::REPORT)]
    Report(report::Report),
    /// List the devices that this program and this machine can compute on.
    #[command(after_help = examples::DEVICES)]
    Devices(devices::Devices),
    /// Train a backbone from scratch.
    #[command(after_help = examples::PRETRAIN)]
    Pretrain(pretrain::Pretrain),
    /// Print a script that completes commands and options in a shell.
    #[command(after_help = examples::COMPLETIONS)]
    Completions(shell::Completions),
    /// Print the manual page, or write a page per command into a folder.
    #[command(after_help = examples::MAN)]
    Man(shell::Man),
}

/// Where the configuration comes from; later flags win.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// TOML file; without it, the built-in default.
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
    fn load(&self) -> Result<LoadedConfig> {
        let (checkpoint, data) = (self.init_checkpoint.as_deref(), self.data_dir.as_deref());
        crate::config::load_with_notes(self.config.as_deref(), &self.set, self.seed, checkpoint, data)
    }
}

/// Parses the command line, runs the command and returns the exit code.
pub fn main() -> i32 {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // Help and version are not errors and go to standard output.
            let code = if e.use_stderr() { 2 } else { 0 };
            return match e.print() {
                Err(why) if code == 0 => unwritten(&why),
                _ => code,
            };
        }
    };
    let done = match cli.command {
        Command::Train(args) => args.run(),
        Command::Eval(args) => args.run(),
        Command::LeakCheck(args) => args.run(),
        Command::Predict(args) => args.run(),
        Command::Inspect(args) => args.run(),
        Command::Devices(args) => args.run(),
        Command::Report(args) => args.run(),
        Command::Pretrain(args) => args.run(),
        Command::Completions(args) => args.run(),
        Command::Man(args) => args.run(),
    };
    match done {
        Ok(()) => 0,
        Err(e) => {
            crate::output::say(&format!("l2p-engine: {e}"));
            e.exit_code()
        }
    }
}

/// Checks that the words after the program's name parse as a command; the tests of the documents use it.
///
/// # Errors
/// The message of the parser.
pub fn check_command_line(args: &[&str]) -> std::result::Result<(), String> {
    let words = std::iter::once("l2p-engine").chain(args.iter().copied());
    Cli::try_parse_from(words).map(|_| ()).map_err(|e| e.to_string())
}

/// The device that `--device` names; says why when `auto` leaves a GPU alone.
fn device(word: &str) -> Result<Choice> {
    let (choice, note) = Device::choose(word)?;
    if let Some(note) = note {
        crate::output::say(&note);
    }
    Ok(choice)
}

/// Prints to standard output. Ends the program if that fails.
fn print(text: &str) {
    use std::io::Write;
    let mut out = std::io::stdout();
    if let Err(why) = writeln!(out, "{text}").and_then(|()| out.flush()) {
        std::process::exit(unwritten(&why));
    }
}

/// The exit code after output that could not be written: 0 where the reader has closed the pipe, as `head` does;
/// otherwise 1, with a sentence.
fn unwritten(why: &std::io::Error) -> i32 {
    if why.kind() == std::io::ErrorKind::BrokenPipe {
        return 0;
    }
    let why = crate::output::atomic::explain(why, "written");
    crate::output::say(&format!("l2p-engine: standard output: {why}"));
    1
}
