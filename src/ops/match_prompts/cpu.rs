//! Prompt selection on slices.

use super::args::Select;
use crate::ops::float::Float;
use rayon::prelude::*;

/// Rounding makes cosines of 1 and more; no prompt is nearer than this.
const NEAREST: f64 = 1e-7;

pub fn select<T: Float>(ids: &mut [u32], similarity: &[T], n: usize, m: usize, how: Select) {
    if n == 0 || m == 0 {
        return;
    }
    match how {
        Select::Fixed { start } => {
            for ids in ids.chunks_exact_mut(n) {
                ids.iter_mut().enumerate().for_each(|(i, id)| *id = (start + i) as u32);
            }
        }
        Select::PerImage => {
            ids.par_chunks_mut(n).zip(similarity.par_chunks(m)).for_each(|(ids, s)| top(ids, s));
        }
        Select::Vote { group } => {
            let groups = ids.par_chunks_mut(group * n).zip(similarity.par_chunks(group * m));
            groups.for_each(|(ids, s)| {
                let mut votes = vec![0u32; m];
                for (ids, s) in ids.chunks_exact_mut(n).zip(s.chunks_exact(m)) {
                    top(ids, s);
                    ids.iter().for_each(|&id| votes[id as usize] += 1);
                }
                let mut winners = vec![0u32; n];
                top(&mut winners, &votes);
                ids.chunks_exact_mut(n).for_each(|ids| ids.copy_from_slice(&winners));
            });
        }
    }
}

/// The positions of the largest values, descending, ties to the lower position. A NaN counts as
/// smaller than every number.
fn top<S: PartialOrd + Copy>(ids: &mut [u32], scores: &[S]) {
    let better = |a: usize, b: usize| match scores[a].partial_cmp(&scores[b]) {
        Some(std::cmp::Ordering::Greater) => true,
        Some(std::cmp::Ordering::Less) => false,
        Some(std::cmp::Ordering::Equal) => a < b,
        None => match (is_number(scores[a]), is_number(scores[b])) {
            (true, false) => true,
            (false, true) => false,
            _ => a < b,
        },
    };
    let mut taken = 0;
    for candidate in 0..scores.len() {
        let place = (0..taken).find(|&i| better(candidate, ids[i] as usize)).unwrap_or(taken);
        if place >= ids.len() {
            continue;
        }
        taken = (taken + 1).min(ids.len());
        ids[place..taken].rotate_right(1);
        ids[place] = candidate as u32;
    }
}

fn is_number<S: PartialOrd>(x: S) -> bool {
    x.partial_cmp(&x).is_some()
}

pub fn penalise<T: Float>(scores: &mut [T], similarity: &[T], used: &[u32]) {
    for (scores, similarity) in scores.chunks_exact_mut(used.len()).zip(similarity.chunks_exact(used.len())) {
        for ((score, &s), &used) in scores.iter_mut().zip(similarity).zip(used) {
            let nearest = T::of(NEAREST);
            let far = if T::ONE - s < nearest { nearest } else { T::ONE - s };
            *score = if used == 0 { T::ONE / far } else { -far * T::of(f64::from(used)) };
        }
    }
}

pub fn pull<T: Float>(similarity: &[T], ids: &[u32], b: usize, m: usize) -> f64 {
    let n = ids.len() / b.max(1);
    let selected = ids.iter().enumerate().map(|(i, &id)| similarity[i / n * m + id as usize].to_f64());
    selected.sum::<f64>() / b as f64
}

pub fn backward_pull<T: Float>(dsimilarity: &mut [T], ids: &[u32], b: usize, m: usize, weight: f64) {
    dsimilarity.fill(T::ZERO);
    let n = ids.len() / b.max(1);
    for (i, &id) in ids.iter().enumerate() {
        dsimilarity[i / n * m + id as usize] += T::of(weight / b as f64);
    }
}
