//! Token pooling on slices.

use super::args::Pooling;
use crate::ops::float::{Float, for_rows};
use std::ops::Range;

/// Maximum over rows of one column, and how many rows attain it.
fn column_max<T: Float>(x: &[T], c: usize, j: usize) -> (T, usize) {
    let mut max = x[j];
    let mut ties = 0;
    for row in x.chunks_exact(c) {
        if row[j] > max {
            (max, ties) = (row[j], 1);
        } else if row[j] == max {
            ties += 1;
        }
    }
    (max, ties)
}

pub fn forward<T: Float>(y: &mut [T], x: &[T], t: usize, c: usize, rows: Range<usize>, kind: Pooling) {
    let n = T::of(rows.len() as f64);
    for_rows(
        y,
        c,
        #[inline(always)]
        |first, y| {
            for (i, y) in y.chunks_exact_mut(c).enumerate() {
                let x = &x[((first + i) * t + rows.start) * c..][..rows.len() * c];
                y.fill(T::ZERO);
                if kind != Pooling::Max {
                    for row in x.chunks_exact(c) {
                        for j in 0..c {
                            y[j] += row[j];
                        }
                    }
                    let weight = if kind == Pooling::MeanMax { T::of(2.0) / n } else { T::ONE / n };
                    y.iter_mut().for_each(|y| *y *= weight);
                }
                if kind != Pooling::Mean {
                    for j in 0..c {
                        y[j] += column_max(x, c, j).0;
                    }
                }
            }
        },
    );
}

pub fn backward<T: Float>(
    dx: &mut [T],
    dy: &[T],
    x: &[T],
    t: usize,
    c: usize,
    rows: Range<usize>,
    kind: Pooling,
) {
    let n = T::of(rows.len() as f64);
    for_rows(
        dx,
        t * c,
        #[inline(always)]
        |first, dx| {
            for (i, dx) in dx.chunks_exact_mut(t * c).enumerate() {
                let image = first + i;
                let x = &x[(image * t + rows.start) * c..][..rows.len() * c];
                let dy = &dy[image * c..][..c];
                dx.fill(T::ZERO);
                let dx = &mut dx[rows.start * c..][..rows.len() * c];
                if kind != Pooling::Max {
                    let weight = if kind == Pooling::MeanMax { T::of(2.0) / n } else { T::ONE / n };
                    for row in dx.chunks_exact_mut(c) {
                        for j in 0..c {
                            row[j] = dy[j] * weight;
                        }
                    }
                }
                if kind != Pooling::Mean {
                    for j in 0..c {
                        let (max, ties) = column_max(x, c, j);
                        for (drow, row) in dx.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
                            if row[j] == max {
                                drow[j] += dy[j] / T::of(ties as f64);
                            }
                        }
                    }
                }
            }
        },
    );
}
