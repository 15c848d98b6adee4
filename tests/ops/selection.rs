//! Which prompts are chosen: order, ties, votes, NaN; and the pull term.

use super::{DEV, f64s};
use l2p_engine::ops::match_prompts::{self, Select};
use l2p_engine::tensor::{DType, Tensor};

fn select(similarity: &[f64], m: usize, n: usize, how: Select) -> Vec<Vec<u32>> {
    let b = similarity.len() / m;
    let run = |dtype| {
        let s = Tensor::from_f64(similarity, [b, m], dtype);
        let mut ids = Tensor::from_vec(vec![u32::MAX; b * n], [b, n]);
        match_prompts::select(&DEV, ids.view_mut(), s.view(), how).expect("a selection");
        ids.as_slice::<u32>().expect("u32").chunks_exact(n).map(<[u32]>::to_vec).collect::<Vec<_>>()
    };
    let ids = run(DType::F64);
    assert_eq!(ids, run(DType::F32), "the same in both precisions");
    ids
}

#[test]
fn most_similar_first_ties_to_the_lower_id() {
    let s = [0.1, 0.9, 0.9, -1.0, 0.5];
    assert_eq!(select(&s, 5, 3, Select::PerImage), [[1, 2, 4]]);
    assert_eq!(select(&s, 5, 5, Select::PerImage), [[1, 2, 4, 0, 3]]);
    assert_eq!(select(&[0.0; 4], 4, 2, Select::PerImage), [[0, 1]]);
    assert_eq!(select(&[-0.0, 0.0], 2, 1, Select::PerImage), [[0]], "0 and -0 are equal");
    assert_eq!(select(&[7.0], 1, 1, Select::PerImage), [[0]]);
}

#[test]
fn nan_is_below_every_number() {
    let nan = f64::NAN;
    assert_eq!(select(&[nan, -5.0, nan, f64::NEG_INFINITY], 4, 3, Select::PerImage), [[1, 3, 0]]);
    assert_eq!(select(&[nan; 3], 3, 2, Select::PerImage), [[0, 1]]);
    assert_eq!(select(&[nan, 1.0], 2, 1, Select::Vote { group: 1 }), [[1]]);
}

#[test]
fn votes() {
    // Own choices of two: (2 0), (2 1), (3 1), (0 3).
    let s = [0.5, 0.1, 0.9, 0.0, 0.1, 0.5, 0.9, 0.0, 0.0, 0.5, 0.1, 0.9, 0.9, 0.1, 0.0, 0.5];
    let own = select(&s, 4, 2, Select::PerImage);
    assert_eq!(own, [[2, 0], [2, 1], [3, 1], [0, 3]]);
    // Two votes each for 0, 1, 2 and 3: the lower ids win.
    assert_eq!(select(&s, 4, 2, Select::Vote { group: 4 }), vec![[0, 1]; 4]);
    // Groups of three and one: 2 and 1 have two votes of the first three images.
    let wanted = [[1, 2], [1, 2], [1, 2], [0, 3]];
    assert_eq!(select(&s, 4, 2, Select::Vote { group: 3 }), wanted);
    assert_eq!(select(&s, 4, 2, Select::Vote { group: 100 }), vec![[0, 1]; 4]);
    // A group of one changes the order to ascending ids, not the set: every id has one vote.
    assert_eq!(select(&s, 4, 2, Select::Vote { group: 1 }), [[0, 2], [1, 2], [1, 3], [0, 3]]);
}

/// Equation 4 of the paper: cosines 0.9, 0.5, 0.8, -0.5 to prompts that were used 0, 1, 5, 0 times make products
/// 0, 0.5, 1, 0.
#[test]
fn prompts_that_were_used_often_are_passed_over() {
    let s = [0.9, 0.5, 0.8, -0.5, -1.0, 1.0, 1.0, f64::NAN];
    for dtype in [DType::F64, DType::F32] {
        let similarity = Tensor::from_f64(&s, [2, 4], dtype);
        let run = |used: [u32; 4], n: usize| {
            let used = Tensor::from_vec(used.to_vec(), [4]);
            let mut scores = Tensor::from_f64(&[f64::NAN; 8], [2, 4], dtype);
            match_prompts::penalise(&DEV, scores.view_mut(), similarity.view(), used.view()).expect("scores");
            let mut ids = Tensor::from_vec(vec![u32::MAX; 2 * n], [2, n]);
            match_prompts::select(&DEV, ids.view_mut(), scores.view(), Select::PerImage).expect("ids");
            ids.as_slice::<u32>().expect("u32").to_vec()
        };
        // Those never used by distance, then by product; a NaN is below all.
        assert_eq!(run([0, 1, 5, 0], 4), [0, 3, 1, 2, 0, 1, 2, 3]);
        // In the first task nothing was used, and what counts is the similarity.
        assert_eq!(run([0; 4], 3), [0, 2, 1, 1, 2, 0]);
        // Only ratios of uses matter.
        assert_eq!(run([7, 1, 1, 1], 4), run([700, 100, 100, 100], 4));
        assert_eq!(run([7, 1, 1, 1], 4)[..4], [2, 1, 0, 3]);
    }
    let (mut counts, ids) =
        (Tensor::from_vec(vec![1u32, 0, 9], [3]), Tensor::from_vec(vec![2u32, 0, 2, 2], [2, 2]));
    match_prompts::count_acc(&DEV, counts.view_mut(), ids.view()).expect("counts");
    assert_eq!(counts.to_f64(), [2.0, 0.0, 12.0]);
    assert!(match_prompts::count_acc(&DEV, counts.view_mut().part(0, [2]), ids.view()).is_err());
}

#[test]
fn fixed_ids() {
    assert_eq!(select(&[0.0; 10], 5, 2, Select::Fixed { start: 3 }), [[3, 4], [3, 4]]);
}

#[test]
fn pull_sums_over_prompts_and_averages_over_images() {
    let s = f64s(&[1., 2., 4., 8., 16., 32.], [2, 3]);
    let ids = Tensor::from_vec(vec![2u32, 0, 1, 2], [2, 2]);
    let mut pull = f64s(&[f64::NAN], [1]);
    match_prompts::pull(&DEV, pull.view_mut(), s.view(), ids.view()).expect("pull");
    assert_eq!(pull.to_f64(), [(4. + 1. + 16. + 32.) / 2.]);
    let mut d = f64s(&[f64::NAN; 6], [2, 3]);
    match_prompts::backward_pull(&DEV, d.view_mut(), ids.view(), -0.5).expect("gradient");
    assert_eq!(d.to_f64(), [-0.25, 0., -0.25, 0., -0.25, -0.25]);
}
