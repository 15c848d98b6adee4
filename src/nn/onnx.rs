//! Layers, block and Vision Transformer as ONNX graphs.

use super::adapter::Adapter;
use super::block::Block;
use super::layers::{LayerNorm, Linear};
use super::params::{ParamId, Params};
use super::vit::{CHANNELS, Vit};
use crate::error::Result;
use crate::onnx::{Attribute, Graph, Value};
use crate::ops::gelu::GeluForm;

/// Parameters on their way into a graph, under their names with a word in front.
#[derive(Debug, Clone, Copy)]
pub struct Weights<'a> {
    pub p: &'a Params,
    pub prefix: &'a str,
}

impl Weights<'_> {
    /// A parameter as it is.
    ///
    /// # Errors
    /// `Error::Failed` if the device fails.
    pub fn get(&self, g: &mut Graph, id: ParamId) -> Result<Value> {
        let spec = self.p.spec(id);
        let name = format!("{}{}", self.prefix, spec.name);
        g.weights(&name, spec.shape.dims(), || self.p.get(id).read_f64())
    }

    /// What `make` does of a parameter, of the shape `dims`; `what` says which part of it that is.
    ///
    /// # Errors
    /// `Error::Failed` if the device fails.
    pub fn part(
        &self,
        g: &mut Graph,
        id: ParamId,
        what: &str,
        dims: &[usize],
        make: impl FnOnce(Vec<f64>) -> Vec<f64>,
    ) -> Result<Value> {
        let name = format!("{}{} {what}", self.prefix, self.p.spec(id).name);
        g.weights(&name, dims, || Ok(make(self.p.get(id).read_f64()?)))
    }
}

impl LayerNorm {
    /// x: (…, C).
    ///
    /// # Errors
    /// `Error::Failed` if the device fails.
    pub fn onnx(&self, g: &mut Graph, w: Weights, x: &Value) -> Result<Value> {
        let (scale, bias) = (w.get(g, self.scale)?, w.get(g, self.bias)?);
        let attributes = [("axis", Attribute::Int(-1)), ("epsilon", Attribute::Float(self.eps))];
        Ok(g.op("LayerNormalization", &[x, &scale, &bias], &attributes))
    }
}

impl Linear {
    /// x W + b of the only layer. x: (…, K).
    ///
    /// # Errors
    /// `Error::Failed` if the device fails.
    pub fn onnx(&self, g: &mut Graph, w: Weights, x: &Value) -> Result<Value> {
        let (kernel, bias) = (w.get(g, self.kernel)?, w.get(g, self.bias)?);
        let product = g.mat_mul(x, &kernel);
        Ok(g.add(&product, &bias))
    }
}

impl Adapter {
    /// s (relu(x D + d) U + u). x: (B, T, C).
    fn onnx(&self, g: &mut Graph, w: Weights, x: &Value) -> Result<Value> {
        let hidden = self.down.onnx(g, w, x)?;
        let hidden = g.op("Relu", &[&hidden], &[]);
        let out = self.up.onnx(g, w, &hidden)?;
        Ok(g.scaled(&out, self.dims.scale))
    }
}

fn gelu(g: &mut Graph, form: GeluForm, x: &Value) -> Value {
    let inner = match form {
        GeluForm::Erf => {
            let x = g.scaled(x, std::f64::consts::FRAC_1_SQRT_2);
            g.op("Erf", &[&x], &[])
        }
        GeluForm::Tanh => {
            let square = g.mul(x, x);
            let cube = g.mul(&square, x);
            let cube = g.scaled(&cube, 0.044715);
            let sum = g.add(x, &cube);
            let sum = g.scaled(&sum, (2.0 / std::f64::consts::PI).sqrt());
            g.op("Tanh", &[&sum], &[])
        }
    };
    let one = g.scalar(1.0);
    let inner = g.add(&inner, &one);
    let half = g.scaled(x, 0.5);
    g.mul(&half, &inner)
}

impl Block {
    /// x: (B, T, C). prefix: (B, n, C) in front of keys and of values. `adapted`: with its adapter, if there is one.
    ///
    /// # Errors
    /// `Error::Failed` if the device fails.
    pub fn onnx(
        &self,
        g: &mut Graph,
        w: Weights,
        x: &Value,
        prefix: Option<&[Value; 2]>,
        adapted: bool,
    ) -> Result<Value> {
        let (heads, c) = (self.dims.heads, self.dims.embed_dim);
        let width = c / heads;
        let normed = self.ln1.onnx(g, w, x)?;
        let qkv = self.qkv.onnx(g, w, &normed)?;
        let [q, mut k, mut v] = [0, 1, 2].map(|i| g.slice(&qkv, 2, i * c..(i + 1) * c));
        if let Some([keys, values]) = prefix {
            k = g.concat(&[keys.clone(), k], 1);
            v = g.concat(&[values.clone(), v], 1);
        }
        let apart = [0, 0, heads as i64, width as i64];
        let [q, k, v] = [q, k, v].map(|x| g.reshape(&x, &apart));
        let (q, k, v) =
            (g.transpose(&q, &[0, 2, 1, 3]), g.transpose(&k, &[0, 2, 3, 1]), g.transpose(&v, &[0, 2, 1, 3]));
        let scores = g.mat_mul(&q, &k);
        let scores = g.scaled(&scores, 1.0 / (width as f64).sqrt());
        let probs = g.op("Softmax", &[&scores], &[("axis", Attribute::Int(-1))]);
        let mixed = g.mat_mul(&probs, &v);
        let mixed = g.transpose(&mixed, &[0, 2, 1, 3]);
        let mixed = g.reshape(&mixed, &[0, 0, c as i64]);
        let attn = self.proj.onnx(g, w, &mixed)?;
        let mid = g.add(x, &attn);
        let normed = self.ln2.onnx(g, w, &mid)?;
        let hidden = self.fc1.onnx(g, w, &normed)?;
        let hidden = gelu(g, self.dims.gelu, &hidden);
        let out = self.fc2.onnx(g, w, &hidden)?;
        let y = g.add(&mid, &out);
        match self.adapter.as_ref().filter(|_| adapted) {
            Some(adapter) => {
                let more = adapter.onnx(g, w, &mid)?;
                Ok(g.add(&y, &more))
            }
            None => Ok(y),
        }
    }
}

/// What [`Vit::onnx_embed`] makes of images.
#[derive(Debug, Clone)]
pub struct EmbeddedGraph {
    /// (B, 1+R+N, C)
    pub x: Value,
    /// (B, N, C), without positions.
    pub patches: Value,
}

impl Vit {
    /// Tokens of images (B, S, S, 3).
    ///
    /// # Errors
    /// `Error::Failed` if the device fails.
    pub fn onnx_embed(&self, g: &mut Graph, w: Weights, images: &Value) -> Result<EmbeddedGraph> {
        let (c, p, n) = (self.dims.embed_dim, self.dims.patch_size, self.dims.patches());
        let (grid, front) = (self.dims.grid() as i64, 1 + self.dims.registers);
        // Rows of patches [u, v, channel], as the kernel has them.
        let (side, channels) = (p as i64, CHANNELS as i64);
        let rows = g.reshape(images, &[0, grid, side, grid, side * channels]);
        let rows = g.transpose(&rows, &[0, 1, 3, 2, 4]);
        let rows = g.reshape(&rows, &[0, n as i64, self.dims.patch_len() as i64]);
        let dims = [self.dims.patch_len(), c];
        let kernel = w.part(g, self.embedding.kernel, "as a matrix", &dims, |values| values)?;
        let bias = w.get(g, self.embedding.bias)?;
        let product = g.mat_mul(&rows, &kernel);
        let patches = g.add(&product, &bias);
        let cls = w.p.get(self.cls).read_f64()?;
        let first = w.part(g, self.positions, "of the first tokens", &[1, front, c], |mut values| {
            values.truncate(front * c);
            values.iter_mut().zip(&cls).for_each(|(position, cls)| *position += cls);
            values
        })?;
        let rest = w.part(g, self.positions, "of the patches", &[1, n, c], |v| v[front * c..].to_vec())?;
        let first = g.for_each_image(&first, &[front, c])?;
        let rest = g.add(&patches, &rest);
        Ok(EmbeddedGraph { x: g.concat(&[first, rest], 1), patches })
    }
}
