//! Rows of a table into token sequences by number, and their gradients back. This is how prompts
//! enter the tokens: the table is the pool.

mod cpu;

use crate::device::Device;
use crate::error::{Error, Result};
use crate::tensor::{View, ViewMut, expect_shape};

const OP: &str = "gather";

fn check(table: &[usize], seq: &[usize], at: usize, ids: View) -> Result<()> {
    let (rows, c) = (table[0], table[1]);
    let (b, t, n) = (seq[0], seq[1], ids.dims()[1]);
    if seq[2] != c || at + n > t {
        let wanted = format!("(B, at least {}, {c})", at + n);
        return Err(Error::Shape { op: OP, arg: "tokens", wanted, got: format!("{seq:?}") });
    }
    expect_shape(OP, "ids", ids.shape(), [b, n])?;
    match ids.get::<u32>(OP, "ids")?.iter().find(|&&id| id as usize >= rows) {
        None => Ok(()),
        Some(id) => {
            Err(Error::Shape { op: OP, arg: "ids", wanted: format!("below {rows}"), got: id.to_string() })
        }
    }
}

/// tokens[b, at + i] = table[ids[b, i]]. table: (R, C), ids: (B, n), tokens: (B, T, C); the other
/// rows of `tokens` are left as they are.
pub fn forward(dev: &Device, tokens: ViewMut, at: usize, table: View, ids: View) -> Result<()> {
    check(table.dims(), tokens.dims(), at, ids)?;
    let t = tokens.dims()[1];
    match dev {
        Device::Cpu => float!("gather", "tokens", tokens.dtype(), T => {
            let (table, ids, n) = (table.get::<T>(OP, "table")?, ids.get::<u32>(OP, "ids")?, ids.dims()[1]);
            cpu::forward((tokens.get::<T>(OP, "tokens")?, t, at), table, ids, n);
            Ok(())
        }),
        Device::Cuda(_) => super::no_kernels(OP),
    }
}

/// dtable[r] += Σ over (b, i) with ids[b, i] = r of dtokens[b, at + i], in the order of (b, i).
pub fn backward_acc(dev: &Device, dtable: ViewMut, dtokens: View, at: usize, ids: View) -> Result<()> {
    check(dtable.dims(), dtokens.dims(), at, ids)?;
    let (c, t) = (dtable.dims()[1], dtokens.dims()[1]);
    match dev {
        Device::Cpu => float!("gather", "dtable", dtable.dtype(), T => {
            let (ids, n) = (ids.get::<u32>(OP, "ids")?, ids.dims()[1]);
            let dtokens = (dtokens.get::<T>(OP, "dtokens")?, t, at);
            cpu::backward_acc(dtable.get::<T>(OP, "dtable")?, dtokens, ids, n, c);
            Ok(())
        }),
        Device::Cuda(_) => super::no_kernels(OP),
    }
}
