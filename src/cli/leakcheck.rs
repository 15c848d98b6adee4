//! `l2p-engine leakcheck`.

use super::print;
use crate::error::{Error, Result};
use crate::learner::SavedRun;
use crate::output::table::{self, Style};
use crate::train::Session;
use crate::train::batch_composition::{self, names};
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct LeakCheck {
    /// A work directory that `train` wrote.
    #[arg(long, value_name = "DIR", default_value = "runs/default")]
    workdir: PathBuf,
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    #[arg(long, default_value = "auto")]
    device: String,
    /// Images per vote; otherwise as the run was configured.
    #[arg(long, value_name = "N")]
    vote_group: Option<usize>,
    /// Random orders for each random composition.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    shuffles: u16,
    /// Where the backbone lies now, if it has moved; its checksum must be the run's.
    #[arg(long, value_name = "FILE")]
    init_checkpoint: Option<String>,
    /// Where the raw data set lies now, if it has moved.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

impl LeakCheck {
    pub fn run(self) -> Result<()> {
        let choice = super::device(&self.device)?;
        let mut saved = SavedRun::read(&self.workdir)?;
        saved.locate_backbone(self.init_checkpoint.as_deref())?;
        let choice = super::checked_to_answer(choice, &mut saved.config)?;
        let mut config = saved.config.clone();
        if let Some(dir) = self.data_dir {
            config.data.dir = dir;
        }
        let mut session = Session::of_run(&saved, config, choice)?;
        let tasks = saved.at.per_image.len();
        if tasks == 0 {
            return Err(Error::failed(format!(
                "{}: no task is finished yet, so there is nothing to check; finish one with `train --resume`",
                self.workdir.display()
            )));
        }
        if saved.at.task_step > 0 {
            crate::output::say(&format!(
                "note: the network is {} steps into task {}; the test images are those of the {tasks} finished before",
                saved.at.task_step,
                saved.at.task + 1
            ));
        }
        let found = batch_composition::check(&mut session, tasks, self.vote_group, self.shuffles.into())?;
        if self.json {
            print(&format!("{:#}", serde_json::json!(found)));
            return Ok(());
        }
        let rows: Vec<_> = found.compositions.iter().map(|c| (c.name, c.avg_acc, c.moved)).collect();
        print(&table::leak(&rows, Style::detect()));
        if found.choices == 1 {
            print(
                "all rows are equal because every image chose the same prompts by itself: whatever the batch, the vote \
                 has one outcome",
            );
        }
        let accuracy = |name| found.named(name).map_or(f64::NAN, |c| c.avg_acc.mean);
        print(&format!(
            "{} test images of {tasks} tasks, votes among {} images, {} shuffles; batches of one task are worth {:+.2} \
             points over mixed ones",
            found.images,
            found.vote_group,
            self.shuffles,
            100.0 * (accuracy(names::ORDERED) - accuracy(names::MIXED)),
        ));
        Ok(())
    }
}
