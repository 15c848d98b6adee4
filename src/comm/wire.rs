//! What processes say to each other: a message as JSON, then bytes that belong to it.

use super::failure::Failure;
use super::hub::Parts;
use serde::{Deserialize, Serialize};
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

/// What both sides send first; anything else is not one of ours. Its end is the version of this file.
pub const GREETING: &[u8; 8] = b"l2pcomm1";

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Message {
    /// A process asks to join.
    Hello(Hello),
    /// It is wanted, and shall wait for the others.
    Welcome,
    /// It, or the whole run, is not to be; says why.
    Refused { why: String },
    /// All are here.
    Start(Start),
    /// Nothing to say, but alive.
    Alive,
    /// The ranks of a process are in a call; what they offer follows.
    Call { number: u64, purpose: String },
    /// All ranks were in the call; what it came to follows.
    Answer { number: u64 },
    /// The run cannot go on. To process 0 a claim, from it the word.
    Failed(Failure),
    /// The work of a rank is over, by an interruption perhaps.
    Left { rank: usize, interrupted: Option<String> },
    /// The work of all ranks is over.
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
    pub token: String,
    pub fingerprint: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Start {
    /// By process.
    pub ranks: Vec<usize>,
    pub hosts: Vec<String>,
    /// The setting of process 0 counts for all.
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

/// The most that the other side may send as one frame.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    pub head: u32,
    pub body: u64,
}

impl Limit {
    /// For somebody who may be anybody.
    pub const STRANGER: Limit = Limit { head: 4096, body: 0 };
    /// For a process of the run; sums come in blocks, so that only what is gathered counts.
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
/// Those of `from`; `InvalidData` for what is no frame, or a larger one than `limit`.
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
    // A block of a sum in one piece.
    let mut bytes = Vec::with_capacity(size.min(1 << 20) as usize);
    from.take(size).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == size { Ok(bytes) } else { Err(ErrorKind::UnexpectedEof.into()) }
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("it sent {what}"))
}

/// Reads from a connection until a moment, however slowly the bytes come.
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
