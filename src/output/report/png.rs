//! Drawings as pixels, with fonts of the program's own: the same on every machine.

use super::svg::Svg;
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};
use resvg::tiny_skia::{Color, Pixmap, Transform};
use resvg::usvg::fontdb::{Database, Source};
use resvg::usvg::{Options, Tree};
use std::sync::{Arc, LazyLock};

/// Pixels per unit of a drawing, on either axis.
const SCALE: f64 = 2.0;

/// A drawing of thousands of rows is left to the SVG.
const MOST_PIXELS: f64 = (1 << 25) as f64;

/// What [`Svg::file`] asks for by name, and what stands in for every other name.
const FAMILY: &str = "DejaVu Sans";

static FONTS: LazyLock<Arc<Database>> = LazyLock::new(|| {
    let mut fonts = Database::new();
    let files: [&'static [u8]; 2] = [
        include_bytes!("../../../assets/dejavu/DejaVuSans.ttf"),
        include_bytes!("../../../assets/dejavu/DejaVuSans-Bold.ttf"),
    ];
    for file in files {
        fonts.load_font_source(Source::Binary(Arc::new(file)));
    }
    fonts.set_sans_serif_family(FAMILY);
    Arc::new(fonts)
});

/// [`Svg::file`] as a PNG file. A letter that the fonts lack is a box.
///
/// # Errors
/// What is wrong with it, to follow its name: too many pixels, or not to be drawn.
pub fn file(svg: &Svg, title: &str) -> Result<Vec<u8>, String> {
    let (width, height) = svg.file_size();
    let (width, height) = (width * SCALE, height * SCALE);
    // Before the text is read, which takes a minute for a drawing of 100,000 rows.
    let pixels = (width * height <= MOST_PIXELS).then(|| Pixmap::new(width as u32, height as u32)).flatten();
    let mut pixels = pixels.ok_or_else(|| {
        format!("is too large for a PNG, {width} x {height} pixels; --svg writes it at any size")
    })?;
    let options =
        Options { fontdb: Arc::clone(&FONTS), font_family: FAMILY.to_string(), ..Options::default() };
    let tree = Tree::from_str(&svg.file(title), &options).map_err(|e| format!("cannot be drawn: {e}"))?;
    pixels.fill(Color::WHITE);
    resvg::render(&tree, Transform::from_scale(SCALE as f32, SCALE as f32), &mut pixels.as_mut());
    // On white nothing is transparent.
    let rgb: Vec<u8> = pixels.data().chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect();
    let mut file = Vec::new();
    PngEncoder::new(&mut file)
        .write_image(&rgb, pixels.width(), pixels.height(), ExtendedColorType::Rgb8)
        .map_err(|e| format!("cannot be packed: {e}"))?;
    Ok(file)
}
