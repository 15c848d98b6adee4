//! Sums of rows of x times a panel of w: the innermost products of bf16.

pub mod cpu;
pub mod reference;

/// Columns of a packed panel: two vectors of 16 f32.
pub const PANEL: usize = 32;

/// Rows of x that meet a panel together.
pub const TILE: usize = 12;

/// Sums of a tile.
pub type Sums = [[f32; PANEL]; TILE];
