//! Matches the calls of the ranks of one process. The last rank to arrive exchanges the call with the other
//! processes: process 0 combines what all offer (`lead`), the others send to it and wait (`follow`).

mod peers;
mod watch;

use super::connection::Connections;
use super::failure::Failure;
use super::topology::Topology;
use super::wire::{Frame, Limit, Message, Parts};
use crate::error::{Error, Result};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What [`Coordinator::on_failure`] is given.
type Callback = Box<dyn FnOnce() + Send>;
type Guard<'a> = MutexGuard<'a, CallState>;

#[derive(Debug)]
pub struct Coordinator {
    topology: Topology,
    connections: Connections,
    rank_timeout: Duration,
    grace: Duration,
    state: Mutex<CallState>,
    /// Notified after every change that a rank may wait for.
    changed: Condvar,
    /// Notified at the end of the run only, so that the watch thread does not wake up at every call.
    finished: Condvar,
}

struct CallState {
    /// By local rank.
    ranks: Vec<LocalRank>,
    /// By process; this one's is not used.
    peers: Vec<Peer>,
    /// The number of completed calls, and the result of the last.
    done: u64,
    answer: Parts,
    /// The first rank whose work is known to have ended, and the reason if it was interrupted.
    ended: Option<(usize, Option<String>)>,
    /// The work of all ranks of all processes has ended.
    over: bool,
    failure: Option<Failure>,
    failed_at: Instant,
    /// The failure that this process has reported to process 0, which has not answered yet.
    claim: Option<(Failure, Instant)>,
    callbacks: Vec<Callback>,
    running: Vec<JoinHandle<()>>,
    finished: bool,
}

impl std::fmt::Debug for CallState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let CallState { done, failure, .. } = self;
        f.debug_struct("CallState").field("done", done).field("failure", failure).finish_non_exhaustive()
    }
}

/// A rank of this process.
struct LocalRank {
    /// The purpose of the call that it is in, and the bytes that it offers.
    call: Option<String>,
    offer: Vec<u8>,
    /// When it last made a call or a check.
    heard: Instant,
    /// Its work has ended.
    ended: bool,
}

impl LocalRank {
    /// The time since the last call or check; zero for a rank that is in a call or has ended.
    fn silence(&self, now: Instant) -> Duration {
        if self.ended || self.call.is_some() {
            Duration::ZERO
        } else {
            now.saturating_duration_since(self.heard)
        }
    }

    fn leave_call(&mut self) {
        self.call = None;
        self.heard = Instant::now();
    }
}

/// State of a connected process, as seen by this one.
struct Peer {
    heard: Instant,
    /// The call that its ranks are in: the purpose and what they offer.
    call: Option<(String, Parts)>,
    /// The number of its ranks whose work has ended.
    ended: usize,
    /// There is no connection, or it has ended.
    disconnected: bool,
}

impl Coordinator {
    pub fn new(
        topology: Topology,
        connections: Connections,
        rank_timeout: Duration,
        grace: Duration,
    ) -> Coordinator {
        let now = Instant::now();
        let rank = |_| LocalRank { call: None, offer: Vec::new(), heard: now, ended: false };
        let connected = |other| other != topology.process() && (other == 0 || topology.process() == 0);
        let peer = |other| Peer { heard: now, call: None, ended: 0, disconnected: !connected(other) };
        let state = CallState {
            ranks: (0..topology.here()).map(rank).collect(),
            peers: (0..topology.processes()).map(peer).collect(),
            done: 0,
            answer: Parts::default(),
            ended: None,
            over: false,
            failure: None,
            failed_at: now,
            claim: None,
            callbacks: Vec::new(),
            running: Vec::new(),
            finished: false,
        };
        let (changed, finished) = (Condvar::new(), Condvar::new());
        Coordinator {
            topology,
            connections,
            rank_timeout,
            grace,
            state: Mutex::new(state),
            changed,
            finished,
        }
    }

    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    pub fn failure(&self) -> Option<Failure> {
        self.lock().failure.clone()
    }

    /// A poisoned lock is used as it is: no code here panics while it holds the lock, and after a panic of
    /// the allocator the state is still consistent.
    fn lock(&self) -> Guard<'_> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: Guard<'a>) -> Guard<'a> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    fn name(&self, local: usize) -> String {
        self.topology.name(self.topology.first_here() + local)
    }

    /// One call: waits until every rank makes it with the same `purpose`. Process 0 applies `combine` to the
    /// offers in rank order, and every rank returns the result.
    ///
    /// # Errors
    /// The failure of the run.
    pub fn exchange(
        &self,
        local: usize,
        purpose: &str,
        offer: Vec<u8>,
        combine: impl FnOnce(Vec<Vec<u8>>) -> Vec<Vec<u8>>,
    ) -> Result<Parts> {
        let mut state = self.lock();
        self.arrive(&mut state, local, purpose, offer)?;
        let call = state.done;
        if state.claim.is_none() && state.failure.is_none() && state.ranks.iter().all(|s| s.call.is_some()) {
            if self.topology.process() == 0 {
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
                state.ranks[local].leave_call();
                return Err(error);
            }
            state = self.wait(state);
        }
    }

    /// Records that the rank is in the call, unless the run has failed. A call that differs from another
    /// rank's fails the run.
    fn arrive(&self, state: &mut CallState, local: usize, purpose: &str, offer: Vec<u8>) -> Result<()> {
        if let Some(failure) = &state.failure {
            return Err(failure.error());
        }
        if let Some(other) = &state.ranks[local].call {
            let text = format!("{} is in two calls at once, {other} and {purpose}", self.name(local));
            self.raise(state, Failure::observed(text.clone()));
            return Err(Error::failed(text));
        }
        let differs = |r: &LocalRank| r.call.as_ref().is_some_and(|other| other != purpose);
        if let Some(other) = state.ranks.iter().position(differs) {
            let there = state.ranks[other].call.as_deref().unwrap_or_default();
            let text = different(&self.name(other), there, &self.name(local), purpose);
            self.raise(state, Failure::observed(text));
        }
        let rank = &mut state.ranks[local];
        (rank.call, rank.offer) = (Some(purpose.to_string()), offer);
        self.check_for_ended(state);
        Ok(())
    }

    /// In process 0, for the last rank to arrive. When this returns, the call is complete or the run has
    /// failed.
    fn lead<'a>(
        &'a self,
        state: Guard<'a>,
        purpose: &str,
        combine: impl FnOnce(Vec<Vec<u8>>) -> Vec<Vec<u8>>,
    ) -> Guard<'a> {
        let (mut state, all) = match self.collect(state, purpose) {
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
        if self.topology.processes() > 1 {
            if self.is_too_large(&mut state, purpose, &answer) {
                return state;
            }
            // Sent while the lock is held: a process that gets this and ends at once is handled after
            // `conclude`, and is not taken to be missing in this call.
            self.connections.send_all(Frame { message: Message::Answer { number }, parts: answer.clone() });
        }
        self.conclude(&mut state, answer);
        state
    }

    /// What all ranks offer, in rank order. The error is the lock alone, after the run has failed.
    fn collect<'a>(
        &'a self,
        mut state: Guard<'a>,
        purpose: &str,
    ) -> std::result::Result<(Guard<'a>, Vec<Vec<u8>>), Guard<'a>> {
        let others = 1..self.topology.processes();
        while !others.clone().all(|p| state.peers[p].call.is_some()) {
            if state.failure.is_some() {
                return Err(state);
            }
            state = self.wait(state);
        }
        let mut all: Vec<Vec<u8>> = state.ranks.iter_mut().map(|s| std::mem::take(&mut s.offer)).collect();
        for process in others {
            let Some((there, parts)) = state.peers[process].call.take() else { continue };
            if there != purpose {
                let other = self.topology.name(self.topology.ranks_of(process).start);
                let text = different(&self.name(0), purpose, &other, &there);
                self.raise(&mut state, Failure::observed(text));
                return Err(state);
            }
            all.extend(Arc::unwrap_or_clone(parts));
        }
        Ok((state, all))
    }

    /// In another process, for the last rank to arrive: sends the offers to process 0, whose answer arrives in
    /// [`Coordinator::receive`].
    fn follow(&self, state: &mut CallState, purpose: &str) {
        let offers = Parts::new(state.ranks.iter_mut().map(|s| std::mem::take(&mut s.offer)).collect());
        if !self.is_too_large(state, purpose, &offers) {
            let message = Message::Call { number: state.done, purpose: purpose.into() };
            self.connections.send(0, Arc::new(Frame { message, parts: offers }));
        }
    }

    fn conclude(&self, state: &mut CallState, answer: Parts) {
        state.answer = answer;
        state.done += 1;
        state.ranks.iter_mut().for_each(LocalRank::leave_call);
        self.changed.notify_all();
    }

    fn is_too_large(&self, state: &mut CallState, purpose: &str, parts: &Parts) -> bool {
        let bytes: usize = parts.iter().map(Vec::len).sum();
        let large = bytes as u64 > Limit::MEMBER.body;
        if large {
            let text = format!("{bytes} bytes are too many for {purpose}: {} at most", Limit::MEMBER.body);
            self.raise(state, Failure::observed(text));
        }
        large
    }

    /// Fails the run if a rank has ended while another is in a call, which can then never complete.
    fn check_for_ended(&self, state: &mut CallState) {
        let here = state.ranks.iter().position(|s| s.call.is_some());
        let here = here.map(|local| (self.topology.first_here() + local, state.ranks[local].call.as_deref()));
        let there = state.peers.iter().position(|p| p.call.is_some()).map(|process| {
            let purpose = state.peers[process].call.as_ref().map(|(purpose, _)| purpose.as_str());
            (self.topology.ranks_of(process).start, purpose)
        });
        let (Some((rank, interrupted)), Some((other, at))) = (&state.ended, here.or(there)) else { return };
        let text = format!(
            "{} has ended{}, but {} waits for it, {}; all ranks must make the same calls",
            self.topology.name(*rank),
            interrupted.as_ref().map_or(String::new(), |why| format!(" ({why})")),
            self.topology.name(other),
            at.unwrap_or_default(),
        );
        self.raise(state, Failure::observed(text));
    }

    /// Reports a failure. Only the first of a run counts; process 0 decides which is the first, the others
    /// send theirs to it as a claim.
    fn raise(&self, state: &mut CallState, failure: Failure) {
        if state.failure.is_some() || state.claim.is_some() {
            return;
        }
        if self.topology.process() == 0 || state.peers[0].disconnected {
            return self.adopt(state, failure);
        }
        self.connections.send(0, Arc::new(Frame::bare(Message::Failed(failure.clone()))));
        state.claim = Some((failure, Instant::now()));
    }

    /// Makes `failure` the failure of the run and wakes everything that waits.
    fn adopt(&self, state: &mut CallState, failure: Failure) {
        if state.failure.is_some() {
            return;
        }
        if self.topology.process() == 0 {
            self.connections.send_all(Frame::bare(Message::Failed(failure.clone())));
        }
        state.failure = Some(failure);
        state.failed_at = Instant::now();
        for callback in std::mem::take(&mut state.callbacks) {
            start(state, callback);
        }
        self.changed.notify_all();
    }

    pub fn fail(&self, local: usize, why: &Error) {
        self.raise(&mut self.lock(), Failure::of_rank(&self.name(local), why));
    }

    /// Reports a failure that all ranks find together, without the name of a rank. Returns it as an error.
    pub fn fail_together(&self, text: String) -> Error {
        let failure = Failure::observed(text);
        let error = failure.error();
        self.raise(&mut self.lock(), failure);
        error
    }

    pub fn on_failure(&self, callback: Callback) {
        let mut state = self.lock();
        if state.failure.is_some() {
            start(&mut state, callback);
        } else {
            state.callbacks.push(callback);
        }
    }

    pub fn check(&self, local: usize) -> Result<()> {
        let mut state = self.lock();
        state.ranks[local].heard = Instant::now();
        state.failure.as_ref().map_or(Ok(()), |failure| Err(failure.error()))
    }

    /// Records that the work of a rank has ended. An error other than an interruption fails the run.
    pub fn end(&self, local: usize, result: std::result::Result<(), &Error>) {
        let mut interrupted = None;
        match result {
            Err(why @ Error::Interrupted(_)) => interrupted = Some(why.to_string()),
            Err(why) => self.fail(local, why),
            Ok(()) => {}
        }
        let mut state = self.lock();
        state.ranks[local].ended = true;
        let rank = self.topology.first_here() + local;
        if state.failure.is_none() && state.claim.is_none() {
            let ended = Message::Ended { rank, interrupted: interrupted.clone() };
            if self.topology.process() != 0 {
                self.connections.send(0, Arc::new(Frame::bare(ended)));
            }
            self.rank_ended(&mut state, rank, interrupted);
        }
    }

    fn rank_ended(&self, state: &mut CallState, rank: usize, interrupted: Option<String>) {
        state.ended.get_or_insert((rank, interrupted));
        self.check_for_ended(state);
        let all_there = |p: usize| state.peers[p].ended == self.topology.ranks_of(p).len();
        let all = state.ranks.iter().all(|r| r.ended) && (1..self.topology.processes()).all(all_there);
        if self.topology.process() == 0 && all && state.failure.is_none() {
            state.over = true;
            self.connections.send_all(Frame::bare(Message::Over));
            self.changed.notify_all();
        }
    }
}

fn different(one: &str, purpose: &str, other: &str, its_purpose: &str) -> String {
    format!(
        "{one} is {purpose} while {other} is {its_purpose}; all ranks must make the same calls in the same order"
    )
}

fn start(state: &mut CallState, callback: Callback) {
    // Where no thread can be started the callback is lost; `Coordinator::end_without` then ends the process.
    let thread = std::thread::Builder::new().name("failure of a rank".into()).spawn(callback);
    state.running.extend(thread.ok());
}
