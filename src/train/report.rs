//! What a run says: before it starts, after each task, at the end.

use super::session::Session;
use crate::config::schema::Scenario;
use crate::data::Task;
use crate::optim::schedule;
use crate::output::results::{Results, Score};
use crate::output::table::{self, Style, percent};
use std::path::Path;

/// Backbone, data, tasks and steps in a few lines, and what is worth knowing about the data.
pub fn opening(session: &Session, total_steps: u64) -> String {
    let (config, split) = (&session.config, &session.split);
    let batch = config.train.per_device_batch_size;
    let notes: String = session.data.notes.iter().map(|note| format!("\nnote: {note}")).collect();
    format!(
        "{} {} on {}: {} training and {} test images, {} tasks of {} ({})\n\
         backbone: {}\n\
         {} steps of {} images, learning rate {}, {} of {} parameters learn, rule set {}, seed {}{notes}",
        config.method,
        env!("CARGO_PKG_VERSION"),
        session.data.name,
        session.data.train.len(),
        session.data.test.len(),
        split.tasks.len(),
        match config.continual.scenario {
            Scenario::Class => format!("{} classes", config.continual.num_classes_per_task),
            other => format!("scenario {other}"),
        },
        config.continual.class_order,
        session.backbone.source,
        total_steps,
        batch,
        schedule::base(&config.optim, batch),
        session.method.model().params.trainable.len(),
        session.method.model().params.trainable.len() + session.method.model().params.frozen.len(),
        config.rule_set,
        config.seed,
    )
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
        || matches!(results.method.as_str(), "l2p" | "dualprompt" | "joint");
    let vote = has_pool.then_some(&results.per_batch);
    let mut text = table::accuracy(&results.per_image, vote, style);
    text += "\n";
    text += &table::summary(&results.per_image, vote, style);
    text += "\n";
    if !results.floors.named().is_empty() {
        text += &table::floors(&results.per_image, vote, &results.floors, style);
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
