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

fn tests_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

fn config(dataset: DatasetName, dir: &Path) -> Data {
    Data { dataset, dir: dir.to_string_lossy().into_owned(), ..Data::default() }
}

// ---------------------------------------------------------------- readers

#[test]
fn the_bundled_images_are_500_per_digit() {
    let mut config = Data { dataset: DatasetName::MnistSubset, ..Data::default() };
    let all = data::load(&config, 0).unwrap();
    all.check().unwrap();
    for (set, per_class) in [(&all.train, 400), (&all.test, 100)] {
        assert_eq!((set.height, set.width, set.channels, set.len()), (28, 28, 1, per_class * 10));
        assert!(set.labels.iter().enumerate().all(|(i, &label)| label == i as u32 % 10));
        let mean = set.pixels.iter().map(|&p| f64::from(p)).sum::<f64>() / set.pixels.len() as f64;
        // MNIST's mean is 33.3.
        assert!((31.0..36.0).contains(&mean), "{mean}");
    }
    (config.train_per_class, config.test_per_class) = (3, 2);
    let few = data::load(&config, 0).unwrap();
    few.check().unwrap();
    assert_eq!((few.train.len(), few.test.len()), (30, 20));
    assert_eq!(few.train.pixels, all.train.pixels[..30 * 784]);
}

#[test]
fn the_per_class_limit_takes_the_first_of_each_class() {
    let pixels = (0..6).collect();
    let mut set = data::ImageSet { height: 1, width: 1, channels: 1, pixels, labels: vec![2, 0, 2, 2, 0, 5] };
    set.keep_per_class(2);
    assert_eq!((set.labels, set.pixels), (vec![2, 0, 2, 0, 5], vec![0, 1, 2, 4, 5]));
}

/// Pickles (Python 2's and Python 3's protocol 2, C and Fortran order) and binary files hold the same.
#[test]
fn cifar_pickles_equal_their_binary_twins() {
    let root = tests_dir().join("data");
    for (name, python, binary, sizes) in [
        (DatasetName::Cifar10, "cifar-10-batches-py", "cifar-10-batches-bin", (10, 10)),
        (DatasetName::Cifar100, "cifar-100-python", "cifar-100-binary", (3, 2)),
    ] {
        let a = data::load(&config(name, &root.join(python)), 0).unwrap();
        let b = data::load(&config(name, &root.join(binary)), 0).unwrap();
        let c = data::load(&config(name, &root), 0).unwrap();
        assert_eq!((a.train.len(), a.test.len()), sizes);
        assert_eq!(a, b);
        assert_eq!(b, c);
        // Channel planes of the file become interleaved pixels.
        let file = if sizes.0 == 10 { "test_batch.bin" } else { "test.bin" };
        let bytes = std::fs::read(root.join(binary).join(file)).unwrap();
        let image = &bytes[bytes.len() / a.test.len() - 3072..][..3072];
        for (i, channel) in [(0, 0), (17, 1), (1023, 2)] {
            assert_eq!(a.test.image(0)[i * 3 + channel], image[channel * 1024 + i]);
        }
    }
    let cifar10 = data::load(&config(DatasetName::Cifar10, &root), 0).unwrap();
    assert_eq!(cifar10.class_names[1], "automobile");
    let cifar100 = data::load(&config(DatasetName::Cifar100, &root), 0).unwrap();
    assert_eq!(cifar100.train.labels, [99, 92, 85]);
}

/// Plain, packed, in the folder itself and in torchvision's layout.
#[test]
fn idx_folders() {
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/mnist_subset");
    let bundled = data::load(&Data { dataset: DatasetName::MnistSubset, ..Data::default() }, 0).unwrap();
    let temp = tempfile::tempdir().unwrap();
    let raw = temp.path().join("MNIST/raw");
    std::fs::create_dir_all(&raw).unwrap();
    for entry in std::fs::read_dir(&assets).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        let Some(plain) = name.strip_suffix(".gz") else { continue };
        let bytes = std::fs::read(entry.path()).unwrap();
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(bytes.as_slice()).read_to_end(&mut unpacked).unwrap();
        std::fs::write(raw.join(plain), unpacked).unwrap();
    }
    for dir in [assets.as_path(), temp.path(), &raw] {
        let loaded = data::load(&config(DatasetName::Mnist, dir), 0).unwrap();
        assert_eq!(loaded.train, bundled.train);
        assert_eq!(loaded.test, bundled.test);
    }
    let fashion = data::load(&config(DatasetName::FashionMnist, &assets), 0).unwrap();
    assert_eq!(fashion.class_names[9], "Ankle boot");
}

#[test]
fn a_wrong_folder_says_what_was_looked_for_and_what_is_there() {
    let temp = tempfile::tempdir().unwrap();
    std::fs::write(temp.path().join("cifar-10-python.tar.gz"), "x").unwrap();
    let text = data::load(&config(DatasetName::Cifar10, temp.path()), 0).unwrap_err().to_string();
    for part in ["cifar-10-batches-bin", "data_batch_1", "holds: cifar-10-python.tar.gz"] {
        assert!(text.contains(part), "{text}");
    }
    let text = data::load(&config(DatasetName::Mnist, temp.path()), 0).unwrap_err().to_string();
    assert!(text.contains("train-images-idx3-ubyte") && text.contains("MNIST/raw"), "{text}");
    let error = data::load(&Data { dataset: DatasetName::Cifar100, ..Data::default() }, 0).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(data::load(&config(DatasetName::Mnist, Path::new("/no/such/folder")), 0).is_err());
}

#[test]
fn synthetic_images_depend_on_the_seed_and_the_class() {
    let config = Data { dataset: DatasetName::Synthetic, ..Data::default() };
    let (a, b, c) =
        (data::load(&config, 1).unwrap(), data::load(&config, 1).unwrap(), data::load(&config, 2).unwrap());
    a.check().unwrap();
    assert_eq!(a, b);
    assert_ne!(a.train.pixels, c.train.pixels);
    assert_eq!((a.train.len(), a.test.len(), a.train.height, a.train.channels), (600, 200, 32, 3));
    // Images of a class are nearer to each other than to those of another class.
    let distance = |i: usize, j: usize| -> f64 {
        a.train.image(i).iter().zip(a.test.image(j)).map(|(&x, &y)| f64::from(x.abs_diff(y)).powi(2)).sum()
    };
    let nearest = |i: usize| (0..10).min_by(|&j, &k| distance(i, j).total_cmp(&distance(i, k))).unwrap();
    let right = (0..100).filter(|&i| nearest(i) == i % 10).count();
    assert!(right >= 80, "{right} of 100");
}

// ---------------------------------------------------------------- preprocessing

struct Golden(HashMap<String, Vec<u8>>);

impl Golden {
    fn open() -> Golden {
        let file = std::fs::File::open(tests_dir().join("golden/preprocess.npz")).unwrap();
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

fn view<'a>(shape: &[usize], pixels: &'a [u8]) -> ImageView<'a> {
    ImageView { pixels, height: shape[0], width: shape[1], channels: shape[2] }
}

fn preprocess(input_size: usize, resize_size: usize, augment: Augment, normalize: Normalize) -> Preprocess {
    Preprocess::new(&Data { input_size, resize_size, augment, ..Data::default() }, normalize).unwrap()
}

fn golden_json() -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(tests_dir().join("golden/preprocess.json")).unwrap()).unwrap()
}

#[test]
fn test_images_equal_tensorflow_exactly() {
    let golden = Golden::open();
    for (i, case) in golden_json()["eval"].as_array().unwrap().iter().enumerate() {
        let size = |key: &str| case[key].as_u64().unwrap() as usize;
        let p = preprocess(size("input_size"), size("resize_size"), Augment::CropFlip, Normalize::UNIT);
        let (shape, image) = golden.get::<u8>(&format!("eval{i}/image")).unwrap();
        let mut bytes = vec![0; p.output_len()];
        p.eval_u8(view(&shape, &image), &mut bytes);
        match golden.get::<u8>(&format!("eval{i}/result_u8")) {
            Some((_, wanted)) => assert!(bytes == wanted, "case {i}"),
            None => {
                let name = format!("eval{i}/result_u8_every_4th_row_and_column");
                let (shape, wanted) = golden.get::<u8>(&name).unwrap();
                for (at, pixel) in wanted.chunks_exact(3).enumerate() {
                    let (y, x) = (4 * (at / shape[1]), 4 * (at % shape[1]));
                    let start = (y * p.input_size() + x) * 3;
                    assert_eq!(&bytes[start..start + 3], pixel, "case {i} at {y}, {x}");
                }
            }
        }
        let mut input = vec![f32::NAN; p.output_len()];
        p.eval(view(&shape, &image), &mut input);
        assert!(input.iter().zip(&bytes).all(|(&x, &b)| x == f32::from(b) / 255.0));
    }
}

#[test]
fn training_images_equal_tensorflow() {
    let golden = Golden::open();
    for i in 0..3 {
        let (shape, image) = golden.get::<u8>(&format!("train{i}/image")).unwrap();
        let (resized_shape, wanted) = golden.get::<u8>(&format!("train{i}/resized")).unwrap();
        let resized = resize_u8(view(&shape, &image), resized_shape[0]);
        let channels = shape[2];
        let rgb = (0..wanted.len()).map(|at| resized[at / 3 * channels + at % 3 % channels]);
        assert!(rgb.eq(wanted.iter().copied()), "resized {i}");

        let (shape, cropped) = golden.get::<u8>(&format!("train{i}/cropped")).unwrap();
        let (result_shape, wanted) = golden.get::<f32>(&format!("train{i}/result")).unwrap();
        let flip = golden.get::<i32>(&format!("train{i}/flip")).unwrap().1[0] == 1;
        let p = preprocess(result_shape[0], resized_shape[0], Augment::CropFlip, Normalize::UNIT);
        let mut out = vec![f32::NAN; p.output_len()];
        p.crop_to_input(view(&shape, &cropped), flip, &mut out);
        let worst = out.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let finite = out.iter().all(|x| x.is_finite());
        assert!(finite && worst <= 1e-6, "case {i}: {worst}");
    }
}

/// The training path is resize, the box that `sample_crop` draws, the flip bit that follows, resize.
#[test]
fn the_training_path_is_composed_of_its_parts() {
    let golden = Golden::open();
    for (name, augment) in [("train0/image", Augment::CropFlip), ("train2/image", Augment::Crop)] {
        let (shape, image) = golden.get::<u8>(name).unwrap();
        let p = preprocess(56, 64, augment, Normalize::HALF);
        let mut flips = 0;
        for index in 0..50 {
            let mut out = vec![f32::NAN; p.output_len()];
            p.train(view(&shape, &image), &mut Rng::new(5, Stream::Augment, index), &mut out);

            let mut rng = Rng::new(5, Stream::Augment, index);
            let CropBox { top, left, height, width } = sample_crop(&mut rng, 64, 64);
            let flip = rng.next_u32() >> 31 == 1 && augment == Augment::CropFlip;
            flips += usize::from(flip);
            let (channels, whole) = (shape[2], resize_u8(view(&shape, &image), 64));
            let line = |y: usize| &whole[(y * 64 + left) * channels..(y * 64 + left + width) * channels];
            let crop: Vec<u8> = (top..top + height).flat_map(line).copied().collect();
            let mut wanted = vec![f32::NAN; p.output_len()];
            p.crop_to_input(view(&[height, width, channels], &crop), flip, &mut wanted);
            assert!(out == wanted, "{name}, {index}");
            assert!(out.iter().all(|x| (-1.0..=1.0).contains(x)));
        }
        // 50 fair coins stay within 8..=42 but for 1e-6.
        assert!(if augment == Augment::CropFlip { (8..=42).contains(&flips) } else { flips == 0 }, "{flips}");
    }
}

#[test]
fn normalisation_comes_last_and_no_augmentation_is_the_test_path() {
    let golden = Golden::open();
    let (shape, image) = golden.get::<u8>("eval0/image").unwrap();
    let image = view(&shape, &image);
    let unit = preprocess(56, 64, Augment::None, Normalize::UNIT);
    let norm = preprocess(56, 64, Augment::None, Normalize::IMAGENET);
    let (mut a, mut b, mut c) = (vec![0.0; 9408], vec![0.0; 9408], vec![0.0; 9408]);
    unit.eval(image, &mut a);
    norm.eval(image, &mut b);
    norm.train(image, &mut Rng::new(0, Stream::Augment, 0), &mut c);
    assert_eq!(b, c);
    for (i, (x, y)) in a.iter().zip(&b).enumerate() {
        let n = Normalize::IMAGENET;
        assert_eq!((x - n.mean[i % 3]) / n.std[i % 3], *y);
    }
    // Equal sizes: the bytes of the image.
    let same = preprocess(32, 32, Augment::None, Normalize::UNIT);
    let mut bytes = vec![0; same.output_len()];
    same.eval_u8(image, &mut bytes);
    assert_eq!(bytes, image.pixels);
}

/// Quantile q of n draws has the standard error sqrt(q (1 - q) / n) in probability; both samples have
/// n = 20,000, so their empirical distribution functions differ by that times sqrt(2). Five of these
/// are allowed, checked as: the stored quantile lies between our quantiles q - d and q + d.
#[test]
fn crop_boxes_are_distributed_as_tensorflows() {
    let statistics = &golden_json()["crop_box_statistics"];
    let n = 20_000;
    let boxes: Vec<CropBox> =
        (0..n).map(|i| sample_crop(&mut Rng::new(11, Stream::Test, i), 256, 256)).collect();
    for b in &boxes {
        assert!(b.top + b.height <= 256 && b.left + b.width <= 256, "{b:?}");
        assert!(b.top < (256 - b.height).max(1) && b.left < (256 - b.width).max(1), "{b:?}");
        assert!(20 * b.height * b.width >= 65_536, "{b:?}");
    }
    let list = |key: &str| -> Vec<f64> {
        statistics[key].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
    };
    let quantiles = list("quantiles");
    /// Key, measure, rounding of the stored values.
    type Measure = (&'static str, fn(&CropBox) -> f64, f64);
    let measures: [Measure; 4] = [
        // Stored with five decimals.
        ("aspect_width_over_height", |b| b.width as f64 / b.height as f64, 1e-5),
        ("area_fraction", |b| (b.width * b.height) as f64 / 65_536.0, 1e-5),
        ("height", |b| b.height as f64, 0.0),
        ("width", |b| b.width as f64, 0.0),
    ];
    for (key, measure, rounding) in measures {
        let mut values: Vec<f64> = boxes.iter().map(measure).collect();
        values.sort_by(f64::total_cmp);
        for (&q, wanted) in quantiles.iter().zip(list(key)) {
            let d = 5.0 * (2.0 * q * (1.0 - q) / n as f64).sqrt();
            let at = |q: f64| values[((q * n as f64) as usize).min(n as usize - 1)];
            let (low, high) = (at((q - d).max(0.0)) - rounding, at(q + d) + rounding);
            assert!((low..=high).contains(&wanted), "{key} at {q}: {wanted} is not in {low}..{high}");
        }
    }
    let area = boxes.iter().map(|b| (b.width * b.height) as f64 / 65_536.0).sum::<f64>() / n as f64;
    // The area's deviation is about 0.24: five standard errors of the difference are 0.012.
    let wanted = statistics["mean_area_fraction"].as_f64().unwrap();
    assert!((area - wanted).abs() < 0.012, "{area} instead of {wanted}");

    // The 4,000 stored boxes give the position: the mean of top / (256 - height), half in theory.
    let (_, stored) = Golden::open().get::<u16>("crop_boxes_top_left_height_width").unwrap();
    let stored = stored.chunks_exact(4).map(|b| (f64::from(b[0]), f64::from(b[2])));
    let ours = boxes.iter().map(|b| (b.top as f64, b.height as f64));
    let mean = |items: Vec<(f64, f64)>| {
        let used: Vec<f64> = items.iter().filter(|b| b.1 < 240.0).map(|b| b.0 / (256.0 - b.1)).collect();
        used.iter().sum::<f64>() / used.len() as f64
    };
    let (a, b) = (mean(stored.collect()), mean(ours.collect()));
    // Deviation 0.29, 3,800 and 19,000 values: five standard errors of the difference are 0.026.
    assert!((a - b).abs() < 0.026, "{a} and {b}");
}

// ---------------------------------------------------------------- tasks

fn synthetic() -> Arc<DataSet> {
    Arc::new(data::load(&Data { dataset: DatasetName::Synthetic, ..Data::default() }, 3).unwrap())
}

fn continual(num_tasks: usize, num_classes_per_task: usize, class_order: &str) -> Continual {
    Continual { num_tasks, num_classes_per_task, class_order: class_order.into(), ..Continual::default() }
}

#[test]
fn tasks_partition_the_images_by_class() {
    let data = synthetic();
    for (order, num_tasks, per_task) in [("natural", 5, 2), ("seed:7", 3, 3), ("seed:8", 1, 10)] {
        let split = tasks::split(&data, &continual(num_tasks, per_task, order), 0).unwrap();
        assert_eq!((split.tasks.len(), split.class_order.len()), (num_tasks, 10));
        for (class, &label) in split.class_order.iter().enumerate() {
            assert_eq!(split.label_to_class[label as usize], class as u32);
            assert_eq!(split.class_names[class], data.class_names[label as usize]);
        }
        for (t, task) in split.tasks.iter().enumerate() {
            assert_eq!((task.index, task.train.len(), task.test.len()), (t, 60 * per_task, 20 * per_task));
            assert!(task.classes.iter().copied().eq((t * per_task) as u32..((t + 1) * per_task) as u32));
            let class = |&i: &u32| split.label_to_class[data.train.labels[i as usize] as usize];
            assert!(task.train.iter().map(class).all(|c| task.classes.contains(&c)));
        }
        let joint = tasks::joint(&split);
        let used = num_tasks * per_task;
        assert_eq!((joint.classes.len(), joint.train.len(), joint.test.len()), (used, 60 * used, 20 * used));
    }
    let order = |word: &str| tasks::split(&data, &continual(5, 2, word), 0).unwrap().class_order;
    assert_eq!(order("natural"), (0..10).collect::<Vec<_>>());
    assert_eq!(order("seed:7"), order("seed:7"));
    assert_ne!(order("seed:7"), order("seed:8"));
}

#[test]
fn bad_tasks_and_class_orders_are_explained() {
    let data = synthetic();
    let error = |c: Continual| tasks::split(&data, &c, 0).unwrap_err();
    let text = error(continual(4, 3, "natural")).to_string();
    assert!(text.contains("4 * 3") && text.contains("10 classes"), "{text}");
    for bad in [continual(0, 1, "natural"), continual(usize::MAX, 2, "natural"), continual(5, 2, "seed:x")] {
        assert!(matches!(error(bad), Error::Config(_)));
    }
    let text = error(continual(5, 2, "no_such_file.txt")).to_string();
    assert!(text.contains("no_such_file.txt") && text.contains("seed:N"), "{text}");

    let names: Vec<String> = ["cat", "dog", "ship"].map(String::from).to_vec();
    let parse = |text: &str| parse_class_order(text, Path::new("order.txt"), &names);
    assert_eq!(parse("# reversed\nship\n\n 1 \ncat\n").unwrap(), [2, 1, 0]);
    for (text, wanted) in [
        (
            "cat\nshop\n",
            "order.txt: line 2: a class name or a number from 0 to 2 was wanted, got `shop`; did you mean `ship`?",
        ),
        ("cat\n\n0\n", "order.txt: line 3: class `0` is already on line 1"),
        ("dog\n", "order.txt: all 3 classes were wanted, found 1; missing: `cat`, `ship`"),
        ("3\n", "order.txt: line 1: a class name or a number from 0 to 2 was wanted, got `3`"),
    ] {
        assert_eq!(parse(text).unwrap_err().to_string(), wanted);
    }

    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "9\n8\n7\n6\n5\n4\n3\n2\n1\npattern 0\n").unwrap();
    let split = tasks::split(&data, &continual(5, 2, &file.path().to_string_lossy()), 0).unwrap();
    assert_eq!(split.class_order, [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]);
}

// ---------------------------------------------------------------- loader

const SIZE: usize = 16;

fn small_loader(task: usize, seed: u64, batch: usize, epochs: usize) -> (Loader, Split, Arc<DataSet>) {
    let data = synthetic();
    let split = tasks::split(&data, &continual(5, 2, "seed:1"), 0).unwrap();
    let p = preprocess(SIZE, 20, Augment::CropFlip, Normalize::UNIT);
    let loader = Loader::new(data.clone(), &split, &split.tasks[task], p, seed, batch, epochs).unwrap();
    (loader, split, data)
}

fn filled(loader: &Loader, step: usize) -> (Vec<f32>, Vec<u32>) {
    let mut out = vec![f32::NAN; loader.batch() * loader.preprocess().output_len()];
    let mut labels = vec![u32::MAX; loader.batch()];
    loader.fill_train(step, &mut out, &mut labels).unwrap();
    (out, labels)
}

#[test]
fn steps_follow_the_official_formula() {
    // Split CIFAR-100 in the official configuration: 5,000 images, 5 epochs, batch 128.
    assert_eq!(loader::steps_per_task(5000, 5, 128).unwrap(), 195);
    assert_eq!(loader::steps_per_task(120, 3, 50).unwrap(), 6);
    let text = loader::steps_per_task(10, 3, 16).unwrap_err().to_string();
    assert!(text.contains("10 training images") && text.contains("batch of 16"), "{text}");
    assert!(loader::steps_per_task(10, 0, 1).is_err());
    assert!(loader::steps_per_task(usize::MAX, 3, 1).is_err());
}

#[test]
fn every_epoch_holds_every_image_once_and_batches_cross_epochs() {
    let (loader, split, _) = small_loader(2, 9, 50, 5);
    let n = split.tasks[2].train.len();
    assert_eq!((n, loader.steps(), loader.steps_per_epoch()), (120, 10, 2));
    let stream: Vec<u32> = (0..12).flat_map(|step| loader.batch_indices(step)).collect();
    let mut epochs: Vec<Vec<u32>> = stream.chunks(n).map(<[u32]>::to_vec).collect();
    // Batch 2 has the last 20 images of epoch 0 and the first 30 of epoch 1.
    assert_eq!(loader.batch_indices(2), [&epochs[0][100..], &epochs[1][..30]].concat());
    assert_ne!(epochs[0], epochs[1]);
    for epoch in &mut epochs {
        epoch.sort_unstable();
        assert_eq!(*epoch, split.tasks[2].train);
    }
    // The order is that of the stream, whatever the batch; a whole epoch is the largest.
    for batch in [90, 120] {
        let (large, ..) = small_loader(2, 9, batch, 5);
        assert!((0..5).flat_map(|step| large.batch_indices(step)).eq(stream[..5 * batch].iter().copied()));
    }
    assert_ne!(small_loader(2, 10, 50, 5).0.batch_indices(0), loader.batch_indices(0));
}

#[test]
fn a_step_does_not_depend_on_what_came_before_or_on_threads() {
    let (loader, split, data) = small_loader(1, 4, 50, 5);
    let wanted: Vec<_> = (0..loader.steps()).map(|step| filled(&loader, step)).collect();
    for step in [7, 0, 9, 3, 3] {
        assert!(filled(&loader, step) == wanted[step], "step {step}");
    }
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let (fresh, ..) = small_loader(1, 4, 50, 5);
        assert!(pool.install(|| filled(&fresh, 6)) == wanted[6]);
    }
    for (step, (images, labels)) in wanted.iter().enumerate() {
        assert!(images.iter().all(|x| (0.0..=1.0).contains(x)));
        for (&label, i) in labels.iter().zip(loader.batch_indices(step)) {
            assert_eq!(label, split.label_to_class[data.train.labels[i as usize] as usize]);
            assert!(split.tasks[1].classes.contains(&label));
        }
    }
    // The same image looks different each time.
    let first = loader.batch_indices(0)[0];
    let (step, at) = (2..10)
        .find_map(|s| loader.batch_indices(s).iter().position(|&i| i == first).map(|at| (s, at)))
        .unwrap();
    let size = loader.preprocess().output_len();
    assert_ne!(wanted[0].0[..size], wanted[step].0[at * size..(at + 1) * size]);
}

#[test]
fn prefetching_changes_nothing_and_stops_when_dropped() {
    let (loader, ..) = small_loader(0, 4, 40, 4);
    let loader = Arc::new(loader);
    for range in [0..loader.steps(), 5..8, 3..3] {
        let mut prefetch = Prefetch::start(loader.clone(), range.clone()).unwrap();
        for step in range {
            let batch = prefetch.next().unwrap().unwrap();
            assert_eq!(batch.step, step);
            assert!((batch.images.clone(), batch.labels.clone()) == filled(&loader, step), "step {step}");
            if step % 2 == 0 {
                prefetch.recycle(batch);
            }
        }
        assert!(prefetch.next().is_none());
    }
    // Never read, read once, and asked for more than fits the queue.
    drop(Prefetch::start(loader.clone(), 0..usize::MAX).unwrap());
    let mut prefetch = Prefetch::start(loader.clone(), 0..1000).unwrap();
    prefetch.next().unwrap().unwrap();
    drop(prefetch);
    assert_eq!(Arc::strong_count(&loader), 1, "a thread still holds the loader");
}

#[test]
fn evaluation_batches_and_wrong_buffers() {
    let (loader, split, data) = small_loader(0, 4, 40, 4);
    let size = loader.preprocess().output_len();
    let indices = &split.tasks[3].test[..7];
    let (mut out, mut labels) = (vec![f32::NAN; 7 * size], vec![0; 7]);
    loader.fill_eval(Images::Test, indices, &mut out, &mut labels).unwrap();
    for (at, &i) in indices.iter().enumerate() {
        let mut one = vec![0.0; size];
        loader.preprocess().eval(data.test.view(i as usize), &mut one);
        assert_eq!(one, out[at * size..(at + 1) * size]);
        assert!(split.tasks[3].classes.contains(&labels[at]));
    }
    loader.fill_eval(Images::Train, &[599], &mut out[..size], &mut labels[..1]).unwrap();
    for result in [
        loader.fill_eval(Images::Test, &[200], &mut out[..size], &mut labels[..1]),
        loader.fill_eval(Images::Test, indices, &mut out[1..], &mut labels),
        loader.fill_train(0, &mut out, &mut labels),
    ] {
        assert!(matches!(result, Err(Error::Shape { .. })));
    }
}

// ---------------------------------------------------------------- bad input

/// A change to a file: cut, overwritten bytes, doubled bytes.
fn damage() -> impl Strategy<Value = (Option<usize>, Vec<(usize, u8)>)> {
    (proptest::option::of(0usize..100_000), proptest::collection::vec((0usize..100_000, any::<u8>()), 0..6))
}

fn damaged(bytes: &[u8], (cut, flips): &(Option<usize>, Vec<(usize, u8)>), head: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if let Some(cut) = cut {
        bytes.truncate(cut % (bytes.len() + 1));
    }
    for &(at, value) in flips {
        // Half of the changes hit the head, where the structure is.
        let range = if value % 2 == 0 { bytes.len().min(head) } else { bytes.len() };
        if range > 0 {
            bytes[at % range] ^= value;
        }
    }
    bytes
}

fn is_sentence(error: &Error) {
    let text = error.to_string();
    assert!(text.starts_with("bad file: ") && text.len() > 30 && text.len() < 500, "{text}");
}

fn encoded(format: image::ImageFormat) -> Vec<u8> {
    let picture = image::RgbImage::from_fn(24, 17, |x, y| image::Rgb([x as u8 * 9, y as u8 * 11, 77]));
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_files_give_a_value_or_a_sentence(damage in damage()) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let bad = Path::new("bad file");
        let read = |path: &str| std::fs::read(root.join(path)).unwrap();

        let labels = read("assets/mnist_subset/t10k-labels-idx1-ubyte.gz");
        let mut images = vec![0, 0, 8, 3, 0, 0, 3, 232, 0, 0, 0, 2, 0, 0, 0, 2];
        images.resize(16 + 4000, 9);
        for (a, b) in [
            (damaged(&images, &damage, 20), labels.clone()),
            (images.clone(), damaged(&labels, &damage, 20)),
        ] {
            if let Err(e) = idx::read_pair((&a, bad), (&b, bad)) { is_sentence(&e) }
        }
        for (name, set) in [
            ("cifar-10-batches-py/data_batch_1", &cifar::CIFAR10),
            ("cifar-10-batches-py/test_batch", &cifar::CIFAR10),
            ("cifar-100-python/train", &cifar::CIFAR100),
        ] {
            let bytes = damaged(&read(&format!("tests/data/{name}")), &damage, 300);
            if let Err(e) = cifar::read_python(&bytes, bad, set, &mut Default::default()) { is_sentence(&e) }
        }
        let bytes = damaged(&read("tests/data/cifar-100-binary/train.bin"), &damage, 2);
        if let Err(e) = cifar::read_binary(&bytes, bad, &cifar::CIFAR100, &mut Default::default()) {
            is_sentence(&e)
        }
        let names: Vec<String> = ["cat", "dog", "ship"].map(String::from).to_vec();
        let text = damaged(b"# order\ndog\n0\nship\n", &damage, 20);
        if let Err(e) = parse_class_order(&String::from_utf8_lossy(&text), bad, &names) { is_sentence(&e) }
        for format in [image::ImageFormat::Png, image::ImageFormat::Jpeg] {
            let bytes = damaged(&encoded(format), &damage, 60);
            if let Err(e) = image_file::decode_rgb(&bytes, bad) { is_sentence(&e) }
        }
    }

    #[test]
    fn random_bytes_are_no_pickle(tail in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut bytes = vec![0x80, 2, b'}'];
        bytes.extend(tail);
        let result = cifar::read_python(&bytes, Path::new("bad file"), &cifar::CIFAR10, &mut Default::default());
        is_sentence(&result.unwrap_err());
    }
}

/// Files that announce much and hold little, nest deeply, or refer to themselves.
#[test]
fn hostile_files_cost_nothing() {
    let bad = Path::new("bad file");
    let labels = [0, 0, 8, 1, 0xff, 0xff, 0xff, 0xff];
    let images = [0, 0, 8, 3, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    let error = idx::read_pair((&images, bad), (&labels, bad)).unwrap_err();
    assert!(error.to_string().contains("more than a file of 16 bytes can hold"), "{error}");
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut packed, &images).unwrap();
    let packed = packed.finish().unwrap();
    is_sentence(&idx::read_pair((&packed, bad), (&labels, bad)).unwrap_err());

    let nested = [vec![0x80, 2, b'N'], vec![0x85; 1_000_000], vec![b'.']].concat();
    let doubled: Vec<u8> = [vec![0x80, 2, b']'], b"q\0(h\0h\0t".repeat(100), vec![b'.']].concat();
    let own = b"\x80\x02]q\0h\0a.".to_vec();
    let many = [vec![0x80, 2], vec![b'N'; 3_000_000], vec![b'.']].concat();
    for file in [nested, doubled, own, many] {
        let result = cifar::read_python(&file, bad, &cifar::CIFAR10, &mut Default::default());
        is_sentence(&result.unwrap_err());
    }

    // A PNG header of 9,999 x 9,999 pixels with a correct checksum and nothing behind it.
    let mut png = encoded(image::ImageFormat::Png);
    png[16..24].copy_from_slice(&[0, 0, 0x27, 0x0f, 0, 0, 0x27, 0x0f]);
    let mut crc = flate2::Crc::new();
    crc.update(&png[12..29]);
    png[29..33].copy_from_slice(&crc.sum().to_be_bytes());
    let error = image_file::decode_rgb(&png, bad).unwrap_err();
    assert!(error.to_string().contains("cannot hold"), "{error}");
    is_sentence(&image_file::decode_rgb(b"GIF89a, not a supported kind", bad).unwrap_err());
}

#[test]
fn pictures_are_read_as_rgb() {
    let (pixels, height, width) =
        image_file::decode_rgb(&encoded(image::ImageFormat::Png), Path::new("x")).unwrap();
    assert_eq!((height, width, pixels.len()), (17, 24, 17 * 24 * 3));
    assert_eq!(pixels[(16 * 24 + 23) * 3..], [207, 176, 77]);
    // The stored JPEG decodes to what TensorFlow decoded, up to the decoders' rounding.
    let golden = Golden::open();
    let (_, jpeg) = golden.get::<u8>("train0/jpeg").unwrap();
    let (shape, wanted) = golden.get::<u8>("train0/jpeg_decoded").unwrap();
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("picture");
    std::fs::write(&path, jpeg).unwrap();
    let (pixels, height, width) = image_file::read_rgb(&path).unwrap();
    assert_eq!([height, width, 3], shape[..]);
    let mean = pixels.iter().zip(&wanted).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>();
    assert!(mean / (wanted.len() as f64) < 2.0, "{}", mean / wanted.len() as f64);
}
