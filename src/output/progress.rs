//! How far the run is: a bar on a terminal, a line now and then elsewhere, nothing with `--quiet`.

use super::console::say;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Something that a run has done.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Event {
    /// Steps done in this process, how many there are for it at most, and the last loss that is known.
    Step { done: u64, of: u64, loss: Option<f64> },
    /// Test sets that the network was tested on after a task, and how many there are.
    Test { done: u64, of: u64 },
}

/// Hears of every step and every test after a task.
#[derive(Clone)]
pub struct Listener(Arc<dyn Fn(Event) + Send + Sync>);

impl Listener {
    pub fn new(hear: impl Fn(Event) + Send + Sync + 'static) -> Listener {
        Listener(Arc::new(hear))
    }
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("Listener")
    }
}

/// Progress over all steps of a run.
#[derive(Debug)]
pub struct Progress {
    show: Show,
    listener: Option<Listener>,
    clock: Clock,
    started: Instant,
    last_line: Instant,
}

#[derive(Debug)]
enum Show {
    Bar(ProgressBar),
    Lines,
    Nothing,
}

/// What a line says, apart from where it goes.
#[derive(Debug, Clone)]
pub struct Clock {
    tasks: usize,
    total_steps: u64,
    /// Steps done before this process started; the rate does not count them.
    first_step: u64,
    task: usize,
    step: u64,
    loss: Option<f64>,
    images: u64,
}

impl Clock {
    pub fn new(tasks: usize, total_steps: u64, first_step: u64) -> Clock {
        Clock { tasks, total_steps, first_step, task: 0, step: first_step, loss: None, images: 0 }
    }

    pub fn task(&mut self, task: usize) {
        self.task = task;
    }

    /// `loss`: if it is known by now.
    pub fn step(&mut self, step: u64, loss: impl Into<Option<f64>>, images: usize) {
        self.step = step;
        self.loss = loss.into().or(self.loss);
        self.images += images as u64;
    }

    fn event(&self) -> Event {
        let since_start = |step: u64| step.saturating_sub(self.first_step);
        Event::Step { done: since_start(self.step), of: since_start(self.total_steps), loss: self.loss }
    }

    /// `task 2/5  step 120/400  loss 0.4321  1234 images/s  1m 05s left`.
    pub fn line(&self, elapsed: Duration) -> String {
        let seconds = elapsed.as_secs_f64();
        let done = self.step.saturating_sub(self.first_step);
        let mut line =
            format!("task {}/{}  step {}/{}", self.task + 1, self.tasks, self.step, self.total_steps);
        match self.loss {
            Some(loss) if loss.is_finite() => line += &format!("  loss {loss:.4}"),
            Some(loss) => line += &format!("  loss {loss}"),
            None => {}
        }
        if done > 0 && seconds > 0.0 {
            let left = self.total_steps.saturating_sub(self.step) as f64 * seconds / done as f64;
            line += &format!("  {:.0} images/s  {} left", self.images as f64 / seconds, span(left));
        }
        line
    }
}

/// `42s`, `1m 05s`, `2h 03m`.
pub fn span(seconds: f64) -> String {
    let s = seconds.round() as u64;
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m {:02}s", s / 60, s % 60),
        _ => format!("{}h {:02}m", s / 3600, s / 60 % 60),
    }
}

impl Progress {
    /// `first_step` is the step a resumed run goes on from.
    pub fn new(quiet: bool, tasks: usize, total_steps: u64, first_step: u64) -> Progress {
        let show = if quiet {
            Show::Nothing
        } else if std::io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(Some(total_steps), ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("[{bar:24}] {msg}") {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_position(first_step);
            Show::Bar(bar)
        } else {
            Show::Lines
        };
        let now = Instant::now();
        let clock = Clock::new(tasks, total_steps, first_step);
        Progress { show, listener: None, clock, started: now, last_line: now }
    }

    /// `done` of the `of` tests after a task are done.
    pub fn tested(&self, done: usize, of: usize) {
        self.tell(Event::Test { done: done as u64, of: of as u64 });
    }

    fn tell(&self, event: Event) {
        if let Some(Listener(hear)) = &self.listener {
            hear(event);
        }
    }

    /// The same, and `listener` hears of what is done.
    pub fn heard_by(self, listener: Option<Listener>) -> Progress {
        Progress { listener, ..self }
    }

    /// The task that the following steps belong to, from 0.
    pub fn task(&mut self, task: usize) {
        self.clock.task(task);
    }

    /// Step `step` of the run is done, on so many images.
    pub fn step(&mut self, step: u64, loss: impl Into<Option<f64>>, images: usize) {
        self.clock.step(step, loss, images);
        self.tell(self.clock.event());
        match &self.show {
            Show::Bar(bar) => {
                bar.set_position(step);
                bar.set_message(self.clock.line(self.started.elapsed()));
            }
            Show::Lines if self.last_line.elapsed() >= LINE_EVERY => {
                self.last_line = Instant::now();
                say(&self.clock.line(self.started.elapsed()));
            }
            Show::Lines | Show::Nothing => {}
        }
    }

    /// A line above the bar, on standard error; nothing with `--quiet`.
    pub fn say(&self, text: &str) {
        match &self.show {
            Show::Bar(bar) => bar.suspend(|| say(text)),
            Show::Lines => say(text),
            Show::Nothing => {}
        }
    }

    /// As [`Progress::say`], and with `--quiet` as well.
    pub fn warn(&self, text: &str) {
        match &self.show {
            Show::Nothing => say(text),
            _ => self.say(text),
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Show::Bar(bar) = &self.show {
            bar.finish_and_clear();
        }
    }
}
