//! Finds ranks and processes that have not been heard of for too long.

use super::{CallState, Coordinator, Failure, LocalRank};
use std::io::{self, Write};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// How long process 0 has to answer a claim with the failure of the run.
const VERDICT: Duration = Duration::from_secs(5);

impl Coordinator {
    /// Checks ranks and peers periodically, until [`Coordinator::finish`] ends it.
    pub fn watch(&self) {
        let tick = (self.rank_timeout / 20).clamp(Duration::from_millis(5), Duration::from_secs(1));
        let mut state = self.lock();
        let mut last = Instant::now();
        while !state.finished {
            state = self.finished.wait_timeout(state, tick).unwrap_or_else(PoisonError::into_inner).0;
            let now = Instant::now();
            // Time in which this thread did not run counts for nothing: the process was stopped (SIGSTOP,
            // a suspended host), and with it the ranks and the reading threads.
            let stopped = now.saturating_duration_since(last).saturating_sub(tick);
            if stopped > self.rank_timeout / 2 {
                state.ranks.iter_mut().for_each(|s| s.heard += stopped);
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

    fn find_silent_ranks(&self, state: &mut CallState, now: Instant) {
        let silent = |local: &usize| state.ranks[*local].silence(now) > self.rank_timeout;
        let first = self.topology().first_here();
        let ranks: Vec<usize> = (0..state.ranks.len()).filter(silent).map(|l| first + l).collect();
        if ranks.is_empty() {
            return;
        }
        let waiting = state.ranks.iter().find_map(|s| s.call.as_deref());
        let text = format!(
            "nothing has been heard of {} for {}{}",
            self.topology().names(&ranks),
            self.limit(),
            waiting.map_or(String::new(), |at| format!(", while others wait, {at}")),
        );
        self.raise(state, Failure::observed(text));
    }

    fn find_silent_peers(&self, state: &mut CallState, now: Instant) {
        let silent =
            |p: &super::Peer| !p.disconnected && now.saturating_duration_since(p.heard) > self.rank_timeout;
        let Some(process) = state.peers.iter().position(silent) else { return };
        let text = format!(
            "nothing has come from the process of {} for {}: it is stopped, or its host or the network is down",
            self.topology().names_of(process),
            self.limit(),
        );
        // No claim is sent: outside process 0 the silent peer is process 0 itself.
        self.adopt(state, Failure::observed(text));
    }

    fn limit(&self) -> String {
        format!("{} s (L2P_RANK_TIMEOUT_S sets this limit)", self.rank_timeout.as_secs_f64())
    }

    /// Makes this process's own claim the failure if process 0 has not answered it in time.
    fn insist(&self, state: &mut CallState, now: Instant) {
        if let Some((_, since)) = &state.claim
            && now.saturating_duration_since(*since) > VERDICT
            && let Some((claim, _)) = state.claim.take()
        {
            self.adopt(state, claim);
        }
    }

    /// Ends the process if a rank has not returned within the grace period after a failure. A thread that
    /// hangs cannot be stopped otherwise.
    fn end_without(&self, state: &CallState, now: Instant) {
        let late = now.saturating_duration_since(state.failed_at) > self.grace;
        let hangs = |r: &LocalRank| r.silence(now) > self.grace;
        let Some(failure) = state.failure.as_ref().filter(|_| late && state.ranks.iter().any(hangs)) else {
            return;
        };
        let error = failure.error();
        let patience = self.grace.as_secs_f64();
        // Where standard error is closed, the exit code is all that can be reported.
        let _ = writeln!(io::stderr(), "l2p-engine: {error} (a rank did not come back within {patience} s)");
        std::process::exit(error.exit_code());
    }
}
