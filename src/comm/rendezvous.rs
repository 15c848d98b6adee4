//! How the processes of a launch find each other: process 0 listens, the others come to it.

use super::launch::Launch;
use super::topology::{Places, numbers};
use super::wire::{self, Frame, GREETING, Hello, Limit, Message, Start, Until};
use crate::error::{Error, Result};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a stranger has to say who he is.
const INTRODUCTION: Duration = Duration::from_secs(5);
/// Strangers who may introduce themselves at the same time.
const STRANGERS: usize = 256;
/// Between two looks at the door, and between two attempts to reach it.
const LOOK: Duration = Duration::from_millis(20);
const AGAIN: Duration = Duration::from_millis(100);
/// Sentences about those who were sent away that are kept.
const SENTENCES: usize = 8;
/// More ranks than that are not in one process.
const RANKS: usize = 4096;

/// All processes have found each other.
pub struct Met {
    pub places: Places,
    /// By process; process 0 is connected to all others, those to it.
    pub streams: Vec<Option<TcpStream>>,
    pub rank_timeout: Duration,
    /// In process 0: who comes now is told that it is too late.
    pub door: Option<Door>,
}

/// Finds the other processes of `launch`; this one has `ranks` ranks.
///
/// # Errors
/// A sentence that names the processes which are missing, or why this one is not wanted.
pub fn meet(launch: &Launch, ranks: usize) -> Result<Met> {
    if launch.is_single() {
        let (places, streams) = (Places::alone(ranks), Vec::new());
        return Ok(Met { places, streams, rank_timeout: launch.rank_timeout, door: None });
    }
    let own = Hello {
        engine: env!("CARGO_PKG_VERSION").into(),
        process: launch.process,
        processes: launch.processes,
        ranks,
        host: host(),
        token: launch.token.clone(),
        fingerprint: launch.fingerprint.clone(),
    };
    if launch.process == 0 { Door::open(launch, own)?.wait_for_all(launch) } else { join(launch, &own) }
}

fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

// Process 0.

/// The door of process 0 and a thread that looks after it.
pub struct Door {
    hall: Arc<Hall>,
    keeper: Option<std::thread::JoinHandle<()>>,
}

/// What those who keep the door share.
struct Hall {
    own: Hello,
    place: String,
    guests: Mutex<Guests>,
    changed: Condvar,
    strangers: AtomicUsize,
    closed: AtomicBool,
}

#[derive(Default)]
struct Guests {
    /// By process; `None` for those that are missing, and for process 0.
    here: Vec<Option<Guest>>,
    /// About those who were sent away.
    sentences: Vec<String>,
    /// The launch contradicts itself.
    wrong: Option<String>,
    /// All are here.
    begun: bool,
}

struct Guest {
    hello: Hello,
    stream: TcpStream,
    from: SocketAddr,
}

impl Guest {
    /// Whether the connection is still there, and quiet, as it should be before the start.
    fn waits(&self) -> bool {
        let mut byte = [0];
        let looked = self.stream.set_nonblocking(true).and_then(|()| self.stream.peek(&mut byte));
        let back = self.stream.set_nonblocking(false);
        back.is_ok() && looked.is_err_and(|e| e.kind() == ErrorKind::WouldBlock)
    }
}

enum Verdict {
    Welcome,
    Refused(String),
}

impl Door {
    fn open(launch: &Launch, own: Hello) -> Result<Door> {
        let listener = match &launch.listener {
            Some(open) => open.clone(),
            None => Arc::new(bind(launch)?),
        };
        let guests = Guests { here: (0..own.processes).map(|_| None).collect(), ..Guests::default() };
        let hall = Arc::new(Hall {
            own,
            place: launch.place(),
            guests: Mutex::new(guests),
            changed: Condvar::new(),
            strangers: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
        });
        let kept = hall.clone();
        let failed = |e: io::Error| Error::failed(format!("{} cannot be listened on: {e}", launch.place()));
        listener.set_nonblocking(true).map_err(failed)?;
        let keeper = std::thread::Builder::new().name("door".into());
        let keeper = keeper.spawn(move || keep(&kept, &listener)).map_err(failed)?;
        Ok(Door { hall, keeper: Some(keeper) })
    }

    fn wait_for_all(self, launch: &Launch) -> Result<Met> {
        let end = Instant::now() + launch.join_timeout;
        let mut guests = self.hall.lock();
        loop {
            // One that has gone away again may come back.
            guests.here.iter_mut().for_each(|g| drop(g.take_if(|g| !g.waits())));
            let missing: Vec<usize> = (1..guests.here.len()).filter(|p| guests.here[*p].is_none()).collect();
            let wrong = guests.wrong.clone();
            if wrong.is_none() && missing.is_empty() {
                break;
            }
            if wrong.is_some() || Instant::now() >= end {
                let why = wrong.unwrap_or_else(|| absent(launch, &missing, &guests.sentences));
                send_away(&mut guests, &why);
                return Err(Error::failed(why));
            }
            guests = self.hall.changed.wait_timeout(guests, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
        guests.begun = true;
        let here: Vec<Option<(Hello, TcpStream)>> =
            guests.here.iter_mut().map(|g| g.take().map(|g| (g.hello, g.stream))).collect();
        drop(guests);
        self.begin(launch, here)
    }

    /// Tells all who is here.
    fn begin(self, launch: &Launch, here: Vec<Option<(Hello, TcpStream)>>) -> Result<Met> {
        let own = &self.hall.own;
        let all = || here.iter().map(|g| g.as_ref().map_or(own, |(hello, _)| hello));
        let ranks: Vec<usize> = all().map(|h| h.ranks).collect();
        let hosts: Vec<String> = all().map(|h| h.host.clone()).collect();
        let places = Places::new(0, &ranks, hosts.clone());
        let rank_timeout_ms = u64::try_from(launch.rank_timeout.as_millis()).unwrap_or(u64::MAX);
        let start = Frame::bare(Message::Start(Start { ranks, hosts, rank_timeout_ms }));
        let streams: Vec<Option<TcpStream>> = here.into_iter().map(|g| g.map(|(_, stream)| stream)).collect();
        for mut stream in streams.iter().flatten() {
            // A connection that is lost in this moment is noticed when it is read.
            let _ = stream.set_read_timeout(None);
            let _ = wire::write(&mut stream, &start);
        }
        Ok(Met { places, streams, rank_timeout: launch.rank_timeout, door: Some(self) })
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.hall.closed.store(true, Ordering::Relaxed);
        if let Some(keeper) = self.keeper.take() {
            // A keeper that panicked has said so.
            let _ = keeper.join();
        }
    }
}

fn absent(launch: &Launch, missing: &[usize], sentences: &[String]) -> String {
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

fn send_away(guests: &mut Guests, why: &str) {
    let frame = Frame::bare(Message::Refused { why: why.into() });
    for mut stream in guests.here.iter_mut().filter_map(Option::take).map(|guest| guest.stream) {
        // It will find the connection closed at least.
        let _ = wire::write(&mut stream, &frame);
    }
}

/// The socket of process 0: where only this host can come if the address says so, otherwise where all can,
/// as the address may be one that others see and this host does not have.
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

/// Lets people in until the door is closed. What they say is read on threads of their own.
fn keep(hall: &Arc<Hall>, listener: &TcpListener) {
    while !hall.closed.load(Ordering::Relaxed) {
        let Ok((stream, from)) = listener.accept() else {
            std::thread::sleep(LOOK);
            continue;
        };
        if hall.strangers.fetch_add(1, Ordering::Relaxed) >= STRANGERS {
            // One of ours comes again.
            hall.strangers.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let theirs = hall.clone();
        let talk = move || {
            theirs.talk(stream, from);
            theirs.strangers.fetch_sub(1, Ordering::Relaxed);
        };
        if std::thread::Builder::new().name("stranger".into()).spawn(talk).is_err() {
            hall.strangers.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Hall {
    fn lock(&self) -> MutexGuard<'_, Guests> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds out who a stranger is. Who does not say is nobody of ours, and nothing is said to him.
    fn talk(&self, stream: TcpStream, from: SocketAddr) {
        let Ok(hello) = introduction(&stream) else { return };
        let mut guests = self.lock();
        match self.judge(&mut guests, &hello, from) {
            Verdict::Welcome => {
                // Should the connection be lost, `Guest::waits` says so.
                let _ = greet(&stream, &Frame::bare(Message::Welcome));
                let process = hello.process;
                guests.here[process] = Some(Guest { hello, stream, from });
            }
            Verdict::Refused(why) => {
                let _ = greet(&stream, &Frame::bare(Message::Refused { why: why.clone() }));
                if guests.sentences.len() < SENTENCES && !guests.sentences.contains(&why) {
                    guests.sentences.push(why);
                }
            }
        }
        self.changed.notify_all();
    }

    fn judge(&self, guests: &mut Guests, hello: &Hello, from: SocketAddr) -> Verdict {
        let own = &self.own;
        let who =
            format!("process {} of {} on {} ({})", hello.process, hello.processes, hello.host, from.ip());
        if hello.processes != own.processes {
            return Verdict::Refused(format!("{who} tried to join this run of {} processes", own.processes));
        }
        if hello.token != own.token {
            return Verdict::Refused(format!("{who} belongs to another launch (or has another L2P_TOKEN)"));
        }
        if hello.process == 0 || hello.process >= own.processes || hello.ranks == 0 || hello.ranks > RANKS {
            return Verdict::Refused(format!("{who} with {} ranks is not possible here", hello.ranks));
        }
        // From here on it is one of ours, and what is wrong with it is wrong with the launch.
        let already = guests.here[hello.process].take_if(|g| g.waits());
        let wrong = if guests.begun {
            return Verdict::Refused(format!("{who} comes too late: all {} have joined", own.processes));
        } else if let Some(already) = already {
            let first = format!("{} ({})", already.hello.host, already.from);
            guests.here[hello.process] = Some(already);
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
        guests.wrong.get_or_insert(wrong.clone());
        Verdict::Refused(wrong)
    }
}

/// What a stranger says of himself, if he is one of ours.
fn introduction(stream: &TcpStream) -> io::Result<Hello> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    let mut from = Until { stream, end: Instant::now() + INTRODUCTION };
    match expect_greeting(&mut from).and_then(|()| wire::read(&mut from, Limit::STRANGER))?.message {
        // What is in it may be printed.
        Message::Hello(hello)
            if ![&hello.host, &hello.engine, &hello.fingerprint]
                .iter()
                .any(|t| t.contains(char::is_control)) =>
        {
            Ok(hello)
        }
        _ => Err(ErrorKind::InvalidData.into()),
    }
}

fn greet(mut stream: &TcpStream, frame: &Frame) -> io::Result<()> {
    stream.set_write_timeout(Some(INTRODUCTION))?;
    stream.write_all(GREETING)?;
    wire::write(&mut stream, frame)?;
    stream.set_write_timeout(None)
}

fn expect_greeting(from: &mut impl Read) -> io::Result<()> {
    let mut greeting = [0; GREETING.len()];
    from.read_exact(&mut greeting)?;
    if &greeting == GREETING { Ok(()) } else { Err(ErrorKind::InvalidData.into()) }
}

// The others.

/// Why an attempt to join came to nothing.
enum Attempt {
    /// It may work later.
    Again(String),
    /// Process 0 does not want this one.
    Refused(String),
}

fn join(launch: &Launch, own: &Hello) -> Result<Met> {
    let end = Instant::now() + launch.join_timeout;
    loop {
        let why = match attempt(launch, own, end) {
            Ok(met) => return Ok(met),
            Err(Attempt::Refused(why)) => return Err(Error::failed(why)),
            Err(Attempt::Again(why)) => why,
        };
        if Instant::now() + AGAIN >= end {
            return Err(Error::failed(format!(
                "process {} of {} could not join process 0 at {} within {} s (L2P_JOIN_TIMEOUT_S sets this limit): \
                 {why}; is process 0 running, and are MASTER_ADDR and MASTER_PORT the same everywhere?",
                launch.process,
                launch.processes,
                launch.place(),
                launch.join_timeout.as_secs_f64(),
            )));
        }
        std::thread::sleep(AGAIN);
    }
}

fn attempt(launch: &Launch, own: &Hello, end: Instant) -> std::result::Result<Met, Attempt> {
    let stream = connect(launch, end)?;
    let lost = |e: io::Error| {
        Attempt::Again(format!("what listens there does not answer as process 0 should ({e})"))
    };
    stream.set_nodelay(true).map_err(lost)?;
    greet(&stream, &Frame::bare(Message::Hello(own.clone()))).map_err(lost)?;
    let mut from = Until { stream: &stream, end: Instant::now() + INTRODUCTION };
    let answer = expect_greeting(&mut from).and_then(|()| wire::read(&mut from, Limit::MEMBER));
    match answer.map_err(lost)?.message {
        Message::Welcome => {}
        Message::Refused { why } => return Err(Attempt::Refused(why)),
        _ => return Err(lost(ErrorKind::InvalidData.into())),
    }
    // Process 0 may have come as late as this one is patient, and then waits as long.
    from.end = Instant::now() + launch.join_timeout + INTRODUCTION;
    let lost = |e: io::Error| Attempt::Again(format!("process 0 went away before all had joined ({e})"));
    match wire::read(&mut from, Limit::MEMBER).map_err(lost)?.message {
        Message::Start(start) if start.ranks.get(own.process) == Some(&own.ranks) => {
            stream.set_read_timeout(None).map_err(lost)?;
            let places = Places::new(own.process, &start.ranks, start.hosts);
            let rank_timeout = Duration::from_millis(start.rank_timeout_ms);
            Ok(Met { places, streams: vec![Some(stream)], rank_timeout, door: None })
        }
        Message::Refused { why } => Err(Attempt::Refused(why)),
        _ => Err(lost(ErrorKind::InvalidData.into())),
    }
}

fn connect(launch: &Launch, end: Instant) -> std::result::Result<TcpStream, Attempt> {
    let failed = |e: io::Error| Attempt::Again(e.to_string());
    let found = (launch.address.as_str(), launch.port).to_socket_addrs().map_err(failed)?;
    let mut why = format!("`{}` has no address", launch.address);
    for address in found {
        let patience = end.saturating_duration_since(Instant::now()).clamp(AGAIN, INTRODUCTION);
        match TcpStream::connect_timeout(&address, patience) {
            // Without a listener a connection to one's own host may find itself.
            Ok(stream) if stream.local_addr().ok() == stream.peer_addr().ok() => {
                why = "nobody listens".into()
            }
            Ok(stream) => return Ok(stream),
            Err(e) => why = format!("{address}: {e}"),
        }
    }
    Err(Attempt::Again(why))
}
