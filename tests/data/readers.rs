//! Readers on real small files.

use super::*;

#[test]
fn the_bundled_images_are_as_many_per_class_as_promised() {
    // MNIST's mean is 33.3.
    let sets = [(DatasetName::MnistSubset, 400, 31.0..36.0), (DatasetName::LettersSubset, 200, 20.0..45.0)];
    for (dataset, train_per_class, near) in sets {
        let all = data::load(&Data { dataset, ..Data::default() }, 0).unwrap();
        all.check().unwrap();
        for (set, per_class) in [(&all.train, train_per_class), (&all.test, 100)] {
            let pixels = set.in_one_piece().unwrap();
            assert_eq!(
                (pixels.height, pixels.width, pixels.channels, set.len()),
                (28, 28, 1, per_class * 10)
            );
            assert!(set.labels.iter().enumerate().all(|(i, &label)| label == i as u32 % 10));
            let mean = pixels.bytes.iter().map(|&p| f64::from(p)).sum::<f64>() / pixels.bytes.len() as f64;
            assert!(near.contains(&mean), "{dataset}: {mean}");
        }
    }
    let mut config = Data { dataset: DatasetName::MnistSubset, ..Data::default() };
    let all = data::load(&config, 0).unwrap();
    (config.train_per_class, config.test_per_class) = (3, 2);
    let few = data::load(&config, 0).unwrap();
    few.check().unwrap();
    assert_eq!((few.train.len(), few.test.len()), (30, 20));
    let bytes = |set: &ImageSet| set.in_one_piece().unwrap().bytes.clone();
    assert_eq!(bytes(&few.train), bytes(&all.train)[..30 * 784]);
}

#[test]
fn the_per_class_limit_takes_the_first_of_each_class() {
    let pixels =
        |from: u8| PixelArray { height: 1, width: 1, channels: 1, bytes: (from..from + 6).collect() };
    let labels = || vec![2, 0, 2, 2, 0, 5];
    let mut set = ImageSet::in_memory(pixels(0), labels());
    set.keep_per_class(2);
    assert_eq!(set.labels, [2, 0, 2, 0, 5]);
    assert_eq!(set.in_one_piece().unwrap().bytes, [0, 1, 2, 4, 5]);
    // Across sets behind one another.
    let mut set = ImageSet::in_memory(pixels(0), labels());
    let mut other = ImageSet::in_memory(pixels(10), labels());
    other.domains.fill(1);
    set.append(other);
    set.check("two", 6, 2).unwrap();
    assert!(set.check("two", 5, 2).is_err() && set.check("two", 6, 1).is_err());
    set.keep_per_class(3);
    assert_eq!(
        (set.labels.as_slice(), set.domains.as_slice()),
        (&[2, 0, 2, 2, 0, 5, 0, 5][..], &[0, 0, 0, 0, 0, 0, 1, 1][..])
    );
    let all: Vec<u8> = (0..set.len()).map(|i| set.image(i).unwrap().pixels[0]).collect();
    assert_eq!(all, [0, 1, 2, 3, 4, 5, 11, 15]);
}

/// Pickles (Python 2's and Python 3's protocol 2, C and Fortran order), binary files and the archives of
/// both hold the same.
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
        same(&a, &b);
        same(&b, &c);
        let version = if sizes.0 == 10 { "cifar-10" } else { "cifar-100" };
        for kind in ["python", "binary"] {
            let temp = tempfile::tempdir().unwrap();
            let archive = format!("{version}-{kind}.tar.gz");
            std::fs::copy(root.join("archives").join(&archive), temp.path().join(&archive)).unwrap();
            same(&a, &data::load(&config(name, temp.path()), 0).unwrap());
        }
        // Channel planes of the file become interleaved pixels.
        let file = if sizes.0 == 10 { "test_batch.bin" } else { "test.bin" };
        let bytes = std::fs::read(root.join(binary).join(file)).unwrap();
        let image = &bytes[bytes.len() / a.test.len() - 3072..][..3072];
        for (i, channel) in [(0, 0), (17, 1), (1023, 2)] {
            assert_eq!(a.test.image(0).unwrap().pixels[i * 3 + channel], image[channel * 1024 + i]);
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
        same_images(&loaded.train, &bundled.train);
        same_images(&loaded.test, &bundled.test);
    }
    let fashion = data::load(&config(DatasetName::FashionMnist, &assets), 0).unwrap();
    assert_eq!(fashion.class_names[9], "Ankle boot");
}

#[test]
fn a_wrong_folder_says_what_was_looked_for_and_what_is_there() {
    let temp = tempfile::tempdir().unwrap();
    std::fs::write(temp.path().join("cifar-10-python.rar"), "x").unwrap();
    let text = data::load(&config(DatasetName::Cifar10, temp.path()), 0).unwrap_err().to_string();
    for part in
        ["cifar-10-batches-bin", "data_batch_1", "cifar-10-binary.tar.gz", "holds: cifar-10-python.rar"]
    {
        assert!(text.contains(part), "{text}");
    }
    let text = data::load(&config(DatasetName::Mnist, temp.path()), 0).unwrap_err().to_string();
    assert!(text.contains("train-images-idx3-ubyte") && text.contains("MNIST/raw"), "{text}");
    let error = data::load(&Data { dataset: DatasetName::Cifar100, ..Data::default() }, 0).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(data::load(&config(DatasetName::Mnist, Path::new("/no/such/folder")), 0).is_err());
    for word in DatasetName::WORDS {
        let dataset: DatasetName = toml::Value::String(word.to_string()).try_into().unwrap();
        if [DatasetName::MnistSubset, DatasetName::LettersSubset, DatasetName::Synthetic].contains(&dataset) {
            continue;
        }
        let text = data::load(&config(dataset, temp.path()), 0).unwrap_err().to_string();
        // The first of several.
        let word = if dataset == DatasetName::Joined { "cifar10" } else { word };
        let start = format!("{}: no {word} here. Looked for ", temp.path().display());
        assert!(text.starts_with(&start) && text.contains("holds: cifar-10-python.rar"), "{text}");
    }
}

#[test]
fn synthetic_images_depend_on_the_seed_and_the_class() {
    let config = Data { dataset: DatasetName::Synthetic, ..Data::default() };
    let (a, b, c) =
        (data::load(&config, 1).unwrap(), data::load(&config, 1).unwrap(), data::load(&config, 2).unwrap());
    a.check().unwrap();
    same(&a, &b);
    let pixels = |data: &DataSet| data.train.in_one_piece().unwrap().clone();
    assert_ne!(pixels(&a), pixels(&c));
    assert_eq!((a.train.len(), a.test.len(), pixels(&a).height, pixels(&a).channels), (600, 200, 32, 3));
    // Images of a class are nearer to each other than to those of another class.
    let distance = |i: usize, j: usize| -> f64 {
        let (x, y) = (a.train.image(i).unwrap(), a.test.image(j).unwrap());
        x.pixels.iter().zip(&*y.pixels).map(|(&x, &y)| f64::from(x.abs_diff(y)).powi(2)).sum()
    };
    let nearest = |i: usize| (0..10).min_by(|&j, &k| distance(i, j).total_cmp(&distance(i, k))).unwrap();
    let right = (0..100).filter(|&i| nearest(i) == i % 10).count();
    assert!(right >= 80, "{right} of 100");
}

/// [27] Pickles that were saved again, by protocols 2 to 5, with keys as bytes or text.
#[test]
fn pickles_of_every_protocol_hold_the_same() {
    let mut first = None;
    for keys in ["bytes", "text"] {
        for protocol in 2..=5 {
            let path = tests_dir().join(format!("data/pickles/{keys}_{protocol}"));
            let mut records = cifar::Records::default();
            cifar::read_python(&std::fs::read(&path).unwrap(), &path, &cifar::CIFAR10, &mut records)
                .unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(records.labels, [3, 8]);
            assert_eq!(*first.get_or_insert_with(|| records.pixels.clone()), records.pixels, "{path:?}");
        }
    }
}

/// [27] Downloads under the names and in the folders that other programs leave them in, and what is none.
#[test]
fn downloads_as_other_programs_leave_them() {
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/mnist_subset");
    let plain = data::load(&config(DatasetName::Mnist, &assets), 0).unwrap();
    let files: Vec<(String, Vec<u8>)> = std::fs::read_dir(&assets)
        .unwrap()
        .flatten()
        .filter_map(|entry| {
            Some((entry.file_name().to_str()?.to_string(), std::fs::read(entry.path()).unwrap()))
        })
        .filter(|(name, _)| name.ends_with(".gz"))
        .collect();
    let put = |name: &dyn Fn(&str) -> String, content: &dyn Fn(&[u8]) -> Vec<u8>| {
        let temp = tempfile::tempdir().unwrap();
        for (file, bytes) in &files {
            let path = temp.path().join(name(file));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content(bytes)).unwrap();
        }
        temp
    };
    let same_bytes = |bytes: &[u8]| bytes.to_vec();
    for name in [
        (&|file: &str| file.replace("-idx", ".idx")) as &dyn Fn(&str) -> String,
        &|file: &str| format!("{0}/{0}", file.trim_end_matches(".gz")),
        &|file: &str| format!("download/mnist/{file}"),
    ] {
        let temp = put(name, &same_bytes);
        same(&plain, &data::load(&config(DatasetName::Mnist, temp.path()), 0).unwrap());
    }
    // The same names in a folder of another set are another set.
    let other = put(&|file: &str| format!("FashionMNIST/{file}"), &same_bytes);
    assert!(data::load(&config(DatasetName::Mnist, other.path()), 0).is_err());
    data::load(&config(DatasetName::FashionMnist, other.path()), 0).unwrap();
    for (content, wanted) in [
        (
            (&|_: &[u8]| b"<!DOCTYPE html><html>403</html>".to_vec()) as &dyn Fn(&[u8]) -> Vec<u8>,
            "an HTML page",
        ),
        (&|bytes: &[u8]| bytes[..bytes.len() - bytes.len() / 4].to_vec(), "truncated"),
        (&|_: &[u8]| Vec::new(), "an empty file"),
    ] {
        let temp = put(&|file: &str| file.to_string(), content);
        let error = data::load(&config(DatasetName::Mnist, temp.path()), 0).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    }

    let root = tests_dir().join("data");
    let wanted = data::load(&config(DatasetName::Cifar100, &root.join("cifar-100-python")), 0).unwrap();
    let packed = std::fs::read(root.join("archives/cifar-100-python.tar.gz")).unwrap();
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(packed.as_slice()).read_to_end(&mut unpacked).unwrap();
    for (name, bytes) in [
        ("cifar-100-python.tar", &unpacked),
        ("cifar-100-python.tgz", &packed),
        ("data/cifar100/cifar-100-python.tar.gz", &packed),
    ] {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        same(&wanted, &data::load(&config(DatasetName::Cifar100, temp.path()), 0).unwrap());
    }
    let temp = tempfile::tempdir().unwrap();
    tar::Archive::new(unpacked.as_slice()).unpack(temp.path().join("data/cifar100")).unwrap();
    same(&wanted, &data::load(&config(DatasetName::Cifar100, temp.path()), 0).unwrap());
    for (bytes, wanted) in
        [(b"<html>busy</html>".to_vec(), "an HTML page"), (packed[..packed.len() / 2].to_vec(), "truncated")]
    {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("cifar-100-python.tar.gz"), bytes).unwrap();
        let error = data::load(&config(DatasetName::Cifar100, temp.path()), 0).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    }
}
