//! What a checkpoint holds of a method: tensors by name and shape.
//!
//! `params/NAME` is a parameter that learns, `m/NAME` and `v/NAME` are its moments, `importance/NAME` and `anchor/NAME`
//! those of EWC, `frozen/NAME` (n, 2) are the rows
//! of it that do not learn, first and past the last, and `state/…` is what learns without gradients.

use crate::error::{Error, Result};
use crate::nn::params::{ParamId, Params};
use crate::optim::Optimizer;
use crate::output::checkpoint::TensorData;
pub use crate::output::checkpoint::Tensors;
use crate::tensor::{DType, Tensor, View, ViewMut};

/// How saved values go into a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// Their shape is that of the tensor.
    Exact,
    /// An axis may be shorter than the tensor's: what lies beyond it keeps its value.
    Grow,
}

/// A tensor's values.
pub(super) fn saved(name: String, view: View) -> Result<(String, Vec<usize>, TensorData)> {
    let data = match view.dtype() {
        DType::F32 => TensorData::F32(view.read()?),
        DType::F64 => TensorData::F64(view.read()?),
        _ => TensorData::U32(view.read()?),
    };
    Ok((name, view.dims().to_vec(), data))
}

/// Puts the values saved as `name` into `to`, bit for bit.
///
/// # Errors
/// `Error::Failed` if there are none, or of another type or a shape that does not fit.
pub(super) fn put_back(to: ViewMut, tensors: &Tensors, name: &str, fit: Fit) -> Result<()> {
    let (_, shape, data) = tensors
        .iter()
        .find(|(n, ..)| n == name)
        .ok_or_else(|| Error::failed(format!("the checkpoint has no tensor `{name}`")))?;
    let wanted = to.dims().to_vec();
    let fits = match fit {
        Fit::Exact => *shape == wanted,
        Fit::Grow => shape.len() == wanted.len() && shape.iter().zip(&wanted).all(|(a, b)| a <= b),
    };
    if !fits {
        let most = if fit == Fit::Grow { "at most " } else { "" };
        return Err(Error::failed(format!(
            "the checkpoint's tensor `{name}` has shape {shape:?}; this configuration wants {most}{wanted:?}"
        )));
    }
    put(to, shape, data, name)
}

/// All values of a saved tensor of any size.
pub(super) fn values(tensors: &Tensors, name: &str) -> Result<Vec<f64>> {
    let found = tensors.iter().find(|(n, ..)| n == name);
    let (.., data) = found.ok_or_else(|| Error::failed(format!("the checkpoint has no tensor `{name}`")))?;
    Ok(match data {
        TensorData::F32(values) => values.iter().map(|&v| f64::from(v)).collect(),
        TensorData::F64(values) => values.clone(),
        TensorData::U32(values) => values.iter().map(|&v| f64::from(v)).collect(),
    })
}

/// `shape` fits into that of `to`.
fn put(mut to: ViewMut, shape: &[usize], data: &TensorData, name: &str) -> Result<()> {
    let same = matches!(
        (data, to.dtype()),
        (TensorData::F32(_), DType::F32)
            | (TensorData::F64(_), DType::F64)
            | (TensorData::U32(_), DType::U32)
    );
    if !same {
        return Err(Error::failed(format!(
            "the checkpoint's tensor `{name}` has another precision than `precision` asks for"
        )));
    }
    let dims = to.dims().to_vec();
    match data {
        TensorData::F32(values) => to.write(&in_corner(to.as_view().read()?, &dims, values, shape)),
        TensorData::F64(values) => to.write(&in_corner(to.as_view().read()?, &dims, values, shape)),
        TensorData::U32(values) => to.write(&in_corner(to.as_view().read()?, &dims, values, shape)),
    }
}

/// `into`, of shape `dims`, with `values`, of a shape that is nowhere larger, at its beginning along every axis.
fn in_corner<T: Copy>(mut into: Vec<T>, dims: &[usize], values: &[T], shape: &[usize]) -> Vec<T> {
    let width = shape.last().copied().unwrap_or(1);
    for (n, row) in values.chunks_exact(width.max(1)).enumerate() {
        // The row's place along the outer axes, the last of them first.
        let (mut rest, mut at, mut stride) = (n, 0, dims.last().copied().unwrap_or(1));
        for (old, new) in shape.iter().zip(dims).rev().skip(1) {
            at += rest % old * stride;
            rest /= old;
            stride *= new;
        }
        into[at..at + width].copy_from_slice(row);
    }
    into
}

/// Everything that learns by gradient, its moments, and `beside`: tensors as long as all that learns, each with the word
/// before the names of parameters.
pub(super) fn of_params(
    params: &Params,
    optimizer: &Optimizer,
    beside: &[(&str, &Tensor)],
) -> Result<Tensors> {
    let mut all = Tensors::new();
    let flat = [("params", &params.trainable), ("m", &optimizer.m), ("v", &optimizer.v)];
    for (prefix, flat) in flat.iter().chain(beside).map(|(prefix, flat)| (*prefix, flat.view())) {
        // SGD has no second moments.
        for id in params.ids().filter(|&id| params.spec(id).trainable && !flat.is_empty()) {
            let spec = params.spec(id);
            all.push(saved(format!("{prefix}/{}", spec.name), flat.part(spec.offset, spec.shape))?);
        }
    }
    for id in params.ids() {
        let rows = params.frozen_rows(id);
        if !rows.is_empty() {
            let ends: Vec<u32> = rows.iter().flat_map(|r| [r.start as u32, r.end as u32]).collect();
            let name = format!("frozen/{}", params.spec(id).name);
            all.push((name, vec![rows.len(), 2], TensorData::U32(ends)));
        }
    }
    Ok(all)
}

/// Puts parameters, moments and what is saved beside them back. With [`Fit::Grow`], the part of these that was not saved becomes zero, and
/// only head and prompts may have grown.
pub(super) fn into_params<'a>(
    tensors: &Tensors,
    params: &mut Params,
    optimizer: &'a mut Optimizer,
    mut beside: Vec<(&str, &'a mut Tensor)>,
    fit: Fit,
) -> Result<()> {
    if tensors.iter().any(|(name, ..)| name == "trainable") {
        return from_flat(tensors, params, optimizer);
    }
    let Optimizer { m, v, .. } = optimizer;
    beside.extend([("m", m), ("v", v)]);
    if fit == Fit::Grow {
        beside.iter_mut().for_each(|(_, flat)| flat.fill(0.0));
    }
    let ids: Vec<ParamId> = params.ids().filter(|&id| params.spec(id).trainable).collect();
    for id in ids {
        let spec = params.spec(id).clone();
        let fit = if crate::nn::params::is_backbone(&spec.name) { Fit::Exact } else { fit };
        put_back(params.get_mut(id), tensors, &format!("params/{}", spec.name), fit)?;
        for (prefix, flat) in &mut beside {
            if !flat.is_empty() {
                let to = flat.view_mut().part(spec.offset, spec.shape);
                put_back(to, tensors, &format!("{prefix}/{}", spec.name), fit)?;
            }
        }
        let frozen = format!("frozen/{}", spec.name);
        let frozen = tensors.iter().find(|(name, ..)| *name == frozen);
        if let Some((_, _, TensorData::U32(ends))) = frozen {
            let rows = ends.chunks_exact(2).map(|r| r[0] as usize..r[1] as usize);
            params.freeze_rows(id, &rows.collect::<Vec<_>>())?;
        }
    }
    Ok(())
}

/// From a checkpoint of version 1, which holds everything that learns as one row, in the order of the parameters.
fn from_flat(tensors: &Tensors, params: &mut Params, optimizer: &mut Optimizer) -> Result<()> {
    put_back(params.trainable_mut().view_mut(), tensors, "trainable", Fit::Exact)?;
    for (moment, name) in [(&mut optimizer.m, "first moment"), (&mut optimizer.v, "second moment")] {
        // A network that only answers has no moments, and SGD has no second ones.
        if !moment.is_empty() {
            put_back(moment.view_mut(), tensors, name, Fit::Exact)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::in_corner;

    #[test]
    fn old_values_keep_their_place_along_every_axis() {
        let new = vec![0; 3 * 2 * 4];
        let grown = in_corner(new, &[3, 2, 4], &[1, 2, 3, 4, 5, 6], &[2, 1, 3]);
        let wanted = [1, 2, 3, 0, 0, 0, 0, 0, 4, 5, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(grown, wanted);
        assert_eq!(in_corner(vec![9, 9, 9], &[3], &[1, 2], &[2]), [1, 2, 9]);
        assert_eq!(in_corner(vec![9; 4], &[2, 2], &[1, 2, 3, 4], &[2, 2]), [1, 2, 3, 4]);
        assert_eq!(in_corner(vec![9; 2], &[2], &[], &[0]), [9, 9]);
    }
}
