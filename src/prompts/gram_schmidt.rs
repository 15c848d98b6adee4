//! New rows that are orthogonal to old ones.

use crate::error::{Error, Result};

/// A row or a rest of squared length below this has no direction.
const NOTHING: f64 = 1e-8;

/// New rows of `width` values from the rows `draws`, with u_j the old rows and then the new ones before they are
/// normalised: u_k = v_k - Σ_(j<k) (v_k·u_j / u_j·u_j) u_j, with all projections of v_k itself (the classical form),
/// divided by their lengths at the end. Old rows need not be orthonormal; those that are nearly zero are passed over.
/// Source: GT-RIPL/CODA-Prompt @ 6417d4f, `models/zoo.py`, `gram_schmidt`, which does not end at an old row of zeros.
///
/// # Errors
/// `Error::Failed` if nothing is left of a draw: `width` has no more directions.
pub fn gram_schmidt(old: &[f64], draws: &[f64], width: usize) -> Result<Vec<f64>> {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let mut rows: Vec<f64> = old.to_vec();
    for v in draws.chunks_exact(width) {
        let mut u = v.to_vec();
        for before in rows.chunks_exact(width) {
            let squares = dot(before, before);
            if squares >= NOTHING {
                let along = dot(v, before) / squares;
                u.iter_mut().zip(before).for_each(|(u, before)| *u -= along * before);
            }
        }
        if dot(&u, &u) < NOTHING {
            return Err(Error::failed(format!(
                "nothing is left of a draw beside {} rows of {width} values: wanted at most as many rows as values",
                rows.len() / width
            )));
        }
        rows.extend(u);
    }
    let mut new = rows.split_off(old.len());
    for row in new.chunks_exact_mut(width) {
        let length = dot(row, row).sqrt();
        row.iter_mut().for_each(|u| *u /= length);
    }
    Ok(new)
}
