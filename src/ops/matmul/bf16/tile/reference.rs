//! The definition in plain loops.

use super::{PANEL, Sums};
use half::bf16;

/// Adds `pairs` pairs of rows of a panel times the rows of x, which are `stride` apart, to `sums`.
/// x: pairs of bf16; panel: (pairs, columns, 2).
pub fn tile(sums: &mut Sums, x: &[bf16], stride: usize, panel: &[bf16]) {
    for (sums, x) in sums.iter_mut().zip(x.chunks(stride)) {
        for (x, w) in x.chunks_exact(2).zip(panel.chunks_exact(2 * PANEL)) {
            for (sum, w) in sums.iter_mut().zip(w.chunks_exact(2)) {
                *sum = x[1].to_f32().mul_add(w[1].to_f32(), *sum);
                *sum = x[0].to_f32().mul_add(w[0].to_f32(), *sum);
            }
        }
    }
}
