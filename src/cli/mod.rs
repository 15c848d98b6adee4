//! The command line. Exit codes: 0 done, 1 failed, 2 usage or configuration, 130 interrupted after
//! saving. Errors are sentences on standard error.

mod add_classes;
mod adopt;
mod check_device;
mod common;
mod devices;
mod eval;
mod examples;
mod export;
mod inspect;
mod leakcheck;
mod predict;
mod pretrain;
mod report;
mod reproduce;
mod serve;
mod shell;
mod train;

use clap::{CommandFactory, Parser, Subcommand};
pub(crate) use common::{
    ConfigArgs, all_checked, checked, checked_to_answer, device, device_of_run, device_to_answer, print,
};

/// Learning to Prompt for continual learning.
#[derive(Debug, Parser)]
#[command(name = "l2p-engine", version, about, max_term_width = 100, after_help = examples::MAIN)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Learn a sequence of tasks; without flags, digits and then letters, on the bundled backbone.
    #[command(after_help = examples::TRAIN)]
    Train(train::Train),
    /// Add classes to a finished run, from a folder of images; the result is a new run.
    #[command(name = "add-classes", after_help = examples::ADD_CLASSES)]
    AddClasses(add_classes::AddClasses),
    /// Evaluate what a run has learned.
    #[command(after_help = examples::EVAL)]
    Eval(eval::Eval),
    /// Show what the composition of test batches does to the accuracy.
    #[command(name = "leakcheck", after_help = examples::LEAKCHECK)]
    LeakCheck(leakcheck::LeakCheck),
    /// Name the class of image files.
    #[command(after_help = examples::PREDICT)]
    Predict(predict::Predict),
    /// Answer over HTTP, with a page, and be taught new classes.
    #[command(after_help = examples::SERVE)]
    Serve(serve::Serve),
    /// Write what a run has learned as one file that answers.
    #[command(after_help = examples::EXPORT)]
    Export(export::Export),
    /// Make a run of a model that another program trained.
    #[command(after_help = examples::ADOPT)]
    Adopt(adopt::Adopt),
    /// Show what a checkpoint, a weight file or a work directory holds.
    #[command(after_help = examples::INSPECT)]
    Inspect(inspect::Inspect),
    /// Compare runs: one page of accuracies, forgetting and prompts, or their numbers as CSV, JSON or LaTeX.
    #[command(after_help = examples::REPORT)]
    Report(report::Report),
    /// Run the rows of a paper's table and set them beside the published numbers.
    #[command(after_help = examples::REPRODUCE)]
    Reproduce(reproduce::Reproduce),
    /// List the devices that this program and this machine can compute on.
    #[command(after_help = examples::DEVICES)]
    Devices(devices::Devices),
    /// Check every kernel on a GPU beside the CPU, and keep the verdict.
    #[command(name = "check-device", after_help = examples::CHECK_DEVICE)]
    CheckDevice(check_device::CheckDevice),
    /// Train a backbone, from scratch or on from a checkpoint.
    #[command(after_help = examples::PRETRAIN)]
    Pretrain(pretrain::Pretrain),
    /// Print a script that completes commands and options in a shell.
    #[command(after_help = examples::COMPLETIONS)]
    Completions(shell::Completions),
    /// Print the manual page, or write a page per command into a folder.
    #[command(after_help = examples::MAN)]
    Man(shell::Man),
}

/// Parses the command line, runs the command and returns the exit code.
pub fn main() -> i32 {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // Help and version are not errors and go to standard output.
            let code = if e.use_stderr() { 2 } else { 0 };
            return match e.print() {
                Err(why) if code == 0 => common::unwritten(&why),
                _ => code,
            };
        }
    };
    let done = match cli.command {
        Command::Train(args) => args.run(),
        Command::AddClasses(args) => args.run(),
        Command::Eval(args) => args.run(),
        Command::LeakCheck(args) => args.run(),
        Command::Predict(args) => args.run(),
        Command::Serve(args) => args.run(),
        Command::Export(args) => args.run(),
        Command::Adopt(args) => args.run(),
        Command::Inspect(args) => args.run(),
        Command::Devices(args) => args.run(),
        Command::CheckDevice(args) => args.run(),
        Command::Report(args) => args.run(),
        Command::Reproduce(args) => args.run(),
        Command::Pretrain(args) => args.run(),
        Command::Completions(args) => args.run(Cli::command()),
        Command::Man(args) => args.run(Cli::command()),
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
