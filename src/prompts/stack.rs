//! Prompt rows that enter layers by number: a parameter that is a stack of tables, one table for each layer and side.

use crate::device::Device;
use crate::error::Result;
use crate::nn::params::{Grads, ParamId, Params};
use crate::ops::gather;
use crate::tensor::{Tensor, View, ViewMut};

/// How prompts enter a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// As tokens in front of the layer's input.
    Tokens,
    /// As rows in front of keys and values.
    Prefix,
}

/// Which half of a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Key,
    Value,
}

/// Rows per image that a prompt method puts in front at one layer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Slots {
    pub tokens: usize,
    pub prefix: usize,
}

/// Rows of a table that enter the tokens of a layer: image b gets, from token `at` on, the `length` rows of each
/// of its `ids` (B, n).
#[derive(Debug, Clone, Copy)]
pub struct TokenRows<'a> {
    /// (R, C)
    pub table: View<'a>,
    pub at: usize,
    pub ids: View<'a>,
    pub length: usize,
}

/// A parameter whose rows enter layers.
#[derive(Debug, Clone)]
pub(super) struct Stack {
    pub id: ParamId,
    pub place: Place,
    /// The layers that it enters, and the first of their tables in the parameter, in units of `sides` tables.
    pub layers: Vec<(usize, usize)>,
    /// Tables of a layer: 2 where keys and values have one each.
    pub sides: usize,
    /// Rows of a table.
    pub rows: usize,
    pub channels: usize,
    /// Ids of an image, and the rows that an id stands for.
    pub chosen: usize,
    pub length: usize,
}

/// A stack with the ids (B, n) of a batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entering<'a> {
    pub stack: &'a Stack,
    pub ids: View<'a>,
}

impl Stack {
    /// Rows per image that enter layer `l` at `place`.
    pub fn rows_in(&self, l: usize, place: Place) -> usize {
        let enters = self.place == place && self.layers.iter().any(|(layer, _)| *layer == l);
        if enters { self.chosen * self.length } else { 0 }
    }

    /// The first value of a layer's table.
    pub fn start(&self, l: usize, side: Side) -> Option<usize> {
        let (_, at) = self.layers.iter().find(|(layer, _)| *layer == l)?;
        let second = usize::from(side == Side::Value).min(self.sides - 1);
        Some((at * self.sides + second) * self.rows * self.channels)
    }

    /// A layer's table, (R, C).
    pub fn table<'a>(&self, p: &'a Params, l: usize, side: Side) -> Option<View<'a>> {
        Some(p.get(self.id).part(self.start(l, side)?, [self.rows, self.channels]))
    }

    /// Its gradient, if it is wanted.
    pub fn table_grad<'a>(
        &self,
        p: &Params,
        grads: &'a mut Grads,
        l: usize,
        side: Side,
    ) -> Option<ViewMut<'a>> {
        let start = self.start(l, side)?;
        Some(grads.get_mut(p, self.id)?.part(start, [self.rows, self.channels]))
    }
}

/// Stacks that enter layer `l` at `place`, each with the row where it begins.
pub(super) fn placed<'a>(
    entering: impl IntoIterator<Item = Entering<'a>>,
    l: usize,
    place: Place,
) -> impl Iterator<Item = (usize, Entering<'a>)> {
    let mut at = 0;
    entering.into_iter().filter_map(move |entering| {
        let rows = entering.stack.rows_in(l, place);
        at += rows;
        (rows > 0).then_some((at - rows, entering))
    })
}

/// Overwrites the key and value prefix (B, n, C) of layer `l`.
pub(super) fn write_prefix<'a>(
    dev: &Device,
    p: &Params,
    entering: impl IntoIterator<Item = Entering<'a>> + Clone,
    l: usize,
    prefix: &mut [Tensor; 2],
) -> Result<()> {
    for (side, out) in [Side::Key, Side::Value].into_iter().zip(prefix) {
        for (at, Entering { stack, ids }) in placed(entering.clone(), l, Place::Prefix) {
            if let Some(table) = stack.table(p, l, side) {
                gather::forward(dev, out.view_mut(), at, table, ids, stack.length)?;
            }
        }
    }
    Ok(())
}

/// Adds the gradient of key and value prefix (B, n, C) of layer `l` to the tables.
pub(super) fn backward_prefix<'a>(
    dev: &Device,
    p: &Params,
    grads: &mut Grads,
    entering: impl IntoIterator<Item = Entering<'a>> + Clone,
    l: usize,
    dprefix: &[Tensor; 2],
) -> Result<()> {
    for (side, d) in [Side::Key, Side::Value].into_iter().zip(dprefix) {
        for (at, Entering { stack, ids }) in placed(entering.clone(), l, Place::Prefix) {
            if let Some(dtable) = stack.table_grad(p, grads, l, side) {
                gather::backward_acc(dev, dtable, d.view(), at, ids, stack.length)?;
            }
        }
    }
    Ok(())
}
