//! The listening side of a rendezvous: process 0 waits here for the other processes.
//!
//! A connection is a *pending peer* until it has proved possession of the token ([`handshake`]). Pending
//! peers get no message, cannot end the launch, and are dropped after [`INTRODUCTION`]. A peer that has
//! proved itself and contradicts the launch ends it, and is told why. After the start every further
//! connection is closed without a message; a process of a later run on the same port tries again.

use super::handshake::{self, INTRODUCTION, Unproven};
use super::launch::Launch;
use super::topology::{Topology, numbers};
use super::wire::{self, Frame, Hello, Launched, Limit, Message, Until};
use crate::error::{Error, Result};
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Pending peers at a time. One more drops the oldest: a process of the launch needs milliseconds.
const PENDING: usize = 256;
/// Between two checks for a new connection.
const POLL: Duration = Duration::from_millis(20);
/// How long process 0 tries to listen before it reports why it cannot.
const PORT_IN_USE: Duration = Duration::from_secs(1);
/// Sentences about refused peers that are kept for the message of a launch that is not complete in time.
const SENTENCES: usize = 8;
/// The most ranks of one process.
const RANKS: usize = 4096;

/// What a process has when all have joined.
pub struct Joined {
    pub topology: Topology,
    /// By process; process 0 is connected to all others, those to it.
    pub streams: Vec<Option<Arc<TcpStream>>>,
    pub rank_timeout: Duration,
    /// In process 0; to be dropped before the end of the run is announced.
    pub acceptor: Option<Acceptor>,
}

/// Accepts the processes of a launch, on a thread of its own, until it is dropped.
pub struct Acceptor {
    shared: Arc<AcceptorState>,
    thread: Option<std::thread::JoinHandle<()>>,
}

struct AcceptorState {
    own: Hello,
    token: String,
    place: String,
    state: Mutex<JoinState>,
    changed: Condvar,
    /// Connections whose handshake is under way, oldest first.
    pending: Mutex<VecDeque<Arc<TcpStream>>>,
    closed: AtomicBool,
}

#[derive(Default)]
struct JoinState {
    /// By process; `None` for those that have not joined, and for process 0.
    joined: Vec<Option<JoinedPeer>>,
    /// About peers that were refused.
    sentences: Vec<String>,
    /// How a peer that has proved itself contradicts the launch.
    contradiction: Option<String>,
    /// All have joined.
    started: bool,
}

/// A process that has proved itself and waits for the start.
struct JoinedPeer {
    hello: Hello,
    stream: Arc<TcpStream>,
    from: SocketAddr,
}

impl JoinedPeer {
    /// Whether the connection is open and nothing has been received, as it should be before the start.
    fn waits(&self) -> bool {
        let mut byte = [0];
        let received = self.stream.set_nonblocking(true).and_then(|()| self.stream.peek(&mut byte));
        let restored = self.stream.set_nonblocking(false);
        restored.is_ok() && received.is_err_and(|e| e.kind() == ErrorKind::WouldBlock)
    }
}

enum Verdict {
    Welcome,
    Refused(String),
    /// The connection is closed without a message, and the peer tries again.
    Late,
}

impl Acceptor {
    /// Listens where `launch` says; `own` describes this process.
    ///
    /// # Errors
    /// [`Error::Failed`] where the port cannot be listened on.
    pub fn open(launch: &Launch, own: Hello) -> Result<Acceptor> {
        let listener = match &launch.listener {
            Some(open) => open.clone(),
            None => Arc::new(bind_again(launch)?),
        };
        let state = JoinState { joined: (0..own.processes).map(|_| None).collect(), ..JoinState::default() };
        let shared = Arc::new(AcceptorState {
            own,
            token: launch.token.clone(),
            place: launch.place(),
            state: Mutex::new(state),
            changed: Condvar::new(),
            pending: Mutex::default(),
            closed: AtomicBool::new(false),
        });
        let failed = |e: io::Error| Error::failed(format!("{} cannot be listened on: {e}", launch.place()));
        listener.set_nonblocking(true).map_err(failed)?;
        let accepting = shared.clone();
        let thread = std::thread::Builder::new().name("acceptor".into());
        let thread = thread.spawn(move || accept(&accepting, &listener)).map_err(failed)?;
        Ok(Acceptor { shared, thread: Some(thread) })
    }

    /// Waits until all processes have joined and tells them so.
    ///
    /// # Errors
    /// A sentence that names the processes which are missing, or the one that contradicts the launch.
    pub fn wait_for_all(self, launch: &Launch) -> Result<Joined> {
        let end = Instant::now() + launch.join_timeout;
        let mut state = self.shared.lock();
        loop {
            // One whose connection was lost may join again.
            state.joined.iter_mut().for_each(|p| drop(p.take_if(|p| !p.waits())));
            let missing: Vec<usize> =
                (1..state.joined.len()).filter(|p| state.joined[*p].is_none()).collect();
            let contradiction = state.contradiction.clone();
            if contradiction.is_none() && missing.is_empty() {
                break;
            }
            if contradiction.is_some() || Instant::now() >= end {
                let why = contradiction.unwrap_or_else(|| incomplete(launch, &missing, &state.sentences));
                dismiss(&mut state, &why);
                return Err(Error::failed(why));
            }
            state = self.shared.changed.wait_timeout(state, POLL).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.started = true;
        let joined: Vec<Option<JoinedPeer>> = state.joined.iter_mut().map(Option::take).collect();
        drop(state);
        Ok(self.start(launch, joined))
    }

    /// Tells all processes which ranks are where.
    fn start(self, launch: &Launch, joined: Vec<Option<JoinedPeer>>) -> Joined {
        let own = &self.shared.own;
        let all = || joined.iter().map(|p| p.as_ref().map_or(own, |p| &p.hello));
        let ranks: Vec<usize> = all().map(|h| h.ranks).collect();
        let hosts: Vec<String> = all().map(|h| h.host.clone()).collect();
        let topology = Topology::new(0, &ranks, hosts.clone());
        let rank_timeout_ms = u64::try_from(launch.rank_timeout.as_millis()).unwrap_or(u64::MAX);
        let start = Frame::bare(Message::Start(Launched { ranks, hosts, rank_timeout_ms }));
        let streams: Vec<Option<Arc<TcpStream>>> = joined.into_iter().map(|p| p.map(|p| p.stream)).collect();
        for stream in streams.iter().flatten() {
            // The thread that reads from the connection reports if it is lost at this moment.
            let _ = stream.set_read_timeout(None);
            let _ = wire::write(&mut stream.as_ref(), &start);
        }
        Joined { topology, streams, rank_timeout: launch.rank_timeout, acceptor: Some(self) }
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // The panic hook has reported a panic of the thread.
            let _ = thread.join();
        }
    }
}

fn incomplete(launch: &Launch, missing: &[usize], sentences: &[String]) -> String {
    let word = if missing.len() == 1 { "process" } else { "processes" };
    let has = if missing.len() == 1 { "has" } else { "have" };
    let mut text = format!(
        "{word} {} of {} {has} not joined {} within {} s (L2P_JOIN_TIMEOUT_S sets this limit)",
        numbers(missing),
        launch.processes,
        launch.place(),
        launch.join_timeout.as_secs_f64(),
    );
    if sentences.is_empty() {
        text += ": not started, ended early, or kept out by a firewall";
    }
    for sentence in sentences {
        text = format!("{text}; {sentence}");
    }
    if launch.variables.is_empty() {
        return text;
    }
    format!("{text} ({} say how many; RANK=0 WORLD_SIZE=1 is a run of this process alone)", launch.variables)
}

/// Tells all processes that have joined why the launch has failed.
fn dismiss(state: &mut JoinState, why: &str) {
    let frame = Frame::bare(Message::Refused { why: why.into() });
    for peer in state.joined.iter_mut().filter_map(Option::take) {
        // Where this is lost, the peer finds the connection closed.
        let _ = wire::write(&mut peer.stream.as_ref(), &frame);
    }
}

/// [`bind`], again for a while if the port is in use: the socket of the run before may still be open in a process
/// that another thread of this one is starting.
fn bind_again(launch: &Launch) -> Result<TcpListener> {
    let end = Instant::now() + PORT_IN_USE;
    loop {
        match bind(launch) {
            Err(_) if Instant::now() < end => std::thread::sleep(POLL),
            done => return done,
        }
    }
}

/// The socket of process 0: on the loopback interface if the address is one of it, otherwise on all
/// interfaces, as the address may belong to a gateway and not to this host.
fn bind(launch: &Launch) -> Result<TcpListener> {
    let Launch { address, port, .. } = launch;
    let candidates: Vec<IpAddr> = match address.parse::<IpAddr>() {
        Ok(ip) if ip.is_loopback() => vec![ip],
        Ok(IpAddr::V4(_)) => vec![Ipv4Addr::UNSPECIFIED.into()],
        Err(_) if address == "localhost" => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        _ => vec![Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::UNSPECIFIED.into()],
    };
    let mut failed = None;
    for ip in candidates {
        match TcpListener::bind((ip, *port)) {
            Ok(listener) => return Ok(listener),
            Err(e) if e.kind() == ErrorKind::AddrInUse => {
                return Err(Error::failed(format!(
                    "process 0 cannot listen on {}: the port is in use, by another run or a launcher; \
                     choose another with MASTER_PORT (torchrun --master-port)",
                    launch.place()
                )));
            }
            Err(e) => failed = Some(e),
        }
    }
    let why = failed.map_or(String::new(), |e| format!(": {e}"));
    Err(Error::failed(format!(
        "process 0 cannot listen on {}{why}; set MASTER_PORT and MASTER_ADDR",
        launch.place()
    )))
}

/// Accepts connections until [`AcceptorState::closed`]. Each handshake has a thread of its own.
fn accept(shared: &Arc<AcceptorState>, listener: &TcpListener) {
    while !shared.closed.load(Ordering::Relaxed) {
        let Ok((stream, from)) = listener.accept() else {
            std::thread::sleep(POLL);
            continue;
        };
        if shared.lock().started {
            continue;
        }
        let stream = Arc::new(stream);
        shared.add_pending(&stream);
        let task = shared.clone();
        let greet = {
            let stream = stream.clone();
            move || {
                task.greet(&stream, from);
                task.remove_pending(&stream);
            }
        };
        if std::thread::Builder::new().name("pending peer".into()).spawn(greet).is_err() {
            shared.remove_pending(&stream);
        }
    }
}

impl AcceptorState {
    fn lock(&self) -> MutexGuard<'_, JoinState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pending(&self) -> MutexGuard<'_, VecDeque<Arc<TcpStream>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add_pending(&self, stream: &Arc<TcpStream>) {
        let mut pending = self.pending();
        if pending.len() >= PENDING
            && let Some(oldest) = pending.pop_front()
        {
            let _ = oldest.shutdown(Shutdown::Both);
        }
        pending.push_back(stream.clone());
    }

    fn remove_pending(&self, stream: &Arc<TcpStream>) {
        self.pending().retain(|other| !Arc::ptr_eq(other, stream));
    }

    /// Talks to a pending peer: handshake, then the verdict on what it says it is.
    fn greet(&self, stream: &Arc<TcpStream>, from: SocketAddr) {
        let hello = match receive_hello(stream, &self.token) {
            Ok(hello) => hello,
            Err(Unproven::Io(_)) => return,
            Err(Unproven::OtherToken) => {
                let ip = from.ip();
                self.lock().add_sentence(format!(
                    "a process at {ip} has another L2P_TOKEN, or belongs to another launch"
                ));
                return;
            }
        };
        // From here on the peer has proved possession of the token, and the connection stays open while it waits.
        self.remove_pending(stream);
        let mut state = self.lock();
        match self.judge(&mut state, &hello, from) {
            Verdict::Welcome => {
                // `JoinedPeer::waits` finds a connection that was lost.
                let _ = wire::write(&mut stream.as_ref(), &Frame::bare(Message::Welcome));
                let process = hello.process;
                state.joined[process] = Some(JoinedPeer { hello, stream: stream.clone(), from });
            }
            Verdict::Refused(why) => {
                let _ =
                    wire::write(&mut stream.as_ref(), &Frame::bare(Message::Refused { why: why.clone() }));
                state.add_sentence(why);
            }
            Verdict::Late => {}
        }
        self.changed.notify_all();
    }

    fn judge(&self, state: &mut JoinState, hello: &Hello, from: SocketAddr) -> Verdict {
        let own = &self.own;
        let who =
            format!("process {} of {} on {} ({})", hello.process, hello.processes, hello.host, from.ip());
        if state.started {
            return Verdict::Late;
        }
        if hello.processes != own.processes {
            return Verdict::Refused(format!("{who} tried to join this run of {} processes", own.processes));
        }
        if hello.process == 0 || hello.process >= own.processes || hello.ranks == 0 || hello.ranks > RANKS {
            return Verdict::Refused(format!("{who} with {} ranks is not possible here", hello.ranks));
        }
        let present = state.joined[hello.process].take_if(|p| p.waits());
        let contradiction = if let Some(present) = present {
            let first = format!("{} ({})", present.hello.host, present.from);
            state.joined[hello.process] = Some(present);
            format!(
                "process {} has joined {} twice: from {first} and from {} ({from})",
                hello.process, self.place, hello.host
            )
        } else if hello.engine != own.engine {
            format!("{who} is l2p-engine {}, process 0 is {}", hello.engine, own.engine)
        } else if hello.fingerprint != own.fingerprint {
            format!(
                "{who} has another configuration ({}) than process 0 ({})",
                hello.fingerprint, own.fingerprint
            )
        } else {
            return Verdict::Welcome;
        };
        state.contradiction.get_or_insert(contradiction.clone());
        Verdict::Refused(contradiction)
    }
}

impl JoinState {
    fn add_sentence(&mut self, sentence: String) {
        if self.sentences.len() < SENTENCES && !self.sentences.contains(&sentence) {
            self.sentences.push(sentence);
        }
    }
}

/// The handshake, then what the peer says it is.
fn receive_hello(stream: &TcpStream, token: &str) -> std::result::Result<Hello, Unproven> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(INTRODUCTION))?;
    let end = Instant::now() + INTRODUCTION;
    handshake::accept(stream, token, end)?;
    let hello = match wire::read(&mut Until { stream, end }, Limit::HELLO)?.message {
        Message::Hello(hello) => hello,
        _ => return Err(Unproven::Io(ErrorKind::InvalidData.into())),
    };
    // These are printed.
    if [&hello.host, &hello.engine, &hello.fingerprint].iter().any(|t| t.contains(char::is_control)) {
        return Err(Unproven::Io(ErrorKind::InvalidData.into()));
    }
    stream.set_write_timeout(None)?;
    Ok(hello)
}
