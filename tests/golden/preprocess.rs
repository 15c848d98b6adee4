//! Preprocessing against TensorFlow's results.

use super::golden_dir;
use approx::assert_abs_diff_eq;
use l2p_engine::config::schema::{Augment, Data};
use l2p_engine::data::preprocess::{CropBox, resize_u8, sample_crop};
use l2p_engine::data::{ImageView, Normalize, Preprocess, image_file};
use l2p_engine::rng::{Rng, Stream};
use std::collections::HashMap;
use std::io::Read;

struct Golden(HashMap<String, Vec<u8>>);

impl Golden {
    fn open() -> Golden {
        let file = std::fs::File::open(golden_dir().join("preprocess.npz")).unwrap();
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

fn preprocess(input_size: usize, resize_size: usize, augment: Augment, normalize: Normalize) -> Preprocess {
    Preprocess::new(&Data { input_size, resize_size, augment, ..Data::default() }, normalize).unwrap()
}

fn view<'a>(shape: &[usize], pixels: &'a [u8]) -> ImageView<'a> {
    ImageView { pixels, height: shape[0], width: shape[1], channels: shape[2] }
}

fn golden_json() -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(golden_dir().join("preprocess.json")).unwrap()).unwrap()
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
    for i in 0..golden_json()["train"].as_array().unwrap().len() {
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
    let cases = golden_json()["train"].as_array().unwrap().len();
    for (case, augment) in [(0, Augment::CropFlip), (cases - 1, Augment::Crop)] {
        let name = format!("train{case}/image");
        let (shape, image) = golden.get::<u8>(&name).unwrap();
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
    let [mut a, mut b, mut c] = std::array::from_fn(|_| vec![0.0; unit.output_len()]);
    unit.eval(image, &mut a);
    norm.eval(image, &mut b);
    norm.train(image, &mut Rng::new(0, Stream::Augment, 0), &mut c);
    assert_eq!(b, c);
    for (i, (x, y)) in a.iter().zip(&b).enumerate() {
        let n = Normalize::IMAGENET;
        assert_eq!((x - n.mean[i % 3]) / n.std[i % 3], *y);
    }
    // Equal sizes: the bytes of the image.
    assert_eq!((shape[0], shape[2]), (shape[1], 3), "the first image is square and has colours");
    let same = preprocess(shape[0], shape[0], Augment::None, Normalize::UNIT);
    let mut bytes = vec![0; same.output_len()];
    same.eval_u8(image, &mut bytes);
    assert_eq!(bytes, image.pixels);
}

/// Quantile q of n draws has the standard error sqrt(q (1 - q) / n) in probability; both samples have
/// n draws, so their empirical distribution functions differ by that times sqrt(2). Five of these
/// are allowed, checked as: the stored quantile lies between our quantiles q - d and q + d.
#[test]
fn crop_boxes_are_distributed_as_tensorflows() {
    let statistics = &golden_json()["crop_box_statistics"];
    let n = statistics["samples"].as_u64().unwrap();
    let sides: Vec<usize> =
        statistics["image"].as_str().unwrap().split('x').map(|side| side.parse().unwrap()).collect();
    let [rows, columns] = sides[..] else { panic!("an image is height x width") };
    let image_area = (rows * columns) as f64;
    let boxes: Vec<CropBox> =
        (0..n).map(|i| sample_crop(&mut Rng::new(11, Stream::Test, i), rows, columns)).collect();
    for b in &boxes {
        assert!(b.top + b.height <= rows && b.left + b.width <= columns, "{b:?}");
        assert!(b.top < (rows - b.height).max(1) && b.left < (columns - b.width).max(1), "{b:?}");
        assert!(20 * b.height * b.width >= rows * columns, "{b:?}");
    }
    let list = |key: &str| -> Vec<f64> {
        statistics[key].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
    };
    let quantiles = list("quantiles");
    /// Key, measure, rounding of the stored values.
    type Measure<'a> = (&'static str, &'a dyn Fn(&CropBox) -> f64, f64);
    let measures: [Measure; 4] = [
        // Stored with five decimals.
        ("aspect_width_over_height", &|b| b.width as f64 / b.height as f64, 1e-5),
        ("area_fraction", &|b| (b.width * b.height) as f64 / image_area, 1e-5),
        ("height", &|b| b.height as f64, 0.0),
        ("width", &|b| b.width as f64, 0.0),
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
    let area = boxes.iter().map(|b| (b.width * b.height) as f64 / image_area).sum::<f64>() / n as f64;
    // The area's deviation is about 0.24; five standard errors of the difference.
    let wanted = statistics["mean_area_fraction"].as_f64().unwrap();
    assert_abs_diff_eq!(area, wanted, epsilon = 5.0 * 0.24 * (2.0 / n as f64).sqrt());

    // The stored boxes give the position: the mean of top / (height of the image - height), half in theory.
    let (_, stored) = Golden::open().get::<u16>("crop_boxes_top_left_height_width").unwrap();
    let stored = stored.chunks_exact(4).map(|b| (f64::from(b[0]), f64::from(b[2])));
    let ours = boxes.iter().map(|b| (b.top as f64, b.height as f64));
    let mean = |items: Vec<(f64, f64)>| {
        let rows = rows as f64;
        let used: Vec<f64> =
            items.iter().filter(|b| b.1 < rows * 15.0 / 16.0).map(|b| b.0 / (rows - b.1)).collect();
        (used.iter().sum::<f64>() / used.len() as f64, used.len() as f64)
    };
    let ((a, few), (b, many)) = (mean(stored.collect()), mean(ours.collect()));
    // Deviation 0.29; five standard errors of the difference.
    assert_abs_diff_eq!(a, b, epsilon = 5.0 * 0.29 * (1.0 / few + 1.0 / many).sqrt());
}

#[test]
fn the_stored_jpeg_decodes_to_what_tensorflow_decoded() {
    // Up to the decoders' rounding.
    let golden = Golden::open();
    let (_, jpeg) = golden.get::<u8>("train0/jpeg").expect("JPEG bytes of the first training image");
    let (shape, wanted) = golden.get::<u8>("train0/jpeg_decoded").unwrap();
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("picture");
    std::fs::write(&path, jpeg).unwrap();
    let (pixels, height, width) = image_file::read_rgb(&path).unwrap();
    assert_eq!([height, width, 3], shape[..]);
    let mean = pixels.iter().zip(&wanted).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>();
    assert!(mean / (wanted.len() as f64) < 2.0, "{}", mean / wanted.len() as f64);
}
