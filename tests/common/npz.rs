//! `.npz` files as maps from name to f64 arrays.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

#[derive(Debug, Clone)]
pub struct Array {
    pub shape: Vec<usize>,
    pub data: Vec<f64>,
    /// As NumPy writes it, such as `<f4`.
    pub dtype: String,
}

impl Array {
    pub fn u32s(&self) -> Vec<u32> {
        self.data.iter().map(|&v| v as u32).collect()
    }

    /// Entry `i` of the outermost axis.
    pub fn at(&self, i: usize) -> Array {
        let n: usize = self.shape[1..].iter().product();
        Array {
            shape: self.shape[1..].to_vec(),
            data: self.data[i * n..(i + 1) * n].to_vec(),
            dtype: self.dtype.clone(),
        }
    }
}

#[derive(Debug, Clone)]
pub struct Npz {
    pub arrays: BTreeMap<String, Array>,
    name: String,
}

impl Npz {
    pub fn read(path: &Path) -> Npz {
        let file = std::fs::File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut zip = zip::ZipArchive::new(file).expect("a zip archive");
        let mut arrays = BTreeMap::new();
        for i in 0..zip.len() {
            let mut entry = zip.by_index(i).expect("an entry");
            let name = entry.name().expect("a name").trim_end_matches(".npy").to_string();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).expect("readable bytes");
            arrays.insert(name, parse(&bytes));
        }
        Npz { arrays, name: path.display().to_string() }
    }

    pub fn golden(name: &str) -> Npz {
        Npz::read(&super::golden_dir().join(name))
    }

    pub fn get(&self, name: &str) -> &Array {
        self.arrays.get(name).unwrap_or_else(|| panic!("{}: no array `{name}`", self.name))
    }

    pub fn has(&self, name: &str) -> bool {
        self.arrays.contains_key(name)
    }
}

fn parse(bytes: &[u8]) -> Array {
    let npy = npyz::NpyFile::new(bytes).expect("an npy header");
    let shape: Vec<usize> = npy.shape().iter().map(|&n| n as usize).collect();
    let dtype = npy.dtype().descr().trim_matches('\'').to_string();
    let data: Vec<f64> = match &dtype[1..] {
        "f8" => npy.into_vec().expect("f64"),
        "f4" => npy.into_vec::<f32>().expect("f32").into_iter().map(f64::from).collect(),
        "i4" => npy.into_vec::<i32>().expect("i32").into_iter().map(f64::from).collect(),
        "u2" => npy.into_vec::<u16>().expect("u16").into_iter().map(f64::from).collect(),
        "u1" => npy.into_vec::<u8>().expect("u8").into_iter().map(f64::from).collect(),
        other => panic!("unexpected dtype {other}"),
    };
    Array { shape, data, dtype }
}
