//! Gather and its transpose on slices.

use crate::ops::float::{Float, for_rows};

pub fn forward<T: Float>(tokens: (&mut [T], usize, usize), table: &[T], ids: &[u32], n: usize) {
    let (tokens, t, at) = tokens;
    if n == 0 {
        return;
    }
    let c = tokens.len() / (t * (ids.len() / n));
    for_rows(
        tokens,
        t * c,
        #[inline(always)]
        |first, tokens| {
            for (i, image) in tokens.chunks_exact_mut(t * c).enumerate() {
                let ids = &ids[(first + i) * n..][..n];
                for (row, &id) in image[at * c..].chunks_exact_mut(c).zip(ids) {
                    row.copy_from_slice(&table[id as usize * c..][..c]);
                }
            }
        },
    );
}

pub fn backward_acc<T: Float>(
    dtable: &mut [T],
    dtokens: (&[T], usize, usize),
    ids: &[u32],
    n: usize,
    c: usize,
) {
    let (dtokens, t, at) = dtokens;
    let mut users: Vec<Vec<usize>> = vec![Vec::new(); dtable.len() / c];
    for (place, &id) in ids.iter().enumerate() {
        users[id as usize].push(place);
    }
    for_rows(
        dtable,
        c,
        #[inline(always)]
        |first, dtable| {
            for (i, row) in dtable.chunks_exact_mut(c).enumerate() {
                for &place in &users[first + i] {
                    let source = &dtokens[((place / n) * t + at + place % n) * c..][..c];
                    for j in 0..c {
                        row[j] += source[j];
                    }
                }
            }
        },
    );
}
