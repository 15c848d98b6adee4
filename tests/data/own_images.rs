//! Image files as people have them. The numbers in brackets are the reports whose kind a test covers.

use super::*;
use l2p_engine::data::image_file::Orientation;

fn png(shade: u8) -> Vec<u8> {
    let picture = image::RgbImage::from_fn(9, 6, |x, y| image::Rgb([shade, x as u8 * 20, y as u8 * 30]));
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn encoded(format: image::ImageFormat) -> (image::RgbImage, Vec<u8>) {
    let picture =
        image::RgbImage::from_fn(40, 24, |x, y| image::Rgb([(x * y) as u8, x as u8 * 6, (y * 37 + x) as u8]));
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).unwrap();
    (picture, bytes.into_inner())
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(tests_dir().join("data/pictures").join(name)).unwrap()
}

fn write(path: &Path, bytes: impl AsRef<[u8]>) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// `per` different images of each class below `root`.
fn tree(root: &Path, classes: &[&str], per: u8) {
    for (c, class) in classes.iter().enumerate() {
        for i in 0..per {
            write(&root.join(class).join(format!("{i}.png")), png(c as u8 * 40 + i));
        }
    }
}

fn load(dir: &Path) -> data::DataSet {
    data::load(&config(DatasetName::Images, dir), 0).unwrap_or_else(|e| panic!("{e}"))
}

fn failure(dir: &Path) -> String {
    data::load(&config(DatasetName::Images, dir), 0).map(|data| data.name).unwrap_err().to_string()
}

fn sizes(data: &DataSet) -> (usize, usize, usize) {
    (data.train.len(), data.test.len(), data.val.len())
}

fn read(bytes: &[u8]) -> std::result::Result<(Vec<u8>, usize, usize), String> {
    image_file::decode_rgb(bytes, Path::new("x")).map_err(|e| e.to_string())
}

/// Where the data of the first scan begin.
fn scan_start(jpeg: &[u8]) -> usize {
    let at = jpeg.windows(2).position(|pair| pair == [0xff, 0xda]).unwrap();
    at + 2 + (usize::from(jpeg[at + 2]) << 8 | usize::from(jpeg[at + 3]))
}

/// [08] However far a JPEG file is cut, sequential or progressive, it is refused; without its end marker, and with
/// anything behind it, it is read.
#[test]
fn a_jpeg_that_ends_early_is_damaged() {
    for name in ["rgb.jpg", "grey.jpg", "subsampled.jpg", "progressive.jpg"] {
        let whole = fixture(name);
        let pixels = read(&whole).unwrap();
        assert_eq!(whole[whole.len() - 2..], [0xff, 0xd9], "{name}");
        for cut in 0..whole.len() - 2 {
            let error = read(&whole[..cut]).unwrap_err();
            assert!(cut < 20 || error.contains("cannot be decoded"), "{name}, {cut}: {error}");
        }
        for cut in [1, 2] {
            assert_eq!(read(&whole[..whole.len() - cut]).unwrap(), pixels, "{name}");
        }
        assert_eq!(read(&[whole.as_slice(), &[0; 5000]].concat()).unwrap(), pixels, "{name}");
        assert_eq!(read(&[whole.as_slice(), &whole].concat()).unwrap(), pixels, "{name}");
        // A repaired end does not hide what is missing.
        let start = scan_start(&whole);
        for cut in [start + 3, start + 9] {
            assert!(read(&[&whole[..cut], &[0xff, 0xd9]].concat()).is_err(), "{name}, {cut}");
            assert!(read(&[&whole[..cut], &[0; 4000]].concat()).is_err(), "{name}, {cut}");
        }
    }
}

/// [08, 38] All damaged files are named at once, with a cache and without; or they are left out with a list.
#[test]
fn damaged_files_are_named_together_or_left_out() {
    let (temp, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for part in ["train", "test"] {
        tree(&temp.path().join(part), &["ant", "bee"], 6);
    }
    let (jpeg, progressive) = (fixture("rgb.jpg"), fixture("progressive.jpg"));
    let bad = |name: &str, bytes: &[u8]| {
        let path = temp.path().join(name);
        write(&path, bytes);
        path.display().to_string()
    };
    let one = bad("train/ant/half.jpg", &jpeg[..jpeg.len() / 2]);
    let config = |cache_gb: usize, skip_damaged: bool| Data {
        cache_gb,
        skip_damaged,
        cache_dir: cache.path().to_string_lossy().into_owned(),
        ..config(DatasetName::Images, temp.path())
    };
    for cache_gb in [0, 1] {
        let error = data::load(&config(cache_gb, false), 0).unwrap_err().to_string();
        assert!(error.starts_with(&one) && error.contains("data.skip_damaged"), "{error}");
    }
    let all = [
        one,
        bad("train/bee/page.jpg", b"<!DOCTYPE html><html><body>404</body></html>"),
        bad("train/bee/half.jpeg", &progressive[..progressive.len() / 2]),
        bad("test/ant/half.png", &png(9)[..60]),
        bad("test/bee/empty.jpg", b""),
    ];
    for cache_gb in [0, 1] {
        let error = data::load(&config(cache_gb, false), 0).unwrap_err().to_string();
        assert!(error.starts_with("5 of 29 image files of images cannot be used"), "{error}");
        assert!(all.iter().all(|path| error.contains(path)), "{error}");
        assert!(error.contains("found an HTML page") && error.contains("found an empty file"), "{error}");
        // Of the part that was whole at first.
        assert!(std::fs::read_dir(cache.path()).unwrap().count() <= 1);
    }
    for cache_gb in [0, 1] {
        let data = data::load(&config(cache_gb, true), 0).unwrap();
        assert_eq!(sizes(&data), (12, 12, 0));
        assert!(
            data.notes.contains(&"5 of 29 image files are damaged and left out".into()),
            "{:?}",
            data.notes
        );
        let list = String::from_utf8(data.damaged_list().unwrap()).unwrap();
        assert!(list.lines().count() == 5 && all.iter().all(|path| list.contains(path)), "{list}");
        (0..12).for_each(|i| assert!(data.train.image(i).is_ok() && data.test.image(i).is_ok()));
    }
}

/// [03, 07] The content decides and not the ending; what cannot be decoded is called what it is.
#[test]
fn kinds_of_images_go_by_content() {
    use image::ImageFormat::{Bmp, Gif, Jpeg, Png, Tiff, WebP};
    for format in [Bmp, Gif, Jpeg, Png, Tiff, WebP] {
        let (picture, bytes) = encoded(format);
        let (pixels, height, width) = read(&bytes).unwrap();
        assert_eq!((height, width), (24, 40), "{format:?}");
        let exact = ![Jpeg, Gif].contains(&format);
        assert!(!exact || pixels == picture.into_raw(), "{format:?}");
        for cut in [bytes.len() / 3, bytes.len() / 2, bytes.len() * 3 / 4, bytes.len() * 9 / 10] {
            assert!(read(&bytes[..cut]).is_err(), "{format:?} cut at {cut} of {}", bytes.len());
        }
    }
    for (bytes, wanted) in [
        (&b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"[..], "a HEIC image"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif", "an AVIF image"),
        (b"<?xml version=\"1.0\"?>\n<svg xmlns=\"http://www.w3.org/2000/svg\"/>", "an SVG image"),
        (b"\n<html><title>403</title></html>", "an HTML page"),
        (b"P6\n2 2\n255\n000000000000", "a PPM image"),
        (b"", "an empty file"),
        (b"%PDF-1.7", "a PDF document"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "a Git LFS pointer"),
        (b"just words\n", "a text file"),
    ] {
        let error = read(bytes).unwrap_err();
        assert!(error.contains(wanted), "{wanted}: {error}");
    }
    // Sizes that the bytes cannot hold cost nothing.
    let mut gif = encoded(Gif).1;
    gif[6..10].copy_from_slice(&[0xff; 4]);
    assert!(read(&gif).is_err());
    let mut bmp = encoded(Bmp).1;
    bmp[18..26].copy_from_slice(&[0x10, 0x27, 0, 0, 0x10, 0x27, 0, 0]);
    assert!(read(&bmp).unwrap_err().contains("cannot hold"));
}

/// [03] What is left out of folders is counted by kind, and a class without an image is named.
#[test]
fn files_that_are_left_out_are_counted() {
    let temp = tempfile::tempdir().unwrap();
    tree(temp.path(), &["ant", "bee"], 5);
    let jpeg = fixture("rgb.jpg");
    for (i, name) in ["a.jfif", "b.JPE", "c.JPG", "noending"].iter().enumerate() {
        write(&temp.path().join("elk").join(name), [jpeg.as_slice(), &[i as u8]].concat());
    }
    for name in ["bee/a.ppm", "bee/b.ppm"] {
        write(&temp.path().join(name), b"P6\n2 2\n255\n000000000000");
    }
    write(&temp.path().join("gnu/x.heic"), b"\0\0\0\x18ftypheic\0\0\0\0mif1heic");
    write(&temp.path().join("gnu/x.txt"), b"words");
    std::fs::create_dir(temp.path().join("owl")).unwrap();
    let data = load(temp.path());
    assert_eq!(
        (data.class_names.as_slice(), data.train.len() + data.test.len()),
        (&["ant", "bee", "elk"].map(String::from)[..], 14)
    );
    let notes = data.notes.join("\n");
    assert!(notes.contains("4 files") && notes.contains("(1 .txt, 1 HEIC, 2 PPM)"), "{notes}");
    assert!(notes.contains("2 folders") && notes.contains("gnu, owl"), "{notes}");
}

/// [09] Texts, profiles and damage beside the pixels do not matter.
#[test]
fn metadata_of_png_files_do_no_harm() {
    let plain = png(5);
    let wanted = read(&plain).unwrap();
    let chunk = |name: &[u8], content: &[u8]| {
        let mut crc = flate2::Crc::new();
        crc.update(name);
        crc.update(content);
        [&(content.len() as u32).to_be_bytes(), name, content, &crc.sum().to_be_bytes()].concat()
    };
    let with = |chunk: &[u8]| [&plain[..33], chunk, &plain[33..]].concat();
    let noise: Vec<u8> = (0..3_000_000u32).map(|i| (i.wrapping_mul(2654435761) >> 24) as u8).collect();
    let mut broken = chunk(b"tEXt", b"Software\0paint");
    *broken.last_mut().unwrap() ^= 1;
    let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut packed, &vec![b'B'; 40 << 20]).unwrap();
    let long = [b"Raw profile type exif\0\0".as_slice(), &packed.finish().unwrap()].concat();
    for bytes in [
        with(&chunk(b"caBX", &noise)),
        with(&chunk(b"iCCP", &[b"icc\0\0".as_slice(), &noise].concat())),
        with(&chunk(b"iTXt", &[b"XML:com.adobe.xmp\0\0\0\0\0".as_slice(), &noise].concat())),
        with(&chunk(b"zTXt", &long)),
        with(&broken),
        [plain.as_slice(), b"rubbish"].concat(),
        plain[..plain.len() - 12].to_vec(),
    ] {
        assert_eq!(read(&bytes).unwrap(), wanted);
    }
    // Pixels that are damaged are damage.
    let mut flipped = plain.clone();
    let at = plain.len() - 20;
    flipped[at] ^= 4;
    assert!(read(&flipped).is_err());
}

/// A JPEG file with an orientation in its Exif data.
fn oriented(jpeg: &[u8], orientation: u8) -> Vec<u8> {
    let tiff = [
        b"II\x2a\0\x08\0\0\0\x01\0".as_slice(),
        &[0x12, 0x01, 3, 0, 1, 0, 0, 0, orientation, 0, 0, 0, 0, 0, 0, 0],
    ]
    .concat();
    let content = [b"Exif\0\0".as_slice(), &tiff].concat();
    let length = (content.len() as u16 + 2).to_be_bytes();
    [&jpeg[..2], &[0xff, 0xe1], &length, &content, &jpeg[2..]].concat()
}

/// [02] Users' own images are turned as a viewer shows them; published sets are as they are stored.
#[test]
fn orientation_is_applied_to_own_images_only() {
    let (_, jpeg) = encoded(image::ImageFormat::Jpeg);
    let (stored, height, width) = read(&jpeg).unwrap();
    let at = |y: usize, x: usize| stored[(y * width + x) * 3..][..3].to_vec();
    let (h, w) = (height - 1, width - 1);
    // The stored place of what is shown at (y, x). Source: Exif 2.32, tag 274.
    let place = |orientation: u8, y: usize, x: usize| match orientation {
        2 => (y, w - x),
        3 => (h - y, w - x),
        4 => (h - y, x),
        5 => (x, y),
        6 => (h - x, y),
        7 => (h - x, w - y),
        8 => (x, w - y),
        _ => (y, x),
    };
    for orientation in 0..=9 {
        let bytes = oriented(&jpeg, orientation);
        assert_eq!(image_file::decode_rgb(&bytes, Path::new("x")).unwrap().0, stored);
        let (turned, rows, columns) =
            image_file::decode(&bytes, Path::new("x"), Orientation::Applied).unwrap();
        let side = if (5..=8).contains(&orientation) { (width, height) } else { (height, width) };
        assert_eq!((rows, columns), side, "{orientation}");
        let wanted: Vec<u8> = (0..rows)
            .flat_map(|y| (0..columns).map(move |x| (y, x)))
            .flat_map(|(y, x)| {
                let (y, x) = place(orientation, y, x);
                at(y, x)
            })
            .collect();
        assert!(turned == wanted, "{orientation}");
    }

    // In a set, from the cache and without one.
    let (temp, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for part in ["train", "test"] {
        tree(&temp.path().join(part), &["ant", "bee"], 2);
    }
    write(&temp.path().join("train/ant/phone.jpg"), oriented(&jpeg, 6));
    let cache_dir = cache.path().to_string_lossy().into_owned();
    for (cache_gb, dataset) in [(0, DatasetName::Images), (1, DatasetName::Images), (1, DatasetName::Images)]
    {
        let config = Data { cache_gb, cache_dir: cache_dir.clone(), ..config(dataset, temp.path()) };
        let image = data::load(&config, 0).unwrap();
        let image = image.train.image(2).unwrap();
        assert_eq!((image.height, image.width), (width, height));
    }
    // The same files as a published set.
    let config = Data { cache_gb: 1, cache_dir, ..config(DatasetName::Cub200, temp.path()) };
    let published = data::load(&config, 0).unwrap();
    let image = published.train.image(2).unwrap();
    assert_eq!((image.height, image.width, image.pixels.as_ref()), (height, width, stored.as_slice()));
}

/// [04] Parts by the names that people give them, in any case, also twice in one another.
#[test]
fn parts_have_many_names() {
    for (train, test) in [
        ("Train", "Test"),
        ("Training", "Testing"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("TRAIN", "valid"),
        ("train_images", "Validation"),
    ] {
        let temp = tempfile::tempdir().unwrap();
        tree(&temp.path().join(train), &["ant", "bee", "cat"], 4);
        tree(&temp.path().join(test), &["ant", "bee", "cat"], 2);
        let data = load(temp.path());
        assert_eq!(
            (sizes(&data), data.class_names.len(), data.split_here),
            ((12, 6, 0), 3, false),
            "{train}"
        );
    }
    // A class may be called `train`: it has images of its own.
    let temp = tempfile::tempdir().unwrap();
    tree(temp.path(), &["bus", "car", "train", "test"], 5);
    let data = load(temp.path());
    assert_eq!((data.class_names.join(" "), data.split_here), ("bus car test train".into(), true));
    let temp = tempfile::tempdir().unwrap();
    for part in ["train", "test"] {
        tree(&temp.path().join(part), &["bus", "test", "train"], 3);
    }
    assert_eq!((sizes(&load(temp.path())), load(temp.path()).class_names.len()), ((9, 9, 0), 3));
    // Two of a kind, and one alone.
    tree(&temp.path().join("Training"), &["bus"], 1);
    assert!(failure(temp.path()).contains("look like the same part"));
    let temp = tempfile::tempdir().unwrap();
    tree(&temp.path().join("test"), &["bus", "car"], 3);
    assert!(failure(temp.path()).contains("there is no folder train beside it"));
}

/// [05] One folder too high.
#[test]
fn the_right_folder_is_found_or_named() {
    let temp = tempfile::tempdir().unwrap();
    let inside = temp.path().join("data/flower_photos");
    tree(&inside, &["daisy", "rose", "tulip"], 5);
    write(&inside.join("LICENSE.txt"), "x");
    let data = load(temp.path());
    assert_eq!(data.class_names.join(" "), "daisy rose tulip");
    assert!(data.notes[0].ends_with("data/flower_photos"), "{:?}", data.notes);
    std::fs::create_dir_all(temp.path().join("data/papers")).unwrap();
    write(&temp.path().join("data/papers/a.pdf"), "%PDF");
    let error = failure(temp.path());
    assert!(
        error.contains("`flower_photos` holds daisy, rose, tulip") && error.contains("Did you mean"),
        "{error}"
    );
    assert!(error.contains(&inside.display().to_string()), "{error}");
    // One class is one class.
    let one = tempfile::tempdir().unwrap();
    tree(one.path(), &["daisy"], 5);
    assert_eq!(load(one.path()).class_names, ["daisy"]);
    // Lists below, too.
    let lists = tempfile::tempdir().unwrap();
    tree(&lists.path().join("set/img"), &["ant", "bee"], 2);
    write(
        &lists.path().join("set/images.txt"),
        "img/ant/0.png a\nimg/ant/1.png a\nimg/bee/0.png b\nimg/bee/1.png b\n",
    );
    assert_eq!(sizes(&load(lists.path())), (2, 2, 0));
}

/// [37] Validation images are neither trained on nor tested with.
#[test]
fn validation_images_are_kept_apart() {
    let temp = tempfile::tempdir().unwrap();
    for (part, per) in [("train", 8), ("val", 4), ("test", 2)] {
        tree(&temp.path().join(part), &["ant", "bee"], per);
    }
    let data = load(temp.path());
    assert_eq!(sizes(&data), (16, 4, 8));
    assert!(data.notes.iter().any(|note| note.starts_with("8 validation images are kept apart")));
    let mut csv = String::from("path,label,split\n");
    for (part, per) in [("train", 8), ("val", 4), ("test", 2)] {
        for i in 0..per {
            csv +=
                &format!("{part}/ant/{i}.png,ant,{part}\n{part}/bee/{i}.png,bee,{}\n", part.to_uppercase());
        }
    }
    write(&temp.path().join("images.csv"), &csv);
    assert_eq!(sizes(&load(temp.path())), (16, 4, 8));
    std::fs::remove_file(temp.path().join("images.csv")).unwrap();
    std::fs::remove_dir_all(temp.path().join("test")).unwrap();
    let data = load(temp.path());
    assert_eq!(sizes(&data), (16, 8, 0));
    assert!(data.notes.iter().any(|note| note.contains("the 8 validation images are the test set")));
}

/// [06] Tables as spreadsheets write them.
#[test]
fn tables_of_spreadsheets() {
    let temp = tempfile::tempdir().unwrap();
    tree(&temp.path().join("img"), &["ant", "bee"], 4);
    let rows: Vec<(String, &str)> = ["ant", "bee"]
        .iter()
        .flat_map(|class| (0..4).map(move |i| (format!("img/{class}/{i}.png"), *class)))
        .collect();
    let table = |separator: &str, newline: &str, head: &str, slash: &str| {
        let mut text = format!("{}{newline}", head.replace(',', separator));
        rows.iter().for_each(|(path, class)| {
            text += &format!("{}{separator}{class}{newline}", path.replace('/', slash));
        });
        text
    };
    let plain = table(",", "\n", "path,label", "/");
    let utf16 = |text: &str, mark: [u8; 2], bytes: fn(u16) -> [u8; 2]| {
        [mark.to_vec(), text.encode_utf16().flat_map(bytes).collect()].concat()
    };
    let tabs = table("\t", "\r\n", "path,label", "/");
    let list = temp.path().join("images.csv");
    for bytes in [
        plain.clone().into_bytes(),
        format!("\u{feff}{}", table(",", "\r\n", "path,label", "/")).into_bytes(),
        table(";", "\r\n", "path,label", "/").into_bytes(),
        format!("sep=;\r\n{}", table(";", "\r\n", "Path,Label", "/")).into_bytes(),
        tabs.clone().into_bytes(),
        utf16(&tabs, [0xff, 0xfe], u16::to_le_bytes),
        utf16(&tabs, [0xfe, 0xff], u16::to_be_bytes),
        table(",", "\r\n", "path,label", "\\").into_bytes(),
        table(",", "\n", "filepath,target", "/").into_bytes(),
        table(",", "\n", "Image Path,Class Name", "/").into_bytes(),
        format!("{plain},\n\n\"\",,\n,,,\n").into_bytes(),
    ] {
        write(&list, &bytes);
        let data = load(temp.path());
        assert_eq!((data.train.len() + data.test.len(), data.class_names.join(" ")), (8, "ant bee".into()));
    }
    write(&list, plain.replace(",ant", ",\"ant, the animal\""));
    assert_eq!(load(temp.path()).class_names, ["ant, the animal", "bee"]);
    write(&list, table(",", "\n", "file,c0,c1", "/"));
    assert!(failure(temp.path()).contains("found: file, c0, c1"));
    // Lists of other programs have backslashes as well.
    std::fs::remove_file(&list).unwrap();
    write(&temp.path().join("images.txt"), table(" ", "\r\n", "#,", "\\"));
    assert_eq!(sizes(&load(temp.path())), (6, 2, 0));
}

/// [13] Labels that look like numbers, and labels that differ little.
#[test]
fn labels_are_ordered_and_look_alikes_named() {
    let temp = tempfile::tempdir().unwrap();
    tree(&temp.path().join("img"), &["x"], 24);
    let classes = |labels: &[&str]| {
        let line = |i: usize| format!("img/x/{i}.png,{}\n", labels[i % labels.len()]);
        let text: String = (0..24).map(line).collect();
        write(&temp.path().join("images.csv"), format!("path,label\n{text}"));
        let data = load(temp.path());
        (data.class_names.join(" "), data.notes.join("\n"))
    };
    assert_eq!(classes(&["0.0", "2.0", "10.0", "1.0"]).0, "0.0 1.0 2.0 10.0");
    assert_eq!(classes(&["2", "-1", "1", "0"]).0, "-1 0 1 2");
    assert_eq!(classes(&["10", "9", "b"]).0, "10 9 b");
    let (found, notes) = classes(&["001", "1", "2", "3"]);
    assert_eq!(found, "1 001 2 3");
    assert!(notes.contains("`001` and `1`") || notes.contains("`1` and `001`"), "{notes}");
    let (_, notes) = classes(&["Cat", "cat", "dog"]);
    assert!(notes.contains("`Cat` and `cat`") && !notes.contains("dog"), "{notes}");
    assert!(!classes(&["cat", "dog"]).1.contains("differ"));
}

/// [13] Classes that no task has are named; `data.classes` chooses them.
#[test]
fn classes_are_chosen_and_the_others_named() {
    let temp = tempfile::tempdir().unwrap();
    tree(temp.path(), &["ant", "bee", "cat", "dog", "elk"], 5);
    let data = load(temp.path());
    let split = tasks::split(&data, &continual(2, 2, "natural"), 0).unwrap();
    assert_eq!(tasks::unused(&data, &split).unwrap(), "images has 5 classes, the tasks use 4; left out: elk");
    assert_eq!(tasks::unused(&data, &tasks::split(&data, &continual(5, 1, "natural"), 0).unwrap()), None);
    let file = temp.path().join("chosen.list");
    write(&file, "# two\nelk\n1\n");
    for (words, wanted) in [
        (vec!["elk", "ant"], "ant elk"),
        (vec!["3", "0", "3"], "ant dog"),
        (vec![file.to_str().unwrap()], "bee elk"),
    ] {
        let mut config = config(DatasetName::Images, temp.path());
        config.classes.0 = words.into_iter().map(String::from).collect();
        let chosen = data::load(&config, 0).unwrap();
        assert_eq!((chosen.class_names.join(" "), chosen.train.len()), (wanted.into(), 8));
        let names: Vec<String> = chosen
            .train
            .labels
            .iter()
            .enumerate()
            .map(|(i, &label)| (chosen.train.path(i).unwrap(), label))
            .map(|(path, label)| {
                assert!(path.parent().unwrap().ends_with(&chosen.class_names[label as usize]));
                chosen.class_names[label as usize].clone()
            })
            .collect();
        assert_eq!(names.len(), 8);
        config.classes.0 = vec!["cow".into()];
        assert!(data::load(&config, 0).unwrap_err().to_string().contains("data.classes: a class name"));
    }
}

/// [14] Archives made on Windows and macOS.
#[test]
fn zip_archives_of_windows() {
    let temp = tempfile::tempdir().unwrap();
    let archive = |name: &str, of: &dyn Fn(&str) -> Vec<u8>| {
        let path = temp.path().join(name);
        let mut zip = zip::ZipWriter::new(std::fs::File::create(&path).unwrap());
        let mut raw = Vec::new();
        for part in ["train", "test"] {
            for (c, class) in ["ant", "bee"].iter().enumerate() {
                for i in 0..3u8 {
                    // Names of the same length take the place of these afterwards.
                    let plain = format!("{part}/{class}/{i}.png");
                    raw.push((plain.clone(), of(&plain)));
                    zip.start_file(plain, zip::write::SimpleFileOptions::default()).unwrap();
                    std::io::Write::write_all(&mut zip, &png(c as u8 * 40 + i)).unwrap();
                }
            }
        }
        zip.finish().unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        for (plain, other) in raw {
            assert_eq!(plain.len(), other.len());
            while let Some(at) = bytes.windows(plain.len()).position(|name| name == plain.as_bytes()) {
                bytes[at..at + other.len()].copy_from_slice(&other);
                if plain.as_bytes() == other {
                    break;
                }
            }
        }
        std::fs::write(&path, bytes).unwrap();
        load(&path)
    };
    let slashes = archive("slashes.zip", &|name| name.as_bytes().to_vec());
    assert_eq!((sizes(&slashes), slashes.class_names.join(" ")), ((6, 6, 0), "ant bee".into()));
    let backslashes = archive("backslashes.zip", &|name| name.replace('/', "\\").into_bytes());
    same_images(&backslashes.train, &slashes.train);
    assert_eq!(backslashes.class_names, slashes.class_names);
    let codepage = |name: &str| {
        let mut bytes = name.as_bytes().to_vec();
        let at = bytes.windows(3).position(|word| word == b"ant");
        at.into_iter().for_each(|at| bytes[at] = 0x84);
        bytes
    };
    assert_eq!(archive("codepage.zip", &codepage).class_names.join(" "), "bee änt");
}

/// [15] Names that are not UTF-8 are names like others.
#[test]
fn names_may_be_of_any_bytes() {
    use std::os::unix::ffi::OsStrExt;
    let temp = tempfile::tempdir().unwrap();
    let name = |bytes: &[u8]| temp.path().join(std::ffi::OsStr::from_bytes(bytes));
    tree(temp.path(), &["ant"], 5);
    for class in [&b"f\xe4hre"[..], b"f\xf6hre"] {
        (0..5u8)
            .for_each(|i| write(&name(class).join(format!("{i}.png")), png(100 + class[1] / 20 + 10 * i)));
    }
    let data = load(temp.path());
    assert_eq!(data.class_names, ["ant", "f\\xE4hre", "f\\xF6hre"]);
    assert_eq!(data.train.len() + data.test.len(), 15);
    // What a run keeps of the split can be read again.
    let kept = tempfile::tempdir().unwrap();
    data.lists().into_iter().for_each(|(name, text)| write(&kept.path().join(name), text));
    same_images(&load(kept.path()).train, &data.train);
    assert_eq!(load(kept.path()).class_names, data.class_names);
}

/// [30] Test images that are training images, and one image under two labels, by their pixels.
#[test]
fn overlapping_parts_are_named() {
    let temp = tempfile::tempdir().unwrap();
    tree(&temp.path().join("train"), &["ant", "bee"], 10);
    tree(&temp.path().join("test"), &["ant", "bee"], 7);
    for part in ["train", "test"] {
        write(&temp.path().join(part).join("bee/own.png"), png(200 + part.len() as u8));
    }
    let notes = load(temp.path()).notes.join("\n");
    assert!(notes.contains("14 of 15 test images have the pixels of a training image"), "{notes}");
    assert!(notes.contains(" and 9 more") && notes.contains("test/ant/0.png (training: "), "{notes}");
    assert!(!notes.contains("two labels"), "{notes}");
    // Other bytes, the same pixels.
    let picture = image::load_from_memory(&png(0)).unwrap();
    picture.save(temp.path().join("train/bee/copy.bmp")).unwrap();
    for cache_gb in [0, 1] {
        let cache = tempfile::tempdir().unwrap();
        let cache_dir = cache.path().to_string_lossy().into_owned();
        let config = Data { cache_gb, cache_dir, ..config(DatasetName::Images, temp.path()) };
        let notes = data::load(&config, 0).unwrap().notes.join("\n");
        assert!(notes.contains("images that stand under two labels: 1, "), "{notes}");
        assert!(notes.contains("train/ant/0.png (ant)") && notes.contains("copy.bmp (bee)"), "{notes}");
    }
    let apart = tempfile::tempdir().unwrap();
    tree(apart.path(), &["ant", "bee"], 9);
    assert!(!load(apart.path()).notes.join("\n").contains("pixels"));
}

/// [12] Tasks of different sizes; the order of classes by the run's seed.
#[test]
fn tasks_have_the_sizes_that_are_asked_for() {
    let data = synthetic();
    let sizes = |list: &[usize]| Continual {
        num_tasks: list.len(),
        num_classes_per_task: l2p_engine::config::schema::TaskSizes::Each(list.to_vec()),
        ..Continual::default()
    };
    let split = tasks::split(&data, &sizes(&[5, 2, 3]), 0).unwrap();
    let classes: Vec<Vec<u32>> = split.tasks.iter().map(|task| task.classes.clone()).collect();
    assert_eq!(classes, [vec![0, 1, 2, 3, 4], vec![5, 6], vec![7, 8, 9]]);
    for task in &split.tasks {
        let of = |indices: &[u32], set: &ImageSet| {
            indices.iter().all(|&i| task.classes.contains(&set.labels[i as usize]))
        };
        assert!(of(&task.train, &data.train) && of(&task.test, &data.test));
    }
    let images = |set: &ImageSet| set.len();
    assert_eq!(split.tasks.iter().map(|task| task.train.len()).sum::<usize>(), images(&data.train));
    assert!(tasks::split(&data, &sizes(&[5, 6]), 0).unwrap_err().to_string().contains("[5, 6]"));
    assert!(tasks::split(&data, &sizes(&[5, 0]), 0).is_err());

    let order =
        |word: &str, seed: u64| tasks::split(&data, &continual(5, 2, word), seed).unwrap().class_order;
    assert_eq!(order("seed", 7), order("seed:7", 1));
    assert_ne!(order("seed", 7), order("seed", 8));
    assert_eq!(order("seed:7", 1), order("seed:7", 2));
}

/// [36] A task with fewer images than a batch has a batch of all of them.
#[test]
fn small_tasks_have_small_batches() {
    assert_eq!(loader::task_batch(10, 16, true), 10);
    assert_eq!(loader::task_batch(10, 16, false), 16);
    assert_eq!(loader::task_batch(100, 16, true), 16);
    assert_eq!(loader::steps_per_task(10, 3, loader::task_batch(10, 16, true)).unwrap(), 3);
}
