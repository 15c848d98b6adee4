//! The messages between processes: one as JSON, then the bytes that belong to it.

use super::failure::Failure;
use serde::{Deserialize, Serialize};
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Instant;

/// The bytes that belong to a message, by rank or by block.
pub type Parts = Arc<Vec<Vec<u8>>>;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Message {
    /// A process asks to join.
    Hello(Hello),
    /// It has joined, and waits for [`Message::Start`].
    Welcome,
    /// It cannot join, or the launch has failed.
    Refused { why: String },
    /// All processes have joined.
    Start(Launched),
    /// Sent where there is nothing else to send.
    Alive,
    /// The ranks of a process are in a call. Their offers follow as parts.
    Call { number: u64, purpose: String },
    /// All ranks were in the call. Its result follows as parts.
    Answer { number: u64 },
    /// The run has failed. Sent to process 0 it is a claim; sent by process 0 it is final.
    Failed(Failure),
    /// The work of a rank has ended.
    Ended { rank: usize, interrupted: Option<String> },
    /// The work of all ranks has ended.
    Over,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    pub engine: String,
    pub process: usize,
    pub processes: usize,
    /// Ranks in this process.
    pub ranks: usize,
    pub host: String,
    pub fingerprint: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Launched {
    /// By process.
    pub ranks: Vec<usize>,
    pub hosts: Vec<String>,
    /// The limit of process 0, which all use.
    pub rank_timeout_ms: u64,
}

#[derive(Debug)]
pub struct Frame {
    pub message: Message,
    pub parts: Parts,
}

impl Frame {
    pub fn bare(message: Message) -> Frame {
        Frame { message, parts: Parts::default() }
    }
}

/// The most bytes that the other side may send as one frame.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    pub head: u32,
    pub body: u64,
}

impl Limit {
    /// For a process that has not joined.
    pub const HELLO: Limit = Limit { head: 4096, body: 0 };
    /// For a process of the run. Sums are sent in blocks; only gathered bytes can be as many as this.
    pub const MEMBER: Limit = Limit { head: 1 << 20, body: 1 << 30 };
}

/// Writes the length of the head (4 bytes, little-endian), the head (the message and the sizes of the
/// parts), the parts.
///
/// # Errors
/// Those of `out`.
pub fn write(out: &mut impl Write, frame: &Frame) -> io::Result<()> {
    let sizes: Vec<u64> = frame.parts.iter().map(|p| p.len() as u64).collect();
    let head = serde_json::to_vec(&(&frame.message, sizes))?;
    let length = u32::try_from(head.len()).map_err(|_| malformed("a message that is too long"))?;
    out.write_all(&length.to_le_bytes())?;
    out.write_all(&head)?;
    frame.parts.iter().try_for_each(|part| out.write_all(part))?;
    out.flush()
}

/// Reads what [`write()`] wrote. Memory grows with the bytes that arrive, not with those announced.
///
/// # Errors
/// Those of `from`; `InvalidData` if the bytes are not a frame or exceed `limit`.
pub fn read(from: &mut impl Read, limit: Limit) -> io::Result<Frame> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > limit.head {
        return Err(malformed("a message that is too long"));
    }
    let head = read_part(from, length.into())?;
    let (message, sizes): (Message, Vec<u64>) =
        serde_json::from_slice(&head).map_err(|_| malformed("something else than a message"))?;
    let total = sizes.iter().try_fold(0u64, |sum, size| sum.checked_add(*size));
    if total.is_none_or(|total| total > limit.body) {
        return Err(malformed("more bytes than a message may have"));
    }
    let parts = sizes.into_iter().map(|size| read_part(from, size)).collect::<io::Result<_>>()?;
    Ok(Frame { message, parts: Parts::new(parts) })
}

fn read_part(from: &mut impl Read, size: u64) -> io::Result<Vec<u8>> {
    // One allocation for a block of a sum.
    let mut bytes = Vec::with_capacity(size.min(1 << 20) as usize);
    from.take(size).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == size { Ok(bytes) } else { Err(ErrorKind::UnexpectedEof.into()) }
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("it sent {what}"))
}

/// Reads from a connection; fails at `end`, also while bytes arrive slowly.
pub struct Until<'a> {
    pub stream: &'a TcpStream,
    pub end: Instant,
}

impl Read for Until<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        match self.stream.read(buffer) {
            Err(e) if e.kind() == ErrorKind::WouldBlock => Err(ErrorKind::TimedOut.into()),
            other => other,
        }
    }
}
