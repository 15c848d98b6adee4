//! What a prompt method adds to an ONNX graph; each method has its `onnx` beside its other parts.

use super::stack::{Place, Side, Stack};
use crate::error::Result;
use crate::nn::onnx::Weights;
use crate::onnx::{Element, Graph, Value};

/// The choice of each image, as an output of the graph: (B, width).
#[derive(Debug, Clone)]
pub struct ChosenGraph {
    pub name: &'static str,
    pub value: Value,
    pub element: Element,
    pub width: usize,
}

/// Rows that enter layers, and the choice behind them.
#[derive(Debug, Default)]
pub struct PromptGraph {
    /// A layer, and (B, n, C) in front of its tokens.
    tokens: Vec<(usize, Value)>,
    /// A layer, and (B, n, C) in front of its keys and its values.
    prefixes: Vec<(usize, [Value; 2])>,
    pub chosen: Option<ChosenGraph>,
    /// (B): the head of each image, where there are several.
    pub head: Option<Value>,
}

impl PromptGraph {
    /// The rows in front of the tokens of layer `l`, each part as it was added.
    pub fn tokens(&self, l: usize) -> Vec<Value> {
        self.tokens.iter().filter(|(layer, _)| *layer == l).map(|(_, rows)| rows.clone()).collect()
    }

    /// All rows in front of keys and values of layer `l`.
    pub fn prefix(&self, g: &mut Graph, l: usize) -> Option<[Value; 2]> {
        let sides = [0, 1].map(|side| {
            let rows = self.prefixes.iter().filter(|(layer, _)| *layer == l);
            rows.map(|(_, sides)| sides[side].clone()).collect::<Vec<Value>>()
        });
        let some = !sides[0].is_empty();
        some.then(|| sides.map(|rows| g.concat(&rows, 1)))
    }

    pub(super) fn add_prefix(&mut self, l: usize, sides: [Value; 2]) {
        self.prefixes.push((l, sides));
    }

    /// Adds the rows of a stack to all layers that it enters: those of each image's `ids` (B, n), or the first ones for
    /// all images.
    ///
    /// # Errors
    /// `Error::Failed` if the device fails.
    pub(super) fn add_stack(
        &mut self,
        g: &mut Graph,
        w: Weights,
        stack: &Stack,
        ids: Option<&Value>,
    ) -> Result<()> {
        let (c, length) = (stack.channels, stack.length);
        let ids_there = stack.rows / length;
        for &(l, _) in &stack.layers {
            let mut sides = Vec::new();
            for side in [Side::Key, Side::Value] {
                let Some(start) = stack.start(l, side) else { continue };
                let len = stack.rows * c;
                let what = format!("from {start}");
                let dims = [ids_there, length, c];
                let table = w.part(g, stack.id, &what, &dims, |v| v[start..start + len].to_vec())?;
                sides.push(match ids {
                    None => g.for_each_image(&table, &[length, c])?,
                    Some(ids) => {
                        let rows = g.gather(&table, ids, 0);
                        g.reshape(&rows, &[0, (stack.chosen * length) as i64, c as i64])
                    }
                });
            }
            match (stack.place, <[Value; 2]>::try_from(sides)) {
                (Place::Prefix, Ok(sides)) => self.add_prefix(l, sides),
                (Place::Tokens, Ok([rows, _])) => self.tokens.push((l, rows)),
                (_, Err(_)) => {}
            }
        }
        Ok(())
    }
}
