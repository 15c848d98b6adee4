//! What products on the CPU are made of: a tile of sums that stays in the registers while a column of the
//! left side meets a row of vectors of the right.

#[cfg(test)]
pub mod checks;
pub mod cpu;
mod lanes;

pub use lanes::Lanes;

use std::ops::Range;

/// Rows of a tile of two vectors where 32 registers hold 24 sums, and where 16 hold 12.
pub const MANY: usize = 12;
pub const FEW: usize = 6;

/// A tile's rows, and its columns: two vectors of them.
#[derive(Debug, Clone, Copy)]
pub struct TileShape {
    pub tile: usize,
    pub width: usize,
}

/// The longest sum in one piece. Longer pieces would write y more rarely, but the left sides of a group of rows would not stay
/// in the second-level cache.
pub const DEPTH: usize = 512;

/// Distance of packed rows of x. Not a power of two, so that the rows of a tile lie in different sets of
/// the cache.
pub const STRIDE: usize = DEPTH + 16;

/// Tiles of one group of rows, which meet one panel of w after the other: their left sides stay in the second-level cache, and
/// while they meet one panel another arrives.
pub const TILES: usize = 4;

/// A sum of length k cut into pieces of `depth`, of which the last may be shorter. Depends on k only.
pub struct Pieces {
    k: usize,
    depth: usize,
}

impl Pieces {
    pub fn new(k: usize) -> Pieces {
        Pieces { k, depth: k.div_ceil(k.div_ceil(DEPTH)) }
    }

    pub fn iter(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (k, depth) = (self.k, self.depth);
        (0..k).step_by(depth).map(move |start| start..(start + depth).min(k))
    }
}
