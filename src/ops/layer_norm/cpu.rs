//! Layer normalisation on slices.

use crate::ops::float::{Float, Shared, for_rows, rows_per_task, simd};
use crate::ops::sum::cpu::{lanes, sum_lanes};
use rayon::prelude::*;

pub fn forward<T: Float>(y: &mut [T], stats: &mut [T], x: &[T], scale: &[T], bias: &[T], eps: f64) {
    let c = scale.len();
    let stats = Shared(stats.as_mut_ptr());
    for_rows(
        y,
        c,
        #[inline(always)]
        |first, y| {
            for (i, y) in y.chunks_exact_mut(c).enumerate() {
                let x = &x[(first + i) * c..][..c];
                let n = T::of(c as f64);
                let mean = sum_lanes(x) / n;
                let var = lanes(
                    [x],
                    #[inline(always)]
                    |[x]| (x - mean) * (x - mean),
                ) / n;
                let rstd = T::ONE / (var + T::of(eps)).sqrt();
                // SAFETY: `stats` has two values per row of `y`, and each task takes its own rows.
                unsafe {
                    *stats.at(2 * (first + i)) = mean;
                    *stats.at(2 * (first + i) + 1) = rstd;
                }
                normalise(y, x, (mean, rstd), scale, bias);
            }
        },
    );
}

#[inline(always)]
fn normalise<T: Float>(y: &mut [T], x: &[T], (mean, rstd): (T, T), scale: &[T], bias: &[T]) {
    for (((y, &x), &s), &b) in y.iter_mut().zip(x).zip(scale).zip(bias) {
        *y = (x - mean) * rstd * s + b;
    }
}

pub fn recompute<T: Float>(y: &mut [T], x: &[T], stats: &[T], scale: &[T], bias: &[T]) {
    let c = scale.len();
    for_rows(
        y,
        c,
        #[inline(always)]
        |first, y| {
            for (i, y) in y.chunks_exact_mut(c).enumerate() {
                let row = first + i;
                normalise(y, &x[row * c..][..c], (stats[2 * row], stats[2 * row + 1]), scale, bias);
            }
        },
    );
}

pub fn backward_input_acc<T: Float>(dx: &mut [T], dy: &[T], x: &[T], stats: &[T], scale: &[T]) {
    let c = scale.len();
    for_rows(
        dx,
        c,
        #[inline(always)]
        |first, dx| {
            for (i, dx) in dx.chunks_exact_mut(c).enumerate() {
                let row = first + i;
                let (dx, x, dy) = (&mut dx[..c], &x[row * c..][..c], &dy[row * c..][..c]);
                let (mean, rstd) = (stats[2 * row], stats[2 * row + 1]);
                let n = T::of(c as f64);
                let mean_g = lanes(
                    [dy, scale],
                    #[inline(always)]
                    |[dy, scale]| dy * scale,
                ) / n;
                let mean_gx = lanes(
                    [dy, scale, x],
                    #[inline(always)]
                    |[dy, scale, x]| dy * scale * ((x - mean) * rstd),
                ) / n;
                for j in 0..c {
                    dx[j] += rstd * (dy[j] * scale[j] - mean_g - (x[j] - mean) * rstd * mean_gx);
                }
            }
        },
    );
}

pub fn backward_params_acc<T: Float>(dscale: &mut [T], dbias: &mut [T], dy: &[T], x: &[T], stats: &[T]) {
    let c = dscale.len();
    let rows = rows_per_task(c);
    // One partial sum per group of rows, added in order: the same for any number of threads.
    let partials: Vec<Vec<T>> = dy
        .par_chunks(rows * c)
        .enumerate()
        .map(|(group, dy)| {
            let mut part = vec![T::ZERO; 2 * c];
            let (pscale, pbias) = part.split_at_mut(c);
            simd(
                #[inline(always)]
                || {
                    for (i, dy) in dy.chunks_exact(c).enumerate() {
                        let row = group * rows + i;
                        let (x, mean, rstd) = (&x[row * c..][..c], stats[2 * row], stats[2 * row + 1]);
                        for j in 0..c {
                            pscale[j] += dy[j] * (x[j] - mean) * rstd;
                            pbias[j] += dy[j];
                        }
                    }
                },
            );
            part
        })
        .collect();
    for part in partials {
        for j in 0..c {
            dscale[j] += part[j];
            dbias[j] += part[c + j];
        }
    }
}
