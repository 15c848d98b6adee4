//! The cache of decoded images.

use super::common::lanes::fuzz_cases;
use super::*;

/// CORe50's pictures in a folder, and a configuration that caches them in another.
fn setup() -> (tempfile::TempDir, tempfile::TempDir, Data) {
    let (images, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = std::fs::File::open(tests_dir().join("data/core50/core50_128x128.zip")).unwrap();
    zip::ZipArchive::new(file).unwrap().extract(images.path()).unwrap();
    let cache_dir = cache.path().join("images").to_string_lossy().into_owned();
    let config = Data { cache_dir, cache_gb: 1, ..config(DatasetName::Core50, images.path()) };
    (images, cache, config)
}

fn packs(config: &Data) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(&config.cache_dir).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn touched(paths: &[PathBuf]) -> Vec<std::time::SystemTime> {
    paths.iter().map(|path| path.metadata().unwrap().modified().unwrap()).collect()
}

#[test]
fn later_runs_find_the_images_and_changed_files_are_noticed() {
    let (images, _cache, config) = setup();
    let plain = data::load(&Data { cache_gb: 0, ..config.clone() }, 0).unwrap();
    let first = data::load(&config, 0).unwrap();
    same(&plain, &first);
    // One for training, one for testing; nothing temporary.
    let before = packs(&config);
    assert_eq!(before.len(), 2);
    assert!(before.iter().all(|path| path.extension().is_some_and(|e| e == "pack")));
    let times = touched(&before);

    let again = data::load(&config, 0).unwrap();
    same(&plain, &again);
    assert_eq!((packs(&config), touched(&packs(&config))), (before.clone(), times));
    // Elsewhere, the same contents are the same images.
    let file = std::fs::File::open(tests_dir().join("data/core50/core50_128x128.zip")).unwrap();
    let copy = tempfile::tempdir().unwrap();
    zip::ZipArchive::new(file).unwrap().extract(copy.path()).unwrap();
    data::load(&Data { dir: copy.path().to_string_lossy().into_owned(), ..config.clone() }, 0).unwrap();
    assert_eq!(packs(&config), before);

    // Loaded images do not need their files any more; a changed file is another set.
    let changed = again.train.path(0).unwrap();
    let other = again.train.path(1).unwrap();
    std::fs::copy(other, &changed).unwrap();
    same(&first, &again);
    let new = data::load(&config, 0).unwrap();
    assert_eq!(new.train.image(0).unwrap(), again.train.image(1).unwrap());
    assert_ne!(new.train.image(0).unwrap(), again.train.image(0).unwrap());
    assert_eq!(packs(&config).len(), 3);

    // A file that is no picture stops the run, with its name, and leaves no pack.
    let bytes = std::fs::read(&changed).unwrap();
    std::fs::write(&changed, &bytes[..bytes.len() - 30]).unwrap();
    let error = data::load(&config, 0).unwrap_err().to_string();
    assert!(
        error.starts_with(&changed.display().to_string()) && error.contains("cannot be decoded"),
        "{error}"
    );
    assert_eq!(packs(&config).len(), 3);
    drop(images);
}

#[test]
fn damaged_packs_are_written_again_or_passed_over() {
    let (_images, _cache, config) = setup();
    let plain = data::load(&Data { cache_gb: 0, ..config.clone() }, 0).unwrap();
    data::load(&config, 0).unwrap();
    let path = packs(&config).remove(0);
    let whole = std::fs::read(&path).unwrap();
    // Cut, lengthened, another version, a size that the file does not hold: all are seen when it is opened.
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x40;
        bytes
    };
    let longer = [whole.as_slice(), b"x"].concat();
    for bytes in [
        vec![],
        whole[..50].to_vec(),
        whole[..whole.len() - 1].to_vec(),
        longer,
        flipped(0),
        flipped(45),
        flipped(59),
    ] {
        std::fs::write(&path, bytes).unwrap();
        same(&plain, &data::load(&config, 0).unwrap());
        assert!(std::fs::read(&path).unwrap() == whole);
    }
    // Wrong pixels: the image is decoded from its file.
    std::fs::write(&path, flipped(whole.len() - 1)).unwrap();
    same(&plain, &data::load(&config, 0).unwrap());
}

#[test]
fn too_large_and_unwritable_caches_stream() {
    let (images, cache, config) = setup();
    let plain = data::load(&Data { cache_gb: 0, ..config.clone() }, 0).unwrap();
    // The cache of a set that does not fit holds sizes only.
    let sources: Vec<source::FileSource> =
        (0..plain.train.len()).map(|i| source::FileSource::File(plain.train.path(i).unwrap())).collect();
    let mut small = data::cache::Cache::of(&config);
    small.limit = 1000;
    let check = |cache: &mut data::cache::Cache| {
        cache.check(&sources, image_file::Orientation::Ignored).unwrap().pack.unwrap()
    };
    let pack = check(&mut small);
    assert_eq!(pack.read(0), None);
    assert!(packs(&config)[0].metadata().unwrap().len() < 1000);
    // It is found, and the images come from their files.
    check(&mut small);
    assert_eq!(packs(&config).len(), 1);
    same(&plain, &data::load(&config, 0).unwrap());
    // With a raised limit the pixels are kept after all, and they stay when it is lowered again.
    let raised = check(&mut data::cache::Cache::of(&config));
    let (pixels, height, width) = raised.read(0).expect("pixels");
    assert_eq!(pixels.len(), 3 * height * width);
    assert_eq!(check(&mut small).read(0), Some((pixels, height, width)));

    // No folder can be made below a file.
    std::fs::write(cache.path().join("file"), "x").unwrap();
    let cache_dir = cache.path().join("file/below").to_string_lossy().into_owned();
    let loaded = data::load(&Data { cache_dir, ..config }, 0).unwrap();
    same(&plain, &loaded);
    assert!(loaded.notes[0].contains("decoded images are not kept"), "{:?}", loaded.notes);
    drop(images);
}

/// Runs at the same time, and what a killed run leaves.
#[test]
fn many_runs_at_once() {
    let (_images, _cache, config) = setup();
    let plain = data::load(&Data { cache_gb: 0, ..config.clone() }, 0).unwrap();
    std::fs::create_dir_all(&config.cache_dir).unwrap();
    let dir = Path::new(&config.cache_dir);
    for (name, days) in [("old.tmp", 3), ("young.tmp", 0)] {
        let file = std::fs::File::create(dir.join(name)).unwrap();
        file.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(days * 24 * 3600))
            .unwrap();
    }
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..5 {
                    same(&plain, &data::load(&config, 0).unwrap());
                }
            });
        }
    });
    let names: Vec<String> =
        packs(&config).iter().map(|p| p.file_name().unwrap().to_string_lossy().into_owned()).collect();
    assert!(names.contains(&"young.tmp".to_string()) && names.len() == 3, "{names:?}");
}

/// Processes are killed while they decode; what they leave is never read as a pack.
#[test]
fn killed_while_writing() {
    let (images, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let picture = image::RgbImage::from_fn(256, 200, |x, y| image::Rgb([x as u8, y as u8, (x * y) as u8]));
    let mut jpeg = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut jpeg, image::ImageFormat::Jpeg).unwrap();
    for (part, each) in [("train", 8), ("test", 4)] {
        for class in 0..10 {
            std::fs::create_dir_all(images.path().join(format!("{part}/{class}"))).unwrap();
            for i in 0..each {
                std::fs::write(images.path().join(format!("{part}/{class}/{i}.jpg")), jpeg.get_ref())
                    .unwrap();
            }
        }
    }
    let cache_dir = cache.path().to_string_lossy().into_owned();
    let config = Data { cache_dir, cache_gb: 1, ..config(DatasetName::Images, images.path()) };
    let start = || {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_l2p-engine"));
        command.args(["train", "--dry-run", "--set", "data.dataset=images", "--data-dir", &config.dir]);
        command.arg("--config").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/split_mnist.toml"));
        command.args(["--set", &format!("data.cache_dir={}", config.cache_dir)]);
        command.stdout(std::process::Stdio::null()).spawn().unwrap()
    };
    let clock = std::time::Instant::now();
    assert!(start().wait().unwrap().success());
    let whole = clock.elapsed();
    let wanted: Vec<(PathBuf, Vec<u8>)> =
        packs(&config).into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect();
    assert_eq!(wanted.len(), 2);
    let mut rng = Rng::new(std::process::id().into(), Stream::Test, 0);
    let rounds = fuzz_cases(6);
    let (mut killed, mut partial) = (0, 0);
    for _ in 0..rounds {
        for path in packs(&config) {
            std::fs::remove_file(path).unwrap();
        }
        let mut child = start();
        std::thread::sleep(whole.mul_f32(rng.uniform()));
        killed += usize::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
        for path in packs(&config) {
            let is_pack = path.extension().is_some_and(|e| e == "pack");
            partial += usize::from(!is_pack);
            if is_pack {
                let (_, bytes) = wanted.iter().find(|(name, _)| *name == path).expect("a known name");
                assert!(std::fs::read(&path).unwrap() == *bytes, "{}", path.display());
            }
        }
    }
    println!("{killed} of {rounds} killed, {partial} temporary files left");
    assert!(killed > 0);
    let loaded = data::load(&config, 0).unwrap();
    same(&data::load(&Data { cache_gb: 0, ..config }, 0).unwrap(), &loaded);
}

/// A `.tar.gz` of pictures is unpacked once per content; what is kept is checked before it is used.
#[test]
fn archives_are_unpacked_once() {
    let (images, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let archive = images.path().join("CUB_200_2011.tgz");
    std::fs::copy(tests_dir().join("data/cub200/CUB_200_2011.tgz"), &archive).unwrap();
    let cache_dir = cache.path().to_string_lossy().into_owned();
    let config = Data { cache_dir, cache_gb: 1, ..config(DatasetName::Cub200, images.path()) };
    let plain = data::load(&Data { cache_gb: 0, ..config.clone() }, 0).unwrap();
    assert!(packs(&config).is_empty());
    let tars = || -> Vec<PathBuf> {
        packs(&config).into_iter().filter(|path| path.extension().is_some_and(|e| e == "tar")).collect()
    };
    same(&plain, &data::load(&config, 0).unwrap());
    assert_eq!((packs(&config).len(), tars().len()), (3, 1));
    let (before, times) = (packs(&config), touched(&packs(&config)));
    // The same content at another time and place is not unpacked again.
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(&archive, copy.path().join("CUB_200_2011.tar.gz")).unwrap();
    let elsewhere = Data { dir: copy.path().to_string_lossy().into_owned(), ..config.clone() };
    for config in [&config, &elsewhere] {
        same(&plain, &data::load(config, 0).unwrap());
        assert_eq!((packs(config), touched(&packs(config))), (before.clone(), times.clone()));
    }

    // What is damaged, cut or another archive's is written again.
    let whole = std::fs::read(&tars()[0]).unwrap();
    let mut flipped = whole.clone();
    flipped[700] ^= 1;
    for bytes in [vec![], vec![0; 2000], whole[..whole.len() - 512].to_vec(), flipped] {
        std::fs::write(&tars()[0], bytes).unwrap();
        same(&plain, &data::load(&config, 0).unwrap());
        assert!(std::fs::read(&tars()[0]).unwrap() == whole);
    }

    // Another content is another file, which the old one's images do not see.
    let bytes = std::fs::read(&archive).unwrap();
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(bytes.as_slice()).read_to_end(&mut unpacked).unwrap();
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    std::io::Write::write_all(&mut packed, &unpacked).unwrap();
    std::fs::write(&archive, packed.finish().unwrap()).unwrap();
    same(&plain, &data::load(&config, 0).unwrap());
    assert_eq!(tars().len(), 2);

    // Larger than the cache: read at any place, and nothing stays.
    for path in packs(&config) {
        std::fs::remove_file(path).unwrap();
    }
    let mut small = data::cache::Cache::of(&config);
    small.limit = 1000;
    let tree = tar_gz::open(&archive, &mut small).unwrap();
    assert!(packs(&config).is_empty());
    let jpegs: Vec<_> = tree.files.iter().filter(|(name, _)| name.ends_with(".jpg")).collect();
    assert_eq!(jpegs.len(), 9);
    let sizes: Vec<usize> = jpegs.iter().rev().map(|(_, source)| source.read().unwrap().len()).collect();
    assert!(sizes.iter().all(|&size| size > 600), "{sizes:?}");

    // No folder can be made below a file: a run unpacks for itself and says so.
    std::fs::write(cache.path().join("file"), "x").unwrap();
    let cache_dir = cache.path().join("file/below").to_string_lossy().into_owned();
    let loaded = data::load(&Data { cache_dir, ..config }, 0).unwrap();
    same(&plain, &loaded);
    assert!(loaded.notes[0].contains("is unpacked by every run: "), "{:?}", loaded.notes);
}
