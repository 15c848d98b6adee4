//! Products of matrices too small for [`strassen`](super::strassen): w lies in panels of two vectors of columns, groups of
//! rows of x stay in the second-level cache while they meet one panel after the other, and a tile of sums stays in the
//! registers. Each row of y is the sum over k in order, in pieces of at most [`DEPTH`](super::tile::DEPTH), so that its bits
//! depend on its row of x alone.

pub mod cpu;

/// Columns are a multiple of this: of two vectors of every machine.
const COLUMNS: usize = 32;

/// From here on a matrix is worth the packing.
const LARGE: usize = 64;

/// Whether [`cpu::product`] can take a matrix w (k, n) and is faster than the library.
pub fn suits(k: usize, n: usize) -> bool {
    k >= LARGE && n >= LARGE && n.is_multiple_of(COLUMNS)
}

/// Elements of a packed matrix of (k, n).
pub fn packed_len(k: usize, n: usize) -> usize {
    k * n
}
