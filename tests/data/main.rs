//! Data: readers on real small files, loader properties. `tests/fixtures/data/` is written by
//! `scripts/make_data_fixtures.py`; preprocessing is held against TensorFlow in `tests/golden/main.rs`.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use l2p_engine::Error;
use l2p_engine::config::schema::{Augment, Continual, Data, DatasetName, Interpolation, Transforms};
use l2p_engine::data::tasks::parse_class_order;
use l2p_engine::data::{
    self, DataSet, ImageSet, Loader, Normalize, PixelArray, Prefetch, Preprocess, Split, Subset, cifar, idx,
    image_file, listing, loader, mat, source, svhn, tar_gz, tasks,
};
use l2p_engine::rng::{Rng, Stream};
use proptest::prelude::*;

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/files.rs"]
mod files;

#[path = "bad_input.rs"]
mod bad_input_tests;
#[path = "cache.rs"]
mod cache_tests;
#[path = "few_shot.rs"]
mod few_shot_tests;
#[path = "loader.rs"]
mod loader_tests;
#[path = "own_images.rs"]
mod own_images_tests;
#[path = "readers.rs"]
mod readers_tests;
#[path = "scenarios.rs"]
mod scenarios_tests;
#[path = "sets.rs"]
mod sets_tests;
#[path = "tasks.rs"]
mod tasks_tests;

fn tests_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn config(dataset: DatasetName, dir: &Path) -> Data {
    let dir = dir.to_string_lossy().into_owned();
    // Only the tests of the cache write one.
    Data { dataset, dir, cache_gb: 0, ..Data::default() }
}

fn same_images(a: &ImageSet, b: &ImageSet) {
    assert_eq!((&a.labels, &a.domains), (&b.labels, &b.domains));
    for i in 0..a.len() {
        assert_eq!(a.image(i).unwrap(), b.image(i).unwrap(), "image {i}");
    }
}

fn same(a: &DataSet, b: &DataSet) {
    assert_eq!((&a.name, &a.class_names, &a.domain_names), (&b.name, &b.class_names, &b.domain_names));
    same_images(&a.train, &b.train);
    same_images(&a.test, &b.test);
}

fn preprocess(input_size: usize, resize_size: usize, augment: Augment, normalize: Normalize) -> Preprocess {
    Preprocess::new(&Data { input_size, resize_size, augment, ..Data::default() }, normalize).unwrap()
}

fn synthetic() -> Arc<DataSet> {
    Arc::new(data::load(&Data { dataset: DatasetName::Synthetic, ..Data::default() }, 3).unwrap())
}

fn continual(num_tasks: usize, num_classes_per_task: usize, class_order: &str) -> Continual {
    let num_classes_per_task = num_classes_per_task.into();
    Continual { num_tasks, num_classes_per_task, class_order: class_order.into(), ..Continual::default() }
}
