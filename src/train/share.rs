//! What rank 0 has read or computed, for all ranks.

use crate::comm::Comm;
use crate::error::{Error, Result};
use crate::output::checkpoint::State;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What rank 0 has, for all ranks.
pub fn json<T: Serialize + DeserializeOwned>(
    comm: &Comm,
    what: &'static str,
    mine: Option<T>,
) -> Result<Option<T>> {
    if comm.is_alone() {
        return Ok(mine);
    }
    let failed =
        |e: serde_json::Error| Error::failed(format!("{what} cannot be handed to the other ranks: {e}"));
    let bytes = serde_json::to_vec(&mine).map_err(failed)?;
    serde_json::from_slice(&comm.broadcast(what, bytes)?).map_err(failed)
}

/// The checkpoint that rank 0 has read, for all ranks.
pub fn state(comm: &Comm, saved: Option<State>) -> Result<Option<State>> {
    if comm.is_alone() {
        return Ok(saved);
    }
    let mut bytes = saved.as_ref().map(State::to_bytes).transpose()?.unwrap_or_default();
    let lengths =
        comm.all_gather("length of the saved state", (bytes.len() as u64).to_le_bytes().to_vec())?;
    let length = usize::from_le_bytes(lengths[0].as_slice().try_into().unwrap_or_default());
    // In pieces: all that learns and its moments may be more than one message holds.
    const PIECE: usize = 64 << 20;
    bytes.resize(length, 0);
    for piece in bytes.chunks_mut(PIECE) {
        piece.copy_from_slice(&comm.broadcast("saved state", piece.to_vec())?);
    }
    if comm.is_first() || bytes.is_empty() { Ok(saved) } else { State::from_bytes(&bytes).map(Some) }
}
