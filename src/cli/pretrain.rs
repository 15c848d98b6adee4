//! `l2p-engine pretrain`.

use super::{ConfigArgs, print};
use crate::error::Result;
use crate::output::table::percent;
use crate::train::pretrain;
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct Pretrain {
    #[command(flatten)]
    config: ConfigArgs,
    /// Where checkpoints of the training go.
    #[arg(long, value_name = "DIR", default_value = "runs/pretrain")]
    workdir: PathBuf,
    /// The backbone to write; by default `backbone.safetensors` in the work directory.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    #[arg(long, default_value = "auto")]
    device: String,
    /// Go on with the training in the work directory.
    #[arg(long)]
    resume: bool,
    /// Print the final line only.
    #[arg(long)]
    quiet: bool,
}

impl Pretrain {
    pub fn run(mut self) -> Result<()> {
        if self.config.init_checkpoint.is_some() {
            self.config.set.push("pretrain.start_from=checkpoint".into());
        }
        let mut loaded = self.config.load()?;
        if !self.quiet {
            loaded.notes.iter().for_each(|note| crate::output::say(&format!("note: {note}")));
        }
        let choice = super::checked(super::device(&self.device)?, &mut loaded.config)?;
        let out = self.out.unwrap_or_else(|| self.workdir.join("backbone.safetensors"));
        let done = pretrain::pretrain(&loaded.config, &self.workdir, &out, self.resume, self.quiet, choice)?;
        print(&format!(
            "accuracy {} % over {} classes\nwritten to {}\nsha256 {}",
            percent(done.accuracy),
            done.classes,
            done.path.display(),
            done.sha256
        ));
        Ok(())
    }
}
