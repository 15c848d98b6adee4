//! Patch extraction on slices.

use crate::ops::float::{Float, for_rows};

pub fn forward<T: Float>(rows: &mut [T], images: &[T], side: usize, patch: usize, channels: usize) {
    let (grid, line) = (side / patch, patch * channels);
    let width = patch * line;
    for_rows(
        rows,
        width,
        #[inline(always)]
        |first, rows| {
            for (i, row) in rows.chunks_exact_mut(width).enumerate() {
                let index = first + i;
                let (b, y, x) = (index / (grid * grid), index / grid % grid, index % grid);
                for (u, line_out) in row.chunks_exact_mut(line).enumerate() {
                    let start = ((b * side + y * patch + u) * side + x * patch) * channels;
                    line_out.copy_from_slice(&images[start..start + line]);
                }
            }
        },
    );
}
