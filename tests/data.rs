//! Data: readers on real small files, preprocessing against TensorFlow's results, loader properties.
//! `tests/golden/preprocess.*` hold what the official code's functions gave; `tests/data/` is written by
//! `scripts/make_data_fixtures.py`.

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use l2p_engine::Error;
use l2p_engine::config::schema::{Augment, Continual, Data, DatasetName};
use l2p_engine::data::preprocess::{CropBox, resize_u8, sample_crop};
use l2p_engine::data::tasks::parse_class_order;
use l2p_engine::data::{
    self, DataSet, ImageView, Images, Loader, Normalize, Prefetch, Preprocess, Split, cifar, idx, image_file,
    loader, tasks,
};
use l2p_engine::rng::{Rng, Stream};
use proptest::prelude::*;

#[path = "data_parts/bad_input.rs"]
mod bad_input_tests;
#[path = "data_parts/loader.rs"]
mod loader_tests;
#[path = "data_parts/preprocess.rs"]
mod preprocess_tests;
#[path = "data_parts/readers.rs"]
mod readers_tests;
#[path = "data_parts/tasks.rs"]
mod tasks_tests;

fn tests_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

fn config(dataset: DatasetName, dir: &Path) -> Data {
    Data { dataset, dir: dir.to_string_lossy().into_owned(), ..Data::default() }
}

fn golden_dir() -> PathBuf {
    std::env::var_os("L2P_GOLDEN_DIR").map_or_else(|| tests_dir().join("golden"), PathBuf::from)
}

struct Golden(HashMap<String, Vec<u8>>);

impl Golden {
    fn open() -> Golden {
        let file = std::fs::File::open(golden_dir().join("preprocess.npz")).unwrap();
        let mut zip = zip::ZipArchive::new(file).unwrap();
        let mut arrays = HashMap::new();
        for i in 0..zip.len() {
            let mut entry = zip.by_index(i).unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            arrays.insert(entry.name().unwrap().trim_end_matches(".npy").to_string(), bytes);
        }
        Golden(arrays)
    }

    fn get<T: npyz::Deserialize>(&self, name: &str) -> Option<(Vec<usize>, Vec<T>)> {
        let file = npyz::NpyFile::new(self.0.get(name)?.as_slice()).unwrap();
        let shape = file.shape().iter().map(|&n| n as usize).collect();
        Some((shape, file.into_vec().unwrap()))
    }
}

fn preprocess(input_size: usize, resize_size: usize, augment: Augment, normalize: Normalize) -> Preprocess {
    Preprocess::new(&Data { input_size, resize_size, augment, ..Data::default() }, normalize).unwrap()
}

fn synthetic() -> Arc<DataSet> {
    Arc::new(data::load(&Data { dataset: DatasetName::Synthetic, ..Data::default() }, 3).unwrap())
}

fn continual(num_tasks: usize, num_classes_per_task: usize, class_order: &str) -> Continual {
    Continual { num_tasks, num_classes_per_task, class_order: class_order.into(), ..Continual::default() }
}
