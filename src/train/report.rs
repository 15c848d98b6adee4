//! What a run prints before it starts, after each task and at the end.

use super::forecast::{Forecast, TimeRange};
use super::session::Session;
use crate::config::Config;
use crate::config::schema::Scenario;
use crate::data::{DataSet, Split, Task, tasks};
use crate::optim::schedule;
use crate::output::results::{Results, Score};
use crate::output::table::{self, Style, percent};
use std::path::Path;

/// A run before its first step.
pub struct Opening<'a> {
    pub config: &'a Config,
    pub data: &'a DataSet,
    pub split: &'a Split,
    /// Where the backbone comes from.
    pub source: &'a str,
    /// Values that learn, and values that do not.
    pub params: (usize, usize),
    pub steps: u64,
    /// Images per step, and the ranks that share them.
    pub batch: usize,
    pub ranks: usize,
}

impl Opening<'_> {
    pub fn of(session: &Session, steps: u64) -> Opening<'_> {
        let params = &session.learner.method.model().params;
        Opening {
            config: &session.learner.config,
            data: &session.data,
            split: &session.split,
            source: &session.learner.backbone.source,
            params: (params.trainable.len(), params.frozen.len()),
            steps,
            batch: session.ranks.batch,
            ranks: session.ranks.comm.size(),
        }
    }
}

/// Why validation images are not reported, where that is so.
fn unvalidated(data: &DataSet, split: &Split) -> Option<String> {
    if data.val.is_empty() {
        return None;
    }
    let without = split.tasks.iter().find(|task| task.val.is_empty())?;
    Some(format!(
        "the accuracy on the {} validation images is not reported: task {} ({}) has none",
        data.val.len(),
        without.index + 1,
        without.name
    ))
}

/// Backbone, data, tasks and steps in a few lines, and the notes about the data.
pub fn opening(run: &Opening) -> String {
    let (config, (learn, frozen)) = (run.config, run.params);
    let shared = if run.ranks > 1 { format!(" on {} ranks", run.ranks) } else { String::new() };
    let replayed = match config.continual.replay_batch_size {
        0 => String::new(),
        more => {
            let more = more * run.batch / config.train.per_device_batch_size;
            format!(" (from the second task on with {more} replayed ones)")
        }
    };
    let unused = tasks::unused(run.data, run.split);
    let unvalidated = unvalidated(run.data, run.split);
    let notes: String = run
        .data
        .notes
        .iter()
        .chain(&unused)
        .chain(&unvalidated)
        .map(|note| format!("\nnote: {note}"))
        .collect();
    format!(
        "{} {} on {}: {} training and {} test images, {} tasks of {} ({})\n\
         backbone: {}\n\
         {} steps of {} images{shared}{replayed}, learning rate {}, {learn} of {} parameters learn, rule set {}, seed {}{notes}",
        config.method,
        env!("CARGO_PKG_VERSION"),
        run.data.name,
        run.data.train.len(),
        run.data.test.len(),
        run.split.tasks.len(),
        match config.continual.scenario {
            Scenario::Class => format!("{} classes", config.continual.num_classes_per_task),
            other => format!("scenario {other}"),
        },
        config.continual.class_order,
        run.source,
        run.steps,
        run.batch,
        schedule::base(&config.optim, run.batch),
        learn + frozen,
        config.rule_set,
        config.seed,
    )
}

/// The plan of a run: what it opens with, its tasks, memory, work and time.
pub fn forecast(plan: &Forecast, style: Style) -> String {
    const SHOWN: usize = 20;
    let steps: usize = plan.tasks.iter().map(|(_, steps)| steps).sum();
    let mut text = opening(&Opening {
        config: &plan.config,
        data: &plan.data,
        split: &plan.split,
        source: &plan.source,
        params: plan.params,
        steps: steps as u64,
        batch: plan.config.train.per_device_batch_size * plan.ranks,
        ranks: plan.ranks,
    });
    plan.notes.iter().for_each(|note| text += &format!("\nnote: {note}"));
    for (task, steps) in plan.tasks.iter().take(SHOWN) {
        let (n, tests) = (task.train.len(), task.test.len());
        let name = &task.name;
        text += &format!(
            "\ntask {}: {name}: {n} training and {tests} test images, {steps} steps",
            task.index + 1
        );
    }
    if plan.tasks.len() > SHOWN {
        text += &format!("\nand {} more tasks", plan.tasks.len() - SHOWN);
    }
    text += &format!("\n{}\n", table::memory(&plan.plan, style));
    let work = plan.work;
    text += &format!(
        "work without baselines: {:.3} PFLOP; per training image {:.2} GFLOP, per test image {:.2} and once {:.2}",
        work.total / 1e15,
        work.train_image / 1e9,
        work.test_image / 1e9,
        work.query / 1e9,
    );
    if plan.eval_batch_bytes > 0 {
        text += &format!(
            "\n{:.2} MiB of the memory are for evaluation batches of {}, which are larger than training batches of {}",
            plan.eval_batch_bytes as f64 / f64::from(1 << 20),
            plan.config.train.eval_batch_size,
            plan.config.train.per_device_batch_size,
        );
    }
    let mib = |bytes: usize| format!("{:.2} MiB", bytes as f64 / f64::from(1 << 20));
    if plan.baselines.single_prompt > 0 {
        let more = mib(plan.baselines.single_prompt);
        text +=
            &format!("\nthe baseline of a single prompt takes {more} beside them (baselines.single_prompt)");
    }
    if plan.baselines.features > 0 {
        let features = mib(plan.baselines.features);
        text += &format!(
            "\nthe other baselines take {features} of the host's memory for the features of all images"
        );
    }
    if let Some(gpu) = plan.elsewhere {
        let needed = (plan.plan.total_bytes() + plan.baselines.single_prompt) as f64 / 1e9;
        let usable = gpu.usable() as f64 / 1e9;
        text += &format!("\n{needed:.2} of {usable:.2} GB of memory of {}", gpu.name);
    }
    let Some(TimeRange { rates, run, with_baselines }) = plan.duration else {
        return text + "\nno estimate of the time: the rate of this GPU is not known (`--gpu` has names)";
    };
    let range = |seconds: [f64; 2]| format!("{} to {}", duration(seconds[0]), duration(seconds[1]));
    text += &format!("\nabout {} without baselines, {} with them", range(run), range(with_baselines));
    let [high, low] = rates.map(|rate| rate / 1e9);
    let whose = match plan.elsewhere {
        None => "this machine's matrix product, and half of the lowest that was measured".to_string(),
        Some(gpu) => {
            format!("0.4 and 0.1 of what the maker says of {}; nothing was measured on a GPU", gpu.name)
        }
    };
    text + &format!(": work at {high:.0} to {low:.0} GFLOP/s, {whose}")
}

/// Seconds for people.
fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 100.0 => format!("{s:.1} s"),
        s if s < 6_000.0 => format!("{:.0} min", s / 60.0),
        s if s < 360_000.0 => format!("{:.0} h", s / 3_600.0),
        s => format!("{:.0} days", s / 86_400.0),
    }
}

/// One line after a task.
pub fn task_line(task: &Task, tasks: usize, own: &Score, voted: &Score) -> String {
    let last = own.accuracy_matrix.last().map(Vec::as_slice).unwrap_or_default();
    let each: Vec<String> = last.iter().map(|a| percent(*a)).collect();
    format!(
        "task {}/{tasks} ({}): accuracy {} %, by task {}, batch vote {} %",
        task.index + 1,
        task.name,
        percent(own.avg_acc),
        each.join(" "),
        percent(voted.avg_acc),
    )
}

/// The tables at the end.
pub fn closing(results: &Results, workdir: &Path, style: Style) -> String {
    let has_pool = results.per_batch.accuracy_matrix != results.per_image.accuracy_matrix
        || matches!(results.method.as_str(), "l2p" | "dualprompt");
    let vote = has_pool.then_some(&results.per_batch);
    let mut text = table::accuracy(&results.per_image, vote, style);
    text += "\n";
    text += &table::summary(&results.per_image, vote, style);
    text += "\n";
    if let Some(validation) = &results.validation {
        let last = validation.accuracy_matrix.last().map(Vec::as_slice).unwrap_or_default();
        let each: Vec<String> = last.iter().map(|a| percent(*a)).collect();
        let mean = percent(validation.avg_acc);
        text += &format!("validation images: accuracy {mean} %, by task {}\n", each.join(" "));
    }
    if !results.baselines.named().is_empty() {
        text += &table::baselines(&results.per_image, vote, &results.baselines, style);
        text += "\n";
    }
    text += &format!(
        "{:.0} images/s in training, {:.0} in evaluation, {:.1} s in all, {}\n\
         written to {}: results.json, accuracy_matrix.csv, config.toml, log.jsonl, checkpoints, TensorBoard events",
        results.images_per_second.train,
        results.images_per_second.eval,
        results.seconds,
        results.device,
        workdir.display()
    );
    text
}
