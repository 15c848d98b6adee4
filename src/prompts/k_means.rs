//! k-means on the rows of a matrix, in f64. Differs from scikit-learn's `KMeans` in the draws of its start, of which
//! each is one instead of the best of several, and in its end, which is when no row changes its centre instead of when
//! centres move little.

use crate::rng::Rng;
use rayon::prelude::*;

/// Rounds after which it ends in any case, as many as scikit-learn makes.
const ROUNDS: usize = 300;

/// Centres, and what they mean for the rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Clusters {
    /// (K, C)
    pub centres: Vec<f64>,
    /// The centre of each row.
    pub labels: Vec<u32>,
    /// Σ of the squared distances of the rows to their centres.
    pub inertia: f64,
}

fn squared_distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}

/// The first `k` centres (K, C) of the rows (n, C), n > 0, by k-means++: a row drawn evenly, then rows drawn by
/// their squared distance to the nearest centre so far. Where no row is away from all centres, a centre comes twice.
/// Source: Arthur & Vassilvitskii 2007, "k-means++: the advantages of careful seeding".
pub fn plus_plus(rows: &[f64], width: usize, k: usize, rng: &mut Rng) -> Vec<f64> {
    let n = rows.len() / width;
    let row = |i: usize| &rows[i * width..][..width];
    let mut centres = row(rng.below(n as u32) as usize).to_vec();
    let mut nearest = vec![f64::INFINITY; n];
    while centres.len() < k * width {
        let last = &centres[centres.len() - width..];
        nearest.par_iter_mut().enumerate().for_each(|(i, d)| *d = d.min(squared_distance(row(i), last)));
        let total: f64 = nearest.iter().sum();
        let mut left = rng.uniform_f64() * total;
        let passes = |d: &f64| {
            left -= d;
            left < 0.0
        };
        // By rounding, nothing may be left of the sum: the last row that can be drawn.
        let drawn = nearest.iter().position(passes);
        let drawn = drawn.or_else(|| nearest.iter().rposition(|d| *d > 0.0)).unwrap_or(0);
        centres.extend_from_slice(row(drawn));
    }
    centres
}

/// The nearest centre of each row; the first of equals.
fn assign(rows: &[f64], width: usize, centres: &[f64]) -> Vec<u32> {
    let nearest = |row: &[f64]| {
        let distances = centres.chunks_exact(width).map(|centre| squared_distance(row, centre));
        let first = (0, f64::INFINITY);
        let best = distances.enumerate().fold(first, |best, (k, d)| if d < best.1 { (k, d) } else { best });
        best.0 as u32
    };
    rows.par_chunks_exact(width).map(nearest).collect()
}

/// Lloyd's iteration from `centres` (K, C) on the rows (n, C) until no row changes its centre. Sums run in the order of
/// the rows: the same bits on any number of threads. A centre without rows stays where it is.
pub fn lloyd(rows: &[f64], width: usize, mut centres: Vec<f64>) -> Clusters {
    let mut labels = assign(rows, width, &centres);
    for _ in 0..ROUNDS {
        let mut counts = vec![0.0; centres.len() / width];
        let mut sums = vec![0.0; centres.len()];
        for (row, &label) in rows.chunks_exact(width).zip(&labels) {
            counts[label as usize] += 1.0;
            sums[label as usize * width..][..width].iter_mut().zip(row).for_each(|(sum, v)| *sum += v);
        }
        for ((centre, sum), &count) in
            centres.chunks_exact_mut(width).zip(sums.chunks_exact(width)).zip(&counts)
        {
            if count > 0.0 {
                centre.iter_mut().zip(sum).for_each(|(c, sum)| *c = sum / count);
            }
        }
        let now = assign(rows, width, &centres);
        if now == labels {
            break;
        }
        labels = now;
    }
    let own =
        |(row, &label): (&[f64], &u32)| squared_distance(row, &centres[label as usize * width..][..width]);
    let inertia = rows.chunks_exact(width).zip(&labels).map(own).sum();
    Clusters { centres, labels, inertia }
}
