//! Data sets of image files, `.mat` files and archives, in the layouts in which they are published.

use super::*;

fn fixture(name: &str) -> PathBuf {
    tests_dir().join("data").join(name)
}

/// The archive's files in a new folder.
fn unpacked(name: &str) -> tempfile::TempDir {
    let temp = tempfile::tempdir().unwrap();
    let file = std::fs::File::open(fixture(name)).unwrap();
    if name.ends_with(".tar") {
        tar::Archive::new(file).unpack(temp.path()).unwrap();
    } else if name.ends_with("gz") {
        tar::Archive::new(flate2::read::GzDecoder::new(file)).unpack(temp.path()).unwrap();
    } else {
        zip::ZipArchive::new(file).unwrap().extract(temp.path()).unwrap();
    }
    temp
}

/// `folder` of `dir` as a `.tar.gz`.
fn pack(dir: &Path, folder: &str, archive: &Path) {
    let file = std::fs::File::create(archive).unwrap();
    let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(file, Default::default()));
    tar.append_dir_all(folder, dir.join(folder)).unwrap();
    tar.into_inner().unwrap().finish().unwrap();
}

fn load(dataset: DatasetName, dir: &Path) -> DataSet {
    data::load(&config(dataset, dir), 0).unwrap_or_else(|e| panic!("{e}"))
}

fn failure(dataset: DatasetName, dir: &Path) -> String {
    match data::load(&config(dataset, dir), 0) {
        Ok(data) => panic!("{} was read", data.name),
        Err(error) => error.to_string(),
    }
}

/// The ends of the paths, with label and domain.
fn listed(set: &ImageSet, parts: usize) -> Vec<(String, u32, u32)> {
    let tail = |i: usize| {
        let path = set.path(i).unwrap();
        let all: Vec<String> = path.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        all[all.len() - parts..].join("/")
    };
    (0..set.len()).map(|i| (tail(i), set.labels[i], set.domains[i])).collect()
}

/// A small picture, written here by the encoder of the `image` crate.
fn picture(path: &Path, shade: u8) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    image::RgbImage::from_pixel(5, 4, image::Rgb([shade, 2, 3])).save(path).unwrap();
}

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// PNG: the bytes that Pillow reads. JPEG decoders may differ in their inverse transform and in how they
/// enlarge colour planes: a few steps.
#[test]
fn pictures_of_pillow() {
    let mut seen = 0;
    for entry in std::fs::read_dir(fixture("pictures")).unwrap().flatten() {
        let path = entry.path();
        let Some(kind) = path.extension().filter(|e| *e != "rgb") else { continue };
        let expected = std::fs::read(format!("{}.rgb", path.display())).unwrap();
        let extent = |at: usize| u32::from_le_bytes(expected[at..at + 4].try_into().unwrap()) as usize;
        let (pixels, height, width) = image_file::read_rgb(&path).unwrap();
        assert_eq!((height, width), (extent(0), extent(4)), "{}", path.display());
        let worst = pixels.iter().zip(&expected[8..]).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        let limit = if kind == "png" { 0 } else { 6 };
        assert!(worst <= limit, "{}: {worst}", path.display());
        seen += 1;
    }
    assert_eq!(seen, 10);
}

#[test]
fn svhn_of_scipy() {
    let data = load(DatasetName::Svhn, &fixture("svhn"));
    assert_eq!((data.train.labels.as_slice(), data.test.labels.as_slice()), (&[0, 1, 9, 3][..], &[2, 0][..]));
    assert_eq!(data.class_names[9], "9");
    // The images are those of CIFAR's fixtures with seed 7: blocks of 8x8, so rows and columns differ.
    for set in [&data.train, &data.test] {
        let pixels = set.in_one_piece().unwrap();
        assert_eq!((pixels.height, pixels.width, pixels.channels), (32, 32, 3));
    }
    let file = std::fs::read(fixture("svhn/test_32x32.mat")).unwrap();
    let x = mat::array(&file, Path::new("x"), "X").unwrap();
    assert_eq!(x.dims, [32, 32, 3, 2]);
    for (image, row, column, channel) in [(0, 9, 31, 0), (1, 31, 0, 2), (1, 8, 16, 1)] {
        let stored = x.values[row + 32 * (column + 32 * (channel + 3 * image))];
        assert_eq!(data.test.image(image).unwrap().pixels[(row * 32 + column) * 3 + channel], stored);
    }
    assert!(mat::array(&file, Path::new("x"), "Z").unwrap_err().to_string().contains("no array `Z`"));
}

/// The rule of the official code, in the order that TFDS's own shuffler gave.
#[test]
fn imagenet_r_is_split_as_tfds_splits_it() {
    let order = std::fs::read_to_string(fixture("imagenet_r/tfds_order.txt")).unwrap();
    let order: Vec<&str> = order.lines().collect();
    let n = (order.len() as f64 * 0.8).round() as usize;
    let temp = unpacked("imagenet_r/imagenet-r.tar");
    let data = load(DatasetName::ImageNetR, temp.path());
    same(&data, &load(DatasetName::ImageNetR, &fixture("imagenet_r")));
    same(&data, &load(DatasetName::ImageNetR, &temp.path().join("imagenet-r")));
    for (set, wanted) in [(&data.train, &order[..n]), (&data.test, &order[n..])] {
        let found: Vec<String> = listed(set, 2).into_iter().map(|(path, ..)| path).collect();
        assert_eq!(found, wanted);
    }
    assert_eq!(data.class_names, ["n01443537", "n01484850", "n02007558"]);
    assert!(data.split_here && data.notes.len() == 1);

    // What a run keeps can be read again.
    let kept = tempfile::tempdir().unwrap();
    for (name, text) in data.lists() {
        std::fs::write(kept.path().join(name), &text).unwrap();
    }
    let again = load(DatasetName::Images, kept.path());
    same_images(&data.train, &again.train);
    same_images(&data.test, &again.test);
    assert_eq!(again.class_names, data.class_names);

    // Folders and lists that other programs make are taken as they are.
    let split = tempfile::tempdir().unwrap();
    for (part, set) in [("train", &data.train), ("test", &data.test)] {
        for i in 0..set.len() {
            let from = set.path(i).unwrap();
            let to = split.path().join(part).join(from.strip_prefix(temp.path().join("imagenet-r")).unwrap());
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::copy(from, to).unwrap();
        }
    }
    let folders = load(DatasetName::ImageNetR, split.path());
    assert_eq!((folders.train.len(), folders.test.len()), (n, order.len() - n));
    assert!(!folders.split_here);
    write(&split.path().join("train.txt"), "test/n01484850/art_0.jpg 1\ntrain/n01443537/none.jpg 0\n");
    write(&split.path().join("test.txt"), "train/n02007558/art_0.jpg 2\n");
    assert!(failure(DatasetName::ImageNetR, split.path()).contains("/n01"));
}

#[test]
fn core50_unpacked_and_in_its_archive() {
    let temp = unpacked("core50/core50_128x128.zip");
    let data = load(DatasetName::Core50, temp.path());
    same(&data, &load(DatasetName::Core50, &fixture("core50")));
    same(&data, &load(DatasetName::Core50, &temp.path().join("core50_128x128")));
    assert_eq!((data.class_names.len(), data.domain_names.len()), (50, 11));
    assert_eq!((data.class_names[9].as_str(), data.domain_names[10].as_str()), ("o10", "s11"));
    // Sessions and objects in numerical order, two frames of the first session's object 2.
    let first: Vec<(String, u32, u32)> = listed(&data.train, 1).into_iter().take(5).collect();
    let wanted = [
        ("C_01_01_000", 0, 0),
        ("C_01_02_000", 1, 0),
        ("C_01_02_001", 1, 0),
        ("C_01_10_000", 9, 0),
        ("C_02_01_000", 0, 1),
    ];
    assert_eq!(first, wanted.map(|(name, label, domain)| (format!("{name}.png"), label, domain)));
    let domains = |set: &ImageSet| {
        let mut all = set.domains.clone();
        all.dedup();
        all.iter().map(|d| d + 1).collect::<Vec<_>>()
    };
    assert_eq!(domains(&data.train), [1, 2, 4, 5, 6, 8, 9, 11]);
    assert_eq!(domains(&data.test), [3, 7, 10]);
    picture(&temp.path().join("core50_128x128/s1/o51/C_01_51_000.png"), 1);
    assert!(failure(DatasetName::Core50, temp.path()).contains("s1/o51/C_01_51_000.png: a path such as"));
}

#[test]
fn cub_200() {
    let temp = unpacked("cub200/CUB_200_2011.tgz");
    let data = load(DatasetName::Cub200, temp.path());
    same(&data, &load(DatasetName::Cub200, &fixture("cub200")));
    let below = tempfile::tempdir().unwrap();
    std::fs::create_dir(below.path().join("cub")).unwrap();
    std::fs::copy(fixture("cub200/CUB_200_2011.tgz"), below.path().join("cub/CUB_200_2011.tar.gz")).unwrap();
    same(&data, &load(DatasetName::Cub200, below.path()));
    assert_eq!((data.train.len(), data.test.len()), (6, 3));
    assert_eq!(data.class_names[1], "002.Laysan_Albatross");
    assert_eq!(listed(&data.test, 1)[1], ("Laysan_Albatross_0005.jpg".into(), 1, 0));
    assert_eq!(data.test.image(1).unwrap().width, 11);
    let labels = temp.path().join("CUB_200_2011/image_class_labels.txt");
    for (text, wanted) in [
        ("1 1\nx 2\n", "line 2: a number and a word were wanted"),
        ("1 one\n", "line 1: a number was wanted after the id, found `one`"),
        ("1 1\n", "no line for image 2 of images.txt"),
        ("1 4\n", "class 4 of image 1 is not in classes.txt"),
    ] {
        write(&labels, text);
        let text = failure(DatasetName::Cub200, temp.path());
        assert!(text.contains(wanted), "{text}");
    }
}

/// An archive that lacks something names it.
#[test]
fn cub_200_with_parts_missing() {
    let from = unpacked("cub200/CUB_200_2011.tgz");
    for (missing, wanted) in [
        ("images.txt", "CUB_200_2011.tgz: the archive has no CUB_200_2011/images.txt"),
        (
            "images/002.Laysan_Albatross/Laysan_Albatross_0005.jpg",
            "images.txt: line 5: the archive has no images/002.Laysan_Albatross/Laysan_Albatross_0005.jpg",
        ),
    ] {
        let temp = tempfile::tempdir().unwrap();
        std::fs::rename(from.path().join("CUB_200_2011").join(missing), from.path().join("kept")).unwrap();
        pack(from.path(), "CUB_200_2011", &temp.path().join("CUB_200_2011.tgz"));
        std::fs::rename(from.path().join("kept"), from.path().join("CUB_200_2011").join(missing)).unwrap();
        let text = failure(DatasetName::Cub200, temp.path());
        assert!(text.contains(wanted), "{text}");
    }
}

#[test]
fn domainnet_keeps_its_domains() {
    let temp = unpacked("domainnet/domainnet.zip");
    let data = load(DatasetName::DomainNet, temp.path());
    assert_eq!(data.domain_names, ["clipart", "real"]);
    // The lists hold numbers; the names are the folders'.
    assert_eq!(data.class_names, ["aircraft_carrier", "airplane", "alarm_clock"]);
    assert_eq!((data.train.len(), data.test.len()), (12, 6));
    assert_eq!(listed(&data.train, 3)[8], ("real/airplane/real_002_000000_train.jpg".into(), 1, 1));
    assert_eq!(data.test.domains, [0, 0, 0, 1, 1, 1]);
    assert!(data.notes[0].contains("infograph, painting, quickdraw, sketch"), "{:?}", data.notes);
    // The archive of a domain, as it is downloaded.
    let mut zip = zip::ZipWriter::new(std::fs::File::create(temp.path().join("real.zip")).unwrap());
    for (path, ..) in listed(&data.train, 3).into_iter().chain(listed(&data.test, 3)) {
        if path.starts_with("real/") {
            zip.start_file(&path, zip::write::SimpleFileOptions::default()).unwrap();
            std::io::Write::write_all(&mut zip, &std::fs::read(temp.path().join(path)).unwrap()).unwrap();
        }
    }
    zip.finish().unwrap();
    let unpacked = data.clone();
    std::fs::rename(temp.path().join("real"), temp.path().join("real_elsewhere")).unwrap();
    let packed = load(DatasetName::DomainNet, temp.path());
    assert_eq!(listed(&packed.train, 3), listed(&unpacked.train, 3));
    assert!(packed.test.image(5).unwrap().pixels.len() == 8 * 8 * 3);
    write(&temp.path().join("real_test.txt"), "real/airplane/x.jpg 1\n");
    assert!(failure(DatasetName::DomainNet, temp.path()).contains("real_test.txt: line 1: "));
    write(&temp.path().join("real_test.txt"), "real/airplane/x.jpg\n");
    assert!(
        failure(DatasetName::DomainNet, temp.path()).contains("real_test.txt: line 1: `path label [task]`")
    );
}

#[test]
fn notmnist_names_what_it_leaves_out() {
    let packed = load(DatasetName::NotMnist, &fixture("notmnist"));
    let temp = unpacked("notmnist/notMNIST.zip");
    let data = load(DatasetName::NotMnist, temp.path());
    same(&packed, &data);
    assert_eq!((data.train.len(), data.test.len()), (40, 10));
    let pixels = data.train.in_one_piece().unwrap();
    assert_eq!((pixels.height, pixels.width, pixels.channels), (28, 28, 1));
    assert_eq!(data.notes.len(), 1);
    assert!(
        data.notes[0].contains("1 damaged images are left out: ")
            && data.notes[0].contains("A/RGVtb2NyYXRpY2FCb2xk.png")
    );
    // The original has no parts: 80 % of each letter, always the same.
    let small = tempfile::tempdir().unwrap();
    std::fs::rename(temp.path().join("notMNIST/Train"), small.path().join("notMNIST_small")).unwrap();
    std::fs::remove_file(small.path().join("notMNIST_small/A/RGVtb2NyYXRpY2FCb2xk.png")).unwrap();
    let data = load(DatasetName::NotMnist, small.path());
    for (set, each) in [(&data.train, 3), (&data.test, 1)] {
        assert!((0..10).all(|letter| set.labels.iter().filter(|&&l| l == letter).count() == each));
    }
    same(&data, &load(DatasetName::NotMnist, &small.path().join("notMNIST_small")));
    for letter in ["B", "C", "D", "E", "F"] {
        std::fs::write(small.path().join(format!("notMNIST_small/{letter}/a.png")), "x").unwrap();
    }
    let text = failure(DatasetName::NotMnist, small.path());
    assert!(text.contains(" images are damaged, the first: "), "{text}");
}

/// The original's archive: the images, the split and what is left out are those of its folder.
#[test]
fn notmnist_in_its_original_archive() {
    let name = "notmnist_small/notMNIST_small.tar.gz";
    let temp = unpacked(name);
    let data = load(DatasetName::NotMnist, temp.path());
    let packed = load(DatasetName::NotMnist, &fixture("notmnist_small"));
    same(&data, &packed);
    assert_eq!((data.train.len() + data.test.len(), data.notes.len(), packed.notes.len()), (40, 2, 2));
    let wanted = format!(
        "1 damaged images are left out: {}",
        fixture(name).join("notMNIST_small/A/RGVtb2NyYXRpY2FCb2xk.png").display()
    );
    assert!(packed.notes.contains(&wanted), "{:?}", packed.notes);

    // The large one, in a folder or an archive of its own.
    let large = tempfile::tempdir().unwrap();
    std::fs::rename(temp.path().join("notMNIST_small"), large.path().join("notMNIST_large")).unwrap();
    same(&data, &load(DatasetName::NotMnist, large.path()));
    let other = tempfile::tempdir().unwrap();
    let archive = other.path().join("notMNIST_large.tgz");
    pack(large.path(), "notMNIST_large", &archive);
    same(&data, &load(DatasetName::NotMnist, other.path()));
    std::fs::remove_dir_all(large.path().join("notMNIST_large/C")).unwrap();
    pack(large.path(), "notMNIST_large", &archive);
    assert!(failure(DatasetName::NotMnist, other.path()).contains("notMNIST_large.tgz: folders A to J were"));
}

#[test]
fn a_folder_per_class() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    // Numbers in numerical order, also in folders of folders; other files are no images.
    for (i, name) in
        ["train/2/a.png", "train/10/x/b.jpg", "train/2/c.PNG", "val/10/d.jpeg"].iter().enumerate()
    {
        let path = at(name);
        picture(&path.with_extension("png"), i as u8);
        std::fs::rename(path.with_extension("png"), &path).unwrap();
    }
    write(&at("train/2/notes.txt"), "no image");
    write(&at("train/2/d.avif"), "\0\0\0\x1cftypavif\0\0\0\0avifmif1");
    write(&at("train/.hidden/e.png"), "x");
    let data = load(DatasetName::Images, temp.path());
    assert_eq!(data.class_names, ["2", "10"]);
    assert_eq!(
        listed(&data.train, 1),
        [("b.jpg".into(), 1, 0), ("a.png".into(), 0, 0), ("c.PNG".into(), 0, 0)]
    );
    assert_eq!(listed(&data.test, 1), [("d.jpeg".into(), 1, 0)]);
    assert!(data.notes.iter().any(|note| note.contains("are left out (1 .txt, 1 AVIF)")), "{:?}", data.notes);
    assert!(!data.split_here);
    std::fs::rename(at("val"), at("other")).unwrap();
    assert!(failure(DatasetName::Images, temp.path()).contains("train: there is no folder test or val"));
    std::fs::rename(at("other"), at("val")).unwrap();
    std::fs::write(at("val/10/d.jpeg"), "damaged").unwrap();
    let text = failure(DatasetName::Images, temp.path());
    assert!(text.contains("val/10/d.jpeg: a JPEG, PNG, WebP, BMP, GIF or TIFF image was wanted"), "{text}");
}

#[test]
fn one_folder_is_split_the_same_way_each_time() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    for i in 0..10 {
        picture(&at(&format!("cat/{i}.png")), i);
        picture(&at(&format!("dog/{i}.png")), 100 + i);
    }
    picture(&at("emu/0.png"), 1);
    picture(&at("emu/1.png"), 2);
    let data = load(DatasetName::Images, temp.path());
    let count = |set: &ImageSet, label: u32| set.labels.iter().filter(|&&l| l == label).count();
    for (label, wanted) in [(0, (8, 2)), (1, (8, 2)), (2, (1, 1))] {
        assert_eq!((count(&data.train, label), count(&data.test, label)), wanted);
    }
    let mut all = listed(&data.train, 2);
    all.extend(listed(&data.test, 2));
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 22);
    same(&data, &load(DatasetName::Images, temp.path()));
    // Elsewhere, and in an archive.
    let moved = tempfile::tempdir().unwrap();
    let archive = moved.path().join("pets.tar");
    let mut tar = tar::Builder::new(std::fs::File::create(&archive).unwrap());
    tar.append_dir_all("pets", temp.path()).unwrap();
    tar.finish().unwrap();
    tar::Archive::new(std::fs::File::open(&archive).unwrap()).unpack(moved.path()).unwrap();
    same(&data, &load(DatasetName::Images, &moved.path().join("pets")));
    same(&data, &load(DatasetName::Images, &archive));
}

#[test]
fn lists_and_csv() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    for (i, name) in ["a b.png", "c.png", "d.png", "e.png"].iter().enumerate() {
        picture(&at(&format!("pictures/{name}")), i as u8);
    }
    write(&at("train.txt"), "# mine\n\npictures/a b.png\tdog\tday\npictures/c.png cat night\n");
    write(&at("test.txt"), "pictures/d.png dog night\npictures/e.png\tcat\tday\n");
    let data = load(DatasetName::Images, temp.path());
    assert_eq!(
        (data.class_names.join(" "), data.domain_names.join(" ")),
        ("cat dog".into(), "day night".into())
    );
    assert_eq!(listed(&data.train, 1), [("a b.png".into(), 1, 0), ("c.png".into(), 0, 1)]);
    assert_eq!(listed(&data.test, 1), [("d.png".into(), 1, 1), ("e.png".into(), 0, 0)]);
    assert_eq!(data.train.image(1).unwrap().pixels[..3], [1, 2, 3]);

    write(&at("classes.txt"), "horse\ndog\ncat\n");
    let named = load(DatasetName::Images, temp.path());
    assert_eq!((named.class_names.len(), named.train.labels.as_slice()), (3, &[1, 2][..]));

    let csv = "path,label,task,split\n\"pictures/a b.png\",dog,day,train\npictures/c.png,2,night,train\n\
               pictures/d.png,dog,night,test\npictures/e.png,cat,day,val\n";
    let own = tempfile::tempdir().unwrap();
    std::fs::rename(at("pictures"), own.path().join("pictures")).unwrap();
    write(&own.path().join("classes.txt"), "horse\ndog\ncat\n");
    write(&own.path().join("images.csv"), csv);
    let table = load(DatasetName::Images, own.path());
    assert_eq!(listed(&table.train, 1), listed(&named.train, 1));
    same(&table, &load(DatasetName::Images, &own.path().join("images.csv")));
    for (text, wanted) in [
        (
            csv.replace("dog,night,test", "cow,night,test"),
            "line 4: a class name or a number from 0 to 2 was wanted, found `cow`",
        ),
        (csv.replace("2,night", "3,night"), "line 3: a class name or a number from 0 to 2"),
        (csv.replace("night,train", ",train"), "line 3: a task was wanted"),
        (csv.replace("day,val", "day,later"), "line 5: `train` or `test` was wanted as split, found `later`"),
        (
            csv.replace("path,", "where,"),
            "line 1: a column `path` or `image` or `file` or `filename` was wanted",
        ),
        (csv.replace("pictures/c.png,2,", "pictures/c.png,"), "line: 3"),
        (csv.replace("pictures/c.png,2", ",2"), "line 3: path and label must not be empty"),
        (csv.replace("c.png", "f.png"), "pictures/f.png: cannot be read"),
    ] {
        write(&own.path().join("images.csv"), &text);
        let text = failure(DatasetName::Images, own.path());
        assert!(text.contains(wanted), "{text}");
    }
    std::fs::write(own.path().join("images.csv"), b"path,label\n\xff,1\n").unwrap();
    assert!(failure(DatasetName::Images, own.path()).contains("offset 11: not UTF-8 text"));

    // A list without a second one.
    std::fs::remove_file(own.path().join("images.csv")).unwrap();
    write(
        &own.path().join("images.txt"),
        "pictures/a b.png\t1\npictures/c.png 1\npictures/d.png 2\npictures/e.png 2\n",
    );
    let split = load(DatasetName::Images, own.path());
    assert_eq!((split.train.len(), split.test.len(), split.split_here), (2, 2, true));
    assert_eq!((split.train.labels.as_slice(), split.class_names.len()), (&[1, 2][..], 3));
    write(&own.path().join("images.txt"), "pictures/a b.png 1\n");
    assert!(load_error_is_kind(failure(DatasetName::Images, own.path())));
}

fn load_error_is_kind(text: String) -> bool {
    text.contains("line 1: ") || text.contains("test images: no images") || text.contains("cannot be read")
}

/// The training step's worker decodes what is not in memory, with the same result.
#[test]
fn a_loader_decodes_files() {
    let temp = unpacked("core50/core50_128x128.zip");
    let data = Arc::new(load(DatasetName::Core50, temp.path()));
    let held = {
        let mut data = (*data).clone();
        for set in [&mut data.train, &mut data.test] {
            let images: Vec<_> = (0..set.len()).map(|i| set.image(i).unwrap().pixels.into_owned()).collect();
            let pixels = PixelArray { height: 8, width: 8, channels: 3, bytes: images.concat() };
            *set = ImageSet::in_memory(pixels, set.labels.clone());
        }
        Arc::new(data)
    };
    let task = data::Task {
        index: 0,
        name: "all".into(),
        classes: vec![0, 1, 9],
        train: (0..25).collect(),
        test: Arc::default(),
        val: Arc::default(),
        ordered: false,
    };
    let label_to_class: Vec<u32> = (0..50).collect();
    let split = Split {
        tasks: vec![task.clone()],
        class_order: label_to_class.clone(),
        class_names: data.class_names.clone(),
        label_to_class,
        shared_test: false,
    };
    let fill = |data: &Arc<DataSet>, step: usize| {
        let preprocess = preprocess(8, 10, Augment::CropFlip, Normalize::UNIT);
        let loader = Loader::new(data.clone(), &split, &task, preprocess, 5, 10, 2).unwrap();
        let (mut images, mut labels) = (vec![f32::NAN; 10 * 192], vec![0; 10]);
        loader.fill_train(step, &mut images, &mut labels).map(|()| (images, labels))
    };
    for step in 0..4 {
        assert!(fill(&data, step).unwrap() == fill(&held, step).unwrap());
    }
    // A file that is gone by then is an error with its name.
    let gone = data.train.path(0).unwrap();
    std::fs::remove_file(&gone).unwrap();
    let error = (0..3).find_map(|step| fill(&data, step).err()).unwrap().to_string();
    assert!(error.contains(&gone.display().to_string()), "{error}");
}
