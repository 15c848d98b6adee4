//! Times the preparation of training images on one core: `cargo bench --bench loader -- --json`.
//!
//! The images are random bytes of CIFAR's size, or those of a file; the time hardly depends on them.
//! `benches/peer/loader.py` does the same in torchvision.

use clap::Parser;
use l2p_engine::config::schema::{Data, Interpolation, Transforms};
use l2p_engine::data::{ImageView, Normalize, Preprocess};
use l2p_engine::rng::{Rng, Stream};
use std::time::Instant;

#[derive(Debug, Parser)]
struct Args {
    /// Images per repetition.
    #[arg(long, default_value_t = 512)]
    images: usize,
    /// Timed repetitions; one more runs first.
    #[arg(long, default_value_t = 7)]
    repetitions: usize,
    /// Pixels to use instead, (n, 32, 32, 3) bytes; also measures what JPEG changes in them.
    #[arg(long)]
    file: Option<std::path::PathBuf>,
    /// Only the rows whose name has this in it.
    #[arg(long, default_value = "")]
    only: String,
    #[arg(long)]
    json: bool,
    /// Passed by `cargo bench`; ignored.
    #[arg(long, hide = true)]
    bench: bool,
}

const SIDE: usize = 32;
const IMAGE: usize = SIDE * SIDE * 3;

fn preprocess(change: impl FnOnce(&mut Data)) -> Preprocess {
    let mut data = Data::default();
    change(&mut data);
    Preprocess::new(&data, Normalize::UNIT).expect("sizes that fit")
}

fn view(pixels: &[u8], i: usize) -> ImageView<'_> {
    let n = pixels.len() / IMAGE;
    ImageView { pixels: &pixels[i % n * IMAGE..][..IMAGE], height: SIDE, width: SIDE, channels: 3 }
}

/// Seconds of each repetition.
fn time(with: &Preprocess, pixels: &[u8], args: &Args, test: bool) -> Vec<f64> {
    let mut out = vec![0.0; with.output_len()];
    let mut seconds = Vec::new();
    for repetition in 0..=args.repetitions {
        let start = Instant::now();
        for i in 0..args.images {
            let index = (repetition * args.images + i) as u64;
            if test {
                with.eval(view(pixels, i), &mut out);
            } else {
                with.train(view(pixels, i), &mut Rng::new(1, Stream::Augment, index), &mut out);
            }
            std::hint::black_box(&out);
        }
        if repetition > 0 {
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    seconds.sort_by(f64::total_cmp);
    seconds
}

/// Mean and largest difference of network inputs (0 to 255) with and without JPEG, over 2,000 draws.
fn jpeg_difference(pixels: &[u8]) -> (f64, f64) {
    let [with, without] = [true, false].map(|on| preprocess(|d| d.jpeg_reencode = on));
    let (mut a, mut b) = (vec![0.0; with.output_len()], vec![0.0; with.output_len()]);
    let (mut sum, mut worst) = (0.0, 0.0f64);
    for i in 0..2000 {
        let rng = Rng::new(2, Stream::Augment, i as u64);
        with.train(view(pixels, i), &mut rng.clone(), &mut a);
        without.train(view(pixels, i), &mut rng.clone(), &mut b);
        let differences = a.iter().zip(&b).map(|(a, b)| f64::from((a - b).abs() * 255.0));
        let image: Vec<f64> = differences.collect();
        sum += image.iter().sum::<f64>() / image.len() as f64 / 2000.0;
        worst = image.into_iter().fold(worst, f64::max);
    }
    (sum, worst)
}

fn main() {
    let args = Args::parse();
    let pixels = match &args.file {
        Some(path) => std::fs::read(path).expect("a readable file"),
        None => {
            let mut rng = Rng::new(7, Stream::Test, 0);
            (0..256 * IMAGE).map(|_| rng.next_u32() as u8).collect()
        }
    };
    let torchvision = |d: &mut Data| d.transforms = Transforms::Torchvision;
    type Row = (&'static str, Preprocess, bool);
    let rows: Vec<Row> = vec![
        ("torchvision crop_flip", preprocess(torchvision), false),
        (
            "torchvision crop_flip bicubic",
            preprocess(|d| {
                torchvision(d);
                d.train_interpolation = Interpolation::Bicubic;
            }),
            false,
        ),
        (
            "torchvision test bicubic",
            preprocess(|d| {
                torchvision(d);
                d.eval_interpolation = Interpolation::Bicubic;
            }),
            true,
        ),
        ("tensorflow crop_flip", preprocess(|_| {}), false),
        ("tensorflow crop_flip jpeg", preprocess(|d| d.jpeg_reencode = true), false),
        ("tensorflow crop_flip rand_augment", preprocess(|d| d.rand_augment_layers = 2), false),
        ("tensorflow crop_flip jitter", preprocess(|d| d.color_jitter = 0.5), false),
        ("tensorflow crop_flip erase", preprocess(|d| d.erase_probability = 0.25), false),
        ("tensorflow test", preprocess(|_| {}), true),
    ];
    let mut report = Vec::new();
    for (name, with, test) in rows.into_iter().filter(|(name, ..)| name.contains(&args.only)) {
        let seconds = time(&with, &pixels, &args, test);
        let rate = |s: f64| args.images as f64 / s;
        let (best, median) = (rate(seconds[0]), rate(seconds[seconds.len() / 2]));
        if !args.json {
            println!("{name:36} {median:8.0} images/s on one core (best {best:.0})");
        }
        report.push(serde_json::json!({ "transform": name, "images_per_second": { "median": median, "best": best }, "seconds": seconds }));
    }
    let jpeg = args.file.is_some().then(|| jpeg_difference(&pixels));
    if args.json {
        let report = serde_json::json!({
            "engine": "l2p-engine", "version": env!("CARGO_PKG_VERSION"), "images": args.images, "threads": 1,
            "rows": report, "jpeg_difference": jpeg.map(|(mean, worst)| serde_json::json!({ "mean": mean, "worst": worst })),
        });
        println!("{report}");
    } else if let Some((mean, worst)) = jpeg {
        println!("JPEG changes network inputs by {mean:.2} of 255 in the mean, {worst:.0} at most");
    }
}
