//! Pictures of simple shapes, as new classes.

use l2p_engine::rng::{Rng, Stream};
use std::path::{Path, PathBuf};

/// Whether a picture of this kind is bright at (x, y), counted from its middle.
fn is_bright(kind: &str, x: i32, y: i32) -> bool {
    match kind {
        "ring" => (49..=90).contains(&(x * x + y * y)),
        "cross" | "3" => x.abs() < 2 || y.abs() < 2,
        "bars" => x.rem_euclid(7) < 3,
        "frame" => (8..=9).contains(&x.abs().max(y.abs())),
        _ => (x - y).abs() < 3,
    }
}

/// Picture `i` of a kind, which has the number `k` among the kinds.
pub fn picture(kind: &str, k: usize, i: usize) -> image::GrayImage {
    let mut rng = Rng::new(k as u64, Stream::Test, i as u64);
    let (dx, dy) = ((rng.uniform() * 6.0) as i32 - 3, (rng.uniform() * 6.0) as i32 - 3);
    image::GrayImage::from_fn(28, 28, |x, y| {
        let bright = is_bright(kind, x as i32 - 14 - dx, y as i32 - 14 - dy);
        image::Luma([if bright { 230 } else { 0 } + (rng.uniform() * 25.0) as u8])
    })
}

/// A folder with `n` pictures of each kind.
pub fn pictures(root: &Path, kinds: &[&str], n: usize) -> PathBuf {
    for (k, kind) in kinds.iter().enumerate() {
        let dir = root.join(kind);
        std::fs::create_dir_all(&dir).expect("a folder");
        for i in 0..n {
            picture(kind, k, i).save(dir.join(format!("{kind}_{i:02}.png"))).expect("a picture");
        }
    }
    root.to_path_buf()
}

/// The bytes of `n` PNG files of a kind.
pub fn files(kind: &str, n: usize) -> Vec<Vec<u8>> {
    let file = |i| {
        let mut bytes = std::io::Cursor::new(Vec::new());
        picture(kind, 0, i).write_to(&mut bytes, image::ImageFormat::Png).expect("a PNG");
        bytes.into_inner()
    };
    (0..n).map(file).collect()
}
