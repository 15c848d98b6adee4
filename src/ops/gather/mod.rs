//! Rows of a table into token sequences by number, and their gradients back. This is how prompts
//! enter the tokens: the table is the pool, and an id stands for the L rows of one prompt.

mod args;
mod cpu;
mod cuda;

use crate::device::{Device, range};
use crate::error::{Error, Result};
use crate::tensor::{View, ViewMut, expect_shape};
use args::OP;

fn check(table: &[usize], seq: &[usize], at: usize, ids: View, length: usize) -> Result<()> {
    let c = table[1];
    let (b, t, n) = (seq[0], seq[1], ids.dims()[1]);
    if seq[2] != c || at + n * length > t {
        let wanted = format!("(B, at least {}, {c})", at + n * length);
        return Err(Error::Shape { op: OP, arg: "tokens", wanted, got: format!("{seq:?}") });
    }
    expect_shape(OP, "ids", ids.shape(), [b, n])
}

/// The table rows that the ids stand for, all below R. On a GPU ids are not checked: kernels skip rows
/// beyond the table.
fn rows(ids: View, length: usize, table: &[usize]) -> Result<Vec<u32>> {
    let (ids, prompts) = (ids.get::<u32>(OP, "ids")?, table[0] / length.max(1));
    if let Some(id) = ids.iter().find(|&&id| id as usize >= prompts) {
        let wanted = format!("below {prompts}");
        return Err(Error::Shape { op: OP, arg: "ids", wanted, got: id.to_string() });
    }
    let length = length as u32;
    Ok(ids.iter().flat_map(|&id| id * length..(id + 1) * length).collect())
}

/// tokens[b, at + i L + l] = table[ids[b, i] L + l] for l < L = `length`. table: (R, C), of the type of
/// `tokens` or F32; ids: (B, n), tokens: (B, T, C); the other rows of `tokens` are left as they are.
pub fn forward(
    dev: &Device,
    tokens: ViewMut,
    at: usize,
    table: View,
    ids: View,
    length: usize,
) -> Result<()> {
    check(table.dims(), tokens.dims(), at, ids, length)?;
    let t = tokens.dims()[1];
    let _op = range(c"gather");
    match dev {
        Device::Cpu => float!("gather", "tokens", tokens.dtype(), T => {
            let (rows, n) = (rows(ids, length, table.dims())?, ids.dims()[1] * length);
            let table = table.get::<T>(OP, "table")?;
            cpu::forward((tokens.get::<T>(OP, "tokens")?, t, at), table, &rows, n);
            Ok(())
        }),
        Device::Cuda(gpu) => cuda::forward(gpu, tokens, at, table, ids, length),
    }
}

/// dtable[r] += Σ over (b, i, l) with ids[b, i] L + l = r of dtokens[b, at + i L + l], in the order of (b, i).
pub fn backward_acc(
    dev: &Device,
    dtable: ViewMut,
    dtokens: View,
    at: usize,
    ids: View,
    length: usize,
) -> Result<()> {
    check(dtable.dims(), dtokens.dims(), at, ids, length)?;
    let (c, t) = (dtable.dims()[1], dtokens.dims()[1]);
    let _op = range(c"gather, backward");
    match dev {
        Device::Cpu => float!("gather", "dtable", dtable.dtype(), T => {
            let (rows, n) = (rows(ids, length, dtable.dims())?, ids.dims()[1] * length);
            let dtokens = (dtokens.get::<T>(OP, "dtokens")?, t, at);
            cpu::backward_acc(dtable.get::<T>(OP, "dtable")?, dtokens, &rows, n, c);
            Ok(())
        }),
        Device::Cuda(gpu) => cuda::backward_acc(gpu, dtable, dtokens, at, ids, length),
    }
}
