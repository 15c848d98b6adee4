//! A computation as an ONNX file: nodes, weights, inputs and outputs are added one by one, then written.
//!
//! Opset 17, the first with LayerNormalization; IR version 8. Field numbers: onnx/onnx `onnx/onnx.proto`; operators:
//! onnx.ai/onnx/operators. Values have the batch as their first axis.

use crate::error::{Error, Result};
use crate::protobuf::ProtoMessage;
use std::collections::BTreeSet;
use std::io::{self, Write};

const IR_VERSION: u64 = 8;
const OPSET: u64 = 17;
/// A message of protocol buffers may not be larger.
pub const MOST_BYTES: usize = i32::MAX as usize;
/// The batch in the shapes of inputs and outputs.
const BATCH: &str = "N";

/// Element types: numbers of `TensorProto.DataType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    F32 = 1,
    I64 = 7,
}

/// A tensor of the graph, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value(String);

/// An attribute of a node.
#[derive(Debug, Clone, Copy)]
pub enum Attribute<'a> {
    Int(i64),
    Ints(&'a [i64]),
    Float(f64),
}

#[derive(Debug)]
enum Numbers {
    F32(Vec<f32>),
    I64(Vec<i64>),
}

#[derive(Debug)]
struct Weight {
    name: String,
    dims: Vec<usize>,
    numbers: Numbers,
}

/// A graph in the making.
#[derive(Debug, Default)]
pub struct Graph {
    nodes: Vec<ProtoMessage>,
    weights: Vec<Weight>,
    /// Names of weights.
    known: BTreeSet<String>,
    inputs: Vec<ProtoMessage>,
    outputs: Vec<ProtoMessage>,
    /// (1): how many images there are.
    batch: Option<Value>,
}

impl Weight {
    fn bytes(&self) -> &[u8] {
        match &self.numbers {
            Numbers::F32(v) => bytemuck::cast_slice(v),
            Numbers::I64(v) => bytemuck::cast_slice(v),
        }
    }

    /// Everything of its message but the numbers.
    fn head(&self) -> ProtoMessage {
        let element = match self.numbers {
            Numbers::F32(_) => Element::F32,
            Numbers::I64(_) => Element::I64,
        };
        let message = self.dims.iter().fold(ProtoMessage::default(), |m, &d| m.int(1, d as u64));
        message.int(2, element as u64).text(8, &self.name).start(9, self.bytes().len())
    }
}

/// `ValueInfoProto` of a batch of tensors of the shape `dims`.
fn described(name: &str, element: Element, dims: &[usize]) -> ProtoMessage {
    let shape = ProtoMessage::default().message(1, ProtoMessage::default().text(2, BATCH));
    let one = |shape: ProtoMessage, &d: &usize| shape.message(1, ProtoMessage::default().int(1, d as u64));
    let shape = dims.iter().fold(shape, one);
    let tensor = ProtoMessage::default().int(1, element as u64).message(2, shape);
    ProtoMessage::default().text(1, name).message(2, ProtoMessage::default().message(1, tensor))
}

impl Graph {
    /// An input of N tensors of the shape `dims`.
    pub fn input(&mut self, name: &str, dims: &[usize]) -> Value {
        self.inputs.push(described(name, Element::F32, dims));
        let value = Value(name.into());
        let shape = self.op("Shape", &[&value], &[]);
        self.batch = Some(self.slice(&shape, 0, 0..1));
        value
    }

    /// `value` is an output of N tensors of the shape `dims`.
    pub fn output(&mut self, name: &str, value: &Value, element: Element, dims: &[usize]) {
        self.node("Identity", &[value], &[name.into()], &[]);
        self.outputs.push(described(name, element, dims));
    }

    fn weight(&mut self, name: String, dims: &[usize], numbers: Numbers) -> Value {
        self.known.insert(name.clone());
        self.weights.push(Weight { name: name.clone(), dims: dims.to_vec(), numbers });
        Value(name)
    }

    /// Weights of the shape `dims`; those of a name are asked for once.
    ///
    /// # Errors
    /// Those of `values`; `Error::Failed` if there are not as many as the shape says.
    pub fn weights(
        &mut self,
        name: &str,
        dims: &[usize],
        values: impl FnOnce() -> Result<Vec<f64>>,
    ) -> Result<Value> {
        if self.known.contains(name) {
            return Ok(Value(name.into()));
        }
        let values: Vec<f32> = values()?.into_iter().map(|v| v as f32).collect();
        if values.len() != dims.iter().product::<usize>() {
            return Err(Error::failed(format!("onnx: `{name}` {dims:?} was given {} values", values.len())));
        }
        Ok(self.weight(name.into(), dims, Numbers::F32(values)))
    }

    /// int64 numbers, (n).
    pub fn numbers(&mut self, values: &[i64]) -> Value {
        let name = format!("numbers {values:?}");
        match self.known.contains(&name) {
            true => Value(name),
            false => self.weight(name, &[values.len()], Numbers::I64(values.to_vec())),
        }
    }

    /// A number, as a tensor without axes.
    pub fn scalar(&mut self, value: f64) -> Value {
        let (value, name) = (value as f32, format!("number {value:e}"));
        match self.known.contains(&name) {
            true => Value(name),
            false => self.weight(name, &[], Numbers::F32(vec![value])),
        }
    }

    fn node(&mut self, kind: &str, inputs: &[&Value], outputs: &[String], attributes: &[(&str, Attribute)]) {
        let mut node = inputs.iter().fold(ProtoMessage::default(), |m, v| m.text(1, &v.0));
        node = outputs.iter().fold(node, |m, name| m.text(2, name));
        node = node.text(3, &format!("node {}", self.nodes.len())).text(4, kind);
        for (name, attribute) in attributes {
            let message = ProtoMessage::default().text(1, name);
            // The last field is `AttributeProto.AttributeType`.
            let message = match attribute {
                Attribute::Int(value) => message.int(3, *value as u64).int(20, 2),
                Attribute::Float(value) => message.float(2, *value as f32).int(20, 1),
                Attribute::Ints(values) => values.iter().fold(message, |m, &v| m.int(8, v as u64)).int(20, 7),
            };
            node = node.message(5, message);
        }
        self.nodes.push(node);
    }

    /// A node with `count` outputs.
    pub fn several(
        &mut self,
        kind: &str,
        inputs: &[&Value],
        attributes: &[(&str, Attribute)],
        count: usize,
    ) -> Vec<Value> {
        let names: Vec<String> = (0..count).map(|i| format!("{kind} {}.{i}", self.nodes.len())).collect();
        self.node(kind, inputs, &names, attributes);
        names.into_iter().map(Value).collect()
    }

    /// A node with one output.
    pub fn op(&mut self, kind: &str, inputs: &[&Value], attributes: &[(&str, Attribute)]) -> Value {
        let name = format!("{kind} {}", self.nodes.len());
        self.node(kind, inputs, std::slice::from_ref(&name), attributes);
        Value(name)
    }

    pub fn add(&mut self, a: &Value, b: &Value) -> Value {
        self.op("Add", &[a, b], &[])
    }

    pub fn mul(&mut self, a: &Value, b: &Value) -> Value {
        self.op("Mul", &[a, b], &[])
    }

    pub fn mat_mul(&mut self, a: &Value, b: &Value) -> Value {
        self.op("MatMul", &[a, b], &[])
    }

    /// x times a number; x itself for 1.
    pub fn scaled(&mut self, x: &Value, factor: f64) -> Value {
        if factor == 1.0 {
            return x.clone();
        }
        let factor = self.scalar(factor);
        self.mul(x, &factor)
    }

    pub fn transpose(&mut self, x: &Value, order: &[i64]) -> Value {
        self.op("Transpose", &[x], &[("perm", Attribute::Ints(order))])
    }

    /// Another shape; 0: as long as this axis is, -1: what is left.
    pub fn reshape(&mut self, x: &Value, dims: &[i64]) -> Value {
        let dims = self.numbers(dims);
        self.op("Reshape", &[x, &dims], &[])
    }

    /// Side by side along an axis; a single part is the whole.
    pub fn concat(&mut self, parts: &[Value], axis: i64) -> Value {
        match parts {
            [only] => only.clone(),
            _ => {
                let parts: Vec<&Value> = parts.iter().collect();
                self.op("Concat", &parts, &[("axis", Attribute::Int(axis))])
            }
        }
    }

    /// A range of an axis.
    pub fn slice(&mut self, x: &Value, axis: i64, range: std::ops::Range<usize>) -> Value {
        let [start, end, axis] =
            [range.start as i64, range.end as i64, axis].map(|number| self.numbers(&[number]));
        self.op("Slice", &[x, &start, &end, &axis], &[])
    }

    /// Entries of an axis by number.
    pub fn gather(&mut self, x: &Value, ids: &Value, axis: i64) -> Value {
        self.op("Gather", &[x, ids], &[("axis", Attribute::Int(axis))])
    }

    /// The mean over an axis, which is gone afterwards.
    pub fn mean(&mut self, x: &Value, axis: i64) -> Value {
        self.op("ReduceMean", &[x], &[("axes", Attribute::Ints(&[axis])), ("keepdims", Attribute::Int(0))])
    }

    /// The maximum over an axis, which is gone afterwards.
    pub fn max(&mut self, x: &Value, axis: i64) -> Value {
        self.op("ReduceMax", &[x], &[("axes", Attribute::Ints(&[axis])), ("keepdims", Attribute::Int(0))])
    }

    /// The length of the rows (…, C), as (…, 1).
    pub fn length(&mut self, x: &Value) -> Value {
        self.op("ReduceL2", &[x], &[("axes", Attribute::Ints(&[-1])), ("keepdims", Attribute::Int(1))])
    }

    /// The larger of each number and `least`.
    pub fn at_least(&mut self, x: &Value, least: f64) -> Value {
        let least = self.scalar(least);
        self.op("Max", &[x, &least], &[])
    }

    /// The `n` largest along the last axis, descending: their places, int64. Of equal numbers the first counts as larger.
    pub fn top_places(&mut self, x: &Value, n: usize) -> Value {
        let n = self.numbers(&[n as i64]);
        let attributes =
            [("axis", Attribute::Int(-1)), ("largest", Attribute::Int(1)), ("sorted", Attribute::Int(1))];
        self.several("TopK", &[x, &n], &attributes, 2).swap_remove(1)
    }

    /// (1, …) weights of the shape `dims` behind the first axis, once for every image.
    ///
    /// # Errors
    /// `Error::Failed` if there is no input yet.
    pub fn for_each_image(&mut self, weights: &Value, dims: &[usize]) -> Result<Value> {
        let batch = self.batch.clone().ok_or_else(|| Error::failed("onnx: a graph without an input"))?;
        let dims: Vec<i64> = dims.iter().map(|&d| d as i64).collect();
        let dims = self.numbers(&dims);
        let shape = self.concat(&[batch, dims], 0);
        Ok(self.op("Expand", &[weights, &shape], &[]))
    }

    /// The same int64 numbers for every image: (N, n).
    ///
    /// # Errors
    /// `Error::Failed` if there is no input yet.
    pub fn numbers_for_each_image(&mut self, values: &[i64]) -> Result<Value> {
        let row = self.numbers(values);
        self.for_each_image(&row, &[values.len()])
    }

    /// The file: the graph, called `name`, with `entries` about it.
    ///
    /// # Errors
    /// `Error::Failed` for a graph above 2 GiB.
    pub fn finish(self, name: &str, entries: &[(&str, String)]) -> Result<Model> {
        let graph = self.nodes.into_iter().fold(ProtoMessage::default(), |m, node| m.message(1, node));
        let graph = self.inputs.into_iter().fold(graph.text(2, name), |m, input| m.message(11, input));
        let graph = self.outputs.into_iter().fold(graph, |m, output| m.message(12, output));
        let weights: Vec<(ProtoMessage, Weight)> = self
            .weights
            .into_iter()
            .map(|weight| {
                let head = weight.head();
                let start = ProtoMessage::default().start(5, head.as_bytes().len() + weight.bytes().len());
                (start.then(&head), weight)
            })
            .collect();
        let length = graph.as_bytes().len()
            + weights.iter().map(|(head, w)| head.as_bytes().len() + w.bytes().len()).sum::<usize>();
        let opset = ProtoMessage::default().text(1, "").int(2, OPSET);
        let start = ProtoMessage::default().int(1, IR_VERSION).text(2, env!("CARGO_PKG_NAME"));
        let start = start.text(3, env!("CARGO_PKG_VERSION")).message(8, opset);
        let entry = |m: ProtoMessage, (key, value): &(&str, String)| {
            m.message(14, ProtoMessage::default().text(1, key).text(2, value))
        };
        let head = entries.iter().fold(start, entry).start(7, length).then(&graph);
        let total = head.as_bytes().len() + length - graph.as_bytes().len();
        if total > MOST_BYTES {
            return Err(Error::failed(format!(
                "an ONNX file may have 2 GiB ({MOST_BYTES} bytes), this network needs {total}; `--format safetensors` \
                 has no limit"
            )));
        }
        Ok(Model { head, weights })
    }
}

/// A file, ready to be written.
#[derive(Debug)]
pub struct Model {
    head: ProtoMessage,
    weights: Vec<(ProtoMessage, Weight)>,
}

impl Model {
    /// # Errors
    /// Those of `out`.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(self.head.as_bytes())?;
        self.weights.iter().try_for_each(|(head, weight)| {
            out.write_all(head.as_bytes())?;
            // Little-endian, as all platforms of this crate are (`src/import/native.rs`).
            out.write_all(weight.bytes())
        })
    }
}
