//! Augmentation against Pillow, torchvision, TensorFlow and the official code. The values were written by
//! `scripts/make_augment_fixtures.py`; large results are kept as the start of their sha256.

use l2p_engine::config::schema::{Augment, Data, Interpolation, Transforms};
use l2p_engine::data::preprocess::color::{self, Change};
use l2p_engine::data::preprocess::erase::Erasing;
use l2p_engine::data::preprocess::rand_augment::{Op, RandAugment, cutout};
use l2p_engine::data::preprocess::{CropBox, jpeg, largest_centre, pillow, sample_crop_torchvision};
use l2p_engine::data::{ImageView, Normalize, Preprocess};
use l2p_engine::rng::{Rng, Stream};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::io::Read;
use std::path::{Path, PathBuf};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn json(part: &str) -> Value {
    serde_json::from_slice(&std::fs::read(golden(&format!("augment_{part}.json"))).unwrap()).unwrap()
}

fn array<T: npyz::Deserialize>(part: &str, name: &str) -> Vec<T> {
    let file = std::fs::File::open(golden(&format!("augment_{part}.npz"))).unwrap();
    let mut zip = zip::ZipArchive::new(file).unwrap();
    let mut bytes = Vec::new();
    zip.by_name(&format!("{name}.npy")).unwrap().read_to_end(&mut bytes).unwrap();
    npyz::NpyFile::new(bytes.as_slice()).unwrap().into_vec().unwrap()
}

/// The image of that kind in `scripts/make_augment_fixtures.py`.
struct Image {
    pixels: Vec<u8>,
    height: usize,
    width: usize,
    channels: usize,
}

impl Image {
    fn new(kind: usize, height: usize, width: usize, channels: usize) -> Image {
        let value = |y: usize, x: usize, c: usize| match kind {
            0 => (7 * x + 13 * y + 29 * c) ^ (x * y / 8),
            1 => x * 160 / width + y * 90 / height + 5 * c * (x % 3),
            2 => (x / 3 + y / 2 + c) % 2 * 255,
            _ => 20 + 10 * c + x * 5 / width * 3 + y * 7 / height,
        };
        let at = |i: usize| value(i / channels / width, i / channels % width, i % channels) as u8;
        Image { pixels: (0..height * width * channels).map(at).collect(), height, width, channels }
    }

    fn view(&self) -> ImageView<'_> {
        let Image { ref pixels, height, width, channels } = *self;
        ImageView { pixels, height, width, channels }
    }
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(8).map(|b| format!("{b:02x}")).collect()
}

fn list<'a>(data: &'a Value, key: &str) -> &'a [Value] {
    let items = data[key].as_array().unwrap_or_else(|| panic!("no list {key}"));
    assert!(!items.is_empty());
    items
}

fn number(case: &Value, i: usize) -> usize {
    case[i].as_u64().unwrap_or_else(|| panic!("{case} at {i}")) as usize
}

fn real(case: &Value, i: usize) -> f64 {
    case[i].as_f64().unwrap_or_else(|| panic!("{case} at {i}"))
}

fn filter(case: &Value) -> Interpolation {
    if case[0] == "bicubic" { Interpolation::Bicubic } else { Interpolation::Bilinear }
}

fn crop_resized(image: &Image, from: CropBox, size: usize, flip: bool, filter: Interpolation) -> Vec<u8> {
    let window = CropBox { top: 0, left: 0, height: size, width: size };
    let job = pillow::Job { from, size: (size, size), window, flip, filter };
    let (mut out, mut rows) = (Vec::new(), 0);
    pillow::resize(image.view(), &job, &mut pillow::Scratch::default(), |y, row| {
        assert_eq!((y, row.len()), (rows, size * image.channels));
        out.extend_from_slice(row);
        rows += 1;
    });
    out
}

fn torchvision(change: impl FnOnce(&mut Data), normalize: Normalize) -> Preprocess {
    let mut data = Data { transforms: Transforms::Torchvision, ..Data::default() };
    change(&mut data);
    Preprocess::new(&data, normalize).unwrap()
}

#[test]
fn crops_are_resized_as_pillow_does_it() {
    let data = json("torchvision");
    for case in list(&data, "resized_crop") {
        let n = |i| number(case, i);
        let image = Image::new(n(1), n(2), n(3), n(4));
        let from = CropBox { top: n(5), left: n(6), height: n(7), width: n(8) };
        let out = crop_resized(&image, from, n(9), false, filter(case));
        assert_eq!(digest(&out), case[10], "{case}");
        let mut mirrored = crop_resized(&image, from, n(9), true, filter(case));
        for row in mirrored.chunks_exact_mut(n(9) * n(4)) {
            row.reverse();
            row.chunks_exact_mut(n(4)).for_each(<[u8]>::reverse);
        }
        assert!(mirrored == out, "{case}, mirrored");
    }
    let image = Image::new(0, 32, 32, 3);
    let from = CropBox { top: 3, left: 5, height: 20, width: 17 };
    let out = crop_resized(&image, from, 40, false, Interpolation::Bilinear);
    assert!(out == array::<u8>("torchvision", "crop_bilinear"));
}

#[test]
fn test_images_equal_torchvisions() {
    let data = json("torchvision");
    let eval = |filter, resize_size, input_size, image: &Image| {
        let set = |d: &mut Data| {
            (d.eval_interpolation, d.resize_size, d.input_size) = (filter, resize_size, input_size);
        };
        let p = torchvision(set, Normalize::IMAGENET);
        let (mut bytes, mut values) = (vec![0; p.output_len()], vec![f32::NAN; p.output_len()]);
        p.eval_u8(image.view(), &mut bytes);
        p.eval(image.view(), &mut values);
        for (i, (&byte, value)) in bytes.iter().zip(values).enumerate() {
            let n = Normalize::IMAGENET;
            assert_eq!(value, (f32::from(byte) / 255.0 - n.mean[i % 3]) / n.std[i % 3]);
        }
        bytes
    };
    for case in list(&data, "eval") {
        let n = |i| number(case, i);
        let out = eval(filter(case), n(5), n(6), &Image::new(n(1), n(2), n(3), n(4)));
        let out: Vec<u8> = out.into_iter().step_by(if n(4) == 1 { 3 } else { 1 }).collect();
        assert_eq!(digest(&out), case[7], "{case}");
    }
    let out = eval(Interpolation::Bicubic, 44, 40, &Image::new(1, 48, 64, 3));
    assert!(out == array::<u8>("torchvision", "eval_bicubic"));
}

/// With a box that is the whole image, what remains of a training image is resize, flip and normalisation.
#[test]
fn training_images_equal_torchvisions() {
    let whole = Image::new(0, 32, 32, 3);
    let (top, left, height, width) = (3, 5, 20, 17);
    let lines = (top..top + height).map(|y| &whole.pixels[(y * 32 + left) * 3..(y * 32 + left + width) * 3]);
    let cropped: Vec<u8> = lines.flatten().copied().collect();
    let image = Image { pixels: cropped, height, width, channels: 3 };
    let mut seen = [0; 2];
    for (normalize, flipped, name) in
        [(Normalize::UNIT, false, "crop_unit"), (Normalize::IMAGENET, true, "crop_flipped_imagenet")]
    {
        let wanted = array::<f32>("torchvision", name);
        let p = torchvision(|d| (d.resize_size, d.input_size) = (40, 40), normalize);
        for index in 0..3000 {
            let mut rng = Rng::new(8, Stream::Augment, index);
            let from = sample_crop_torchvision(&mut rng, height, width);
            let flip = rng.next_u32() >> 31 == 1;
            if (from.height, from.width, flip) == (height, width, flipped) {
                let mut out = vec![f32::NAN; p.output_len()];
                p.train(image.view(), &mut Rng::new(8, Stream::Augment, index), &mut out);
                assert!(out == wanted, "{name}");
                seen[usize::from(flipped)] += 1;
            }
        }
    }
    assert!(seen.iter().all(|&n| n > 0), "{seen:?}");
}

/// Any box: the result is that of the parts, which are tested above.
#[test]
fn the_training_path_is_composed_of_its_parts() {
    for (channels, filter) in [(3, Interpolation::Bilinear), (1, Interpolation::Bicubic)] {
        let image = Image::new(1, 32, 29, channels);
        let set = |d: &mut Data| (d.train_interpolation, d.resize_size, d.input_size) = (filter, 64, 56);
        let p = torchvision(set, Normalize::HALF);
        for index in 0..50 {
            let mut out = vec![f32::NAN; p.output_len()];
            p.train(image.view(), &mut Rng::new(5, Stream::Augment, index), &mut out);
            let mut rng = Rng::new(5, Stream::Augment, index);
            let from = sample_crop_torchvision(&mut rng, 32, 29);
            let wanted = crop_resized(&image, from, 56, rng.next_u32() >> 31 == 1, filter);
            let wanted = (0..p.output_len()).map(|i| wanted[i / 3 * channels + i % 3 % channels]);
            assert!(out.iter().copied().eq(wanted.map(|b| (f32::from(b) / 255.0 - 0.5) / 0.5)), "{index}");
        }
    }
}

/// The largest distance between the distribution function of `values` and the one whose quantiles at
/// 0.05, 0.1, … are `wanted`, at those.
fn distance(mut values: Vec<f64>, wanted: &[f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    assert_eq!(wanted.len(), 19);
    let share = |n: usize| n as f64 / values.len() as f64;
    let at = |(i, &x): (usize, &f64)| {
        // Where values repeat, the distribution function jumps over a range.
        let q = (i + 1) as f64 / 20.0;
        let (low, high) = (share(values.partition_point(|v| *v < x - 1e-6)), share(values.partition_point(|v| *v <= x + 1e-6)));
        (low - q).max(q - high).max(0.0)
    };
    wanted.iter().enumerate().map(at).fold(0.0, f64::max)
}

fn reals(data: &Value, key: &str) -> Vec<f64> {
    list(data, key).iter().map(|v| v.as_f64().unwrap()).collect()
}

/// Five standard errors of the difference of two distribution functions, each of n draws.
fn limit(n: usize) -> f64 {
    5.0 * (2.0 * 0.25 / n as f64).sqrt()
}

#[test]
fn boxes_are_distributed_as_torchvisions() {
    let data = json("torchvision");
    let n = 20_000;
    for (name, sizes) in data["boxes"].as_object().unwrap() {
        let (h, w) = name.split_once('x').map(|(h, w)| (h.parse().unwrap(), w.parse().unwrap())).unwrap();
        let boxes: Vec<CropBox> = (0..n as u64)
            .map(|i| sample_crop_torchvision(&mut Rng::new(12, Stream::Test, i), h, w))
            .collect();
        assert!(boxes.iter().all(|b| b.top + b.height <= h && b.left + b.width <= w));
        let room = |at: usize, full: usize, side: usize| at as f64 / (full - side).max(1) as f64;
        let measures: [(&str, &dyn Fn(&CropBox) -> f64); 6] = [
            ("area", &|b| (b.height * b.width) as f64 / (h * w) as f64),
            ("log_aspect", &|b| (b.width as f64 / b.height as f64).ln()),
            ("height", &|b| b.height as f64),
            ("width", &|b| b.width as f64),
            ("top", &|b| room(b.top, h, b.height)),
            ("left", &|b| room(b.left, w, b.width)),
        ];
        for (key, measure) in measures {
            let d = distance(boxes.iter().map(measure).collect(), &reals(sizes, key));
            assert!(d < limit(n), "{name} {key}: {d}");
        }
        let centre = largest_centre(h, w);
        let share = boxes.iter().filter(|b| **b == centre).count() as f64 / n as f64;
        assert!((share - sizes["fallback"].as_f64().unwrap()).abs() < limit(n), "{name}: {share}");
    }
    for case in list(&data, "fallback") {
        let n = |i| number(case, i);
        let wanted = CropBox { top: n(2), left: n(3), height: n(4), width: n(5) };
        assert_eq!(largest_centre(n(0), n(1)), wanted, "{case}");
    }
}

#[test]
fn jpeg_loses_what_tensorflows_loses() {
    let data = json("tensorflow");
    let mut scratch = jpeg::Scratch::default();
    for (i, case) in list(&data, "jpeg").iter().enumerate() {
        let n = |i| number(case, i);
        let image = Image::new(n(0), n(1), n(1), n(2));
        let crop = CropBox { top: n(3), left: n(4), height: n(5), width: n(6) };
        let mut out = Vec::new();
        jpeg::reencode(image.view(), crop, &mut scratch, &mut out);
        if n(2) == 1 {
            out = out.iter().flat_map(|&grey| [grey; 3]).collect();
        }
        if i == 1 {
            let wanted = array::<u8>("tensorflow", "jpeg");
            let worst = out.iter().zip(&wanted).map(|(a, b)| a.abs_diff(*b)).max();
            assert_eq!((out.len(), worst), (wanted.len(), Some(0)), "{case}");
        }
        assert_eq!(digest(&out), case[7], "{case}");
    }
}

fn operation(name: &str, x: f32) -> Op {
    match name {
        "AutoContrast" => Op::AutoContrast,
        "Equalize" => Op::Equalize,
        "Rotate" => Op::Rotate(x),
        "Posterize" => Op::Posterize(x as u32),
        "Solarize" => Op::Solarize(x as u8),
        "Color" => Op::Color(x),
        "Contrast" => Op::Contrast(x),
        "Brightness" => Op::Brightness(x),
        "Sharpness" => Op::Sharpness(x),
        "ShearX" => Op::ShearX(x),
        "ShearY" => Op::ShearY(x),
        "TranslateX" => Op::TranslateX(x),
        "TranslateY" => Op::TranslateY(x),
        "Identity" => Op::Identity,
        "SolarizeAdd" => Op::SolarizeAdd(x as u8),
        "Invert" => Op::Invert,
        _ => panic!("no operation {name}"),
    }
}

#[test]
fn operations_of_rand_augment_equal_the_official_ones() {
    let data = json("tensorflow");
    let mut wrong = Vec::new();
    for case in list(&data, "ops") {
        let (name, x, kind, size) = (case[0].as_str().unwrap(), real(case, 1), number(case, 2), number(case, 3));
        let mut image = Image::new(kind, size, size, 3).pixels;
        operation(name, x as f32).apply(&mut image, size, &mut Vec::new());
        if digest(&image) != case[4] {
            wrong.push(format!("{name} {x} {kind} {size}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}: {wrong:?}", wrong.len(), list(&data, "ops").len());
}
