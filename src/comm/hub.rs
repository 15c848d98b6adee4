//! Where the ranks of a process meet. The last to arrive does what has to be done for all.

use super::failure::Failure;
use super::launch::Launch;
use super::places::Places;
use crate::error::{Error, Result};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub type Parts = Arc<Vec<Vec<u8>>>;
type Alarm = Box<dyn FnOnce() + Send>;

#[derive(Debug)]
pub struct Hub {
    places: Places,
    rank_timeout: Duration,
    grace: Duration,
    state: Mutex<State>,
    /// Something that a rank may wait for has happened.
    changed: Condvar,
    /// The run is over; for the watch, which need not wake up at every call.
    finished: Condvar,
}

struct State {
    /// By local rank.
    seats: Vec<Seat>,
    /// The calls that are done, and what the last came to.
    done: u64,
    answer: Parts,
    /// The first rank anywhere whose work is over, and why if it was interrupted.
    gone: Option<(usize, Option<String>)>,
    failure: Option<Failure>,
    failed_at: Instant,
    alarms: Vec<Alarm>,
    ringing: Vec<JoinHandle<()>>,
    finished: bool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("done", &self.done)
            .field("failure", &self.failure)
            .finish_non_exhaustive()
    }
}

/// A rank of this process.
struct Seat {
    /// The call that it is in, and what it has brought.
    at: Option<String>,
    offer: Vec<u8>,
    /// When it last said something.
    heard: Instant,
    /// Its work is over.
    gone: bool,
}

impl Seat {
    /// How long a rank that is at work has said nothing.
    fn silence(&self, now: Instant) -> Duration {
        if self.gone || self.at.is_some() {
            Duration::ZERO
        } else {
            now.saturating_duration_since(self.heard)
        }
    }

    fn leave_call(&mut self) {
        self.at = None;
        self.heard = Instant::now();
    }
}

impl Hub {
    pub fn new(launch: &Launch, local: usize) -> Hub {
        let now = Instant::now();
        let seat = || Seat { at: None, offer: Vec::new(), heard: now, gone: false };
        Hub {
            places: Places::alone(local),
            rank_timeout: launch.rank_timeout,
            grace: launch.grace,
            state: Mutex::new(State {
                seats: (0..local).map(|_| seat()).collect(),
                done: 0,
                answer: Parts::default(),
                gone: None,
                failure: None,
                failed_at: now,
                alarms: Vec::new(),
                ringing: Vec::new(),
                finished: false,
            }),
            changed: Condvar::new(),
            finished: Condvar::new(),
        }
    }

    pub fn places(&self) -> &Places {
        &self.places
    }

    pub fn failure(&self) -> Option<Failure> {
        self.lock().failure.clone()
    }

    /// No code of ours panics while it holds the lock; where the allocator does, the state is still whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// One call: waits for every rank to make it with the same `purpose`, has one of them `combine` what all
    /// have offered, in rank order, and gives that to all.
    pub fn meet(
        &self,
        local: usize,
        purpose: &str,
        offer: Vec<u8>,
        combine: impl FnOnce(Vec<Vec<u8>>) -> Vec<Vec<u8>>,
    ) -> Result<Parts> {
        let mut state = self.lock();
        self.arrive(&mut state, local, purpose, offer)?;
        let call = state.done;
        if state.failure.is_none() && state.seats.iter().all(|s| s.at.is_some()) {
            let offers = state.seats.iter_mut().map(|s| std::mem::take(&mut s.offer)).collect();
            drop(state);
            let answer = Arc::new(combine(offers));
            state = self.lock();
            state.answer = answer;
            state.done += 1;
            state.seats.iter_mut().for_each(Seat::leave_call);
            self.changed.notify_all();
        }
        loop {
            if state.done > call {
                return Ok(state.answer.clone());
            }
            if let Some(failure) = &state.failure {
                let error = failure.error();
                state.seats[local].leave_call();
                return Err(error);
            }
            state = self.wait(state);
        }
    }

    /// Takes the rank's seat in the call, unless the run has failed; what is wrong with the call fails it.
    fn arrive(&self, state: &mut State, local: usize, purpose: &str, offer: Vec<u8>) -> Result<()> {
        if let Some(failure) = &state.failure {
            return Err(failure.error());
        }
        let name = |local| self.places.name(self.places.first_here() + local);
        if let Some(other) = &state.seats[local].at {
            let twice = format!("{} is in two calls at once: {other} and {purpose}", name(local));
            self.raise(state, Failure::seen(twice));
            return Err(self.failed(state));
        }
        let differs = |s: &Seat| s.at.as_ref().is_some_and(|at| at != purpose);
        if let Some(other) = state.seats.iter().position(differs) {
            let there = state.seats[other].at.as_deref().unwrap_or_default();
            let text = different(&name(other), there, &name(local), purpose);
            self.raise(state, Failure::seen(text));
        }
        let seat = &mut state.seats[local];
        (seat.at, seat.offer) = (Some(purpose.to_string()), offer);
        self.check_for_gone(state);
        Ok(())
    }

    /// A rank that has ended will not come to the call that another is in.
    fn check_for_gone(&self, state: &mut State) {
        let waiting = state.seats.iter().position(|s| s.at.is_some());
        let (Some((rank, interrupted)), Some(waiting)) = (&state.gone, waiting) else { return };
        let at = state.seats[waiting].at.as_deref().unwrap_or_default();
        let text = format!(
            "{} has ended{}, but {} waits for it, {at}; all ranks must make the same calls",
            self.places.name(*rank),
            interrupted.as_ref().map_or(String::new(), |why| format!(" ({why})")),
            self.places.name(self.places.first_here() + waiting),
        );
        self.raise(state, Failure::seen(text));
    }

    fn failed(&self, state: &State) -> Error {
        state.failure.as_ref().map_or_else(|| Error::failed("the run has failed"), Failure::error)
    }

    /// Says that the run cannot go on. The first to do so is believed.
    fn raise(&self, state: &mut State, failure: Failure) {
        if state.failure.is_some() {
            return;
        }
        state.failure = Some(failure);
        state.failed_at = Instant::now();
        for alarm in std::mem::take(&mut state.alarms) {
            ring(state, alarm);
        }
        self.changed.notify_all();
    }

    pub fn fail(&self, local: usize, why: &Error) {
        let name = self.places.name(self.places.first_here() + local);
        self.raise(&mut self.lock(), Failure::of_rank(&name, why));
    }

    pub fn on_failure(&self, alarm: Alarm) {
        let mut state = self.lock();
        if state.failure.is_some() {
            ring(&mut state, alarm);
        } else {
            state.alarms.push(alarm);
        }
    }

    pub fn check(&self, local: usize) -> Result<()> {
        let mut state = self.lock();
        state.seats[local].heard = Instant::now();
        state.failure.as_ref().map_or(Ok(()), |failure| Err(failure.error()))
    }

    /// The work of a rank is over; an error that is no interruption fails the run.
    pub fn end(&self, local: usize, result: std::result::Result<(), &Error>) {
        let interrupted = match result {
            Err(why @ Error::Interrupted(_)) => Some(why.to_string()),
            Err(why) => {
                self.fail(local, why);
                None
            }
            Ok(()) => None,
        };
        let mut state = self.lock();
        state.seats[local].gone = true;
        state.gone.get_or_insert((self.places.first_here() + local, interrupted));
        self.check_for_gone(&mut state);
    }

    /// Waits until nothing of this process is at work for the run any more.
    pub fn finish(&self) {
        let ringing = std::mem::take(&mut self.lock().ringing);
        for alarm in ringing {
            // A panic of an alarm has been printed, and the run has failed anyway.
            let _ = alarm.join();
        }
        self.lock().finished = true;
        self.finished.notify_all();
    }

    /// Looks after the ranks until [`Hub::finish`].
    pub fn watch(&self) {
        let tick = (self.rank_timeout / 20).clamp(Duration::from_millis(5), Duration::from_secs(1));
        let mut state = self.lock();
        let mut last = Instant::now();
        while !state.finished {
            state = self.finished.wait_timeout(state, tick).unwrap_or_else(PoisonError::into_inner).0;
            let now = Instant::now();
            // If this thread did not run, the process was stopped, and so were its ranks.
            let stopped = now.saturating_duration_since(last).saturating_sub(tick);
            if stopped > self.rank_timeout / 2 {
                state.seats.iter_mut().for_each(|s| s.heard += stopped);
            }
            last = now;
            if state.failure.is_none() {
                self.find_silent(&mut state, now);
            } else {
                self.end_without(&mut state, now);
            }
        }
    }

    fn find_silent(&self, state: &mut State, now: Instant) {
        let silent = |s: &Seat| s.silence(now) > self.rank_timeout;
        let ranks: Vec<usize> = (0..state.seats.len()).filter(|l| silent(&state.seats[*l])).collect();
        if ranks.is_empty() {
            return;
        }
        let first = self.places.first_here();
        let waiting = state.seats.iter().find_map(|s| s.at.as_deref());
        let names = self.places.names(&ranks.iter().map(|l| l + first).collect::<Vec<_>>());
        let text = format!(
            "nothing has been heard of {names} for {} s{} (L2P_RANK_TIMEOUT_S sets this limit)",
            self.rank_timeout.as_secs_f64(),
            waiting.map_or(String::new(), |at| format!(", while others wait, {at}")),
        );
        self.raise(state, Failure::seen(text));
    }

    /// A thread that hangs cannot be stopped: the process ends without it.
    fn end_without(&self, state: &mut State, now: Instant) {
        let hangs = |s: &Seat| {
            s.silence(now) > self.grace && now.saturating_duration_since(state.failed_at) > self.grace
        };
        if !state.seats.iter().any(hangs) {
            return;
        }
        let error = self.failed(state);
        eprintln!("error: {error} (a rank did not come back within {} s)", self.grace.as_secs_f64());
        std::process::exit(error.exit_code());
    }
}

fn different(one: &str, purpose: &str, other: &str, its_purpose: &str) -> String {
    format!(
        "{one} is {purpose} while {other} is {its_purpose}; all ranks must make the same calls in the same order"
    )
}

fn ring(state: &mut State, alarm: Alarm) {
    // Without a thread the device cannot be told; `Hub::end_without` is then what ends the process.
    let thread = std::thread::Builder::new().name("failure of a rank".into()).spawn(alarm);
    state.ringing.extend(thread.ok());
}
