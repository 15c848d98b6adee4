//! Who has not been heard of for too long.

use super::{Failure, Hub, Seat, State};
use std::io::{self, Write};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// How long process 0 has to say what the failure of a run is.
const VERDICT: Duration = Duration::from_secs(5);

impl Hub {
    /// Looks after the ranks until [`Hub::finish`].
    pub fn watch(&self) {
        let tick = (self.rank_timeout / 20).clamp(Duration::from_millis(5), Duration::from_secs(1));
        let mut state = self.lock();
        let mut last = Instant::now();
        while !state.finished {
            state = self.finished.wait_timeout(state, tick).unwrap_or_else(PoisonError::into_inner).0;
            let now = Instant::now();
            // If this thread did not run, the process was stopped, and so were its ranks and readers.
            let stopped = now.saturating_duration_since(last).saturating_sub(tick);
            if stopped > self.rank_timeout / 2 {
                state.seats.iter_mut().for_each(|s| s.heard += stopped);
                state.peers.iter_mut().for_each(|p| p.heard += stopped);
                state.failed_at += stopped;
            }
            last = now;
            if state.failure.is_some() {
                self.end_without(&state, now);
            } else if !state.over {
                self.find_silent_ranks(&mut state, now);
                self.find_silent_peers(&mut state, now);
                self.insist(&mut state, now);
            }
        }
    }

    fn find_silent_ranks(&self, state: &mut State, now: Instant) {
        let silent = |local: &usize| state.seats[*local].silence(now) > self.rank_timeout;
        let first = self.places().first_here();
        let ranks: Vec<usize> = (0..state.seats.len()).filter(silent).map(|l| first + l).collect();
        if ranks.is_empty() {
            return;
        }
        let waiting = state.seats.iter().find_map(|s| s.at.as_deref());
        let text = format!(
            "nothing has been heard of {} for {}{}",
            self.places().names(&ranks),
            self.limit(),
            waiting.map_or(String::new(), |at| format!(", while others wait, {at}")),
        );
        self.raise(state, Failure::seen(text));
    }

    fn find_silent_peers(&self, state: &mut State, now: Instant) {
        let silent =
            |p: &super::Peer| !p.silent && now.saturating_duration_since(p.heard) > self.rank_timeout;
        let Some(process) = state.peers.iter().position(silent) else { return };
        let text = format!(
            "nothing has come from the process of {} for {}: it is stopped, or its host or the network is down",
            self.places().names_of(process),
            self.limit(),
        );
        // Another process can ask nobody but the silent one.
        self.adopt(state, Failure::seen(text));
    }

    fn limit(&self) -> String {
        format!("{} s (L2P_RANK_TIMEOUT_S sets this limit)", self.rank_timeout.as_secs_f64())
    }

    /// Where process 0 does not say what the failure is, it is what this process found.
    fn insist(&self, state: &mut State, now: Instant) {
        if let Some((_, since)) = &state.claim
            && now.saturating_duration_since(*since) > VERDICT
            && let Some((claim, _)) = state.claim.take()
        {
            self.adopt(state, claim);
        }
    }

    /// A thread that hangs cannot be stopped: some time after a failure the process ends without it.
    fn end_without(&self, state: &State, now: Instant) {
        let late = now.saturating_duration_since(state.failed_at) > self.grace;
        let hangs = |s: &Seat| s.silence(now) > self.grace;
        let Some(failure) = state.failure.as_ref().filter(|_| late && state.seats.iter().any(hangs)) else {
            return;
        };
        let error = failure.error();
        let patience = self.grace.as_secs_f64();
        // With standard error closed, the exit code has to do.
        let _ = writeln!(io::stderr(), "l2p-engine: {error} (a rank did not come back within {patience} s)");
        std::process::exit(error.exit_code());
    }
}
