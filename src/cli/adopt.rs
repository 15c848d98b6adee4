//! `l2p-engine adopt`.

use super::{ConfigArgs, print};
use crate::error::{Error, Result};
use crate::import::ports::Port;
use crate::output::say;
use crate::output::table::percent;
use crate::train::adopt::{self, Adoption};
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// The program that trained the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum From {
    /// JH-LEE-KR/l2p-pytorch
    L2pPytorch,
    /// JH-LEE-KR/dualprompt-pytorch
    DualpromptPytorch,
    /// GT-RIPL/CODA-Prompt, its CODA-Prompt
    CodaPrompt,
    /// sun-hailong/LAMDA-PILOT, its L2P, DualPrompt and CODA-Prompt
    Pilot,
}

#[derive(Debug, Args)]
pub struct Adopt {
    /// The checkpoint that the program saved; a pickle is read without executing anything.
    #[arg(value_name = "CHECKPOINT")]
    checkpoint: PathBuf,
    #[arg(long, value_enum, help = "The program that trained the model")]
    from: From,
    #[command(flatten)]
    config: ConfigArgs,
    /// The folder of the new run; it must not exist or be empty.
    #[arg(long, value_name = "DIR")]
    workdir: PathBuf,
    /// Tasks that the model has learned, if not all; `train --resume` then teaches the others.
    #[arg(long, value_name = "N")]
    tasks: Option<usize>,
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    #[arg(long, default_value = "auto")]
    device: String,
}

impl Adopt {
    pub fn run(self) -> Result<()> {
        if self.config.init_checkpoint.is_some() {
            return Err(Error::config(
                "--init-checkpoint: the backbone comes out of the checkpoint that is adopted; leave it away",
            ));
        }
        if self.config.config.is_none() {
            return Err(Error::config(
                "--config: a file with the data set, the tasks and the prompts of the model was wanted, such as those in \
                 `configs`; found nothing",
            ));
        }
        let mut loaded = self.config.load()?;
        loaded.notes.iter().for_each(|note| say(note));
        let choice = super::checked(super::device(&self.device)?, &mut loaded.config)?;
        let adopted = adopt::adopt(&Adoption {
            checkpoint: self.checkpoint,
            port: match self.from {
                From::L2pPytorch => Port::L2pPytorch,
                From::DualpromptPytorch => Port::DualPromptPytorch,
                From::CodaPrompt => Port::CodaPrompt,
                From::Pilot => Port::Pilot,
            },
            config: loaded.config,
            workdir: self.workdir.clone(),
            tasks: self.tasks,
            choice,
        })?;
        for (task, score) in adopted.scores.iter().enumerate() {
            let (own, voted) = (percent(score.per_image), percent(score.per_batch));
            let voted = if adopted.votes { format!(", {voted} % by batch vote") } else { String::new() };
            print(&format!("task {}: {own} % where each image selects{voted}", task + 1));
        }
        let dir = self.workdir.display();
        let next = match adopted.tasks < adopted.of {
            true => format!("`l2p-engine train --workdir {dir} --resume` teaches the other tasks"),
            false => format!("`l2p-engine train --workdir {dir} --resume` writes its results.json"),
        };
        print(&format!("{dir} is a run that has learned {} of {} tasks; {next}", adopted.tasks, adopted.of));
        Ok(())
    }
}
