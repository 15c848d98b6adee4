//! Position tables for another resolution.
//!
//! Source: vision_transformer `interpolate_posembed` (scipy `zoom` of order 1), which is
//! src = dst (A - 1) / (B - 1) on both axes: bilinear, aligned corners.

use super::HostTensor;
use crate::error::{Error, Result};

/// Resizes a position table; the row of the class token (the first) is copied.
///
/// # Shapes
/// `pos` [1, 1 + A A, D] to [1, 1 + `grid_to` `grid_to`, D].
///
/// # Errors
/// `Error::Failed` if `pos` is not the table of a square grid with a class token, or `grid_to` is 0.
///
/// # Precision
/// Weights and sums in f64, rounded once.
pub fn resize_positions(pos: &HostTensor, grid_to: usize) -> Result<HostTensor> {
    let fail = |what: String| Err(Error::failed(format!("resize_positions: {what}")));
    let &[1, rows, dim] = pos.shape.as_slice() else {
        return fail(format!("wanted a table [1, 1 + A*A, D], got {:?}", pos.shape));
    };
    let Some(grid_from) = grid_of(rows) else {
        return fail(format!("{rows} rows are not one class token and a square grid"));
    };
    if rows.checked_mul(dim) != Some(pos.data.len()) {
        return fail(format!("{} values do not fit {:?}", pos.data.len(), pos.shape));
    }
    if grid_to == 0 {
        return fail("a grid needs at least one row".to_string());
    }
    if grid_from == grid_to {
        return Ok(pos.clone());
    }
    let taps: Vec<(usize, usize, f64)> = (0..grid_to)
        .map(|to| {
            let from =
                if grid_to == 1 { 0.0 } else { to as f64 * (grid_from - 1) as f64 / (grid_to - 1) as f64 };
            let low = (from.floor() as usize).min(grid_from - 1);
            (low, (low + 1).min(grid_from - 1), from - low as f64)
        })
        .collect();
    let patches = &pos.data[dim..];
    let mut data = pos.data[..dim].to_vec();
    for &(top, bottom, down) in &taps {
        for &(left, right, across) in &taps {
            let corner = |row: usize, column: usize| &patches[(row * grid_from + column) * dim..][..dim];
            let (a, b) = (corner(top, left), corner(top, right));
            let (c, d) = (corner(bottom, left), corner(bottom, right));
            data.extend((0..dim).map(|i| {
                let mix = |x: f32, y: f32| f64::from(x) * (1.0 - across) + f64::from(y) * across;
                (mix(a[i], b[i]) * (1.0 - down) + mix(c[i], d[i]) * down) as f32
            }));
        }
    }
    Ok(HostTensor { shape: vec![1, 1 + grid_to * grid_to, dim], data })
}

/// A for 1 + A A rows with A at least 1; `None` for any other number.
pub(super) fn grid_of(rows: usize) -> Option<usize> {
    let patches = rows.checked_sub(1)?;
    let grid = patches.isqrt();
    (grid > 0 && grid * grid == patches).then_some(grid)
}
