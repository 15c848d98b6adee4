//! Augmentation against Pillow, torchvision, TensorFlow and the official code. The values were written by
//! `scripts/make_augment_fixtures.py`; large results are kept as the start of their sha256.

use approx::assert_abs_diff_eq;
use l2p_engine::config::schema::{Data, Interpolation, Transforms};
use l2p_engine::data::mix::MixRule;
use l2p_engine::data::preprocess::color::{self, ColorChange};
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
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden").join(name)
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
    let job = pillow::ResizeJob { from, size: (size, size), window, flip, filter };
    let (mut out, mut rows) = (Vec::new(), 0);
    pillow::resize(image.view(), &job, &mut pillow::PillowBuffers::default(), |y, row| {
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
        let (low, high) = (
            share(values.partition_point(|v| *v < x - 1e-6)),
            share(values.partition_point(|v| *v <= x + 1e-6)),
        );
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
        type Measure<'a> = (&'a str, &'a dyn Fn(&CropBox) -> f64);
        let measures: [Measure; 6] = [
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
    let mut scratch = jpeg::JpegBuffers::default();
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
        let (name, x, kind, size) =
            (case[0].as_str().unwrap(), real(case, 1), number(case, 2), number(case, 3));
        let mut image = Image::new(kind, size, size, 3).pixels;
        operation(name, x as f32).apply(&mut image, size, &mut Vec::new());
        if digest(&image) != case[4] {
            wrong.push(format!("{name} {x} {kind} {size}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}: {wrong:?}", wrong.len(), list(&data, "ops").len());
}

#[test]
fn grey_equals_tensorflows() {
    // Every third value of each channel.
    let mut grid: Vec<u8> = (0..86 * 86 * 86usize)
        .flat_map(|i| [i / 86 % 86, i / (86 * 86), i % 86].map(|x| (3 * x) as u8))
        .collect();
    // numpy's meshgrid: red goes with the first axis.
    grid.chunks_exact_mut(3).for_each(|p| p.swap(0, 1));
    // A factor of 0 leaves the grey.
    for pixel in grid.chunks_exact_mut(3) {
        Op::Color(0.0).apply(pixel, 1, &mut Vec::new());
    }
    let grey: Vec<u8> = grid.iter().step_by(3).copied().collect();
    assert_eq!(digest(&grey), json("tensorflow")["grey"]);
}

#[test]
fn cutout_equals_the_official_one() {
    for case in list(&json("tensorflow"), "cutout") {
        let n = |i| number(case, i);
        let mut image = vec![0; n(0) * n(0) * 3];
        cutout(&mut image, n(0), n(1), n(2));
        for (i, &x) in image.iter().enumerate() {
            let (y, x, grey) = (i / 3 / n(0), i / 3 % n(0), x == 128);
            assert_eq!(grey, (n(3)..n(4)).contains(&y) && (n(5)..n(6)).contains(&x), "{case} at {y}, {x}");
        }
    }
}

/// Bytes: the mean of a channel is summed in another order than TensorFlow's, so contrast may round
/// differently; the rest is equal.
#[test]
fn changes_of_colour_equal_tensorflows() {
    for (i, case) in list(&json("tensorflow"), "jitter").iter().enumerate() {
        let x = real(case, 1) as f32;
        let change = match case[0].as_str().unwrap() {
            "Brightness" => ColorChange::Brightness(x),
            "Contrast" => ColorChange::Contrast(x),
            "Saturation" => ColorChange::Saturation(x),
            "Hue" => ColorChange::Hue(x),
            "Grey" => ColorChange::Grey,
            name => panic!("no change {name}"),
        };
        let mut image = Image::new(number(case, 2), 24, 24, 3).pixels;
        color::apply(&[change], &mut image);
        let wanted = array::<u8>("tensorflow", &format!("jitter_{i}"));
        let off = image.iter().zip(&wanted).filter(|(a, b)| a != b).count();
        let worst = image.iter().zip(&wanted).map(|(a, b)| a.abs_diff(*b)).max();
        if case[0] == "Contrast" {
            assert!(20 * off < wanted.len() && worst <= Some(1), "{case}: {off} of {}", wanted.len());
        } else {
            assert_eq!((image.len(), off), (wanted.len(), 0), "{case}");
        }
    }
}

#[test]
fn boxes_of_erasing_equal_the_official_ones() {
    let data = json("tensorflow");
    for case in list(&data, "erase") {
        let [area, aspect, y, x] = [1, 2, 3, 4].map(|i| real(case, i) as f32);
        let [rows, columns] = Erasing { area, aspect, y, x }.rows_and_columns(number(case, 0));
        let found = [rows.start, rows.end, columns.start, columns.end];
        if !rows.is_empty() && !columns.is_empty() {
            assert_eq!(found, [5, 6, 7, 8].map(|i| number(case, i)), "{case}");
        } else {
            assert_eq!(number(case, 6), 0, "{case}");
        }
    }
    let mut areas = Vec::new();
    let mut noise = Vec::new();
    for i in 0..2000 {
        let mut rng = Rng::new(3, Stream::Test, i);
        let mut image = vec![0.0; 64 * 64 * 3];
        Erasing::draw(&mut rng).apply(&mut rng, &mut image, 64);
        let erased: Vec<f64> = image.iter().filter(|x| **x != 0.0).map(|x| f64::from(*x)).collect();
        areas.push(erased.len() as f64 / image.len() as f64);
        if i < 50 {
            noise.extend(erased);
        }
    }
    let d = distance(areas, &reals(&data, "erase_area"));
    assert!(d < limit(2000), "{d}");
    let (n, stored) = (noise.len(), &data["erase_noise"]);
    let mean = noise.iter().sum::<f64>() / n as f64;
    let deviation = (noise.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64).sqrt();
    for (ours, key) in [(mean, "mean"), (deviation, "deviation")] {
        let theirs = stored[key].as_f64().unwrap();
        assert!((ours - theirs).abs() < 5.0 * (2.0 / n as f64).sqrt(), "{key}: {ours} and {theirs}");
    }
    let d = distance(noise, &reals(stored, "quantiles"));
    assert!(d < limit(n.min(50_000)), "{d} over {n}");
}

#[test]
fn draws_of_jitter_are_as_often() {
    let data = json("tensorflow");
    let n = 4000;
    let draws: Vec<Vec<ColorChange>> =
        (0..n as u64).map(|i| color::draw(&mut Rng::new(4, Stream::Test, i), 0.5)).collect();
    let share =
        |f: &dyn Fn(&Vec<ColorChange>) -> bool| draws.iter().filter(|d| f(d)).count() as f64 / n as f64;
    let stored = &data["jitter_draws"];
    let (same, grey) = (share(&|d| d.is_empty()), share(&|d| d.last() == Some(&ColorChange::Grey)));
    for (ours, key) in [(same, "same"), (grey, "grey")] {
        let theirs = stored[key].as_f64().unwrap();
        assert!((ours - theirs).abs() < limit(n), "{key}: {ours} and {theirs}");
    }
    // Each change stands in each place as often, and its factor is uniform.
    let jitters: Vec<&Vec<ColorChange>> = draws.iter().filter(|d| d.len() > 1).collect();
    type Spread = (fn(&ColorChange) -> Option<f32>, f64, f64);
    let spread: [Spread; 4] = [
        (|c| if let ColorChange::Brightness(x) = c { Some(*x) } else { None }, 0.6, 1.4),
        (|c| if let ColorChange::Contrast(x) = c { Some(*x) } else { None }, 0.6, 1.4),
        (|c| if let ColorChange::Saturation(x) = c { Some(*x) } else { None }, 0.6, 1.4),
        (|c| if let ColorChange::Hue(x) = c { Some(*x) } else { None }, -0.1, 0.1),
    ];
    for (of, low, high) in spread {
        for place in 0..4 {
            let here = jitters.iter().filter(|d| of(&d[place]).is_some()).count() as f64;
            assert!((here / jitters.len() as f64 - 0.25).abs() < 5.0 * (0.19 / jitters.len() as f64).sqrt());
        }
        let values = jitters.iter().map(|d| f64::from(d.iter().find_map(of).unwrap())).collect();
        let uniform: Vec<f64> = (1..20).map(|i| low + (high - low) * f64::from(i) / 20.0).collect();
        assert!(distance(values, &uniform) < limit(jitters.len()));
    }
}

#[test]
fn operations_are_drawn_evenly_and_levels_as_configured() {
    let data = |magnitude: f64, levels: usize, deviation: f64| Data {
        rand_augment_layers: 2,
        rand_augment_magnitude: magnitude,
        rand_augment_levels: levels,
        rand_augment_deviation: deviation,
        ..Data::default()
    };
    let n = 32_000;
    let draw = |rule: &RandAugment, i: usize| rule.draw(&mut Rng::new(6, Stream::Test, i as u64), 224);
    let rule = RandAugment::new(&data(-1.0, 10, 0.0));
    let drawn: Vec<Op> = (0..n).map(|i| draw(&rule, i)).collect();
    let mut kinds = std::collections::HashMap::new();
    drawn.iter().for_each(|op| *kinds.entry(std::mem::discriminant(op)).or_insert(0usize) += 1);
    let expected = n as f64 / 16.0;
    // Chi-square with 15 degrees of freedom is below 44.3 but for 1e-4.
    let chi: f64 = kinds.values().map(|&k| (k as f64 - expected).powi(2) / expected).sum();
    assert!(kinds.len() == 16 && chi < 44.3, "{chi}");
    let mut levels = [0usize; 11];
    let mut signs = [0usize; 2];
    for op in &drawn {
        match op {
            Op::Rotate(x) => {
                levels[(x.abs() / 3.0).round() as usize] += 1;
                assert!((x.abs() / 3.0 - (x.abs() / 3.0).round()).abs() < 1e-5);
                signs[usize::from(*x > 0.0)] += usize::from(*x != 0.0);
            }
            Op::Brightness(x) => assert!((0.1..=1.9001).contains(x)),
            Op::TranslateX(x) => assert!(x.abs() <= 100.0),
            Op::Posterize(bits) => assert!(*bits <= 4),
            _ => {}
        }
    }
    let total: usize = levels.iter().sum();
    // 10 degrees of freedom: below 35.6 but for 1e-4.
    let chi: f64 =
        levels.iter().map(|&k| (k as f64 - total as f64 / 11.0).powi(2) / (total as f64 / 11.0)).sum();
    assert!(chi < 35.6, "{chi}: {levels:?}");
    let signed = (signs[0] + signs[1]) as f64;
    assert!((signs[0] as f64 / signed - 0.5).abs() < 5.0 * (0.25 / signed).sqrt(), "{signs:?}");
    // A fixed level, and a normal one: 5 of 10 with deviation 1 is 0.5 with 0.1.
    let fixed = RandAugment::new(&data(0.5, 10, 0.0));
    let normal = RandAugment::new(&data(5.0, 10, 1.0));
    let mut angles = Vec::new();
    for i in 0..n {
        if let Op::Rotate(x) = draw(&fixed, i) {
            assert_eq!(x.abs(), 15.0);
        }
        if let Op::Rotate(x) = draw(&normal, i) {
            angles.push(f64::from(x.abs()) / 30.0);
        }
    }
    let mean = angles.iter().sum::<f64>() / angles.len() as f64;
    let deviation = (angles.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / angles.len() as f64).sqrt();
    let error = 5.0 * 0.1 / (angles.len() as f64).sqrt();
    assert!((mean - 0.5).abs() < error && (deviation - 0.1).abs() < error, "{mean} {deviation}");
}

#[test]
fn mixing_equals_the_official_one() {
    let data = json("tensorflow");
    let rule = |mixup_alpha, cutmix_alpha, mix_probability| {
        MixRule::new(&Data { mixup_alpha, cutmix_alpha, mix_probability, ..Data::default() })
    };
    assert!(rule(0.0, 0.0, 1.0).is_none() && rule(0.5, 0.5, 0.0).is_none());
    for alpha in [0.75, 0.8, 1.0] {
        let mut rng = Rng::new(1, Stream::Test, 5);
        let mix = rule(alpha, 0.0, 1.0).unwrap().draw(&mut rng, 20_000, 4).unwrap();
        let weights = mix.weights.iter().map(|w| f64::from(*w)).collect();
        let wanted = reals(&data, &format!("mixup_weight_{alpha:?}"));
        assert!(distance(weights, &wanted) < limit(20_000));
        let mut partners = mix.partners;
        partners.sort_unstable();
        assert!(partners.iter().copied().eq(0..20_000));
    }
    // Weight, height and width of what stays, share of the image's own class.
    for case in list(&data, "cutmix") {
        let w = real(case, 0) as f32;
        let side = (w.sqrt() * 30.0) as usize;
        assert_eq!(
            (number(case, 1), number(case, 2)),
            if side == 0 { (0, 0) } else { (side, side) },
            "{case}"
        );
        assert_eq!(real(case, 3) as f32, w);
    }
    let (size, batch) = (30, 7);
    let labels = [0, 1, 2, 3, 4, 5, 5];
    let images: Vec<f32> = (0..batch * size * size * 3).map(|i| (i / (size * size * 3)) as f32).collect();
    let (mut mixups, mut cutmixes, mut plain) = (0, 0, 0);
    for index in 0..400 {
        let mut rng = Rng::new(2, Stream::Mix, index);
        let Some(mix) = rule(0.8, 1.0, 0.75).unwrap().draw(&mut rng, batch, size) else {
            plain += 1;
            continue;
        };
        let mut mixed = images.clone();
        mix.images(&mut mixed, size);
        let soft_labels = mix.soft_labels(&labels, 9);
        for (i, image) in mixed.chunks_exact(size * size * 3).enumerate() {
            let (partner, w) = (mix.partners[i], mix.weights[i]);
            let row = &soft_labels[i * 9..][..9];
            assert_abs_diff_eq!(row.iter().sum::<f32>(), 1.0, epsilon = 1e-6);
            if labels[i] == labels[partner] {
                assert_abs_diff_eq!(row[labels[i] as usize], 1.0, epsilon = 1e-6);
            } else {
                assert_eq!((row[labels[i] as usize], row[labels[partner] as usize]), (w, 1.0 - w));
            }
            match &mix.boxes {
                None => {
                    assert!((0.5..=1.0).contains(&w));
                    assert!(image.iter().all(|&x| x == i as f32 * w + partner as f32 * (1.0 - w)));
                }
                Some(boxes) => {
                    assert!(w < 0.5 && partner == batch - 1 - i);
                    let CropBox { top, left, height, width } = boxes[i];
                    assert!(top + height <= size && left + width <= size);
                    for (at, &x) in image.iter().enumerate() {
                        let (y, x0) = (at / 3 / size, at / 3 % size);
                        let stays = (top..top + height).contains(&y) && (left..left + width).contains(&x0);
                        assert_eq!(x, if stays { i } else { partner } as f32);
                    }
                }
            }
        }
        *(if mix.boxes.is_some() { &mut cutmixes } else { &mut mixups }) += 1;
    }
    // 100 and 150 of 400 expected; five deviations are 43 and 48.
    assert!((57..=143).contains(&plain), "{plain}");
    assert!((102..=198).contains(&mixups) && (102..=198).contains(&cutmixes), "{mixups} {cutmixes}");
}
