//! From the tensors of a file to those of the engine: what is wanted and where it comes from.

use super::archive::Archive;
use super::backbone::{Backbone, Gelu, HostTensor, LoadOptions, PositionResize, TensorSink, VitDims};
use super::beside::{DescribedBy, Description};
use super::convert::convert;
use super::positions::{grid_of, resize_positions};
use super::report::{self, Problem};
use super::source::TensorSource;
use super::stored::{StoredType, TensorInfo};
use crate::error::{Error, Result};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;

/// What a file is and how it becomes a backbone.
#[derive(Debug, Clone)]
pub(super) struct Conversion {
    pub format: String,
    /// As stored; after [`Conversion::settle`] as wanted. `heads` may be 0 (unknown) until then.
    pub dims: VitDims,
    pub gelu: Gelu,
    pub layer_norm_eps: f64,
    pub norm: ([f32; 3], [f32; 3]),
    /// The rule of the library that the format belongs to.
    pub position_resize: PositionResize,
    /// Whether the positions are resized, after [`Conversion::settle`].
    pub resized: bool,
    pub sources: Vec<TensorSource>,
    /// Tensors whose name starts with one of these are known and not needed.
    pub dropped: Vec<String>,
    pub described_by: DescribedBy,
    /// Remarks for the source sentence.
    pub notes: Vec<String>,
}

impl Conversion {
    /// Compares the conversion with what the file has: one error with everything that does not fit.
    pub(super) fn check(&self, archive: &Archive) -> Result<()> {
        let dim = vec![self.dims.embed_dim];
        let scales = self.sources.iter().filter_map(|source| source.scale.as_ref().map(|name| (name, &dim)));
        let stored = self.sources.iter().flat_map(|source| source.from.iter().map(|(n, s)| (n, s)));
        let wanted: BTreeMap<&String, &Vec<usize>> = stored.chain(scales).collect();
        let mut problems = Vec::new();
        for (&name, &shape) in &wanted {
            let problem =
                |what, found| Problem { what, tensor: name.clone(), wanted: format!("{shape:?}"), found };
            match archive.infos.get(name) {
                None => problems.push(problem("missing", "-".to_string())),
                Some(TensorInfo { stored: StoredType::Other(stored), .. }) => {
                    problems
                        .push(Problem { wanted: "floats".to_string(), ..problem("type", stored.clone()) });
                }
                Some(info) if &info.shape != shape => {
                    problems.push(problem("shape", format!("{:?}", info.shape)));
                }
                Some(_) => {}
            }
        }
        let dropped = |name: &str| self.dropped.iter().any(|prefix| name.starts_with(prefix.as_str()));
        for (name, info) in &archive.infos {
            if !wanted.contains_key(name) && !dropped(name) {
                let found = format!("{:?}", info.shape);
                problems.push(Problem {
                    what: "extra",
                    tensor: name.clone(),
                    wanted: "-".to_string(),
                    found,
                });
            }
        }
        if problems.is_empty() {
            return Ok(());
        }
        if let Some(stored) = report::one_foreign_type(&problems) {
            return Err(archive.error(format!(
                "stores {} of its tensors as {stored} (the first is `{}`); wanted float16, bfloat16, float32 or \
                 float64, little-endian",
                problems.len(),
                problems[0].tensor
            )));
        }
        Err(report::mismatch(archive, &format!("{} ({})", self.format, describe(&self.dims)), &problems))
    }

    /// Fills in what the tensors do not say, first from the files beside, then from the user.
    pub(super) fn settle(
        &mut self,
        path: &Path,
        described: &Description,
        options: &LoadOptions,
    ) -> Result<()> {
        let dims = &mut self.dims;
        if let (0, Some(heads)) = (dims.heads, described.heads) {
            dims.heads = heads;
        }
        match (dims.heads, options.heads) {
            (0, 0) => dims.heads = infer_heads(path, dims.embed_dim)?,
            (0, asked) => dims.heads = asked,
            (stored, asked) if asked != 0 && asked != stored => {
                return Err(Error::config(format!(
                    "model.heads is {asked}, but {} has {stored} attention heads; leave it at 0",
                    path.display()
                )));
            }
            _ => {}
        }
        if dims.heads == 0 || !dims.embed_dim.is_multiple_of(dims.heads) {
            return Err(Error::config(format!(
                "{} attention heads do not divide the {} columns of {}; set model.heads to a divisor",
                dims.heads,
                dims.embed_dim,
                path.display()
            )));
        }
        if options.blocks > dims.layers {
            return Err(Error::config(format!(
                "model.blocks is {}, but {} has only {} blocks",
                options.blocks,
                path.display(),
                dims.layers
            )));
        }
        if options.blocks != 0 && options.blocks != dims.layers {
            self.notes.push(format!("the first {} of {} blocks", options.blocks, dims.layers));
            dims.layers = options.blocks;
        }
        if options.image_size != 0 && options.image_size != dims.image_size {
            if !options.image_size.is_multiple_of(dims.patch_size) || options.image_size > 1 << 14 {
                return Err(Error::config(format!(
                    "an input of {} pixels does not divide into the patches of {} pixels of {}",
                    options.image_size,
                    dims.patch_size,
                    path.display()
                )));
            }
            self.position_resize = options.position_resize.unwrap_or(self.position_resize);
            self.notes.push(format!(
                "positions resized from {} pixels ({})",
                dims.image_size,
                self.position_resize.describe()
            ));
            (dims.image_size, self.resized) = (options.image_size, true);
        }
        self.gelu = options.gelu.or(described.gelu).unwrap_or(self.gelu);
        self.layer_norm_eps =
            options.layer_norm_eps.or(described.layer_norm_eps).unwrap_or(self.layer_norm_eps);
        if !(self.layer_norm_eps.is_finite() && self.layer_norm_eps > 0.0) {
            return Err(Error::config(format!(
                "a LayerNorm epsilon of {} cannot be used",
                self.layer_norm_eps
            )));
        }
        self.norm = options.norm.or(described.norm).unwrap_or(self.norm);
        let (mean, std) = self.norm;
        if mean.iter().any(|m| !m.is_finite()) || std.iter().any(|s| !(s.is_finite() && *s > 0.0)) {
            return Err(Error::config(format!(
                "an input norm of mean {mean:?}, deviation {std:?} cannot be used"
            )));
        }
        self.notes.extend(described.notes.iter().cloned());
        Ok(())
    }

    /// Reads and converts every tensor of the settled conversion and hands each to `place`. `release` is called
    /// between groups of tensors.
    pub(super) fn run(&self, archive: &Archive, release: &dyn Fn(), place: TensorSink) -> Result<()> {
        let mut wanted: BTreeMap<String, Vec<usize>> = self.dims.tensors().into_iter().collect();
        let sources: Vec<&TensorSource> =
            self.sources.iter().filter(|source| wanted.contains_key(&source.to)).collect();
        let mut rest = &sources[..];
        while !rest.is_empty() {
            let (group, later) = rest.split_at(group(rest));
            rest = later;
            // Collected before the first error is taken, so that the message does not depend on timing.
            let done: Vec<Result<HostTensor>> = group
                .par_iter()
                .map(|source| {
                    let tensor = convert(archive, source)?;
                    match source.to.as_str() {
                        "pos_embedding" => resize_positions(&tensor, self.dims.grid(), self.position_resize),
                        _ => Ok(tensor),
                    }
                })
                .collect();
            for (source, tensor) in group.iter().zip(done.into_iter().collect::<Result<Vec<_>>>()?) {
                let shape = wanted.remove(&source.to);
                if shape.as_ref() != Some(&tensor.shape) {
                    let (name, found) = (&source.to, &tensor.shape);
                    return Err(
                        archive.error(format!("`{name}` should become {shape:?} and became {found:?}"))
                    );
                }
                place(&source.to, tensor)?;
            }
            release();
        }
        match wanted.iter().next() {
            Some((name, shape)) => {
                Err(archive.error(format!("`{name}` should become {shape:?} and has no source")))
            }
            None => Ok(()),
        }
    }

    /// What the settled conversion of `archive` says of the backbone, without tensors and checksum.
    pub(super) fn about(&self, archive: &Archive) -> Backbone {
        let notes =
            archive.notes.iter().chain(&self.notes).map(|note| format!(", {note}")).collect::<String>();
        Backbone {
            dims: self.dims,
            gelu: self.gelu,
            layer_norm_eps: self.layer_norm_eps,
            mean: self.norm.0,
            std: self.norm.1,
            position_resize: self.resized.then_some(self.position_resize),
            source: format!("{} in {} ({}){notes}", self.format, archive.container, describe(&self.dims)),
            sha256: String::new(),
            tensors: BTreeMap::new(),
        }
    }
}

/// Tensors of together so many values are converted at the same time: the memory beside that of the result.
const GROUP_VALUES: usize = 5 << 20;

/// How many of `sources`, at least one, are converted together.
fn group(sources: &[&TensorSource]) -> usize {
    let mut values = 0;
    let fits = |source: &&&TensorSource| {
        values += source.to_shape.iter().product::<usize>();
        values <= GROUP_VALUES
    };
    sources.iter().take_while(fits).count().max(1)
}

/// The sizes in words.
fn describe(dims: &VitDims) -> String {
    let heads = if dims.heads == 0 { String::new() } else { format!(", {} heads", dims.heads) };
    let registers =
        if dims.registers == 0 { String::new() } else { format!(", {} register tokens", dims.registers) };
    format!(
        "{} blocks of {} columns{heads}, MLP {}, patches of {}{registers}, image {}",
        dims.layers, dims.embed_dim, dims.mlp_dim, dims.patch_size, dims.image_size
    )
}

/// Published ViTs up to ViT-L have heads of 64 columns, ViT-H has 16 of 80. Wider ones differ.
fn infer_heads(path: &Path, dim: usize) -> Result<usize> {
    match dim {
        1280 => Ok(16),
        64..=1024 if dim.is_multiple_of(64) => Ok(dim / 64),
        _ => Err(Error::config(format!(
            "{} does not say how many attention heads its {dim} columns are; set model.heads",
            path.display()
        ))),
    }
}

/// The shape of a tensor that the sizes are read from.
pub(super) fn shape_of<const N: usize>(archive: &Archive, format: &str, name: &str) -> Result<[usize; N]> {
    let Some(info) = archive.infos.get(name) else {
        return Err(archive.error(format!("looks like a {format}, but has no tensor `{name}`")));
    };
    let wrong =
        |what| archive.error(format!("`{name}` should have {what}, it has the shape {:?}", info.shape));
    let shape = <[usize; N]>::try_from(info.shape.as_slice()).map_err(|_| wrong(format!("{N} axes")))?;
    if shape.contains(&0) { Err(wrong("no empty axis".to_string())) } else { Ok(shape) }
}

/// The grid of a position table [1, 1 + A A, D].
pub(super) fn grid_of_table(archive: &Archive, name: &str, shape: [usize; 3]) -> Result<usize> {
    let rows = shape[1];
    grid_of(rows).ok_or_else(|| {
        let why = if rows.isqrt().pow(2) == rows {
            "a square grid without a row for the class token, which is not supported"
        } else {
            "not a square grid of patches"
        };
        archive.error(format!("`{name}` has {rows} rows; wanted 1 + A*A (class token and grid), found {why}"))
    })
}

/// How many blocks there are, from names like `<before>{l}<after>`. A gap shows up as missing names.
pub(super) fn count_blocks(archive: &Archive, before: &str) -> usize {
    let number = |name: &String| {
        let digits = name.strip_prefix(before)?.split(['.', '/']).next()?;
        digits.parse::<usize>().ok()
    };
    archive.infos.keys().filter_map(number).collect::<std::collections::BTreeSet<_>>().len()
}
