//! `train --find-lr`: short trainings on the first task at several learning rates, judged by training images that are
//! kept from them. Test images have no part in it.

use super::evaluate::{self, QueryCache};
use super::session::{Loaded, Session};
use super::steps::{Done, Steps};
use crate::config::Config;
use crate::config::schema::Schedule;
use crate::data::{Subset, Task};
use crate::device::Choice;
use crate::error::{Error, Result};
use crate::learner::{InitialWeights, Purpose};
use crate::methods::{Moment, Ranks};
use crate::output::table::{self, Style, percent};
use crate::output::{say, signal};

/// Steps of each training; fewer where the task has fewer.
const STEPS: usize = 60;
/// The loss is the mean over so many of the last steps.
const LAST: usize = 10;
/// What the configured rate is multiplied by.
const FACTORS: [f64; 7] = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0];
/// One image of so many is kept from the training.
const KEPT_EVERY: usize = 8;
/// Most images that a training is judged by.
const KEPT_MOST: usize = 500;

/// One learning rate and what came of it.
#[derive(Debug, Clone)]
pub struct Tried {
    /// `optim.learning_rate`.
    pub rate: f64,
    /// The rate of a step, after `optim.lr_batch`.
    pub per_step: f64,
    /// Loss and accuracy, or the sentence with which the training ended.
    pub outcome: std::result::Result<Outcome, String>,
}

#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// Mean cross-entropy of the last steps, under the mask of the task.
    pub loss: f64,
    /// Share of the kept images that is answered right.
    pub accuracy: f64,
}

/// What was tried on the first task.
#[derive(Debug, Clone)]
pub struct Sweep {
    pub tried: Vec<Tried>,
    pub task: String,
    pub steps: usize,
    pub classes: usize,
    pub trained_on: usize,
    pub judged_by: usize,
}

impl Sweep {
    /// The cross-entropy of guessing among the classes of the task.
    pub fn guessing(&self) -> f64 {
        (self.classes as f64).ln()
    }

    /// The rate with the best accuracy, and with the lower loss of several; none if all trainings failed.
    pub fn best(&self) -> Option<&Tried> {
        let outcomes = self.tried.iter().filter_map(|tried| Some((tried, tried.outcome.as_ref().ok()?)));
        let better = |(_, a): &(&Tried, &Outcome), (_, b): &(&Tried, &Outcome)| {
            a.accuracy.total_cmp(&b.accuracy).then(b.loss.total_cmp(&a.loss))
        };
        outcomes.max_by(better).map(|(tried, _)| tried)
    }
}

/// Tries learning rates from a hundredth to ten times the configured one. Nothing is written.
///
/// # Errors
/// `Error::Config` if the method does not learn by gradient or the first task has too few images; those of loading.
pub fn find_rate(config: &Config, choice: Choice, quiet: bool) -> Result<Sweep> {
    if config.method.takes_each_image_once() {
        return Err(Error::config(format!(
            "--find-lr: method = \"{}\" learns nothing by gradient and has no learning rate",
            config.method
        )));
    }
    signal::install()?;
    let mut config = config.clone();
    // A short training would see the beginning of a schedule only.
    config.optim.learning_rate_schedule = Schedule::Constant;
    config.optim.warmup_epochs = 0.0;
    let ranks = Ranks::alone(config.train.per_device_batch_size);
    let purpose = Purpose::Training { ranks: &ranks, images: ranks.batch };
    let mut loaded = Loaded::new(&config, choice, purpose)?;
    let mut sweep =
        Sweep { tried: Vec::new(), task: String::new(), steps: 0, classes: 0, trained_on: 0, judged_by: 0 };
    // What the kept images choose by is the same at every rate.
    let mut queries = QueryCache::new(Subset::Train, 1);
    for (i, factor) in FACTORS.into_iter().enumerate() {
        let mut config = config.clone();
        config.optim.learning_rate *= factor;
        let mut session =
            Session::for_training(config, loaded.clone(), ranks.clone(), InitialWeights::Checkpoint)?;
        loaded.resident.clone_from(&session.resident);
        let kept = keep_some(&mut session)?;
        let tried = train(&mut session, &mut sweep, &mut queries)?;
        if i == 0 {
            let task = &session.train_tasks[0];
            (sweep.task, sweep.classes) = (task.name.clone(), task.classes.len());
            (sweep.trained_on, sweep.judged_by) = (task.train.len(), kept);
        }
        if !quiet {
            say(&format!("{} of {}: optim.learning_rate = {}", i + 1, FACTORS.len(), tried.rate));
        }
        sweep.tried.push(tried);
    }
    Ok(sweep)
}

/// Takes images of the first task out of its training, and returns how many. They are what `Subset::Train` of
/// `split.tasks[0]` means from here on.
fn keep_some(session: &mut Session) -> Result<usize> {
    let task = &mut session.train_tasks[0];
    let (kept, rest): (Vec<_>, Vec<_>) =
        task.train.iter().enumerate().partition(|(i, _)| i % KEPT_EVERY == KEPT_EVERY / 2);
    let images = |part: Vec<(usize, &u32)>| part.into_iter().map(|(_, &image)| image).collect::<Vec<u32>>();
    let (mut kept, rest) = (images(kept), images(rest));
    kept.truncate(KEPT_MOST);
    if kept.is_empty() {
        return Err(Error::config(format!(
            "--find-lr keeps one image of {KEPT_EVERY} from the first task, which has {}; wanted at least {KEPT_EVERY}",
            task.train.len()
        )));
    }
    task.train = rest;
    let n = kept.len();
    session.split.tasks[0].train = kept;
    Ok(n)
}

/// The passes beside the steps that the method asks for.
fn passes(session: &mut Session, task: &Task, moment: Moment) -> Result<()> {
    for pass in session.learner.method.passes(task.index, moment)? {
        let view = session.pass_view(task, pass);
        let (batches, steps) = session.pass(task, pass)?;
        session.learner.method.begin_pass(pass, steps);
        for batch in batches {
            signal::stop_sweep()?;
            session.observe(pass, &batch?, &view)?;
        }
    }
    Ok(())
}

/// One training and what it comes to.
fn train(session: &mut Session, sweep: &mut Sweep, queries: &mut QueryCache) -> Result<Tried> {
    let rate = session.learner.config.optim.learning_rate;
    let task = session.train_tasks[0].clone();
    session.learner.meet(&task.classes);
    session.learner.method.begin_task(&session.task_view(&task), &task.classes)?;
    passes(session, &task, Moment::BeforeSteps)?;
    let mut steps = Steps::from(session, &task, 0)?;
    sweep.steps = steps.total.min(STEPS);
    let per_step = steps.rate.at(1);
    let mut losses = Vec::new();
    while steps.done < sweep.steps {
        signal::stop_sweep()?;
        match steps.next(session) {
            Ok(Some(Done { stats, .. })) => losses.extend(stats.iter().map(|s| s.ce_loss)),
            Ok(None) => break,
            // A loss that is not a number.
            Err(Error::Failed(why)) => return Ok(Tried { rate, per_step, outcome: Err(why) }),
            Err(other) => return Err(other),
        }
    }
    let left = session.learner.method.settle(&session.learner.dev)?;
    losses.extend(left.iter().map(|s| s.ce_loss));
    let last = &losses[losses.len().saturating_sub(LAST)..];
    let loss = last.iter().sum::<f64>() / last.len().max(1) as f64;
    passes(session, &task, Moment::AfterSteps)?;
    session.learner.method.end_task(&session.learner.dev)?;
    let score = evaluate::task(session, queries, 0)?;
    Ok(Tried { rate, per_step, outcome: Ok(Outcome { loss, accuracy: score.per_image }) })
}

/// A number with three digits that count.
fn short(number: f64) -> String {
    let rounded: f64 = format!("{number:.2e}").parse().expect("it was a number");
    match rounded {
        0.0 | 1e-4..1e4 => rounded.to_string(),
        _ => format!("{rounded:e}"),
    }
}

/// The table and what follows from it; `configured`: `optim.learning_rate`.
pub fn text(sweep: &Sweep, configured: f64, style: Style) -> String {
    let header = ["optim.learning_rate", "rate per step", "loss", "accuracy %"].map(String::from).to_vec();
    let row = |tried: &Tried| {
        let rate = [short(tried.rate), short(tried.per_step)];
        let outcome = match &tried.outcome {
            Ok(Outcome { loss, accuracy }) if *loss < 1e4 => [format!("{loss:.3}"), percent(*accuracy)],
            Ok(Outcome { loss, accuracy }) => [short(*loss), percent(*accuracy)],
            Err(_) => ["failed".to_string(), "-".to_string()],
        };
        rate.into_iter().chain(outcome).collect()
    };
    let mut text = table::draw(header, sweep.tried.iter().map(row), style);
    text += &format!(
        "\ntask 1 ({}): {} steps on {} images at a constant rate, loss of the last {LAST} under the task's mask (guessing \
         among {} classes: {:.3}), accuracy on {} training images kept from them\n",
        sweep.task,
        sweep.steps,
        sweep.trained_on,
        sweep.classes,
        sweep.guessing(),
        sweep.judged_by
    );
    for tried in &sweep.tried {
        if let Err(why) = &tried.outcome {
            text += &format!("{}: {why}\n", short(tried.rate));
        }
    }
    let Some(best) = sweep.best() else {
        return text + "no rate learned to the end: the features or the labels may be wrong";
    };
    let at_end = sweep.tried.first().map(|t| t.rate) == Some(best.rate)
        || sweep.tried.last().map(|t| t.rate) == Some(best.rate);
    text += &if best.rate == configured {
        format!("the configured rate {} is the best of them", short(configured))
    } else {
        format!(
            "suggestion: --set optim.learning_rate={} (configured: {})",
            short(best.rate),
            short(configured)
        )
    };
    if at_end {
        text += "; the best is at the end of the table, so try further from there";
    }
    text
}
