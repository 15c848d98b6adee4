//! Messages from other processes, and the end of a run.

use super::{Coordinator, Failure, Message};
use crate::comm::connection::Receive;
use crate::comm::wire::Frame;
use std::io;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// How long the other processes have to close their connections at the end of a run.
const CLOSING: Duration = Duration::from_secs(2);

impl Receive for Coordinator {
    fn receive(&self, process: usize, frame: Frame) {
        let mut state = self.lock();
        state.peers[process].heard = Instant::now();
        let leading = self.topology().process() == 0;
        let ranks = self.topology().ranks_of(process);
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
                self.check_for_ended(&mut state);
            }
            Message::Ended { rank, interrupted } if leading && ranks.contains(&rank) => {
                state.peers[process].ended += 1;
                self.rank_ended(&mut state, rank, interrupted);
            }
            // Sent before the peer heard of the failure.
            _ if state.failure.is_some() => return,
            other => {
                let names = self.topology().names_of(process);
                let text =
                    format!("the process of {names} sent a message that is not expected now: {other:?}");
                self.raise(&mut state, Failure::observed(text));
            }
        }
        self.changed.notify_all();
    }

    fn lost(&self, process: usize, why: &io::Error) {
        let mut state = self.lock();
        state.peers[process].disconnected = true;
        let names = self.topology().names_of(process);
        let done = state.over || state.peers[process].ended == self.topology().ranks_of(process).len();
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
            self.adopt(&mut state, claim.unwrap_or(Failure::observed(text)));
        }
        self.changed.notify_all();
    }
}

impl Coordinator {
    /// The time after which a connection without traffic sends [`Message::Alive`].
    pub fn alive_every(&self) -> Duration {
        (self.rank_timeout / 10).clamp(Duration::from_millis(5), Duration::from_secs(5))
    }

    /// Waits until the work of all ranks of all processes has ended or the run has failed, and until the
    /// callbacks of [`Coordinator::on_failure`] have returned. Then closes the connections.
    pub fn finish(&self) {
        let mut state = self.lock();
        while !state.over && state.failure.is_none() {
            state = self.wait(state);
        }
        let running = std::mem::take(&mut state.running);
        // A callback may hold a `Comm`, whose drop takes this lock.
        let unused = std::mem::take(&mut state.callbacks);
        drop(state);
        drop(unused);
        // A callback that hangs is left behind. A rank cannot be: its thread is scoped.
        let patience = Instant::now() + self.grace;
        while running.iter().any(|callback| !callback.is_finished()) && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(2));
        }
        self.connections.finish_sending();
        let end = Instant::now() + CLOSING;
        let mut state = self.lock();
        // Closing while the peer still sends resets the connection, and the peer loses what it has not read.
        while state.peers.iter().any(|p| !p.disconnected) && Instant::now() < end {
            let left = end.saturating_duration_since(Instant::now());
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        self.connections.close();
        state.finished = true;
        self.finished.notify_all();
    }
}
