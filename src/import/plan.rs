//! From the tensors of a file to those of the engine: what is wanted, where it comes from, and the
//! work itself.

use super::archive::{Archive, Info, Kind};
use super::hints::Hints;
use super::positions::grid_of;
use super::report::{self, Problem};
use super::{Backbone, Gelu, HostTensor, Options, VitDims, resize_positions};
use crate::error::{Error, Result};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;

pub(super) const UNIT_NORM: ([f32; 3], [f32; 3]) = ([0.0; 3], [1.0; 3]);
pub(super) const HALF_NORM: ([f32; 3], [f32; 3]) = ([0.5; 3], [0.5; 3]);
pub(super) const IMAGENET_NORM: ([f32; 3], [f32; 3]) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);

/// How a stored tensor lies in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// As the engine has it: [in, out], up to splitting axes.
    InOut,
    /// PyTorch's linear layer: [out, in].
    OutIn,
    /// PyTorch's convolution: [D, 3, P, P].
    Conv,
}

/// One tensor of the engine and its sources.
#[derive(Debug, Clone)]
pub(super) struct Row {
    /// Name and shape in the engine.
    pub to: String,
    pub to_shape: Vec<usize>,
    /// Stored names and shapes; several are put side by side along the last axis, none means zeros.
    pub from: Vec<(String, Vec<usize>)>,
    pub layout: Layout,
    /// LayerScale [D]: multiplies the last axis.
    pub scale: Option<String>,
}

/// The JSON files that may lie beside a file and say more about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Beside {
    /// The file says everything itself.
    Nothing,
    /// `<stem>.json`.
    Stem,
    /// Also those of PyTorch programs.
    StemAndConfig,
}

/// What a file is and how it becomes a backbone.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub format: String,
    /// As stored; after [`Plan::settle`] as wanted. `heads` may be 0 (unknown) until then.
    pub dims: VitDims,
    pub gelu: Gelu,
    pub layer_norm_eps: f64,
    pub norm: ([f32; 3], [f32; 3]),
    pub rows: Vec<Row>,
    /// Tensors whose name starts with one of these are known and not needed.
    pub dropped: Vec<String>,
    pub beside: Beside,
    /// Remarks for the source sentence.
    pub notes: Vec<String>,
}

impl Plan {
    /// Compares the plan with what the file has: one error with everything that does not fit.
    pub(super) fn check(&self, archive: &Archive) -> Result<()> {
        let dim = vec![self.dims.embed_dim];
        let scales = self.rows.iter().filter_map(|row| row.scale.as_ref().map(|name| (name, &dim)));
        let wanted: BTreeMap<&String, &Vec<usize>> =
            self.rows.iter().flat_map(|row| row.from.iter().map(|(n, s)| (n, s))).chain(scales).collect();
        let mut problems = Vec::new();
        for (&name, &shape) in &wanted {
            let problem =
                |what, found| Problem { what, tensor: name.clone(), wanted: format!("{shape:?}"), found };
            match archive.infos.get(name) {
                None => problems.push(problem("missing", "-".to_string())),
                Some(Info { kind: Kind::Other(kind), .. }) => {
                    problems.push(Problem { wanted: "floats".to_string(), ..problem("type", kind.clone()) });
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
        Err(report::mismatch(archive, &format!("{} ({})", self.format, describe(&self.dims)), &problems))
    }

    /// Fills in what the tensors do not say, first from the files beside, then from the user.
    pub(super) fn settle(&mut self, path: &Path, hints: &Hints, options: &Options) -> Result<()> {
        let dims = &mut self.dims;
        if let (0, Some(heads)) = (dims.heads, hints.heads) {
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
            self.notes.push(format!("positions resized from {} pixels", dims.image_size));
            dims.image_size = options.image_size;
        }
        self.gelu = options.gelu.or(hints.gelu).unwrap_or(self.gelu);
        self.layer_norm_eps = options.layer_norm_eps.or(hints.layer_norm_eps).unwrap_or(self.layer_norm_eps);
        if !(self.layer_norm_eps.is_finite() && self.layer_norm_eps > 0.0) {
            return Err(Error::config(format!(
                "a LayerNorm epsilon of {} cannot be used",
                self.layer_norm_eps
            )));
        }
        self.norm = options.norm.or(hints.norm).unwrap_or(self.norm);
        let (mean, std) = self.norm;
        if mean.iter().any(|m| !m.is_finite()) || std.iter().any(|s| !(s.is_finite() && *s > 0.0)) {
            return Err(Error::config(format!(
                "an input norm of mean {mean:?}, deviation {std:?} cannot be used"
            )));
        }
        self.notes.extend(hints.files.iter().map(|file| format!("with {file}")));
        Ok(())
    }

    /// Reads and converts every tensor of the settled plan and hands each to `place`. `release` is called between
    /// groups of tensors.
    pub(super) fn run(&self, archive: &Archive, release: &dyn Fn(), place: super::Place) -> Result<()> {
        let mut wanted: BTreeMap<String, Vec<usize>> = self.dims.tensors().into_iter().collect();
        let rows: Vec<&Row> = self.rows.iter().filter(|row| wanted.contains_key(&row.to)).collect();
        let mut rest = &rows[..];
        while !rest.is_empty() {
            let (group, later) = rest.split_at(group(rest));
            rest = later;
            // Collected before the first error is taken, so that the message does not depend on timing.
            let done: Vec<Result<HostTensor>> = group
                .par_iter()
                .map(|row| {
                    let tensor = convert(archive, row)?;
                    match row.to.as_str() {
                        "pos_embedding" => resize_positions(&tensor, self.dims.grid()),
                        _ => Ok(tensor),
                    }
                })
                .collect();
            for (row, tensor) in group.iter().zip(done.into_iter().collect::<Result<Vec<_>>>()?) {
                let shape = wanted.remove(&row.to);
                if shape.as_ref() != Some(&tensor.shape) {
                    let (name, found) = (&row.to, &tensor.shape);
                    return Err(
                        archive.error(format!("`{name}` should become {shape:?} and became {found:?}"))
                    );
                }
                place(&row.to, tensor)?;
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

    /// What the settled plan says of the backbone in a file of this kind, without tensors and checksum.
    pub(super) fn about(&self, container: &str) -> Backbone {
        let notes = self.notes.iter().map(|note| format!(", {note}")).collect::<String>();
        Backbone {
            dims: self.dims,
            gelu: self.gelu,
            layer_norm_eps: self.layer_norm_eps,
            mean: self.norm.0,
            std: self.norm.1,
            source: format!("{} in {container} ({}){notes}", self.format, describe(&self.dims)),
            sha256: String::new(),
            tensors: BTreeMap::new(),
        }
    }
}

/// Tensors of together so many values are converted at the same time: the memory beside that of the result.
const GROUP_VALUES: usize = 5 << 20;

/// How many of `rows`, at least one, are converted together.
fn group(rows: &[&Row]) -> usize {
    let mut values = 0;
    let fits = |row: &&&Row| {
        values += row.to_shape.iter().product::<usize>();
        values <= GROUP_VALUES
    };
    rows.iter().take_while(fits).count().max(1)
}

/// The sizes in words.
fn describe(dims: &VitDims) -> String {
    let heads = if dims.heads == 0 { String::new() } else { format!(", {} heads", dims.heads) };
    format!(
        "{} blocks of {} columns{heads}, MLP {}, patches of {}, image {}",
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

/// One tensor of the engine.
fn convert(archive: &Archive, row: &Row) -> Result<HostTensor> {
    let width = row.to_shape.last().copied().unwrap_or(1);
    let len = row.to_shape.iter().product::<usize>();
    let mut parts = Vec::with_capacity(row.from.len());
    for (name, shape) in &row.from {
        let stored = archive.read(name)?;
        parts.push(match row.layout {
            Layout::InOut => stored.data,
            Layout::OutIn => transpose(&stored.data, shape[0]),
            Layout::Conv => {
                // [D, 3, P, P]: the last two axes are the rows of a matrix [D 3, P P], then of [D, 3 P P].
                let (dim, channels, patch) = (shape[0], shape[1], shape[2] * shape[3]);
                let per_out: Vec<f32> =
                    stored.data.chunks_exact(channels * patch).flat_map(|c| transpose(c, channels)).collect();
                transpose(&per_out, dim)
            }
        });
    }
    let mut data = match parts.len() {
        0 => vec![0.0; len],
        1 => parts.remove(0),
        n => {
            let part = width / n;
            let mut side_by_side = Vec::with_capacity(len);
            for line in 0..len / width {
                parts.iter().for_each(|p| side_by_side.extend_from_slice(&p[line * part..(line + 1) * part]));
            }
            side_by_side
        }
    };
    if let Some(name) = &row.scale {
        let scale = archive.read(name)?.data;
        data.chunks_exact_mut(width).for_each(|line| line.iter_mut().zip(&scale).for_each(|(v, s)| *v *= s));
        if data.iter().any(|v| !v.is_finite()) {
            return Err(archive.error(format!("`{name}` makes `{}` overflow float32", row.from[0].0)));
        }
    }
    Ok(HostTensor { shape: row.to_shape.clone(), data })
}

/// The transpose of a matrix of `rows` rows, in tiles that stay in the cache.
fn transpose(data: &[f32], rows: usize) -> Vec<f32> {
    const TILE: usize = 32;
    let columns = data.len() / rows.max(1);
    let mut out = vec![0.0; data.len()];
    for top in (0..rows).step_by(TILE) {
        for left in (0..columns).step_by(TILE) {
            for row in top..(top + TILE).min(rows) {
                for column in left..(left + TILE).min(columns) {
                    out[column * rows + row] = data[row * columns + column];
                }
            }
        }
    }
    out
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
