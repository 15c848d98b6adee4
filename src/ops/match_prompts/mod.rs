//! Which prompts an image uses, and the pull term between its query and their keys.
//! Source: Wang et al. 2022, arXiv:2112.08654, section 4.1; google-research/l2p `models/prompt.py`.
//!
//! Names: query (B, C), keys (M, C), both as rows of unit length; similarity (B, M); ids (B, N).

mod args;
mod cpu;
mod cuda;

pub use args::Select;

use crate::device::{Device, range};
use crate::error::{Error, Result};
use crate::tensor::{View, ViewMut, expect_shape};
use args::OP;

/// Overwrites `ids` (B, N) from `similarity` (B, M).
///
/// # Errors
/// `Error::Shape` if fewer than N prompts exist or a vote group is empty.
pub fn select(dev: &Device, ids: ViewMut, similarity: View, how: Select) -> Result<()> {
    let (b, m) = (similarity.dims()[0], similarity.dims()[1]);
    let n = ids.dims()[1];
    expect_shape(OP, "ids", ids.shape(), [b, n])?;
    let (arg, needed, has) = match how {
        Select::PerImage => ("similarity", n, m),
        Select::Vote { group } => ("group", usize::from(group == 0).max(n), if group == 0 { 0 } else { m }),
        Select::Fixed { start } => ("start", start + n, m),
    };
    if needed > has {
        let wanted = format!("at least {needed}");
        return Err(Error::Shape { op: OP, arg, wanted, got: has.to_string() });
    }
    let _op = range(c"match prompts");
    match dev {
        Device::Cpu => float!("match_prompts", "similarity", similarity.dtype(), T => {
            let similarity = similarity.get::<T>(OP, "similarity")?;
            cpu::select(ids.get::<u32>(OP, "ids")?, similarity, n, m, how);
            Ok(())
        }),
        Device::Cuda(gpu) => cuda::select(gpu, ids, similarity, how),
    }
}

/// Overwrites `scores` (B, M), by which [`select`] chooses prompts that earlier tasks used rarely: of those that they
/// used, the best has the smallest (1 - similarity) · used; before them come those never used, nearest first (their
/// product is 0 for all of them, and the formula leaves the order open). How `used` (M) u32 is scaled makes no
/// difference. Source: Wang et al. 2022, arXiv:2112.08654, equation 4, with the cosine distance as gamma.
pub fn penalise(dev: &Device, scores: ViewMut, similarity: View, used: View) -> Result<()> {
    let (b, m) = (similarity.dims()[0], similarity.dims()[1]);
    expect_shape(OP, "scores", scores.shape(), [b, m])?;
    expect_shape(OP, "used", used.shape(), [m])?;
    let _op = range(c"match prompts");
    match dev {
        Device::Cpu => float!("match_prompts", "similarity", similarity.dtype(), T => {
            let (s, used) = (similarity.get::<T>(OP, "similarity")?, used.get::<u32>(OP, "used")?);
            cpu::penalise(scores.get::<T>(OP, "scores")?, s, used);
            Ok(())
        }),
        Device::Cuda(gpu) => cuda::penalise(gpu, scores, similarity, used),
    }
}

/// Adds to `counts` (M) u32 how often each prompt is among `ids` (B, N).
pub fn count_acc(dev: &Device, counts: ViewMut, ids: View) -> Result<()> {
    let (m, shape) = (counts.len(), ids.shape());
    expect_shape(OP, "counts", counts.shape(), [m])?;
    expect_shape(OP, "ids", shape, [shape.dims()[0], shape.dims()[1]])?;
    let _op = range(c"match prompts");
    match dev {
        Device::Cpu => {
            let counts = counts.get::<u32>(OP, "counts")?;
            checked(ids, m)?.iter().for_each(|&id| counts[id as usize] += 1);
            Ok(())
        }
        Device::Cuda(gpu) => cuda::count_acc(gpu, counts, ids),
    }
}

/// The ids, all of them below m. On a GPU ids are not checked: kernels skip those beyond the pool.
fn checked(ids: View<'_>, m: usize) -> Result<&[u32]> {
    let ids = ids.get::<u32>(OP, "ids")?;
    match ids.iter().find(|&&id| id as usize >= m) {
        None => Ok(ids),
        Some(id) => {
            Err(Error::Shape { op: OP, arg: "ids", wanted: format!("below {m}"), got: id.to_string() })
        }
    }
}

/// Overwrites `out` with the pull term: Σ_b Σ_{j in ids[b]} similarity[b, j] / B. Summed over the N
/// prompts, not averaged. out: (1), F64 on the CPU, F32 on a GPU.
pub fn pull(dev: &Device, out: ViewMut, similarity: View, ids: View) -> Result<()> {
    let (b, m) = (similarity.dims()[0], similarity.dims()[1]);
    expect_shape(OP, "out", out.shape(), [1])?;
    expect_shape(OP, "ids", ids.shape(), [b, ids.dims()[1]])?;
    let _op = range(c"match prompts");
    match dev {
        Device::Cpu => float!("match_prompts", "similarity", similarity.dtype(), T => {
            let (s, ids) = (similarity.get::<T>(OP, "similarity")?, checked(ids, m)?);
            out.get::<f64>(OP, "out")?[0] = cpu::pull(s, ids, b, m);
            Ok(())
        }),
        Device::Cuda(gpu) => cuda::pull(gpu, out, similarity, ids),
    }
}

/// Overwrites `dsimilarity` (B, M): `weight` / B where an id was selected, 0 elsewhere. With
/// weight = -λ it is the gradient of -λ · pull.
pub fn backward_pull(dev: &Device, dsimilarity: ViewMut, ids: View, weight: f64) -> Result<()> {
    let (b, m) = (dsimilarity.dims()[0], dsimilarity.dims()[1]);
    expect_shape(OP, "ids", ids.shape(), [b, ids.dims()[1]])?;
    let _op = range(c"match prompts");
    match dev {
        Device::Cpu => float!("match_prompts", "dsimilarity", dsimilarity.dtype(), T => {
            let ids = checked(ids, m)?;
            cpu::backward_pull(dsimilarity.get::<T>(OP, "dsimilarity")?, ids, b, m, weight);
            Ok(())
        }),
        Device::Cuda(gpu) => cuda::backward_pull(gpu, dsimilarity, ids, weight),
    }
}
