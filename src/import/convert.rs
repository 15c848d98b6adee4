//! The numbers of one tensor of the engine from those of the file.

use super::archive::Archive;
use super::backbone::HostTensor;
use super::source::{StoredLayout, TensorSource};
use crate::error::Result;

/// Reads and rearranges the sources of one tensor.
pub(super) fn convert(archive: &Archive, source: &TensorSource) -> Result<HostTensor> {
    let width = source.to_shape.last().copied().unwrap_or(1);
    let len = source.to_shape.iter().product::<usize>();
    if source.layout == StoredLayout::RegistersAndPositions {
        return registers_and_positions(archive, source);
    }
    let mut parts = Vec::with_capacity(source.from.len());
    for (name, shape) in &source.from {
        let stored = archive.read(name)?;
        parts.push(match source.layout {
            StoredLayout::InOut | StoredLayout::RegistersAndPositions => stored.data,
            StoredLayout::OutIn => transpose(&stored.data, shape[0]),
            StoredLayout::Conv => {
                // [D, 3, P, P]: the last two axes are the rows of a matrix [3, P P] per output, then of [D, 3 P P].
                let (dim, channels, patch) = (shape[0], shape[1], shape[2] * shape[3]);
                let per_out: Vec<f32> =
                    stored.data.chunks_exact(channels * patch).flat_map(|c| transpose(c, channels)).collect();
                transpose(&per_out, dim)
            }
            StoredLayout::Positions { leading: 1 } => stored.data,
            StoredLayout::Positions { leading } => {
                let (class, grid) = stored.data.split_at(leading * width);
                let class = class.get(..width).map_or_else(|| vec![0.0; width], <[f32]>::to_vec);
                [&class, grid].concat()
            }
        });
    }
    let mut data = match parts.len() {
        0 => vec![0.0; len],
        1 => parts.remove(0),
        n => {
            let part = width / n;
            let mut side_by_side = Vec::with_capacity(len);
            for line in 0..len / width {
                parts.iter().for_each(|p| side_by_side.extend_from_slice(&p[line * part..(line + 1) * part]));
            }
            side_by_side
        }
    };
    if let Some(name) = &source.scale {
        let scale = archive.read(name)?.data;
        data.chunks_exact_mut(width).for_each(|line| line.iter_mut().zip(&scale).for_each(|(v, s)| *v *= s));
        if data.iter().any(|v| !v.is_finite()) {
            let what = format!("`{name}` makes `{}` overflow float32", source.from[0].0);
            return Err(archive.error(what));
        }
    }
    Ok(HostTensor { shape: source.to_shape.clone(), data })
}

/// Register tokens of models whose position table has rows for them.
fn registers_and_positions(archive: &Archive, source: &TensorSource) -> Result<HostTensor> {
    let mut sum = HostTensor { shape: source.to_shape.clone(), data: Vec::new() };
    for (i, (name, _)) in source.from.iter().enumerate() {
        let stored = archive.read(name)?.data;
        if i == 0 {
            sum.data = stored;
        } else {
            let width = source.to_shape.last().copied().unwrap_or(1);
            sum.data.iter_mut().zip(&stored[width..]).for_each(|(v, p)| *v += p);
        }
    }
    Ok(sum)
}

/// The transpose of a matrix of `rows` rows, in tiles that stay in the cache.
fn transpose(data: &[f32], rows: usize) -> Vec<f32> {
    const TILE: usize = 32;
    let columns = data.len() / rows.max(1);
    let mut out = vec![0.0; data.len()];
    for top in (0..rows).step_by(TILE) {
        for left in (0..columns).step_by(TILE) {
            for row in top..(top + TILE).min(rows) {
                for column in left..(left + TILE).min(columns) {
                    out[column * rows + row] = data[row * columns + column];
                }
            }
        }
    }
    out
}
