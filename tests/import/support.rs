//! Arrays in and out of `.npz` bytes, and a plain vision transformer in f64.

use l2p_engine::import::{Backbone, Gelu, LoadOptions};
use std::collections::BTreeMap;
use std::io::{Cursor, Read, Write};
use std::path::{Path, PathBuf};

/// Two heads, and all else as the file says or its format has it.
pub const OPTIONS: LoadOptions = LoadOptions {
    heads: 2,
    blocks: 0,
    image_size: 0,
    gelu: None,
    layer_norm_eps: None,
    norm: None,
    position_resize: None,
};

/// An array widened to f64.
#[derive(Debug, Clone)]
pub struct Array {
    pub shape: Vec<usize>,
    pub data: Vec<f64>,
}

/// The folder of the repository, also for the targets in `fuzz`.
pub fn repository() -> &'static Path {
    let folders = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    folders.into_iter().find(|folder| folder.join("tests/fixtures").is_dir()).expect("a folder with fixtures")
}

pub fn fixture(name: &str) -> PathBuf {
    repository().join("tests/fixtures").join(name)
}

pub fn fixture_bytes(name: &str) -> Vec<u8> {
    std::fs::read(fixture(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Every array of a fixture, by a reader that shares nothing with the program's.
pub fn read_npz(name: &str) -> BTreeMap<String, Array> {
    let mut archive = zip::ZipArchive::new(Cursor::new(fixture_bytes(name))).unwrap();
    let mut all = BTreeMap::new();
    for i in 0..archive.len() {
        let mut entry = archive.by_index(i).unwrap();
        let name = entry.name().unwrap().trim_end_matches(".npy").to_string();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        let npy = npyz::NpyFile::new(&bytes[..]).unwrap();
        let shape = npy.shape().iter().map(|&n| n as usize).collect();
        let data = match npy.dtype().descr().as_str() {
            "'<f4'" => npy.into_vec::<f32>().unwrap().iter().map(|&v| f64::from(v)).collect(),
            "'<f8'" => npy.into_vec::<f64>().unwrap(),
            "'|u1'" => npy.into_vec::<u8>().unwrap().iter().map(|&v| f64::from(v)).collect(),
            other => panic!("{name}: {other}"),
        };
        all.insert(name, Array { shape, data });
    }
    all
}

/// How [`npz`] stores its arrays.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Store {
    F16,
    F32,
    F64,
    /// Column-major float32.
    Fortran,
}

pub fn npy(array: &Array, store: Store) -> Vec<u8> {
    let (descr, order) = match store {
        Store::F16 => ("<f2", "False"),
        Store::F32 => ("<f4", "False"),
        Store::F64 => ("<f8", "False"),
        Store::Fortran => ("<f4", "True"),
    };
    let shape: String = array.shape.iter().map(|n| format!("{n},")).collect();
    let mut out =
        npy_header(&format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': ({shape}), }}"));
    let strides = |shape: &[usize]| -> Vec<usize> {
        (0..shape.len()).map(|axis| shape[axis + 1..].iter().product()).collect()
    };
    for at in 0..array.data.len() {
        let mut from = at;
        if store == Store::Fortran {
            let (mut rest, strides) = (at, strides(&array.shape));
            from = 0;
            for (n, stride) in array.shape.iter().zip(strides) {
                from += rest % n * stride;
                rest /= n;
            }
        }
        let value = array.data[from];
        match store {
            Store::F16 => out.extend(half::f16::from_f64(value).to_le_bytes()),
            Store::F64 => out.extend(value.to_le_bytes()),
            Store::F32 | Store::Fortran => out.extend((value as f32).to_le_bytes()),
        }
    }
    out
}

pub fn npy_header(dict: &str) -> Vec<u8> {
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend((dict.len() as u16 + 1).to_le_bytes());
    out.extend(dict.as_bytes());
    out.push(b'\n');
    out
}

/// A safetensors fixture with tensors added, removed or renamed.
pub fn edited(name: &str, edit: impl Fn(&mut BTreeMap<String, (Vec<usize>, Vec<u8>)>)) -> Vec<u8> {
    let bytes = fixture_bytes(&format!("import/{name}.safetensors"));
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut all: BTreeMap<_, _> = file
        .iter()
        .map(|(name, view)| (name.to_string(), (view.shape().to_vec(), view.data().to_vec())))
        .collect();
    edit(&mut all);
    safetensors_of(&all)
}

/// A safetensors file of float32.
pub fn safetensors_of(all: &BTreeMap<String, (Vec<usize>, Vec<u8>)>) -> Vec<u8> {
    let views = all.iter().map(|(name, (shape, data))| {
        (name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), data).unwrap())
    });
    safetensors::serialize(views, None).unwrap()
}

/// A zip archive of entries as they are.
pub fn zip_of<'a>(entries: impl IntoIterator<Item = (&'a str, Vec<u8>)>, deflated: bool) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let method = if deflated { zip::CompressionMethod::Deflated } else { zip::CompressionMethod::Stored };
    let options = zip::write::SimpleFileOptions::default().compression_method(method);
    for (name, bytes) in entries {
        zip.start_file(name, options).unwrap();
        zip.write_all(&bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

pub fn npz(arrays: &BTreeMap<String, Array>, store: Store, deflated: bool) -> Vec<u8> {
    let names: Vec<String> = arrays.keys().map(|name| format!("{name}.npy")).collect();
    zip_of(names.iter().map(String::as_str).zip(arrays.values().map(|array| npy(array, store))), deflated)
}

/// [rows, inner] times a kernel [inner, out], plus a bias [out].
fn dense(x: &[f64], backbone: &Backbone, name: &str) -> Vec<f64> {
    let kernel = &backbone.tensors[&format!("{name}/kernel")];
    let bias = &backbone.tensors[&format!("{name}/bias")].data;
    let out = bias.len();
    let inner = kernel.data.len() / out;
    let mut y = Vec::with_capacity(x.len() / inner * out);
    for row in x.chunks_exact(inner) {
        let mut line: Vec<f64> = bias.iter().map(|&b| f64::from(b)).collect();
        for (v, weights) in row.iter().zip(kernel.data.chunks_exact(out)) {
            line.iter_mut().zip(weights).for_each(|(y, &w)| *y += v * f64::from(w));
        }
        y.extend(line);
    }
    y
}

fn layer_norm(x: &[f64], backbone: &Backbone, name: &str) -> Vec<f64> {
    let scale = &backbone.tensors[&format!("{name}/scale")].data;
    let bias = &backbone.tensors[&format!("{name}/bias")].data;
    let n = scale.len() as f64;
    x.chunks_exact(scale.len())
        .flat_map(|row| {
            let mean = row.iter().sum::<f64>() / n;
            let var = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
            let rstd = 1.0 / (var + backbone.layer_norm_eps).sqrt();
            let affine = scale.iter().zip(bias);
            row.iter()
                .zip(affine)
                .map(|(v, (&s, &b))| (v - mean) * rstd * f64::from(s) + f64::from(b))
                .collect::<Vec<_>>()
        })
        .collect()
}

fn attention(qkv: &[f64], dim: usize, heads: usize) -> Vec<f64> {
    let (tokens, head_dim) = (qkv.len() / (3 * dim), dim / heads);
    let mut out = vec![0.0; tokens * dim];
    let at = |token: usize, which: usize, head: usize| {
        &qkv[token * 3 * dim + which * dim + head * head_dim..][..head_dim]
    };
    for head in 0..heads {
        for t in 0..tokens {
            let dot = |s: usize| at(t, 0, head).iter().zip(at(s, 1, head)).map(|(a, b)| a * b).sum::<f64>();
            let scores: Vec<f64> = (0..tokens).map(|s| dot(s) / (head_dim as f64).sqrt()).collect();
            let top = scores.iter().copied().fold(f64::MIN, f64::max);
            let sum: f64 = scores.iter().map(|s| (s - top).exp()).sum();
            for (s, score) in scores.iter().enumerate() {
                let p = (score - top).exp() / sum;
                let line = &mut out[t * dim + head * head_dim..][..head_dim];
                line.iter_mut().zip(at(s, 2, head)).for_each(|(o, v)| *o += p * v);
            }
        }
    }
    out
}

/// The class token after the final norm, of one image [S, S, 3] in [0, 1].
pub fn cls_feature(backbone: &Backbone, image: &[f64]) -> Vec<f64> {
    let dims = &backbone.dims;
    let (side, patch, dim) = (dims.image_size, dims.patch_size, dims.embed_dim);
    let mut patches = Vec::new();
    for (top, left) in (0..dims.grid()).flat_map(|r| (0..dims.grid()).map(move |c| (r * patch, c * patch))) {
        for (y, x) in (top..top + patch).flat_map(|y| (left..left + patch).map(move |x| (y, x))) {
            for c in 0..3 {
                let v = image[(y * side + x) * 3 + c];
                patches.push((v - f64::from(backbone.mean[c])) / f64::from(backbone.std[c]));
            }
        }
    }
    let mut x: Vec<f64> = backbone.tensors["cls"].data.iter().map(|&v| f64::from(v)).collect();
    x.extend(dense(&patches, backbone, "embedding"));
    x.iter_mut().zip(&backbone.tensors["pos_embedding"].data).for_each(|(v, &p)| *v += f64::from(p));
    // Attention does not see order, so register tokens may come last.
    x.extend(backbone.tensors.get("registers").iter().flat_map(|t| &t.data).map(|&v| f64::from(v)));
    for l in 0..dims.layers {
        let name = |part: &str| format!("block_{l}/{part}");
        let y = dense(&layer_norm(&x, backbone, &name("ln1")), backbone, &name("qkv"));
        let y = dense(&attention(&y, dim, dims.heads), backbone, &name("proj"));
        x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
        let mut y = dense(&layer_norm(&x, backbone, &name("ln2")), backbone, &name("fc1"));
        y.iter_mut().for_each(|v| {
            *v *= match backbone.gelu {
                Gelu::Erf => 0.5 * (1.0 + libm::erf(*v / std::f64::consts::SQRT_2)),
                Gelu::Tanh => {
                    0.5 * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (*v + 0.044715 * v.powi(3))).tanh())
                }
            }
        });
        let y = dense(&y, backbone, &name("fc2"));
        x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
    }
    layer_norm(&x[..dim], backbone, "norm")
}

/// Largest difference, relative to the largest expected value.
pub fn deviation(found: &[f64], wanted: &[f64]) -> f64 {
    assert_eq!(found.len(), wanted.len());
    let top = wanted.iter().fold(0.0f64, |top, v| top.max(v.abs()));
    found.iter().zip(wanted).fold(0.0f64, |worst, (a, b)| worst.max((a - b).abs())) / top
}
