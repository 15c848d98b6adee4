//! Where the ranks of a process meet. The last to arrive meets the other processes for all.

mod peers;
mod watch;

use super::failure::Failure;
use super::link::Line;
use super::topology::Places;
use super::wire::{Frame, Limit, Message};
use crate::error::{Error, Result};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub type Parts = Arc<Vec<Vec<u8>>>;
type Alarm = Box<dyn FnOnce() + Send>;
type Guard<'a> = MutexGuard<'a, State>;

#[derive(Debug)]
pub struct Hub {
    places: Places,
    line: Line,
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
    /// By process; this one's is not used.
    peers: Vec<Peer>,
    /// The calls that are done, and what the last came to.
    done: u64,
    answer: Parts,
    /// The first rank known whose work is over, and why if it was interrupted.
    gone: Option<(usize, Option<String>)>,
    /// The work of all ranks everywhere is over.
    over: bool,
    failure: Option<Failure>,
    failed_at: Instant,
    /// What this process claims to be the failure, until process 0 has said what it is.
    claim: Option<(Failure, Instant)>,
    alarms: Vec<Alarm>,
    ringing: Vec<JoinHandle<()>>,
    finished: bool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let State { done, failure, .. } = self;
        f.debug_struct("State").field("done", done).field("failure", failure).finish_non_exhaustive()
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

/// Another process, as far as it speaks to this one.
struct Peer {
    heard: Instant,
    /// Its ranks are in a call: the purpose and what they offer.
    call: Option<(String, Parts)>,
    /// The number of its ranks whose work is over.
    gone: usize,
    /// It says nothing more, or never has.
    silent: bool,
}

impl Hub {
    pub fn new(places: Places, line: Line, rank_timeout: Duration, grace: Duration) -> Hub {
        let now = Instant::now();
        let seat = |_| Seat { at: None, offer: Vec::new(), heard: now, gone: false };
        let connected = |other| other != places.process() && (other == 0 || places.process() == 0);
        let peer = |other| Peer { heard: now, call: None, gone: 0, silent: !connected(other) };
        let state = State {
            seats: (0..places.here()).map(seat).collect(),
            peers: (0..places.processes()).map(peer).collect(),
            done: 0,
            answer: Parts::default(),
            gone: None,
            over: false,
            failure: None,
            failed_at: now,
            claim: None,
            alarms: Vec::new(),
            ringing: Vec::new(),
            finished: false,
        };
        let (changed, finished) = (Condvar::new(), Condvar::new());
        Hub { places, line, rank_timeout, grace, state: Mutex::new(state), changed, finished }
    }

    pub fn places(&self) -> &Places {
        &self.places
    }

    pub fn failure(&self) -> Option<Failure> {
        self.lock().failure.clone()
    }

    /// No code of ours panics while it holds the lock; where the allocator does, the state is still whole.
    fn lock(&self) -> Guard<'_> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: Guard<'a>) -> Guard<'a> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    fn name(&self, local: usize) -> String {
        self.places.name(self.places.first_here() + local)
    }

    /// One call: waits for every rank to make it with the same `purpose`, has process 0 `combine` what all
    /// have offered, in rank order, and gives that to all.
    ///
    /// # Errors
    /// The failure of the run.
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
        if state.claim.is_none() && state.failure.is_none() && state.seats.iter().all(|s| s.at.is_some()) {
            if self.places.process() == 0 {
                state = self.lead(state, purpose, combine);
            } else {
                self.follow(&mut state, purpose);
            }
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

    /// Takes the rank's seat in the call, unless the run has failed. What is wrong with the call fails it.
    fn arrive(&self, state: &mut State, local: usize, purpose: &str, offer: Vec<u8>) -> Result<()> {
        if let Some(failure) = &state.failure {
            return Err(failure.error());
        }
        if let Some(other) = &state.seats[local].at {
            let text = format!("{} is in two calls at once, {other} and {purpose}", self.name(local));
            self.raise(state, Failure::seen(text.clone()));
            return Err(Error::failed(text));
        }
        let differs = |s: &Seat| s.at.as_ref().is_some_and(|at| at != purpose);
        if let Some(other) = state.seats.iter().position(differs) {
            let there = state.seats[other].at.as_deref().unwrap_or_default();
            let text = different(&self.name(other), there, &self.name(local), purpose);
            self.raise(state, Failure::seen(text));
        }
        let seat = &mut state.seats[local];
        (seat.at, seat.offer) = (Some(purpose.to_string()), offer);
        self.check_for_gone(state);
        Ok(())
    }

    /// In process 0, for the last rank to arrive: the call is done when this returns, or the run has failed.
    fn lead<'a>(
        &'a self,
        state: Guard<'a>,
        purpose: &str,
        combine: impl FnOnce(Vec<Vec<u8>>) -> Vec<Vec<u8>>,
    ) -> Guard<'a> {
        let (mut state, all) = match self.everyone(state, purpose) {
            Ok(all) => all,
            Err(state) => return state,
        };
        let number = state.done;
        drop(state);
        let answer = Parts::new(combine(all));
        state = self.lock();
        if state.failure.is_some() {
            return state;
        }
        if self.places.processes() > 1 {
            if self.is_too_large(&mut state, purpose, &answer) {
                return state;
            }
            // While the lock is held: who gets this and ends is then not missed in the same call.
            self.line.send_all(Frame { message: Message::Answer { number }, parts: answer.clone() });
        }
        self.conclude(&mut state, answer);
        state
    }

    /// What all ranks offer; gives the lock back alone when the run has failed.
    fn everyone<'a>(
        &'a self,
        mut state: Guard<'a>,
        purpose: &str,
    ) -> std::result::Result<(Guard<'a>, Vec<Vec<u8>>), Guard<'a>> {
        let others = 1..self.places.processes();
        while !others.clone().all(|p| state.peers[p].call.is_some()) {
            if state.failure.is_some() {
                return Err(state);
            }
            state = self.wait(state);
        }
        let mut all: Vec<Vec<u8>> = state.seats.iter_mut().map(|s| std::mem::take(&mut s.offer)).collect();
        for process in others {
            let Some((there, parts)) = state.peers[process].call.take() else { continue };
            if there != purpose {
                let other = self.places.name(self.places.ranks_of(process).start);
                let text = different(&self.name(0), purpose, &other, &there);
                self.raise(&mut state, Failure::seen(text));
                return Err(state);
            }
            all.extend(Arc::unwrap_or_clone(parts));
        }
        Ok((state, all))
    }

    /// In another process, for the last rank to arrive: process 0 answers in its time.
    fn follow(&self, state: &mut State, purpose: &str) {
        let offers = Parts::new(state.seats.iter_mut().map(|s| std::mem::take(&mut s.offer)).collect());
        if !self.is_too_large(state, purpose, &offers) {
            let message = Message::Call { number: state.done, purpose: purpose.into() };
            self.line.send(0, Arc::new(Frame { message, parts: offers }));
        }
    }

    fn conclude(&self, state: &mut State, answer: Parts) {
        state.answer = answer;
        state.done += 1;
        state.seats.iter_mut().for_each(Seat::leave_call);
        self.changed.notify_all();
    }

    fn is_too_large(&self, state: &mut State, purpose: &str, parts: &Parts) -> bool {
        let bytes: usize = parts.iter().map(Vec::len).sum();
        let large = bytes as u64 > Limit::MEMBER.body;
        if large {
            let text = format!("{bytes} bytes are too many for {purpose}: {} at most", Limit::MEMBER.body);
            self.raise(state, Failure::seen(text));
        }
        large
    }

    /// A rank that has ended will not come to the call that another is in.
    fn check_for_gone(&self, state: &mut State) {
        let here = state.seats.iter().position(|s| s.at.is_some());
        let here = here.map(|local| (self.places.first_here() + local, state.seats[local].at.as_deref()));
        let there = state.peers.iter().position(|p| p.call.is_some()).map(|process| {
            let purpose = state.peers[process].call.as_ref().map(|(purpose, _)| purpose.as_str());
            (self.places.ranks_of(process).start, purpose)
        });
        let (Some((rank, interrupted)), Some((other, at))) = (&state.gone, here.or(there)) else { return };
        let text = format!(
            "{} has ended{}, but {} waits for it, {}; all ranks must make the same calls",
            self.places.name(*rank),
            interrupted.as_ref().map_or(String::new(), |why| format!(" ({why})")),
            self.places.name(other),
            at.unwrap_or_default(),
        );
        self.raise(state, Failure::seen(text));
    }

    /// Says that the run cannot go on. The first to say so is believed; who is first, process 0 decides.
    fn raise(&self, state: &mut State, failure: Failure) {
        if state.failure.is_some() || state.claim.is_some() {
            return;
        }
        if self.places.process() == 0 || state.peers[0].silent {
            return self.adopt(state, failure);
        }
        self.line.send(0, Arc::new(Frame::bare(Message::Failed(failure.clone()))));
        state.claim = Some((failure, Instant::now()));
    }

    /// From now on the run has failed.
    fn adopt(&self, state: &mut State, failure: Failure) {
        if state.failure.is_some() {
            return;
        }
        if self.places.process() == 0 {
            self.line.send_all(Frame::bare(Message::Failed(failure.clone())));
        }
        state.failure = Some(failure);
        state.failed_at = Instant::now();
        for alarm in std::mem::take(&mut state.alarms) {
            ring(state, alarm);
        }
        self.changed.notify_all();
    }

    pub fn fail(&self, local: usize, why: &Error) {
        self.raise(&mut self.lock(), Failure::of_rank(&self.name(local), why));
    }

    /// A failure that all ranks find together, and none alone; as the error to return.
    pub fn found(&self, text: String) -> Error {
        let failure = Failure::seen(text);
        let error = failure.error();
        self.raise(&mut self.lock(), failure);
        error
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
        let mut interrupted = None;
        match result {
            Err(why @ Error::Interrupted(_)) => interrupted = Some(why.to_string()),
            Err(why) => self.fail(local, why),
            Ok(()) => {}
        }
        let mut state = self.lock();
        state.seats[local].gone = true;
        let rank = self.places.first_here() + local;
        if state.failure.is_none() && state.claim.is_none() {
            let left = Message::Left { rank, interrupted: interrupted.clone() };
            if self.places.process() != 0 {
                self.line.send(0, Arc::new(Frame::bare(left)));
            }
            self.has_gone(&mut state, rank, interrupted);
        }
    }

    fn has_gone(&self, state: &mut State, rank: usize, interrupted: Option<String>) {
        state.gone.get_or_insert((rank, interrupted));
        self.check_for_gone(state);
        let all_there = |p: usize| state.peers[p].gone == self.places.ranks_of(p).len();
        let all = state.seats.iter().all(|s| s.gone) && (1..self.places.processes()).all(all_there);
        if self.places.process() == 0 && all && state.failure.is_none() {
            state.over = true;
            self.line.send_all(Frame::bare(Message::Over));
            self.changed.notify_all();
        }
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
