//! Readers on real small files.

use super::*;

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
