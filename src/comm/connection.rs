//! Connections to other processes while a run lasts. Each has one thread that reads and one that writes:
//! a lost peer is noticed at once, and a slow peer does not delay the others.

use super::wire::{self, Frame, Limit, Message};
use std::io::{self, BufReader, BufWriter};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The sending ends of all connections, by process.
#[derive(Debug, Default)]
pub struct Connections {
    outgoing: Vec<Option<Outgoing>>,
}

#[derive(Debug)]
struct Outgoing {
    /// `None` after [`Connections::finish_sending`].
    queue: Mutex<Option<Sender<Arc<Frame>>>>,
    stream: Arc<TcpStream>,
}

/// What the two threads of one connection work with.
pub struct Connection {
    process: usize,
    stream: Arc<TcpStream>,
    queue: Receiver<Arc<Frame>>,
}

impl Connections {
    /// `streams` by process, `None` for processes without a connection.
    pub fn new(streams: Vec<Option<Arc<TcpStream>>>) -> (Connections, Vec<Connection>) {
        let mut connections = Vec::new();
        let mut outgoing = Vec::new();
        for (process, stream) in streams.into_iter().enumerate() {
            outgoing.push(stream.map(|stream| {
                let (sender, queue) = channel();
                connections.push(Connection { process, stream: stream.clone(), queue });
                Outgoing { queue: Mutex::new(Some(sender)), stream }
            }));
        }
        (Connections { outgoing }, connections)
    }

    /// Queues `frame` for `process` and returns at once. Does nothing where there is no connection: its
    /// reading thread has reported the loss already.
    pub fn send(&self, process: usize, frame: Arc<Frame>) {
        let Some(Some(peer)) = self.outgoing.get(process) else { return };
        let queue = peer.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = queue.as_ref() {
            let _ = queue.send(frame);
        }
    }

    /// [`Connections::send`] to all.
    pub fn send_all(&self, frame: Frame) {
        let frame = Arc::new(frame);
        (0..self.outgoing.len()).for_each(|process| self.send(process, frame.clone()));
    }

    /// Accepts no more frames. Those in the queues are still sent.
    pub fn finish_sending(&self) {
        for peer in self.outgoing.iter().flatten() {
            *peer.queue.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    /// Closes all connections at once, whatever is under way.
    pub fn close(&self) {
        for peer in self.outgoing.iter().flatten() {
            let _ = peer.stream.shutdown(Shutdown::Both);
        }
    }
}

/// Where the reading thread of a connection reports.
pub trait Receive: Sync {
    /// `process` has sent `frame`.
    fn receive(&self, process: usize, frame: Frame);

    /// The connection to `process` has ended.
    fn lost(&self, process: usize, why: &io::Error);
}

/// Reports what the peer sends until the connection ends.
fn read(to: &impl Receive, process: usize, stream: &TcpStream) {
    let mut from = BufReader::with_capacity(1 << 16, stream);
    loop {
        match wire::read(&mut from, Limit::MEMBER) {
            Ok(frame) => to.receive(process, frame),
            Err(why) => return to.lost(process, &why),
        }
    }
}

/// Sends what is queued, and [`Message::Alive`] after `alive` without anything.
fn write(stream: &TcpStream, queue: &Receiver<Arc<Frame>>, alive: Duration) {
    let mut out = BufWriter::with_capacity(1 << 16, stream);
    loop {
        let written = match queue.recv_timeout(alive) {
            Ok(frame) => wire::write(&mut out, &frame),
            Err(RecvTimeoutError::Timeout) => wire::write(&mut out, &Frame::bare(Message::Alive)),
            Err(RecvTimeoutError::Disconnected) => {
                let _ = stream.shutdown(Shutdown::Write);
                return;
            }
        };
        if written.is_err() {
            // The reading thread reports the loss.
            let _ = stream.shutdown(Shutdown::Both);
            return;
        }
    }
}

impl Connection {
    /// The reading and the writing end, each for a thread of its own. A connection without traffic sends
    /// [`Message::Alive`] every `alive`.
    pub fn split<R: Receive>(
        self,
        to: &R,
        alive: Duration,
    ) -> (impl FnOnce() + Send + '_, impl FnOnce() + Send + use<R>) {
        let Connection { process, stream, queue } = self;
        let reading = stream.clone();
        (move || read(to, process, &reading), move || write(&stream, &queue, alive))
    }
}
