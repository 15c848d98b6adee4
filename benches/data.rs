//! Image files per second: `cargo bench --bench data`. With `L2P_PYTHON` (an interpreter with Pillow)
//! the same files are decoded by Pillow in as many processes, in turn with ours.
//!
//! 400 JPEG files of 500x375 pixels, about the size of ImageNet-R's, all in the memory of the system.
//! Each number is the median of seven.

use image::codecs::jpeg::JpegEncoder;
use l2p_engine::config::schema::{Data, DatasetName};
use l2p_engine::data::{self, DataSet};
use rayon::prelude::*;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

const IMAGES: usize = 400;
const ROUNDS: usize = 7;

/// Waves with some noise, so that the files have the length of photographs.
fn write_images(dir: &Path) {
    let mut state = 1u32;
    for i in 0..IMAGES {
        let part = if i % 4 == 3 { "test" } else { "train" };
        let folder = dir.join(format!("{part}/{}", i % 5));
        std::fs::create_dir_all(&folder).expect("a folder");
        let picture = image::RgbImage::from_fn(500, 375, |x, y| {
            state = state.wrapping_mul(1664525).wrapping_add(1013904223);
            let noise = (state >> 27) as f32;
            let wave = |a: f32, b: f32| 110.0 + 90.0 * ((x as f32 * a).sin() * (y as f32 * b).cos()) + noise;
            image::Rgb([wave(0.03, 0.05) as u8, wave(0.11, 0.02) as u8, wave(0.007, 0.09) as u8])
        });
        let file = std::fs::File::create(folder.join(format!("{i}.jpg"))).expect("a file");
        JpegEncoder::new_with_quality(file, 90).encode_image(&picture).expect("a picture");
    }
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

fn timed(work: impl FnOnce()) -> f64 {
    let clock = Instant::now();
    work();
    clock.elapsed().as_secs_f64()
}

fn read_all(data: &DataSet) {
    for set in [&data.train, &data.test] {
        (0..set.len()).into_par_iter().for_each(|i| assert_eq!(set.image(i).expect("an image").width, 500));
    }
}

fn pillow(python: &str, dir: &Path) -> f64 {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peer/decode.py");
    let threads = rayon::current_num_threads().to_string();
    let output = Command::new(python).arg(script).arg(dir).arg(threads).output().expect("the peer starts");
    let said = String::from_utf8_lossy(&output.stdout);
    said.trim().parse().unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

fn main() {
    let temp = tempfile::tempdir().expect("a folder");
    let (images, cache) = (temp.path().join("images"), temp.path().join("cache"));
    write_images(&images);
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let config = Data {
        dataset: DatasetName::Images,
        dir: text(&images),
        cache_dir: text(&cache),
        cache_gb: 1,
        ..Data::default()
    };
    let load = |config: &Data| data::load(config, 0).expect("the images");
    let plain = load(&Data { cache_gb: 0, ..config.clone() });
    let python = std::env::var("L2P_PYTHON").ok();
    let mut seconds: [Vec<f64>; 5] = Default::default();
    for _ in 0..ROUNDS {
        let _ = std::fs::remove_dir_all(&cache);
        seconds[0].push(timed(|| read_all(&plain)));
        seconds[4].extend(python.as_deref().map(|python| pillow(python, &images)));
        seconds[2].push(timed(|| drop(load(&config))));
        seconds[3].push(timed(|| drop(load(&config))));
        let cached = load(&config);
        seconds[1].push(timed(|| read_all(&cached)));
    }
    let names = [
        "decoded when needed",
        "read from the cache",
        "first load: checked, decoded, kept",
        "later load: checked against the cache",
        "decoded by Pillow",
    ];
    println!("{IMAGES} JPEG files of 500x375 pixels, {} threads", rayon::current_num_threads());
    for (name, seconds) in names.iter().zip(seconds).filter(|(_, seconds)| !seconds.is_empty()) {
        println!("{name:<40} {:>8.0} images/s", IMAGES as f64 / median(seconds));
    }
}
