//! How the processes of a launch find each other: process 0 listens, the others connect to it.

use super::acceptor::{Acceptor, Joined};
use super::handshake::{self, INTRODUCTION, Unproven};
use super::launch::Launch;
use super::topology::Topology;
use super::wire::{self, Frame, Hello, Limit, Message, Until};
use crate::error::{Error, Result};
use std::io::{self, ErrorKind};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between two attempts to join.
const RETRY: Duration = Duration::from_millis(100);

/// Finds the other processes of `launch`; this one has `ranks` ranks.
///
/// # Errors
/// A sentence that names the processes which are missing, or why this one was refused.
pub fn meet(launch: &Launch, ranks: usize) -> Result<Joined> {
    if launch.is_single() {
        let (topology, streams) = (Topology::alone(ranks), Vec::new());
        return Ok(Joined { topology, streams, rank_timeout: launch.rank_timeout, acceptor: None });
    }
    let own = Hello {
        engine: env!("CARGO_PKG_VERSION").into(),
        process: launch.process,
        processes: launch.processes,
        ranks,
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        fingerprint: launch.fingerprint.clone(),
    };
    if launch.process == 0 { Acceptor::open(launch, own)?.wait_for_all(launch) } else { join(launch, &own) }
}

/// Why an attempt to join has failed.
enum Attempt {
    /// A later attempt may succeed.
    Retry(String),
    /// Process 0 has refused this process.
    Refused(String),
}

fn join(launch: &Launch, own: &Hello) -> Result<Joined> {
    let end = Instant::now() + launch.join_timeout;
    loop {
        let why = match attempt(launch, own, end) {
            Ok(joined) => return Ok(joined),
            Err(Attempt::Refused(why)) => return Err(Error::failed(why)),
            Err(Attempt::Retry(why)) => why,
        };
        if Instant::now() + RETRY >= end {
            return Err(Error::failed(format!(
                "process {} of {} could not join process 0 at {} within {} s (L2P_JOIN_TIMEOUT_S sets this limit): \
                 {why}; is process 0 running, and are MASTER_ADDR, MASTER_PORT and L2P_TOKEN the same everywhere?",
                launch.process,
                launch.processes,
                launch.place(),
                launch.join_timeout.as_secs_f64(),
            )));
        }
        std::thread::sleep(RETRY);
    }
}

fn attempt(launch: &Launch, own: &Hello, end: Instant) -> std::result::Result<Joined, Attempt> {
    let stream = connect(launch, end)?;
    let lost = |e: io::Error| {
        Attempt::Retry(format!("what listens there does not answer as process 0 should ({e})"))
    };
    stream.set_nodelay(true).map_err(lost)?;
    let introduced = Instant::now() + INTRODUCTION;
    handshake::introduce(&stream, &launch.token, introduced).map_err(|why| match why {
        Unproven::Io(why) => lost(why),
        Unproven::OtherToken => Attempt::Retry(
            "what listens there has another L2P_TOKEN, belongs to another launch, or has started already"
                .into(),
        ),
    })?;
    wire::write(&mut &stream, &Frame::bare(Message::Hello(own.clone()))).map_err(lost)?;
    let mut from = Until { stream: &stream, end: introduced };
    match wire::read(&mut from, Limit::MEMBER).map_err(lost)?.message {
        Message::Welcome => {}
        Message::Refused { why } => return Err(Attempt::Refused(why)),
        _ => return Err(lost(ErrorKind::InvalidData.into())),
    }
    // Process 0 may have started to listen just now, and then waits for the others as long as its own limit.
    from.end = Instant::now() + launch.join_timeout + INTRODUCTION;
    let lost = |e: io::Error| Attempt::Retry(format!("process 0 ended before all had joined ({e})"));
    match wire::read(&mut from, Limit::MEMBER).map_err(lost)?.message {
        Message::Start(start) if start.ranks.get(own.process) == Some(&own.ranks) => {
            stream.set_read_timeout(None).map_err(lost)?;
            let topology = Topology::new(own.process, &start.ranks, start.hosts);
            let rank_timeout = Duration::from_millis(start.rank_timeout_ms);
            Ok(Joined { topology, streams: vec![Some(Arc::new(stream))], rank_timeout, acceptor: None })
        }
        Message::Refused { why } => Err(Attempt::Refused(why)),
        _ => Err(lost(ErrorKind::InvalidData.into())),
    }
}

fn connect(launch: &Launch, end: Instant) -> std::result::Result<TcpStream, Attempt> {
    let failed = |e: io::Error| Attempt::Retry(e.to_string());
    let found = (launch.address.as_str(), launch.port).to_socket_addrs().map_err(failed)?;
    let mut why = format!("`{}` has no address", launch.address);
    for address in found {
        let limit = end.saturating_duration_since(Instant::now()).clamp(RETRY, INTRODUCTION);
        match TcpStream::connect_timeout(&address, limit) {
            // TCP's simultaneous open: without a listener, a connection to the own host may connect to itself.
            Ok(stream) if stream.local_addr().ok() == stream.peer_addr().ok() => {
                why = "no process listens there".into();
            }
            Ok(stream) => return Ok(stream),
            Err(e) => why = format!("{address}: {e}"),
        }
    }
    Err(Attempt::Retry(why))
}
