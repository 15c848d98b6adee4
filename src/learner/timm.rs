//! The backbone of a run under timm's names, as safetensors. `docs/export.md` describes it.
//! Source of the names: huggingface/pytorch-image-models `timm/models/vision_transformer.py`.

use super::assemble::Learner;
use crate::config::schema::{Classifier, Method};
use crate::error::{Error, Result};
use crate::nn::params::{ParamId, Params};
use crate::ops::gelu::GeluForm;
use crate::output::atomic;
use crate::prompts::PromptMethod;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::json;
use std::collections::HashMap;
use std::path::Path;

/// Name, shape, elements.
type Named = (String, Vec<usize>, Vec<f32>);

/// A parameter's values and its shape.
fn values(p: &Params, id: ParamId) -> Result<(Vec<usize>, Vec<f32>)> {
    let values = p.get(id).read_f64()?.into_iter().map(|v| v as f32).collect();
    Ok((p.spec(id).shape.dims().to_vec(), values))
}

/// (K, N) as (N, K), which is how PyTorch keeps a linear layer.
fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| (0..rows).map(move |row| values[row * columns + column])).collect()
}

/// Whether the head reads the class token of the plain network and nothing else, as timm's does.
fn has_plain_head(learner: &Learner) -> bool {
    let setup = &learner.method.model().setup;
    let by_gradient = !matches!(learner.config.method, Method::Ncm | Method::Ranpac);
    by_gradient
        && matches!(learner.method.model().prompts, PromptMethod::None)
        && setup.classifier == Classifier::Token
        && !setup.norm_pre_logits
        && setup.temperature == 1.0
}

/// The tensors of the network without prompts and adapters, with what it has learned.
fn tensors(learner: &Learner) -> Result<Vec<Named>> {
    let model = learner.method.model();
    let (vit, p) = (&model.vit, &model.params);
    let (c, side, registers) = (vit.dims.embed_dim, vit.dims.patch_size, vit.dims.registers);
    let mut all: Vec<Named> = Vec::new();
    // Rows [u, v, channel] of each output, to [channel, u, v].
    let (_, kernel) = values(p, vit.embedding.kernel)?;
    let place = |out: usize, channel: usize, at: usize| kernel[(at * 3 + channel) * c + out];
    let pixels = side * side;
    let conv = (0..c)
        .flat_map(|out| (0..3).flat_map(move |channel| (0..pixels).map(move |at| place(out, channel, at))));
    all.push(("patch_embed.proj.weight".into(), vec![c, 3, side, side], conv.collect()));
    all.push(("patch_embed.proj.bias".into(), vec![c], values(p, vit.embedding.bias)?.1));
    let (_, mut cls) = values(p, vit.cls)?;
    let (_, mut positions) = values(p, vit.positions)?;
    if registers > 0 {
        // timm adds no position to class and register tokens where there are registers.
        cls.iter_mut().zip(&positions).for_each(|(cls, position)| *cls += position);
        let patches = positions.split_off((1 + registers) * c);
        all.push(("reg_token".into(), vec![1, registers, c], positions[c..].to_vec()));
        positions = patches;
    }
    all.push(("cls_token".into(), vec![1, 1, c], cls));
    all.push(("pos_embed".into(), vec![1, positions.len() / c, c], positions));
    let mut norm = |name: String, norm: &crate::nn::layers::LayerNorm| -> Result<()> {
        all.push((format!("{name}.weight"), vec![c], values(p, norm.scale)?.1));
        all.push((format!("{name}.bias"), vec![c], values(p, norm.bias)?.1));
        Ok(())
    };
    norm("norm".into(), &vit.norm)?;
    for (l, block) in vit.blocks.iter().enumerate() {
        norm(format!("blocks.{l}.norm1"), &block.ln1)?;
        norm(format!("blocks.{l}.norm2"), &block.ln2)?;
    }
    let mut linear = |name: String, linear: &crate::nn::layers::Linear| -> Result<()> {
        let (shape, kernel) = values(p, linear.kernel)?;
        let (rows, columns) = (shape[0], shape[1]);
        let kernel = transposed(&kernel, rows, columns);
        all.push((format!("{name}.weight"), vec![columns, rows], kernel));
        all.push((format!("{name}.bias"), vec![columns], values(p, linear.bias)?.1));
        Ok(())
    };
    for (l, block) in vit.blocks.iter().enumerate() {
        linear(format!("blocks.{l}.attn.qkv"), &block.qkv)?;
        linear(format!("blocks.{l}.attn.proj"), &block.proj)?;
        linear(format!("blocks.{l}.mlp.fc1"), &block.fc1)?;
        linear(format!("blocks.{l}.mlp.fc2"), &block.fc2)?;
    }
    if has_plain_head(learner) {
        linear("head".into(), &model.head)?;
    }
    Ok(all)
}

/// Writes the backbone of `learner` as the file `path`, whole or not at all, and with it the head of a network without
/// prompts. Equal runs give equal bytes.
///
/// # Errors
/// `Error::File` if it cannot be written.
pub fn write(learner: &Learner, path: &Path) -> Result<()> {
    let (dims, about) = (learner.method.model().setup.dims, &learner.backbone);
    let classes = if has_plain_head(learner) { learner.class_names.len() } else { 0 };
    let arguments = json!({
        "img_size": dims.image_size,
        "patch_size": dims.patch_size,
        "embed_dim": dims.embed_dim,
        "depth": dims.layers,
        "num_heads": dims.heads,
        "mlp_ratio": dims.mlp_dim as f64 / dims.embed_dim as f64,
        "num_classes": classes,
        "act_layer": match dims.gelu { GeluForm::Tanh => "gelu_tanh", GeluForm::Erf => "gelu" },
        "reg_tokens": dims.registers,
        "no_embed_class": dims.registers > 0,
    });
    let names: &[String] = if classes > 0 { &learner.class_names } else { &[] };
    let entry = json!({
        "arguments": arguments, "layer_norm_eps": dims.eps, "mean": about.mean, "std": about.std,
        "class_names": names, "checkpoint_sha256": about.sha256,
    });
    let tensors = tensors(learner)?;
    let views = tensors.iter().map(|(name, shape, data)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytemuck::cast_slice(data));
        view.map(|view| (name, view)).map_err(|e| Error::failed(format!("timm: `{name}`: {e}")))
    });
    let views = views.collect::<Result<Vec<_>>>()?;
    // One entry: the order of several is not defined.
    let entries = HashMap::from([("timm".to_string(), entry.to_string())]);
    let bytes = safetensors::serialize(views, Some(entries))
        .map_err(|e| Error::failed(format!("the tensors of timm cannot be put into a file: {e}")))?;
    atomic::write(path, &bytes)
}
