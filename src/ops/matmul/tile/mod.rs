//! What products on the CPU are made of: a tile of sums that stays in the registers while a column of the
//! left side meets a row of vectors of the right.

pub mod cpu;
mod lanes;

pub use lanes::Lanes;

/// Rows of a tile of two vectors where 32 registers hold 24 sums, and where 16 hold 12.
pub const MANY: usize = 12;
pub const FEW: usize = 6;

/// A tile's rows, and its columns: two vectors of them.
#[derive(Debug, Clone, Copy)]
pub struct TileShape {
    pub tile: usize,
    pub width: usize,
}
