//! The training loop: tasks, steps, tests, checkpoints. Runs, baselines that are runs of their own, and pre-training
//! use it.

use super::evaluate::{self, QueryCache, TaskScore};
use super::record::{Record, Window};
use super::report;
use super::scores::{self, Tests};
use super::session::Session;
use super::steps::{Done, Steps};
use crate::config::schema::{Method, Scenario};
use crate::data::{Subset, Task};
use crate::device::range::{self, RangeTime, range};
use crate::error::{Error, Result};
use crate::learner::{Learner, Position};
use crate::methods::Moment;
use crate::network::StepStats;
use crate::output::progress::Progress;
use crate::output::results::RateChange;
use crate::output::table;
use crate::output::times::{self, TimeRow};
use sha2::{Digest, Sha256};
use std::time::Instant;

/// Steps between lines in the log and points in TensorBoard.
const LOG_EVERY: u64 = 10;

/// Steps of several GPUs between checks for a request to stop.
const ASK_EVERY: usize = 8;

/// The steps of a task, from 1, whose mean loss says whether anything is learned.
const JUDGED: std::ops::Range<usize> = 31..41;
/// A mean loss above this share of that of guessing means that nothing is.
const NO_BETTER: f64 = 0.98;

/// What goes through the loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LearningKind {
    /// Tested after its tasks; saved when it is asked to stop.
    Run,
    /// A part of a run with tasks of its own: tested likewise, begins anew after it was stopped.
    Baseline,
    /// Not tested within the loop; saved when it is asked to stop.
    Pretraining,
}

/// A session on its way through its tasks.
pub struct Learning {
    pub session: Session,
    pub kind: LearningKind,
    /// Of rank 0, where files are written.
    pub record: Option<Record>,
    pub progress: Progress,
    pub at: Position,
    started: Instant,
    /// Seconds of the parts before this process.
    before: f64,
    /// Steps of this task that have been made and whose numbers are known.
    known: usize,
    /// Sum of the losses of the steps of this task from [`JUDGED`], as far as they are known; `None` once it was judged.
    early: Option<f64>,
    /// Where the time of this process went, and its seconds, as far as the log has them.
    times: (Vec<TimeRow>, f64),
}

impl Learning {
    /// Goes on from `at`; `started`: when this process began.
    pub fn new(
        mut session: Session,
        kind: LearningKind,
        record: Option<Record>,
        progress: Progress,
        at: Position,
        started: Instant,
    ) -> Learning {
        session.learner.classes_seen.clone_from(&at.classes_seen);
        let before = at.seconds;
        let times = (Vec::new(), 0.0);
        Learning { session, kind, record, progress, at, started, before, known: 0, early: None, times }
    }

    /// Wall time, earlier parts of a resumed run included.
    pub fn seconds(&self) -> f64 {
        self.before + self.started.elapsed().as_secs_f64()
    }

    /// Records that the run goes on with another `optim.learning_rate` than it had, before a step is made with it.
    /// `from`: what [`Position::rate_before`] says.
    ///
    /// # Errors
    /// Those of [`Learning::save`].
    pub fn change_rate(&mut self, from: Option<f64>) -> Result<()> {
        let to = self.session.learner.config.optim.learning_rate;
        let Some(from) = from else { return Ok(()) };
        let change = RateChange { step: self.at.step, from, to };
        self.at.learning_rate_changes.push(change);
        self.progress.say(&format!("after step {}: optim.learning_rate is {to}, was {from}", change.step));
        self.record.as_mut().map_or(Ok(()), |record| record.rate(&change))?;
        self.save()
    }

    /// Learns the tasks that are left. `after` is called when one is finished and saved.
    ///
    /// # Errors
    /// `Error::Interrupted` after a signal, with everything saved; any other error leaves the last checkpoint intact.
    pub fn learn(&mut self, mut after: impl FnMut(&mut Learning) -> Result<()>) -> Result<()> {
        let tests = self.session.split.tasks.len();
        let mut cache = QueryCache::new(Subset::Test, tests);
        let mut validation = self.validates().then(|| QueryCache::new(Subset::Validation, tests));
        let tasks = self.session.train_tasks.clone();
        while self.at.task < tasks.len() {
            let task = &tasks[self.at.task];
            self.progress.task(task.index);
            self.session.learner.meet(&task.classes);
            let kept = self.session.kept_classes(task);
            self.session.learner.method.keep_classes(&kept)?;
            if self.at.task_step == 0 {
                let view = self.session.task_view(task);
                self.session.learner.method.begin_task(&view, &task.classes)?;
                self.show(task, Moment::BeforeSteps)?;
                self.test_fresh(&tasks, &mut cache)?;
            }
            self.train_task(task, &mut cache)?;
            self.show(task, Moment::AfterSteps)?;
            let Learner { method, dev, .. } = &mut self.session.learner;
            method.end_task(dev)?;
            if self.kind != LearningKind::Pretraining && self.session.tests_after(task.index) {
                self.evaluate(task, &mut cache, validation.as_mut())?;
            }
            self.at.task += 1;
            (self.at.task_step, self.at.task_ended) = (0, false);
            let parameters = self.session.learner.method.model().params.trainable.view().read_f64()?;
            let digest = Sha256::digest(bytemuck::cast_slice(&parameters));
            self.session.ranks.comm.expect_same("learned parameters", &digest)?;
            self.note_times()?;
            self.save()?;
            after(self)?;
        }
        Ok(())
    }

    /// With `--profile`: writes where the time went since this was written last.
    ///
    /// # Errors
    /// Those of writing.
    pub fn note_times(&mut self) -> Result<()> {
        let Some(record) = self.record.as_mut().filter(|_| range::is_recording()) else { return Ok(()) };
        let row = |RangeTime { phase, op, calls, seconds }| {
            let (phase, op) = (String::from(phase), String::from(op));
            TimeRow { phase, op, calls, seconds }
        };
        let rows: Vec<TimeRow> = range::recorded().into_iter().map(row).collect();
        let now = self.started.elapsed().as_secs_f64();
        record.profile(self.at.step, now - self.times.1, &rows)?;
        times::add(&mut self.times.0, rows);
        self.times.1 = now;
        Ok(())
    }

    /// Where the time of this process went, and its seconds: what [`Learning::note_times`] has written.
    pub fn times(&self) -> Option<(&[TimeRow], f64)> {
        (self.times.1 > 0.0).then_some((&self.times.0, self.times.1))
    }

    fn train_task(&mut self, task: &Task, cache: &mut QueryCache) -> Result<()> {
        if self.at.task_ended {
            return Ok(());
        }
        let mut steps = Steps::from(&self.session, task, self.at.task_step)?;
        let train = &self.session.learner.config.train;
        let (every, epochs) = (train.checkpoint_every_steps, train.eval_per_epochs * steps.epoch);
        let mut clock = Instant::now();
        self.known = self.at.task_step;
        // A part of the steps says nothing of all.
        self.early = (self.kind == LearningKind::Run && self.known == 0).then_some(0.0);
        while let Some(Done { stats, images }) = steps.next(&mut self.session)? {
            self.at.task_step += 1;
            self.at.step += 1;
            self.at.train_seconds += clock.elapsed().as_secs_f64();
            self.at.train_images += images as u64;
            let loss = stats.last().map(|s| s.loss);
            self.learned(task, &steps, stats)?;
            self.progress.step(self.at.step, loss, images);
            // Before anything is saved, so that a resumed run ends the task at the same step.
            if self.knows_all(task, &steps, images)? {
                self.write_window(task, &steps)?;
                self.at.task_ended = true;
                break;
            }
            let within = steps.done < steps.total;
            // Before anything is saved, so that what is saved is tested.
            if self.kind == LearningKind::Run
                && epochs > 0
                && self.at.task_step.is_multiple_of(epochs)
                && within
            {
                self.evaluate_within(task, &steps, cache)?;
            }
            // Hosts of GPUs do not wait for each other at every step.
            let ask = self.session.learner.dev.gpu().is_none()
                || self.session.ranks.is_alone()
                || self.at.task_step.is_multiple_of(ASK_EVERY);
            if ask {
                self.stop_if_asked(Some((task, &steps)))?;
            }
            if every > 0 && self.at.task_step.is_multiple_of(every) && within {
                self.save_within(task, &steps)?;
            }
            clock = Instant::now();
        }
        (self.at.epoch_images, self.at.epoch_right) = (0, 0);
        Ok(())
    }

    /// Whether a task of a single class that was added can end: an epoch is over in which each of its images was answered
    /// right among all classes met so far. Nothing tells this class from others but the images of the others, which are
    /// not there: more steps would draw their answers to it.
    fn knows_all(&mut self, task: &Task, steps: &Steps, images: usize) -> Result<bool> {
        if !self.may_end(task) {
            return Ok(false);
        }
        self.at.epoch_images += images;
        if !self.at.task_step.is_multiple_of(steps.epoch.max(1)) {
            return Ok(false);
        }
        self.settle(task, steps)?;
        let shown = (std::mem::take(&mut self.at.epoch_images), std::mem::take(&mut self.at.epoch_right));
        Ok(shown.0 == shown.1)
    }

    fn may_end(&self, task: &Task) -> bool {
        let config = &self.session.learner.config;
        let single = config.is_added(task.index) && task.classes.len() == 1;
        single && config.method != Method::SPrompts && !config.method.takes_each_image_once()
    }

    /// Shows the images of `task` to the method as often as it asks for them at this moment.
    fn show(&mut self, task: &Task, moment: Moment) -> Result<()> {
        let _phase = range(c"passes beside the steps");
        for pass in self.session.learner.method.passes(task.index, moment)? {
            let view = self.session.pass_view(task, pass);
            let (batches, steps) = self.session.pass(task, pass)?;
            self.session.learner.method.begin_pass(pass, steps);
            for batch in batches {
                self.stop_in_pass(task, moment)?;
                self.session.observe(pass, &batch?, &view)?;
            }
        }
        Ok(())
    }

    /// After a signal: the passes after the steps begin anew from what is saved here, those before them from the end of
    /// the task before, which is saved.
    fn stop_in_pass(&mut self, task: &Task, moment: Moment) -> Result<()> {
        if moment == Moment::AfterSteps || self.kind == LearningKind::Baseline {
            return self.stop_if_asked(None);
        }
        if !self.session.stop_requested()? {
            return Ok(());
        }
        self.progress.finish();
        let from = match task.index {
            0 => "begin anew".to_string(),
            before => format!("go on from the end of task {before}"),
        };
        Err(Error::Interrupted(format!(
            "stopped before the first step of task {}; add --resume to {from}",
            task.index + 1
        )))
    }

    /// Takes the numbers of the next steps, and writes a line for every [`LOG_EVERY`] of them.
    fn learned(&mut self, task: &Task, steps: &Steps, stats: Vec<StepStats>) -> Result<()> {
        let before = self.at.step - self.at.task_step as u64;
        for stats in stats {
            self.at.window.push(stats);
            self.known += 1;
            self.at.window_images += steps.images(self.known);
            if self.may_end(task) {
                self.at.epoch_right += stats.correct;
            }
            self.judge(task, steps, stats.ce_loss)?;
            let step = before + self.known as u64;
            if step.is_multiple_of(LOG_EVERY) || self.known == steps.total {
                self.write_window(task, steps)?;
            }
        }
        Ok(())
    }

    /// Writes a line of the log about the steps since the last one, if there are any.
    fn write_window(&mut self, task: &Task, steps: &Steps) -> Result<()> {
        if self.at.window.is_empty() {
            return Ok(());
        }
        let window = Window {
            task: task.index,
            step: self.at.step - self.at.task_step as u64 + self.known as u64,
            learning_rate: steps.rate.at(self.known),
            steps: std::mem::take(&mut self.at.window),
            images: std::mem::take(&mut self.at.window_images),
        };
        let _phase = range(c"files");
        self.record.as_mut().map_or(Ok(()), |record| record.steps(&window))
    }

    /// Says once per task if its loss stays where guessing is.
    fn judge(&mut self, task: &Task, steps: &Steps, loss: f64) -> Result<()> {
        let Some(sum) = &mut self.early else { return Ok(()) };
        if self.known >= JUDGED.start {
            *sum += loss;
        }
        if self.known + 1 < JUDGED.end {
            return Ok(());
        }
        let mean = *sum / JUDGED.len() as f64;
        self.early = None;
        if self.record.is_none() {
            return Ok(());
        }
        let learner = &self.session.learner;
        let classes = self.session.task_view(task).mask.iter().filter(|&&is_learned| is_learned).count();
        let chance = (classes as f64).ln();
        if classes < 2 || mean < NO_BETTER * chance {
            return Ok(());
        }
        let features = learner.method.model().pre_logits();
        let (rows, width) = (features.dims()[0].max(1), features.dims()[1]);
        let squares: f64 = features.view().read_f64()?.iter().map(|v| v * v).sum();
        let rate = learner.config.optim.learning_rate;
        self.progress.warn(&format!(
            "warning: task {}: the loss of steps {} to {} is {mean:.3}, that of guessing among {classes} classes {chance:.3}: \
             nothing is learned at optim.learning_rate = {rate} ({:.3e} per step) from features of length {:.2} ({width} \
             numbers); try rates from {:.3e} to {:.3e}, as `train --find-lr` does",
            task.index + 1,
            JUDGED.start,
            JUDGED.end - 1,
            steps.rate.at(self.known),
            (squares / rows as f64).sqrt(),
            rate / 10.0,
            rate * 10.0
        ));
        Ok(())
    }

    /// Makes everything about the steps so far known.
    fn settle(&mut self, task: &Task, steps: &Steps) -> Result<()> {
        let stats = self.session.learner.method.settle(&self.session.learner.dev)?;
        self.learned(task, steps, stats)
    }

    /// Saves in the middle of a task.
    fn save_within(&mut self, task: &Task, steps: &Steps) -> Result<()> {
        self.settle(task, steps)?;
        self.save()
    }

    /// Tests in the middle of a task, for the log and TensorBoard.
    fn evaluate_within(&mut self, task: &Task, steps: &Steps, cache: &mut QueryCache) -> Result<()> {
        self.settle(task, steps)?;
        let scores = self.scores(task, cache, false)?;
        let step = self.at.step;
        self.record.as_mut().map_or(Ok(()), |record| record.epoch(task.index, step, &scores))
    }

    /// How many test sets the network is tested on in or after this task.
    fn tests_after(&self, task: &Task) -> usize {
        let (split, joint) = (&self.session.split, self.is_joint());
        split.tests_after(if joint { split.tasks.len() - 1 } else { task.index })
    }

    fn is_joint(&self) -> bool {
        self.session.learner.config.continual.scenario == Scenario::Joint
    }

    /// Validation images of a run are reported; they choose nothing.
    fn validates(&self) -> bool {
        self.kind == LearningKind::Run && self.session.split.has_validation()
    }

    /// Tests on the test sets of the tasks up to this one; with `stops`, a request to stop ends it.
    fn scores(&mut self, task: &Task, cache: &mut QueryCache, stops: bool) -> Result<Vec<TaskScore>> {
        let _phase = range(c"evaluation");
        let clock = Instant::now();
        let mut scores = Vec::new();
        let tests = self.tests_after(task);
        for i in 0..tests {
            if stops {
                self.stop_if_asked(None)?;
                self.progress.tested(i, tests);
            }
            scores.push(evaluate::task(&mut self.session, cache, i)?);
        }
        self.at.eval_seconds += clock.elapsed().as_secs_f64();
        self.at.eval_images += scores.iter().map(|s| s.images as u64).sum::<u64>();
        Ok(scores)
    }

    fn evaluate(
        &mut self,
        task: &Task,
        cache: &mut QueryCache,
        validation: Option<&mut QueryCache>,
    ) -> Result<()> {
        let scores = self.scores(task, cache, true)?;
        let validation = match validation {
            Some(cache) => self.scores(task, cache, true)?,
            None => Vec::new(),
        };
        if let Some(bad) = scores.iter().position(|s| !s.loss.is_finite()) {
            return Err(Error::failed(format!(
                "after task {} the loss on the test images of task {} is {}: the last steps diverged; a smaller \
                 optim.learning_rate may help: `--resume --set optim.learning_rate=RATE` goes on from the last \
                 checkpoint, which is intact",
                task.index + 1,
                bad + 1,
                scores[bad].loss
            )));
        }
        // Learned all at once: after any number of tasks the same network answers.
        let upto = scores.len();
        let rows = if self.is_joint() { 1..upto + 1 } else { upto..upto + 1 };
        for n in rows {
            let validation = &validation[..n.min(validation.len())];
            scores::add_row(&self.session.split, &mut self.at, &scores[..n], validation);
        }
        if self.session.learner.config.continual.forward_transfer && upto < self.session.split.tasks.len() {
            let next = evaluate::task(&mut self.session, cache, upto)?;
            self.at.ahead.push([next.per_image, next.per_batch]);
        }
        let Some(record) = &mut self.record else { return Ok(()) };
        let own = self.session.score(&self.at, Tests::Own)?;
        let voted = self.session.score(&self.at, Tests::Vote)?;
        let validation = self.session.score(&self.at, Tests::Validation)?;
        record.task(task.index, self.at.step, &scores, &own, &voted, &validation)?;
        let votes = self.session.learner.method.model().prompts.vote_group().is_some();
        let tasks = self.session.train_tasks.len();
        let mut line = report::task_line(task, tasks, &own, votes.then_some(&voted));
        if !validation.accuracy_matrix.is_empty() {
            line += &format!(", validation {} %", table::percent(validation.avg_acc));
        }
        self.progress.say(&line);
        Ok(())
    }

    /// Tests the network on all tasks but the first before its first step, where forward transfer is asked for.
    fn test_fresh(&mut self, tasks: &[Task], cache: &mut QueryCache) -> Result<()> {
        let wanted = self.session.learner.config.continual.forward_transfer;
        if !wanted || self.at.step > 0 || self.kind == LearningKind::Pretraining {
            return Ok(());
        }
        if self.session.split.shared_test {
            return Err(Error::config(format!(
                "continual.forward_transfer = true needs test images in each of the {} domains, found domains of {} \
                 without: all tasks share one test set; set it to false",
                tasks.len(),
                self.session.data.name
            )));
        }
        let _phase = range(c"evaluation");
        self.at.fresh.clear();
        for task in &tasks[1..] {
            let score = evaluate::task(&mut self.session, cache, task.index)?;
            self.at.fresh.push([score.per_image, score.per_batch]);
        }
        Ok(())
    }

    /// After a signal: saves and ends, or ends what begins anew.
    fn stop_if_asked(&mut self, within: Option<(&Task, &Steps)>) -> Result<()> {
        if self.kind == LearningKind::Baseline {
            return self.session.stop_baseline();
        }
        if !self.session.stop_requested()? {
            return Ok(());
        }
        match within {
            Some((task, steps)) => self.save_within(task, steps)?,
            None => self.save()?,
        }
        self.progress.finish();
        let place = self
            .record
            .as_ref()
            .map_or("by rank 0".into(), |record| format!("in {}", record.checkpoints().display()));
        Err(Error::Interrupted(format!("saved after step {} {place}; add --resume to go on", self.at.step)))
    }

    /// Writes a checkpoint of this moment.
    ///
    /// # Errors
    /// `Error::File` if it cannot be written; the last one is then intact.
    pub fn save(&mut self) -> Result<()> {
        self.at.classes_seen.clone_from(&self.session.learner.classes_seen);
        self.at.optimizer_step = self.session.learner.method.optimizer_step();
        self.at.seconds = self.seconds();
        self.at.learning_rate = Some(self.session.learner.config.optim.learning_rate);
        let Some(record) = &mut self.record else { return Ok(()) };
        let _phase = range(c"files");
        record.save(&mut self.at, self.session.learner.method.as_ref())
    }
}
