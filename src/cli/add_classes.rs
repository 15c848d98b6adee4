//! `l2p-engine add-classes`.

use super::print;
use crate::config::schema::Method;
use crate::error::Result;
use crate::learner::SavedRun;
use crate::output::say;
use crate::output::table::Style;
use crate::train::add_classes::{self, Addition};
use crate::train::report;
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct AddClasses {
    /// The finished run that gets more classes. It stays as it is.
    #[arg(long, value_name = "DIR", default_value = "runs/default")]
    workdir: PathBuf,
    /// The new images: a folder for each class, or lists, as data set `images` reads them.
    #[arg(long, value_name = "DIR")]
    data_dir: String,
    /// Where the new run goes; by default the first free one of RUN-v2, RUN-v3, …
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
    /// Epochs over the new images; by default those of the run, or more, until there are 50 steps or 800
    /// images. A single new class ends as soon as all its images are answered right.
    #[arg(long, value_name = "N")]
    epochs: Option<usize>,
    /// Classes that the run has already get more images, and their part of the head learns on.
    #[arg(long)]
    update: bool,
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    #[arg(long, default_value = "auto")]
    device: String,
    /// Where the backbone lies now, if it has moved; its checksum must be the run's.
    #[arg(long, value_name = "FILE")]
    init_checkpoint: Option<String>,
    /// Where the images that the run began with lie now, if they have moved.
    #[arg(long, value_name = "DIR")]
    run_data_dir: Option<String>,
    /// Print the final tables only.
    #[arg(long)]
    quiet: bool,
}

impl AddClasses {
    pub fn run(self) -> Result<()> {
        let method = SavedRun::config(&self.workdir)?.method;
        if self.epochs.is_some() && method.takes_each_image_once() {
            say(&format!("note: --epochs: method = \"{method}\" takes each image once"));
        }
        if method == Method::Ranpac && !self.quiet {
            say("note: method = \"ranpac\" solves for its whole head anew, old classes included");
        }
        let choice = super::device_of_run(&self.device, &self.workdir)?;
        let addition = Addition {
            workdir: self.workdir,
            images: self.data_dir,
            into: self.into,
            epochs: self.epochs,
            update: self.update,
            init_checkpoint: self.init_checkpoint,
            run_images: self.run_data_dir,
            choice,
            quiet: self.quiet,
            listener: None,
        };
        let (into, results) = add_classes::add_classes(&addition)?;
        let votes = SavedRun::config(&into)?.prompt_pool.votes();
        print(&report::closing(&results, votes, &into, Style::detect()));
        Ok(())
    }
}
