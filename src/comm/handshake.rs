//! How two processes prove to each other that they know the token of the launch, which itself is not sent.
//!
//! The peer sends the greeting and a nonce, process 0 answers with the same of its own. Each then sends
//! HMAC-SHA-256(token, role ‖ nonce of process 0 ‖ nonce of the peer), first the peer. Source: RFC 2104 and
//! ISO/IEC 9798-4 (mutual authentication with three passes). A recorded proof is of no use later, as both
//! nonces are fresh. A process without the token gets a nonce and nothing else.
//!
//! Only the start of a connection is protected: what follows is neither encrypted nor authenticated.

use super::wire::Until;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// How long the other side has for the handshake and for what it says of itself.
pub const INTRODUCTION: Duration = Duration::from_secs(5);
/// The first bytes of both sides. The digit is the version of the protocol.
const GREETING: &[u8; 8] = b"l2pcomm2";
const NONCE: usize = 32;
const PROOF: usize = 32;

/// Why a handshake came to nothing.
#[derive(Debug)]
pub enum Unproven {
    /// The other side uses another protocol, or the connection failed.
    Io(io::Error),
    /// The other side uses this protocol with another token.
    OtherToken,
}

impl From<io::Error> for Unproven {
    fn from(why: io::Error) -> Unproven {
        Unproven::Io(why)
    }
}

/// The role of the one who proves, so that a proof cannot be sent back as one's own.
#[derive(Clone, Copy)]
enum Prover {
    Acceptor,
    Peer,
}

struct Nonces {
    acceptor: [u8; NONCE],
    peer: [u8; NONCE],
}

fn nonce() -> io::Result<[u8; NONCE]> {
    let mut bytes = [0; NONCE];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn mac(token: &str, role: Prover, nonces: &Nonces) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(token.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(match role {
        Prover::Acceptor => b"l2p-engine acceptor",
        Prover::Peer => b"l2p-engine peer",
    });
    mac.update(&nonces.acceptor);
    mac.update(&nonces.peer);
    mac
}

fn proof(token: &str, role: Prover, nonces: &Nonces) -> [u8; PROOF] {
    mac(token, role, nonces).finalize().into_bytes().into()
}

/// Compares in constant time.
fn is_proof(token: &str, role: Prover, nonces: &Nonces, proof: &[u8]) -> bool {
    mac(token, role, nonces).verify_slice(proof).is_ok()
}

fn greeting(nonce: &[u8; NONCE]) -> Vec<u8> {
    [GREETING.as_slice(), nonce].concat()
}

fn read_greeting(from: &mut impl Read) -> io::Result<[u8; NONCE]> {
    let (mut greeting, mut nonce) = ([0; GREETING.len()], [0; NONCE]);
    from.read_exact(&mut greeting)?;
    if &greeting != GREETING {
        return Err(ErrorKind::InvalidData.into());
    }
    from.read_exact(&mut nonce)?;
    Ok(nonce)
}

fn read_proof(from: &mut impl Read) -> io::Result<[u8; PROOF]> {
    let mut proof = [0; PROOF];
    from.read_exact(&mut proof)?;
    Ok(proof)
}

/// In process 0: returns when the peer has proved itself and has the proof of this process.
///
/// # Errors
/// As [`Unproven`] says; nothing is sent after a wrong greeting or proof.
pub fn accept(mut stream: &TcpStream, token: &str, end: Instant) -> Result<(), Unproven> {
    let mut from = Until { stream, end };
    let peer = read_greeting(&mut from)?;
    let nonces = Nonces { acceptor: nonce()?, peer };
    stream.write_all(&greeting(&nonces.acceptor))?;
    if !is_proof(token, Prover::Peer, &nonces, &read_proof(&mut from)?) {
        return Err(Unproven::OtherToken);
    }
    Ok(stream.write_all(&proof(token, Prover::Acceptor, &nonces))?)
}

/// In the other processes: the counterpart of [`accept`].
///
/// # Errors
/// As [`Unproven`] says.
pub fn introduce(mut stream: &TcpStream, token: &str, end: Instant) -> Result<(), Unproven> {
    let mut from = Until { stream, end };
    let own = nonce()?;
    stream.write_all(&greeting(&own))?;
    let nonces = Nonces { acceptor: read_greeting(&mut from)?, peer: own };
    stream.write_all(&proof(token, Prover::Peer, &nonces))?;
    let theirs = read_proof(&mut from).map_err(|why| match why.kind() {
        // What process 0 does with a proof by another token.
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset => Unproven::OtherToken,
        _ => Unproven::Io(why),
    })?;
    if is_proof(token, Prover::Acceptor, &nonces, &theirs) { Ok(()) } else { Err(Unproven::OtherToken) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCES: Nonces = Nonces { acceptor: [1; NONCE], peer: [2; NONCE] };

    #[test]
    fn a_proof_holds_for_one_token_one_role_and_one_pair_of_nonces() {
        let valid = proof("token", Prover::Peer, &NONCES);
        assert!(is_proof("token", Prover::Peer, &NONCES, &valid));
        assert!(!is_proof("tokem", Prover::Peer, &NONCES, &valid));
        assert!(!is_proof("token", Prover::Acceptor, &NONCES, &valid));
        let replayed = Nonces { acceptor: [3; NONCE], ..NONCES };
        assert!(!is_proof("token", Prover::Peer, &replayed, &valid));
        let mut changed = valid;
        changed[PROOF - 1] ^= 1;
        assert!(!is_proof("token", Prover::Peer, &NONCES, &changed));
        assert_ne!(nonce().expect("random bytes"), nonce().expect("random bytes"));
    }
}
