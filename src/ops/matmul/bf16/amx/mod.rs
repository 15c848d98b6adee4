//! Intel's Advanced Matrix Extensions: 16 rows of 16 sums live in a tile of the processor, and one instruction adds 16
//! pairs of products to each of them.
//!
//! The order of a sum is that of `TDPBF16PS` in Intel's Software Developer's Manual, volume 2: over 32 values the products
//! of the even ones and those of the odd ones are added up apart by fused multiply-adds from zero, both sums are added
//! to each other, and the result to what is there. Numbers below 2^-126 count as zero. On a processor with AMX the bits
//! of plain loops in this order came out (`tests/ops/bf16.rs`).

pub mod cpu;
pub mod strided;

/// Rows of x and columns of w that are multiplied together: two tiles each, and four of sums.
pub const BLOCK: usize = 2 * ROWS;

/// Rows of a tile, and its columns of sums.
pub const ROWS: usize = 16;

/// Values of a row of x that one instruction takes.
pub const STEP: usize = 32;

/// Elements of a tile of operands.
pub const OPERANDS: usize = ROWS * STEP;

/// On a cache line: the rows of a tile are lines.
#[repr(C, align(64))]
pub struct Aligned<T>(pub T);

/// Sums of a block.
pub type Sums = [[f32; BLOCK]; BLOCK];

/// A row of bf16 in its line of the tiles (steps, 16, 32): `odd` zeros, x, and zeros. `left` begins with that line.
pub fn copy_row(left: &mut [u16], x: &[u16], odd: usize) {
    for (step, left) in left.chunks_mut(OPERANDS).enumerate() {
        let (line, first) = (&mut left[..STEP], step * STEP);
        if odd == 0 && first + STEP <= x.len() {
            line.copy_from_slice(&x[first..][..STEP]);
            continue;
        }
        for (i, to) in line.iter_mut().enumerate() {
            *to = (first + i).checked_sub(odd).and_then(|at| x.get(at)).copied().unwrap_or(0);
        }
    }
}
