//! What other processes say, and the end of a run.

use super::{Failure, Hub, Message};
use crate::comm::wire::Frame;
use std::io;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// How long the others have to hang up at the end of a run.
const GOODBYE: Duration = Duration::from_secs(2);

impl Hub {
    /// How often a process that has nothing to say says so.
    pub fn alive_every(&self) -> Duration {
        (self.rank_timeout / 10).clamp(Duration::from_millis(5), Duration::from_secs(5))
    }

    /// Takes in what `process` has sent.
    pub fn receive(&self, process: usize, frame: Frame) {
        let mut state = self.lock();
        state.peers[process].heard = Instant::now();
        let leading = self.places().process() == 0;
        let ranks = self.places().ranks_of(process);
        match frame.message {
            Message::Alive => return,
            Message::Failed(failure) => self.adopt(&mut state, failure),
            Message::Over if !leading => state.over = true,
            Message::Answer { number } if !leading && number == state.done => {
                self.conclude(&mut state, frame.parts);
            }
            Message::Call { number, purpose }
                if leading
                    && number == state.done
                    && frame.parts.len() == ranks.len()
                    && state.peers[process].call.is_none() =>
            {
                state.peers[process].call = Some((purpose, frame.parts));
                self.check_for_gone(&mut state);
            }
            Message::Left { rank, interrupted } if leading && ranks.contains(&rank) => {
                state.peers[process].gone += 1;
                self.has_gone(&mut state, rank, interrupted);
            }
            // After a failure the others may still be in the middle of a sentence.
            _ if state.failure.is_some() => return,
            other => {
                let names = self.places().names_of(process);
                let text = format!("the process of {names} said what it should not have: {other:?}");
                self.raise(&mut state, Failure::seen(text));
            }
        }
        self.changed.notify_all();
    }

    /// The connection to `process` is gone.
    pub fn lost(&self, process: usize, why: &io::Error) {
        let mut state = self.lock();
        state.peers[process].silent = true;
        let names = self.places().names_of(process);
        let done = state.over || state.peers[process].gone == self.places().ranks_of(process).len();
        if !done {
            let text = match why.kind() {
                io::ErrorKind::InvalidData => format!("the process of {names} cannot be understood: {why}"),
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => format!(
                    "the process of {names} has ended without a word: killed, out of memory, or crashed; \
                     its own output may say more"
                ),
                _ => format!("the connection to {names} is lost: {why}"),
            };
            let claim = state.claim.take().map(|(claim, _)| claim);
            self.adopt(&mut state, claim.unwrap_or(Failure::seen(text)));
        }
        self.changed.notify_all();
    }

    /// Waits until all ranks everywhere are done or the run has failed, and nothing here works for it.
    pub fn finish(&self) {
        let mut state = self.lock();
        while !state.over && state.failure.is_none() {
            state = self.wait(state);
        }
        let ringing = std::mem::take(&mut state.ringing);
        // They may hold a `Comm`, and so this.
        let silenced = std::mem::take(&mut state.alarms);
        drop(state);
        drop(silenced);
        // An alarm that hangs is left behind, as a rank that hangs cannot be.
        let patience = Instant::now() + self.grace;
        while ringing.iter().any(|alarm| !alarm.is_finished()) && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(2));
        }
        self.line.hang_up();
        let end = Instant::now() + GOODBYE;
        let mut state = self.lock();
        // Closing while the other side still speaks would take back what it has not read yet.
        while state.peers.iter().any(|p| !p.silent) && Instant::now() < end {
            let left = end.saturating_duration_since(Instant::now());
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        self.line.cut();
        state.finished = true;
        self.finished.notify_all();
    }
}
