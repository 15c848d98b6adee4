//! Connections to other processes while a run lasts: per connection one thread that reads and one that
//! writes, so that a lost peer is noticed at once and a slow one holds nobody up.

use super::hub::Hub;
use super::wire::{self, Frame, Limit, Message};
use std::io::{BufReader, BufWriter};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The near ends of all connections, by process.
#[derive(Debug, Default)]
pub struct Line {
    peers: Vec<Option<Peer>>,
}

#[derive(Debug)]
struct Peer {
    /// `None` when everything has been said.
    orders: Mutex<Option<Sender<Arc<Frame>>>>,
    stream: Arc<TcpStream>,
}

/// What the two threads of a connection work with.
pub struct Cable {
    pub process: usize,
    stream: Arc<TcpStream>,
    orders: Receiver<Arc<Frame>>,
}

impl Line {
    /// `streams` by process, `None` for those without a connection.
    pub fn new(streams: Vec<Option<TcpStream>>) -> (Line, Vec<Cable>) {
        let mut cables = Vec::new();
        let mut peers = Vec::new();
        for (process, stream) in streams.into_iter().enumerate() {
            peers.push(stream.map(|stream| {
                let (stream, (sender, orders)) = (Arc::new(stream), channel());
                cables.push(Cable { process, stream: stream.clone(), orders });
                Peer { orders: Mutex::new(Some(sender)), stream }
            }));
        }
        (Line { peers }, cables)
    }

    /// Has `frame` sent to `process`; does not wait for it. Without a connection nothing happens: that it
    /// was lost is known already.
    pub fn send(&self, process: usize, frame: Arc<Frame>) {
        let Some(Some(peer)) = self.peers.get(process) else { return };
        let orders = peer.orders.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(orders) = orders.as_ref() {
            let _ = orders.send(frame);
        }
    }

    /// [`Line::send`] to all.
    pub fn send_all(&self, frame: Frame) {
        let frame = Arc::new(frame);
        (0..self.peers.len()).for_each(|process| self.send(process, frame.clone()));
    }

    /// Nothing more will be sent. What has been asked for still is.
    pub fn hang_up(&self) {
        for peer in self.peers.iter().flatten() {
            *peer.orders.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    /// Ends all connections, whatever they are doing.
    pub fn cut(&self) {
        for peer in self.peers.iter().flatten() {
            let _ = peer.stream.shutdown(Shutdown::Both);
        }
    }
}

/// Hands what the peer sends to `hub` until the connection ends.
fn read(hub: &Hub, process: usize, stream: &TcpStream) {
    let mut from = BufReader::with_capacity(1 << 16, stream);
    loop {
        match wire::read(&mut from, Limit::MEMBER) {
            Ok(frame) => hub.receive(process, frame),
            Err(why) => return hub.lost(process, &why),
        }
    }
}

/// Sends what is to be sent, and every `alive` that there was nothing.
fn write(stream: &TcpStream, orders: &Receiver<Arc<Frame>>, alive: Duration) {
    let mut out = BufWriter::with_capacity(1 << 16, stream);
    loop {
        let written = match orders.recv_timeout(alive) {
            Ok(frame) => wire::write(&mut out, &frame),
            Err(RecvTimeoutError::Timeout) => wire::write(&mut out, &Frame::bare(Message::Alive)),
            Err(RecvTimeoutError::Disconnected) => {
                let _ = stream.shutdown(Shutdown::Write);
                return;
            }
        };
        if written.is_err() {
            // Whoever reads notices.
            let _ = stream.shutdown(Shutdown::Both);
            return;
        }
    }
}

impl Cable {
    /// The reading and the writing end, each for a thread of its own.
    pub fn split<'a>(self, hub: &'a Hub) -> (impl FnOnce() + Send + 'a, impl FnOnce() + Send + 'a) {
        let Cable { process, stream, orders } = self;
        let (reading, alive) = (stream.clone(), hub.alive_every());
        (move || read(hub, process, &reading), move || write(&stream, &orders, alive))
    }
}
