//! The random features of RanPAC: h = relu(f W) with a fixed matrix W of standard normal numbers.
//! Source: McDonnell et al. 2023, arXiv:2307.02251, equation 5; RanPAC/RanPAC @ 012927f, `RanPAC.py`, lines 91-105.

use crate::device::Device;
use crate::error::{Error, Result};
use crate::ops::float::{Float, for_rows};
use crate::ops::matmul::{self, Layout, Write};
use crate::rng::{Rng, Stream};
use crate::tensor::{DType, Tensor, View};
use rayon::prelude::*;

/// A map of features (n, L) to (n, M).
#[derive(Debug)]
pub struct Projection {
    width: usize,
    /// W (L, M); `None`: h = f.
    matrix: Option<Tensor>,
}

impl Projection {
    /// h = f, for features of this width.
    pub fn none(width: usize) -> Projection {
        Projection { width, matrix: None }
    }

    /// h = relu(f W) with this W, (L, M).
    pub fn given(matrix: Tensor) -> Projection {
        Projection { width: matrix.dims()[0], matrix: Some(matrix) }
    }

    /// h = relu(f W) with a W, (L, M), that is drawn into `memory`: row i from stream `Projection`, index i. The
    /// numbers are rounded to f32, so that they are the same for every type of `memory`.
    pub fn drawn(seed: u64, mut memory: Tensor) -> Projection {
        match memory.dtype() {
            DType::F64 => draw::<f64>(seed, &mut memory),
            _ => draw::<f32>(seed, &mut memory),
        }
        Projection::given(memory)
    }

    /// L.
    pub fn width(&self) -> usize {
        self.width
    }

    /// W (L, M), where there is one.
    pub fn matrix(&self) -> Option<&Tensor> {
        self.matrix.as_ref()
    }

    /// M.
    pub fn features(&self) -> usize {
        self.matrix.as_ref().map_or(self.width, |w| w.dims()[1])
    }

    /// Overwrites `h` (n, m) with columns `start..start + m` of the random features of `f` (n, L).
    ///
    /// # Errors
    /// `Error::Shape` if the sizes or types do not fit.
    pub fn columns(&self, f: View, start: usize, h: &mut Tensor) -> Result<()> {
        let (n, m) = (h.dims()[0], h.dims()[1]);
        let Some(matrix) = &self.matrix else {
            return match h.dtype() {
                DType::F64 => copy_columns::<f64>(f, start, h),
                _ => copy_columns::<f32>(f, start, h),
            };
        };
        let w = (matrix.view(), Layout::dense(self.width, self.features()).columns(start, m));
        let (f, to) = ((f, Layout::dense(n, self.width)), (h.view_mut(), Layout::dense(n, m)));
        matmul::forward(&Device::Cpu, to, f, w, Write::Set)?;
        match h.dtype() {
            DType::F64 => relu::<f64>(h),
            _ => relu::<f32>(h),
        }
    }
}

fn draw<T: Float>(seed: u64, memory: &mut Tensor) {
    let columns = memory.dims()[1];
    let Some(values) = memory.as_mut_slice::<T>() else { return };
    values.par_chunks_mut(columns.max(1)).enumerate().for_each(|(row, values)| {
        let mut rng = Rng::new(seed, Stream::Projection, row as u64);
        values.iter_mut().for_each(|value| *value = T::of(f64::from(rng.normal() as f32)));
    });
}

/// Keeps NaN, which is then found where the features are.
fn relu<T: Float>(h: &mut Tensor) -> Result<()> {
    let width = h.dims()[1];
    let values = h.view_mut().get::<T>("relu", "h")?;
    for_rows(
        values,
        width,
        #[inline(always)]
        |_, rows| {
            for value in rows {
                if *value < T::ZERO {
                    *value = T::ZERO;
                }
            }
        },
    );
    Ok(())
}

fn copy_columns<T: Float>(f: View, start: usize, h: &mut Tensor) -> Result<()> {
    let (width, m) = (f.dims()[1], h.dims()[1]);
    let (from, got) = (f.get::<T>("features", "f")?, f.dims().to_vec());
    if start + m > width || f.dims()[0] != h.dims()[0] {
        let wanted = format!("{} rows with columns {start}..{}", h.dims()[0], start + m);
        return Err(Error::Shape { op: "features", arg: "f", wanted, got: format!("{got:?}") });
    }
    let to = h.view_mut().get::<T>("features", "h")?;
    for (to, from) in to.chunks_exact_mut(m.max(1)).zip(from.chunks_exact(width.max(1))) {
        to.copy_from_slice(&from[start..start + m]);
    }
    Ok(())
}
