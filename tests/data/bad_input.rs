//! Damaged and hostile files.

use super::files::{encoded, gunzip, gzip};
use super::*;

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

proptest! {
    #![proptest_config(ProptestConfig { cases: super::common::lanes::fuzz_cases(400), failure_persistence: None, ..ProptestConfig::default() })]

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
            let bytes = damaged(&read(&format!("tests/fixtures/data/{name}")), &damage, 300);
            if let Err(e) = cifar::read_python(&bytes, bad, set, &mut Default::default()) { is_sentence(&e) }
        }
        let bytes = damaged(&read("tests/fixtures/data/cifar-100-binary/train.bin"), &damage, 2);
        if let Err(e) = cifar::read_binary(&bytes, bad, &cifar::CIFAR100, &mut Default::default()) {
            is_sentence(&e)
        }
        let test = "test_batch.bin";
        let bytes = damaged(&read("tests/fixtures/data/archives/cifar-10-binary.tar.gz"), &damage, 30);
        if let Err(e) = tar_gz::unpack(&bytes, bad, "cifar-10-batches-bin", &[test]) { is_sentence(&e) }
        for name in ["train", "test"] {
            let bytes = damaged(&read(&format!("tests/fixtures/data/svhn/{name}_32x32.mat")), &damage, 200);
            if let Err(e) = svhn::read(&bytes, bad) { is_sentence(&e) }
        }
        let lines = damaged(b"a/b.png 1 x\nc.jpg\tcat\ty\n", &damage, 20);
        if let Err(e) = listing::of_list(&lines, bad, bad) { is_sentence(&e) }
        let lines = damaged(b"path,label,task\na.png,1,x\n\"b,c.png\",2,y\n", &damage, 20);
        if let Err(e) = listing::of_csv(&lines, bad, bad) { is_sentence(&e) }
        let names: Vec<String> = ["cat", "dog", "ship"].map(String::from).to_vec();
        let text = damaged(b"# order\ndog\n0\nship\n", &damage, 20);
        if let Err(e) = parse_class_order(&String::from_utf8_lossy(&text), bad, &names) { is_sentence(&e) }
        for format in [image::ImageFormat::Png, image::ImageFormat::Jpeg] {
            let bytes = damaged(&encoded(format), &damage, 60);
            if let Err(e) = image_file::decode_rgb(&bytes, bad) { is_sentence(&e) }
        }
    }

    /// Archives are opened by path.
    #[test]
    fn damaged_archives_give_files_or_a_sentence(damage in damage()) {
        let temp = tempfile::tempdir().unwrap();
        for (name, fixture) in [("a.zip", "core50/core50_128x128.zip"), ("a.tar", "imagenet_r/imagenet-r.tar")] {
            let path = temp.path().join(name);
            let bytes = std::fs::read(tests_dir().join("data").join(fixture)).unwrap();
            // The directory of a zip archive is at its end.
            let mut bytes = damaged(&bytes, &damage, 600);
            if let Some(last) = bytes.len().checked_sub(40) && damage.1.len() > 3 {
                bytes[last + damage.1[0].0 % 40] ^= damage.1[0].1;
            }
            std::fs::write(&path, &bytes).unwrap();
            let sentence = |e: &Error| {
                let text = e.to_string();
                assert!(text.contains(&path.display().to_string()) && text.len() < 700, "{text}");
            };
            match source::Tree::open(&path) {
                Err(e) => sentence(&e),
                Ok(tree) => for (_, source) in &tree.files {
                    match source.read() {
                        Err(e) => sentence(&e),
                        Ok(content) => assert!(content.len() <= 1032 * bytes.len()),
                    }
                }
            }
        }
    }

    /// Packed archives are damaged outside and inside.
    #[test]
    fn damaged_packed_archives_give_files_or_a_sentence(damage in damage()) {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("CUB_200_2011.tgz");
        let data = Data { cache_gb: 0, ..Data::default() };
        for fixture in ["cub200/CUB_200_2011.tgz", "notmnist_small/notMNIST_small.tar.gz"] {
            let packed = std::fs::read(tests_dir().join("data").join(fixture)).unwrap();
            let inside = gzip(&damaged(&gunzip(&packed), &damage, 4000));
            for bytes in [damaged(&packed, &damage, 30), inside] {
                std::fs::write(&path, &bytes).unwrap();
                let sentence = |e: &Error| {
                    let text = e.to_string();
                    assert!(text.contains(&path.display().to_string()) && text.len() < 700, "{text}");
                };
                match tar_gz::open(&path, &mut data::cache::Cache::of(&data)) {
                    Err(e) => sentence(&e),
                    Ok(tree) => for (_, source) in &tree.files {
                        match source.read() {
                            Err(e) => sentence(&e),
                            Ok(content) => assert!(content.len() <= 1032 * bytes.len()),
                        }
                    }
                }
            }
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

/// The number of values of a tag, which the TIFF decoder would make room for, is held against the length of the file.
#[test]
fn tags_of_a_tiff_lie_in_the_file() {
    let mut bytes = encoded(image::ImageFormat::Tiff);
    assert!(image_file::decode_rgb(&bytes, Path::new("bad file")).is_ok());
    // Little-endian, as it is written; the last entry of the directory: tag, type, count, offset.
    let directory = u32::from_le_bytes(bytes[4..8].try_into().unwrap()) as usize;
    let entries = usize::from(u16::from_le_bytes(bytes[directory..directory + 2].try_into().unwrap()));
    let last = directory + 2 + (entries - 1) * 12;
    bytes[last + 4..last + 8].copy_from_slice(&2000u32.to_le_bytes());
    let error = image_file::decode_rgb(&bytes, Path::new("bad file")).unwrap_err().to_string();
    assert!(error.contains("a tag announces more values than a file of"), "{error}");
}

/// Files that announce much and hold little, nest deeply, or refer to themselves.
#[test]
fn hostile_files_cost_nothing() {
    let bad = Path::new("bad file");
    let labels = [0, 0, 8, 1, 0xff, 0xff, 0xff, 0xff];
    let images = [0, 0, 8, 3, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    let error = idx::read_pair((&images, bad), (&labels, bad)).unwrap_err();
    assert!(error.to_string().contains("more than a file of 16 bytes can hold"), "{error}");
    for (header, other) in [(&labels[..], false), (&images[..], true)] {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        std::io::Write::write_all(&mut packed, header).unwrap();
        let packed = packed.finish().unwrap();
        let one = [0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 7];
        let pair =
            if other { (packed.as_slice(), labels.as_slice()) } else { (one.as_slice(), packed.as_slice()) };
        let error = idx::read_pair((pair.0, bad), (pair.1, bad)).unwrap_err();
        assert!(error.to_string().contains("bytes can hold"), "{error}");
    }

    let nested = [vec![0x80, 2, b'N'], vec![0x85; 1_000_000], vec![b'.']].concat();
    let doubled: Vec<u8> = [vec![0x80, 2, b']'], b"q\0(h\0h\0t".repeat(100), vec![b'.']].concat();
    let own = b"\x80\x02]q\0h\0a.".to_vec();
    let many = [vec![0x80, 2], vec![b'N'; 3_000_000], vec![b'.']].concat();
    for file in [nested, doubled, own, many] {
        let result = cifar::read_python(&file, bad, &cifar::CIFAR10, &mut Default::default());
        is_sentence(&result.unwrap_err());
    }

    // Arrays, tar files and short elements that announce more than there is.
    let header = |tail: &[u8]| {
        let mut bytes = vec![b' '; 124];
        bytes.extend(b"\x00\x01IM");
        bytes.extend(tail);
        bytes
    };
    let element = |kind: u32, len: u32, data: &[u8]| [&kind.to_le_bytes(), &len.to_le_bytes(), data].concat();
    let flags = element(6, 8, &[9, 0, 0, 0, 0, 0, 0, 0]);
    let dims = |n: u32| element(5, 16, &[n.to_le_bytes(); 4].concat());
    let named = element(1, 1, b"X\0\0\0\0\0\0\0");
    for body in [
        [flags.clone(), dims(32), named.clone(), element(2, u32::MAX, b"")].concat(),
        [flags.clone(), dims(u32::MAX), named.clone(), element(2, 8, &[0; 8])].concat(),
        [flags.clone(), element(5, u32::MAX, b"")].concat(),
        [flags.clone(), dims(1), named.clone(), element(7, 4, &f32::NAN.to_le_bytes()), vec![0; 4]].concat(),
        element(6 | 5 << 16, 0, &[0; 8]),
    ] {
        let plain = element(14, body.len() as u32, &body);
        let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
        std::io::Write::write_all(&mut packed, &plain).unwrap();
        let packed = packed.finish().unwrap();
        for tail in [plain, element(15, packed.len() as u32, &packed)] {
            is_sentence(&mat::array(&header(&tail), bad, "X").unwrap_err());
        }
    }
    is_sentence(&mat::array(&header(&element(14, u32::MAX, b"")), bad, "X").unwrap_err());
    is_sentence(&mat::array(&[0; 100], bad, "X").unwrap_err());
    let mut entry = tar::Header::new_gnu();
    entry.set_path("folder/file").unwrap();
    entry.set_size(1 << 40);
    entry.set_cksum();
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut packed, entry.as_bytes()).unwrap();
    let packed = packed.finish().unwrap();
    is_sentence(&tar_gz::unpack(&packed, bad, "folder", &["file"]).unwrap_err());
    is_sentence(&tar_gz::unpack(&packed, bad, "folder", &["other"]).unwrap_err());

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

/// Archives of pictures that lead elsewhere, lie about sizes, or unpack without end: the sentence names the
/// archive and the part, and nothing is written but below the ratio of pictures.
#[test]
fn hostile_archives_of_pictures() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("CUB_200_2011.tgz");
    let cache = temp.path().join("cache");
    let part = |name: &str, kind: tar::EntryType, size: u64, link: &str| {
        let mut header = tar::Header::new_gnu();
        // `set_path` refuses what is tested here.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_cksum();
        header.as_bytes().to_vec()
    };
    use tar::EntryType::{Link, Regular, Symlink};
    let good = [part("CUB_200_2011/good.jpg", Regular, 3, ""), vec![7; 512]].concat();
    let end = vec![0; 1024];
    let mut wrong_sum = part("CUB_200_2011/sum.jpg", Regular, 3, "");
    wrong_sum[150] ^= 1;
    let whole = gzip(&[good.clone(), good.clone(), end.clone()].concat());
    let mut rng = Rng::new(1, Stream::Test, 0);
    let noise: Vec<u8> = (0..100_000).map(|_| (rng.uniform() * 256.0) as u8).collect();
    let long = gzip(&[part("CUB_200_2011/long.jpg", Regular, 100_000, ""), noise].concat());
    for (bytes, wanted) in [
        (gzip(&part("../out.jpg", Regular, 0, "")), "../out.jpg leads out of the archive"),
        (gzip(&part("a/../../out.jpg", Regular, 0, "")), "a/../../out.jpg leads out of the archive"),
        (gzip(&part("/etc/passwd", Regular, 0, "")), "/etc/passwd leads out of the archive"),
        (gzip(&part("a/x.jpg", Symlink, 0, "/etc/passwd")), "a/x.jpg is a link"),
        (gzip(&part("a/y.jpg", Link, 0, "a/x.jpg")), "a/y.jpg is a link"),
        (
            gzip(&[good.clone(), part("a/big.jpg", Regular, 1 << 40, ""), end.clone()].concat()),
            "a/big.jpg: offset 1536: 1099511627776 bytes were wanted",
        ),
        // Sizes of 8 GiB and more are binary; this one leads over the end of the numbers.
        (
            gzip(&[good.clone(), part("a/huge.jpg", Regular, u64::MAX - 100, "")].concat()),
            "behind CUB_200_2011/good.jpg: size overflow",
        ),
        (gzip(&[good.clone(), wrong_sum].concat()), "behind CUB_200_2011/good.jpg"),
        (gzip(&[good, vec![0; 40 << 20]].concat()), "in or behind CUB_200_2011/good.jpg"),
        (long[..long.len() - 20_000].to_vec(), "in or behind CUB_200_2011/long.jpg"),
        (whole[..whole.len() - 4].to_vec(), "in or behind CUB_200_2011/good.jpg"),
        (b"no gzip file, but long enough for a head".to_vec(), "the archive unpacks to 0 bytes and no more"),
        (Vec::new(), "the archive unpacks to 0 bytes and no more"),
    ] {
        std::fs::write(&path, &bytes).unwrap();
        for cache_gb in [0, 1] {
            let cache_dir = cache.to_string_lossy().into_owned();
            let config = Data { cache_gb, cache_dir, ..config(DatasetName::Cub200, temp.path()) };
            let text = data::load(&config, 0).unwrap_err().to_string();
            let named = text.contains(&path.display().to_string());
            assert!(named && text.contains(wanted) && text.len() < 500, "{wanted}: {text}");
        }
    }
    // Bombs and cut archives left nothing; the others unpack to what they hold.
    for entry in std::fs::read_dir(&cache).unwrap().flatten() {
        assert!(entry.metadata().unwrap().len() < 200_000, "{}", entry.path().display());
    }
}

#[test]
fn pictures_are_read_as_rgb() {
    let (pixels, height, width) =
        image_file::decode_rgb(&encoded(image::ImageFormat::Png), Path::new("x")).unwrap();
    assert_eq!((height, width, pixels.len()), (17, 24, 17 * 24 * 3));
    assert_eq!(pixels[(16 * 24 + 23) * 3..], [207, 176, 77]);
}
