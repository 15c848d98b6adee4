//! Position tables for another resolution: separable resampling of the grid, the class token's row copied.
//!
//! For output row i of B, from A input rows, with s = A / B:
//! - `BilinearAligned`: src = i (A - 1) / (B - 1), linear between the two neighbours.
//! - `Bicubic`: src = (i + 1/2) s - 1/2, the four neighbours weighted by the cubic kernel of a = -3/4, rows
//!   outside the grid replaced by the border's.
//! - `Dinov2`: as `Bicubic` with s = A / (B + 0.1).
//! - `BicubicAntialias`: centre (i + 1/2) s, the cubic kernel of a = -1/2 stretched by max(s, 1), weights of
//!   the rows inside normalised to 1.
//!
//! Sources: vision_transformer `interpolate_posembed`; PyTorch `aten/native/UpSample.h` and
//! `aten/native/cpu/UpSampleKernel.cpp`, which timm's and transformers' functions call; Keys 1981.

use super::backbone::{HostTensor, PositionResize};
use crate::error::{Error, Result};

/// What facebookresearch/dinov2 adds to the new grid's side before it divides, `interpolate_offset`.
const DINOV2_OFFSET: f64 = 0.1;

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
pub fn resize_positions(pos: &HostTensor, grid_to: usize, rule: PositionResize) -> Result<HostTensor> {
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
    let taps: Vec<Taps> = (0..grid_to).map(|to| taps(rule, grid_from, grid_to, to)).collect();
    let patches: Vec<f64> = pos.data[dim..].iter().map(|&v| f64::from(v)).collect();
    // Along the columns first: (A, A, D) to (A, B, D), then along the rows to (B, B, D).
    let mut across = vec![0.0; grid_from * grid_to * dim];
    for row in 0..grid_from {
        for (column, taps) in taps.iter().enumerate() {
            let sum = &mut across[(row * grid_to + column) * dim..][..dim];
            for &(from, weight) in taps {
                let line = &patches[(row * grid_from + from) * dim..][..dim];
                sum.iter_mut().zip(line).for_each(|(sum, v)| *sum += weight * v);
            }
        }
    }
    let mut data = pos.data[..dim].to_vec();
    let mut sum = vec![0.0; grid_to * dim];
    for taps in &taps {
        sum.fill(0.0);
        for &(from, weight) in taps {
            let line = &across[from * grid_to * dim..][..grid_to * dim];
            sum.iter_mut().zip(line).for_each(|(sum, v)| *sum += weight * v);
        }
        data.extend(sum.iter().map(|&v| v as f32));
    }
    Ok(HostTensor { shape: vec![1, 1 + grid_to * grid_to, dim], data })
}

/// Input rows and their weights, which sum to 1.
type Taps = Vec<(usize, f64)>;

/// What output row `to` of `grid_to` is made of.
fn taps(rule: PositionResize, grid_from: usize, grid_to: usize, to: usize) -> Taps {
    let last = grid_from - 1;
    let (from, into) = (grid_from as f64, grid_to as f64);
    let centre = to as f64 + 0.5;
    match rule {
        PositionResize::BilinearAligned => {
            let src = if grid_to == 1 { 0.0 } else { to as f64 * last as f64 / (grid_to - 1) as f64 };
            let low = (src.floor() as usize).min(last);
            let part = src - low as f64;
            vec![(low, 1.0 - part), ((low + 1).min(last), part)]
        }
        PositionResize::Bicubic => four(centre * (from / into) - 0.5, last),
        PositionResize::Dinov2 => four(centre * (from / (into + DINOV2_OFFSET)) - 0.5, last),
        PositionResize::BicubicAntialias => {
            let scale = from / into;
            let stretch = scale.max(1.0);
            let centre = centre * scale;
            let start = (centre - 2.0 * stretch + 0.5).floor().max(0.0) as usize;
            let end = ((centre + 2.0 * stretch + 0.5).floor() as usize).min(grid_from);
            let weight = |row: usize| cubic((row as f64 - centre + 0.5) / stretch, -0.5);
            let mut taps: Taps = (start..end).map(|row| (row, weight(row))).collect();
            let sum: f64 = taps.iter().map(|(_, weight)| weight).sum();
            taps.iter_mut().for_each(|(_, weight)| *weight /= sum);
            taps
        }
    }
}

/// The four rows around `src`, kept within 0..=`last`.
fn four(src: f64, last: usize) -> Taps {
    let low = src.floor();
    let part = src - low;
    let row = |offset: i64| (low as i64 + offset).clamp(0, last as i64) as usize;
    (-1..=2).map(|offset| (row(offset), cubic(offset as f64 - part, -0.75))).collect()
}

/// Keys' cubic convolution kernel.
fn cubic(x: f64, a: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * a
    } else {
        0.0
    }
}

/// A for 1 + A A rows with A at least 1; `None` for any other number.
pub(super) fn grid_of(rows: usize) -> Option<usize> {
    square_root(rows.checked_sub(1)?)
}

/// Rows in front of the grid and the side of the grid, of a table for a class token, `registers` register
/// tokens and a square grid. Tables have rows for the class token alone, for none, or for all of them.
pub(super) fn leading_and_grid(rows: usize, registers: usize) -> Option<(usize, usize)> {
    [1, 0, 1 + registers]
        .into_iter()
        .find_map(|leading| Some((leading, square_root(rows.checked_sub(leading)?)?)))
}

fn square_root(patches: usize) -> Option<usize> {
    let grid = patches.isqrt();
    (grid > 0 && grid * grid == patches).then_some(grid)
}
