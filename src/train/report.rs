//! What a run prints before it starts, after each task and at the end.

use super::session::Session;
use crate::config::Config;
use crate::config::schema::Scenario;
use crate::data::{DataSet, Split, Task, tasks};
use crate::optim::schedule;
use crate::output::results::{Added, Results, Score};
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

/// How steps are divided, where they are. `images`: of a step on one rank.
pub fn divided(config: &Config, images: usize) -> Option<String> {
    let images = images + config.continual.replay_batch_size;
    let part = config.train.micro_batch.of(images);
    (part < images).then(|| {
        format!(
            "each step of {images} images is computed in {} parts of {part} (train.micro_batch), whose gradients are added; \
             tests take batches of {}",
            images.div_ceil(part),
            config.train.eval_batch_size
        )
    })
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
    let divided = divided(config, run.batch / run.ranks.max(1));
    let unused = tasks::unused(run.data, run.split);
    let unvalidated = unvalidated(run.data, run.split);
    let notes: String = run
        .data
        .notes
        .iter()
        .chain(&unused)
        .chain(&unvalidated)
        .chain(&divided)
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
            Scenario::Class => match config.data.added_sizes.as_slice() {
                [] => format!("{} classes", config.continual.num_classes_per_task),
                added => format!("{} classes, then {added:?}", config.continual.num_classes_per_task),
            },
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

/// One line after a task; `voted` where a batch can vote.
pub fn task_line(task: &Task, tasks: usize, own: &Score, voted: Option<&Score>) -> String {
    let last = own.accuracy_matrix.last().map(Vec::as_slice).unwrap_or_default();
    let each: Vec<String> = last.iter().map(|a| percent(*a)).collect();
    let vote = voted.map_or_else(String::new, |voted| format!(", batch vote {} %", percent(voted.avg_acc)));
    format!(
        "task {}/{tasks} ({}): accuracy {} %, by task {}{vote}",
        task.index + 1,
        task.name,
        percent(own.avg_acc),
        each.join(" "),
    )
}

/// What classes that were added did, the forgetting first.
pub fn added(added: &Added, style: Style) -> String {
    let points = |value: f64| format!("{:.2}", 100.0 * value);
    let measured = added.earlier.iter().filter(|task| task.before.is_some() && task.after.is_some()).count();
    let mut text = match (added.forgetting, added.before, added.after) {
        (Some(lost), Some(before), Some(after)) => format!(
            "forgetting of this step: {} points on {measured} earlier {} ({} % before, {} % after)\n",
            points(lost),
            if measured == 1 { "task" } else { "tasks" },
            percent(before),
            percent(after)
        ),
        _ => "forgetting of this step: not measured, because the test images of no earlier task are known before and \
              after\n"
            .to_string(),
    };
    let accuracy =
        added.accuracy.map_or("not measured".into(), |accuracy| format!("{} %", percent(accuracy)));
    text += &format!(
        "task {} ({}): {} images learned, {} held out as its test, accuracy {accuracy}\n",
        added.task + 1,
        added.classes.join(", "),
        added.train_images,
        added.test_images
    );
    let cell = |value: Option<f64>| value.map_or("not measured".to_string(), percent);
    let rows = added.earlier.iter().map(|task| {
        vec![format!("task {} ({})", task.task + 1, task.name), cell(task.before), cell(task.after)]
    });
    let header = ["earlier tasks", "before %", "after %"].map(String::from).to_vec();
    text + &table::draw(header, rows, style) + "\n"
}

/// The tables at the end; `votes`: the images of a batch can vote.
pub fn closing(results: &Results, votes: bool, workdir: &Path, style: Style) -> String {
    let vote = votes.then_some(&results.per_batch);
    let mut text = results.added.as_ref().map_or(String::new(), |task| added(task, style));
    text += &table::accuracy(&results.per_image, vote, style);
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
    if let Some(further) = table::further(&results.per_image, style) {
        text += &further;
        text += "\n";
    }
    text += &format!(
        "{:.0} images/s in training, {:.0} in evaluation, {:.1} s in all, {}\n\
         written to {}: results.json, accuracy_matrix.csv, metrics.csv, config.toml, log.jsonl, checkpoints, TensorBoard events",
        results.images_per_second.train,
        results.images_per_second.eval,
        results.seconds,
        results.device,
        workdir.display()
    );
    text
}
