//! The table of a paper: rows of configurations and seeds, run one after the other, beside the published numbers.
//! What is done is not done again, and what was stopped goes on, so that the same command finishes it.

mod recipe;
mod verdict;

pub use recipe::{Compared, Given, Recipe, Row};
pub use verdict::{Outcome, Verdict};

use super::forecast::{self, PlannedDevice, TimeRange};
use super::{Options, seeds};
use crate::config::schema::Precision;
use crate::error::{Error, Result};
use crate::output::results::Results;
use crate::output::seeds::{FILE, Seeds};
use crate::output::spread::Spread;
use crate::output::table::{self, Style};
use crate::output::workdir::Workdir;
use crate::output::{atomic, say};
use serde::Serialize;
use std::path::Path;

/// What is written into the folder of the rows.
pub const REPRODUCTION: &str = "reproduction.json";

/// A file of rows and what has come of it so far.
#[derive(Debug, Clone, Serialize)]
pub struct Reproduction {
    pub title: String,
    pub rows: Vec<Outcome>,
}

/// Runs what is left of the rows below `options.workdir`, a folder for each, and keeps [`REPRODUCTION`] there up to date.
/// A row that fails is noted, and the next one is run.
///
/// # Errors
/// `Error::Interrupted` after a signal, with everything saved; `Error::File` if the outcome cannot be written.
pub fn run(recipe: &Recipe, options: &Options) -> Result<Reproduction> {
    let mut done = Reproduction { title: recipe.title.clone(), rows: Vec::new() };
    for (n, row) in recipe.rows.iter().enumerate() {
        let workdir = options.workdir.join(&row.name);
        let finished = finished(row, &workdir);
        if !options.quiet {
            let what = if finished.is_some() { ", done before" } else { "" };
            say(&format!("row {} of {}: {}{what}", n + 1, recipe.rows.len(), row.name));
        }
        let outcome = match finished {
            Some(seeds) => Ok(seeds),
            None => {
                let options = Options { resume: workdir.is_dir(), workdir, ..options.clone() };
                seeds::train(&row.config, &row.seeds, &options)
            }
        };
        let outcome = match outcome {
            Err(stopped @ Error::Interrupted(_)) => return Err(stopped),
            other => other.map_err(|e| e.to_string()),
        };
        if let Err(why) = &outcome {
            say(&format!("row {}: {why}", row.name));
        }
        done.rows.push(Outcome::of(row, outcome.as_ref().map_err(Clone::clone)));
        if options.launch.is_first() {
            atomic::write_json(&options.workdir.join(REPRODUCTION), &done)?;
        }
    }
    Ok(done)
}

/// The runs of a row, if all of them are done and were made with its configuration.
fn finished(row: &Row, workdir: &Path) -> Option<Seeds> {
    let seeds = Seeds::read(&workdir.join(FILE)).ok()?;
    let is_done = |&seed: &u64| {
        let dir = workdir.join(format!("seed_{seed}"));
        let saved = Workdir::saved_config(&dir).ok().flatten()?;
        let mut wanted = row.config.clone();
        wanted.seed = seed;
        // `auto` is what it became on the device.
        if wanted.precision == Precision::Auto {
            wanted.precision = saved.precision;
        }
        let same = saved.identity().config_hash() == wanted.identity().config_hash();
        let complete = Results::read(&dir.join("results.json")).ok()?.complete;
        (same && complete).then_some(())
    };
    let all =
        row.seeds == seeds.seeds && seeds.complete && row.seeds.iter().all(|seed| is_done(seed).is_some());
    all.then_some(seeds)
}

/// The table of the outcomes, and what is wrong beside it.
pub fn table(done: &Reproduction, style: Style) -> String {
    let header =
        ["row", "method", "rule set", "seeds", "compared", "average accuracy %", "forgetting %", "hours"];
    let percent = |spread: Option<Spread>| spread.map_or("-".to_string(), |spread| spread.percent());
    let row = |o: &Outcome| {
        vec![
            o.name.clone(),
            o.method.clone(),
            o.rule_set.clone(),
            format!("{}/{}", o.seeds.0, o.seeds.1),
            o.compared.to_string(),
            percent(o.average_accuracy),
            percent(o.forgetting),
            format!("{:.2}", o.hours),
        ]
    };
    let header = header.map(String::from).to_vec();
    let mut text = format!("{}\n{}", done.title, table::draw(header, done.rows.iter().map(row), style));
    // Sources and reasons are too long for a column.
    for o in &done.rows {
        let published = o.published.as_deref().map_or(String::new(), |p| format!("; published: {p}"));
        text += &format!("\n{}: {}{published}", o.name, o.verdict.words());
    }
    text
}

/// The plans of all rows: steps, work, and the time on a device, without images and weights.
///
/// # Errors
/// Those of [`forecast::forecast`], naming the row.
pub fn plan(recipe: &Recipe, place: &PlannedDevice, ranks: usize, style: Style) -> Result<String> {
    let (mut rows, mut sums) = (Vec::new(), Some([0.0; 2]));
    for row in &recipe.rows {
        let plan = forecast::forecast(row.config.clone(), place.clone(), ranks)
            .map_err(|e| Error::config(format!("row `{}`: {e}", row.name)))?;
        let n = row.seeds.len() as f64;
        let hours = plan
            .duration
            .map(|TimeRange { with_baselines, .. }| with_baselines.map(|seconds| seconds * n / 3600.0));
        sums = sums.zip(hours).map(|(sums, hours)| [sums[0] + hours[0], sums[1] + hours[1]]);
        let steps: usize = plan.tasks.iter().map(|(_, steps)| steps).sum();
        rows.push(vec![
            row.name.clone(),
            row.config.method.to_string(),
            row.seeds.len().to_string(),
            steps.to_string(),
            format!("{:.2}", plan.work.total * n / 1e15),
            format!("{:.1}", plan.plan.total_bytes() as f64 / f64::from(1 << 20)),
            hours.map_or("-".into(), |[least, most]| format!("{least:.2} to {most:.2}")),
        ]);
    }
    let header = ["row", "method", "seeds", "steps of a seed", "PFLOP", "MiB", "hours, all seeds"];
    let mut text = format!(
        "{}\n{}",
        recipe.title,
        table::draw(header.map(String::from).to_vec(), rows.into_iter(), style)
    );
    text += &match sums {
        Some([least, most]) => {
            let devices = if ranks == 1 { String::new() } else { format!(" on each of {ranks} devices") };
            format!(
                "\nin all {least:.1} to {most:.1} hours{devices}, {:.1} to {:.1} days, baselines included",
                least / 24.0,
                most / 24.0
            )
        }
        None => "\nno estimate of the time: the rate of this device is not known".to_string(),
    };
    Ok(text)
}
