//! Launches of `kernels/match_prompts.cu`.

use super::args::Select;
use crate::device::{ElementType, Gpu, Grid, Kernel, args, kernel};
use crate::error::Result;
use crate::tensor::{View, ViewMut};

const SELECT: Kernel = kernel!("match_prompts", "match_prompts_select", [
    ids: *u32, scores: *f32, b: u32, n: u32, m: u32, group: u32,
]);
const COUNT_VOTES: Kernel = kernel!("match_prompts", "match_prompts_count_votes", [
    votes: *f32, ids: *u32, b: u32, n: u32, m: u32, group: u32,
]);
const FIXED: Kernel =
    kernel!("match_prompts", "match_prompts_fixed", [ids: *u32, start: u32, n: u32, len: u64]);
const PENALISE: Kernel = kernel!("match_prompts", "match_prompts_penalise", [
    scores: *f32, similarity: *f32, used: *u32, m: u32, len: u64,
]);
const COUNT: Kernel =
    kernel!("match_prompts", "match_prompts_count", [counts: *u32, ids: *u32, m: u32, len: u64]);
const PULL: Kernel = kernel!("match_prompts", "match_prompts_pull", [
    out: *f32, similarity: *f32, ids: *u32, b: u32, n: u32, m: u32,
]);
const BACKWARD_PULL: Kernel = kernel!("match_prompts", "match_prompts_backward_pull", [
    dsimilarity: *f32, ids: *u32, n: u32, m: u32, len: u64, share: f32,
]);

const THREADS: usize = 256;
/// Images, or groups of them, of a block: one per warp.
const WARPS: usize = THREADS / 32;

/// One thread per element.
fn elements(len: usize) -> Grid {
    Grid::new(len.div_ceil(THREADS), THREADS as u32)
}

/// One warp per unit.
fn warps(units: usize) -> Grid {
    Grid::new(units.div_ceil(WARPS), THREADS as u32)
}

pub fn select(gpu: &Gpu, mut ids: ViewMut, similarity: View, how: Select) -> Result<()> {
    let (b, m, n) = (similarity.dims()[0], similarity.dims()[1], ids.dims()[1]);
    let args = match how {
        Select::Fixed { start } => {
            let len = b * n;
            // SAFETY: mod.rs has checked ids (B, N).
            return unsafe {
                gpu.launch(&FIXED, ElementType::F32, elements(len), &args![ids, start, n, len = len as u64])
            };
        }
        Select::PerImage | Select::Vote { .. } => {
            args![ids = ids.reborrow(), scores = similarity, b, n, m, group = 1usize]
        }
    };
    // SAFETY: mod.rs has checked ids (B, N), similarity (B, M) and that M prompts are enough.
    unsafe { gpu.launch(&SELECT, ElementType::F32, warps(b), &args)? };
    let Select::Vote { group } = how else { return Ok(()) };
    let groups = b.div_ceil(group);
    let votes = gpu.scratch(groups * m)?;
    let args = args![votes, ids = ids.as_view(), b, n, m, group];
    // SAFETY: the scratch memory holds M votes per group.
    unsafe { gpu.launch(&COUNT_VOTES, ElementType::F32, elements(groups * m), &args)? };
    // SAFETY: as above; the last group may have fewer images, which the kernel derives from B.
    unsafe {
        gpu.launch(&SELECT, ElementType::F32, warps(groups), &args![ids, scores = votes, b, n, m, group])
    }
}

pub fn penalise(gpu: &Gpu, scores: ViewMut, similarity: View, used: View) -> Result<()> {
    let (m, len) = (similarity.dims()[1], similarity.len());
    let args = args![scores, similarity, used, m, len = len as u64];
    // SAFETY: mod.rs has checked scores (B, M) and used (M).
    unsafe { gpu.launch(&PENALISE, ElementType::F32, elements(len), &args) }
}

pub fn count_acc(gpu: &Gpu, counts: ViewMut, ids: View) -> Result<()> {
    let (m, len) = (counts.len(), ids.len() as u64);
    // SAFETY: the kernel writes the M counts; an id that is none of M is counted nowhere.
    unsafe { gpu.launch(&COUNT, ElementType::F32, warps(m), &args![counts, ids, m, len]) }
}

pub fn pull(gpu: &Gpu, out: ViewMut, similarity: View, ids: View) -> Result<()> {
    let (b, m, n) = (similarity.dims()[0], similarity.dims()[1], ids.dims()[1]);
    let args = args![out, similarity, ids, b, n, m];
    // SAFETY: mod.rs has checked out (1) and ids (B, N); the kernel passes over ids that are none.
    unsafe { gpu.launch(&PULL, ElementType::F32, Grid::new(1, THREADS as u32), &args) }
}

pub fn backward_pull(gpu: &Gpu, dsimilarity: ViewMut, ids: View, weight: f64) -> Result<()> {
    let (b, m, n) = (dsimilarity.dims()[0], dsimilarity.dims()[1], ids.dims()[1]);
    let len = b * m;
    let args = args![dsimilarity, ids, n, m, len = len as u64, share = (weight / b as f64) as f32];
    // SAFETY: mod.rs has checked ids (B, N).
    unsafe { gpu.launch(&BACKWARD_PULL, ElementType::F32, elements(len), &args) }
}
