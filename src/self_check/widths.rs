//! One op by the Hopper kernels with tiles of each width, and by the portable kernels.
//!
//! Which width a product takes depends on how many rows it has, and a row's bits must not.

use super::found::{Failure, Found, PassFound, Stage};
use super::op::{SEED, other_bits};
use super::works::dtype;
use crate::device::{Device, ElementType, Gpu, StreamKind};
use crate::error::Result;
use crate::ops::matmul::hopper::{TILE_COLS, of_width};
use crate::tensor::DType;
use crate::testing::cases::{Case, Data, On};
use crate::testing::{close, parity};
use std::sync::Arc;

/// The values of each output.
type Outputs = Vec<Vec<f64>>;

/// Elements beside each output, which leave addresses aligned.
const BAND: usize = 64;

/// See [`super::op::Bench::check`].
pub(super) fn check(
    gpu: &Arc<Gpu>,
    case: &Case,
    form: ElementType,
    launched: &mut dyn FnMut(&[String]),
) -> (Found, bool) {
    let all: Vec<String> = TILE_COLS.iter().flat_map(|cols| of_width(*cols, form)).collect();
    launched(&all);
    gpu.take_launched();
    let failure = match compared(gpu, case, dtype(form)) {
        Ok(None) => None,
        Ok(Some(text)) => Some((Stage::Values, format!("{} {}: {text}", case.op, case.label))),
        Err(why) => Some((Stage::Fault, format!("{} {}: {why}", case.op, case.label))),
    };
    let kernels = gpu.take_launched();
    let failure = failure.map(|(stage, text)| Failure { stage, kernels: all, text });
    let alive = gpu.synchronize(StreamKind::Compute).is_ok();
    let passes = vec![PassFound { pass: "widths".into(), kernels, us: 0.0, repeats: 1, graph: false }];
    (Found { passes, failure }, alive)
}

/// What is wrong, if anything. Whole numbers have the bits of the portable kernels; random ones are near them, and have the
/// same bits in tiles of each width.
fn compared(gpu: &Arc<Gpu>, case: &Case, dtype: DType) -> Result<Option<String>> {
    let on = On { dev: Device::Cuda(gpu.clone()), band: BAND };
    let runs = |data: &Data| -> Result<(Outputs, Vec<Outputs>)> {
        let there = data.to(&on.dev, dtype)?;
        gpu.use_hopper(false)?;
        let portable = case.everything(&on, &there)?;
        gpu.use_hopper(true)?;
        let width = |cols: usize| {
            gpu.force_hopper_tile(Some(cols));
            case.everything(&on, &there)
        };
        Ok((portable, TILE_COLS.into_iter().map(width).collect::<Result<_>>()?))
    };
    if case.is_exact {
        let (portable, widths) = runs(&case.whole_numbers(SEED, dtype))?;
        for (cols, found) in TILE_COLS.iter().zip(&widths) {
            if let Some(text) = other_bits(&portable, found, &case.names()) {
                return Ok(Some(format!("whole numbers, portable and n{cols}: {text}")));
            }
        }
    }
    let (portable, widths) = runs(&case.data(SEED, dtype))?;
    for (cols, found) in TILE_COLS.iter().zip(&widths).skip(1) {
        if let Some(text) = other_bits(&widths[0], found, &case.names()) {
            return Ok(Some(format!("n{} and n{cols}: {text}", TILE_COLS[0])));
        }
    }
    let limit = 2.0 * parity::limit(dtype);
    for ((portable, found), name) in portable.iter().zip(&widths[0]).zip(case.names()) {
        let error = close::relative_error(found, portable);
        if error.is_nan() || error > limit {
            return Ok(Some(format!(
                "`{name}`: wanted the portable kernel's values within {limit:.1e} of the largest, found {error:.1e}"
            )));
        }
    }
    Ok(None)
}
