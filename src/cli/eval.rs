//! `l2p-engine eval`.

use super::print;
use crate::data::Subset;
use crate::error::{Error, Result};
use crate::learner::SavedRun;
use crate::output::atomic;
use crate::output::table::{self, Style};
use crate::train::Session;
use crate::train::evaluate::{self, QueryCache, TaskScore};
use crate::train::scores::{self, Tests};
use clap::Args;
use std::fmt::Write;
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
pub struct Eval {
    /// A work directory that `train` wrote.
    #[arg(long, value_name = "DIR", default_value = "runs/default")]
    workdir: PathBuf,
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    #[arg(long, default_value = "auto")]
    device: String,
    /// Images per batch; the results do not depend on it.
    #[arg(long, value_name = "N")]
    batch_size: Option<usize>,
    /// Where the backbone lies now, if it has moved; its checksum must be the run's.
    #[arg(long, value_name = "FILE")]
    init_checkpoint: Option<String>,
    /// Where the raw data set lies now, if it has moved.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Also write a CSV file with a row per test image: task, image (its path, or else its number in the test
    /// set), label, answer, whether that is right, and the prompts that the image chose.
    #[arg(long, value_name = "FILE")]
    per_image: Option<PathBuf>,
    /// Also print the accuracy of each class.
    #[arg(long)]
    per_class: bool,
    /// Print JSON instead of tables.
    #[arg(long)]
    json: bool,
}

impl Eval {
    pub fn run(self) -> Result<()> {
        let choice = super::device(&self.device)?;
        let mut saved = SavedRun::read(&self.workdir)?;
        saved.locate_backbone(self.init_checkpoint.as_deref())?;
        let choice = super::checked_to_answer(choice, &mut saved.config)?;
        let mut config = saved.config.clone();
        let hash = config.identity().config_hash();
        if let Some(dir) = self.data_dir {
            refuse_tests_alone(Path::new(&dir))?;
            config.data.dir = dir;
        }
        if let Some(n) = self.batch_size {
            config.set(&format!("train.eval_batch_size={n}"))?;
            config.check()?;
        }
        let mut session = Session::of_run(&saved, config, choice)?;
        let mut at = saved.at;
        let tasks = at.per_image.len();
        if tasks == 0 {
            return Err(Error::failed(format!(
                "{}: no task is finished yet, so there is nothing to evaluate; finish one with `train --resume`",
                self.workdir.display()
            )));
        }
        let tests = session.split.tests_after(tasks - 1);
        let mut cache = QueryCache::new(Subset::Test, session.split.tasks.len());
        let scores: Result<Vec<_>> =
            (0..tests).map(|i| evaluate::task(&mut session, &mut cache, i)).collect();
        let scores = scores?;
        let now_own: Vec<f64> = scores.iter().map(|s| s.per_image).collect();
        let now_voted: Vec<f64> = scores.iter().map(|s| s.per_batch).collect();
        if let Some(file) = &self.per_image {
            atomic::write(file, per_image(&session, &scores).as_bytes())?;
        }
        let classes = if self.per_class { per_class(&session, &scores) } else { Vec::new() };
        // Rows of earlier moments are history: they come from the run, the last one from now, unless the network has
        // learned on since then.
        let within = at.task_step > 0;
        if !within {
            scores::remove_last_row(&mut at);
            scores::add_row(&session.split, &mut at, &scores, &[]);
        }
        let (own, voted) = (session.score(&at, Tests::Own)?, session.score(&at, Tests::Vote)?);
        let vote = session.learner.method.model().prompts.vote_group().map(|_| &voted);
        if self.json {
            let mut value = serde_json::json!({
                "per_image": own, "per_batch": voted, "step": at.step, "config_hash": hash,
                "checkpoint_sha256": at.checkpoint_sha256,
                "images": scores.iter().map(|s| s.images).collect::<Vec<_>>(),
                "loss": scores.iter().map(|s| s.loss).collect::<Vec<_>>(),
                "prompt_usage": scores.iter().map(|s| &s.usage).collect::<Vec<_>>(),
            });
            if self.per_class {
                let each = |(class, right, images): &(String, usize, usize)| serde_json::json!({ "class": class, "right": right, "images": images });
                value["per_class"] = classes.iter().map(each).collect();
            }
            if within {
                value["within_task"] = serde_json::json!({
                    "task": at.task, "task_step": at.task_step, "per_image": now_own, "per_batch": now_voted,
                });
            }
            print(&format!("{value:#}"));
        } else {
            print(&table::accuracy(&own, vote, Style::detect()));
            print(&table::summary(&own, vote, Style::detect()));
            for (class, right, images) in &classes {
                let accuracy = table::percent(*right as f64 / (*images).max(1) as f64);
                print(&format!("{class}: {accuracy} % ({right} of {images})"));
            }
            if within {
                let each: Vec<String> = now_own.iter().map(|a| table::percent(*a)).collect();
                print(&format!(
                    "the tables end with the last finished task; the network is {} steps into task {} and answers {} % \
                     by task",
                    at.task_step,
                    at.task + 1,
                    each.join(" ")
                ));
            }
        }
        Ok(())
    }
}

/// A folder with test images alone is refused: numbers of classes and tasks follow from the whole set.
fn refuse_tests_alone(dir: &Path) -> Result<()> {
    let Ok(entries) = dir.read_dir() else { return Ok(()) };
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let parts: Vec<Subset> = names.filter_map(|name| Subset::named(&name)).collect();
    if parts.is_empty() || parts.contains(&Subset::Train) {
        return Ok(());
    }
    Err(Error::file(
        dir,
        "holds test images without training images; wanted the data set as the run had it, train/ beside test/, because \
         the numbers of classes and tasks follow from it; for single images use `l2p-engine predict`",
    ))
}

/// A cell of a CSV file.
fn cell(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        return format!("\"{}\"", text.replace('"', "\"\""));
    }
    text.to_string()
}

/// A row per test image, tasks numbered from 1.
fn per_image(session: &Session, scores: &[TaskScore]) -> String {
    let mut text = String::from("task,image,label,answer,right,prompts\n");
    for (task, score) in session.split.tasks.iter().zip(scores) {
        for (n, (&image, guess)) in task.test.iter().zip(&score.guesses).enumerate() {
            let path = session.data.test.path(image as usize);
            let image = path.map_or(image.to_string(), |path| path.to_string_lossy().into_owned());
            let name = |class: u32| cell(&session.learner.class_names[class as usize]);
            let prompts = score.chosen.get(n).into_iter().flatten().map(u32::to_string);
            let prompts = prompts.collect::<Vec<_>>().join(" ");
            let (label, answer) = (name(guess.label), name(guess.class));
            let (task, image, right) = (task.index + 1, cell(&image), guess.is_right());
            let _ = writeln!(text, "{task},{image},{label},{answer},{right},{prompts}");
        }
    }
    text
}

/// Name, images answered right and images of each class that was tested.
fn per_class(session: &Session, scores: &[TaskScore]) -> Vec<(String, usize, usize)> {
    let names = &session.learner.class_names;
    let mut classes: Vec<_> = names.iter().map(|name| (name.clone(), 0, 0)).collect();
    for guess in scores.iter().flat_map(|score| &score.guesses) {
        let (_, right, images) = &mut classes[guess.label as usize];
        *right += usize::from(guess.is_right());
        *images += 1;
    }
    classes.retain(|(.., images)| *images > 0);
    classes
}
