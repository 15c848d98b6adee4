//! One image file: JPEG, PNG, WebP, BMP, GIF (its first frame) or TIFF, by its content.

mod jpeg;
mod png;
mod tiff;

use std::borrow::Cow;
use std::io::Cursor;
use std::path::Path;

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use super::file_kind::{self, FileKind};
use super::folder;
use crate::error::{Error, Result};

/// No image file comes near this size.
pub const FILE_BYTES_MAX: u64 = 256 << 20;
const PIXELS_MAX: u64 = 100_000_000;
/// Kinds without a bound of their own: so many pixels are taken from any file.
const PIXELS_FREE: u64 = 1 << 20;

/// What is made of the orientation that cameras write beside the pixels (Exif tag 0x0112).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Orientation {
    /// Pixels as they are stored: published sets.
    #[default]
    Ignored,
    /// Turned and mirrored as a viewer shows them: users' own images.
    Applied,
}

/// Pixels (height, width, 3), height and width, the right way up. Grey is repeated to 3 channels, transparency
/// ignored.
///
/// # Errors
/// `Error::File` when the file cannot be read, is of another kind, is damaged, or has more than 100 million
/// pixels or more than its length can hold.
pub fn read_rgb(path: &Path) -> Result<(Vec<u8>, usize, usize)> {
    decode(&folder::read(path, FILE_BYTES_MAX)?, path, Orientation::Applied)
}

/// The pixels as they are stored, for the bytes of a file; `path` is only for messages.
///
/// # Errors
/// As [`read_rgb`].
pub fn decode_rgb(bytes: &[u8], path: &Path) -> Result<(Vec<u8>, usize, usize)> {
    decode(bytes, path, Orientation::Ignored)
}

/// Pixels (height, width, 3), height and width of the bytes of a file; `path` is only for messages.
///
/// # Errors
/// As [`read_rgb`].
pub fn decode(bytes: &[u8], path: &Path, orientation: Orientation) -> Result<(Vec<u8>, usize, usize)> {
    let image = decode_whole(bytes, path, orientation)?.into_rgb8();
    let (width, height) = image.dimensions();
    Ok((image.into_raw(), height as usize, width as usize))
}

/// The same in one channel, (height, width), as stored.
pub fn decode_grey(bytes: &[u8], path: &Path) -> Result<(Vec<u8>, usize, usize)> {
    let image = decode_whole(bytes, path, Orientation::Ignored)?.into_luma8();
    let (width, height) = image.dimensions();
    Ok((image.into_raw(), height as usize, width as usize))
}

/// Height and width as stored, from the file's head.
///
/// # Errors
/// As [`read_rgb`], but for damage behind the head.
pub fn dimensions(bytes: &[u8], path: &Path) -> Result<(usize, usize)> {
    let fail = |what| Error::file(path, what);
    let format = format(bytes).map_err(fail)?;
    look(&pixels_of(bytes, format), format).map_err(fail)
}

fn format(bytes: &[u8]) -> std::result::Result<ImageFormat, String> {
    match FileKind::of(&bytes[..bytes.len().min(file_kind::HEAD)]) {
        FileKind::Image(format) => Ok(format),
        found => {
            let wanted = "a JPEG, PNG, WebP, BMP, GIF or TIFF image was wanted";
            Err(format!("{wanted}, found {}", found.describe()))
        }
    }
}

/// What the decoder is given of a file.
fn pixels_of(bytes: &[u8], format: ImageFormat) -> Cow<'_, [u8]> {
    match format {
        ImageFormat::Png => Cow::Owned(png::essential(bytes)),
        _ => Cow::Borrowed(bytes),
    }
}

/// Most pixels that `bytes` of a format can hold. PNG packs 8 pixels of 1 bit in a byte and deflates that by at
/// most 1032; JPEG spends at least one bit on each block of 8x8; a code of GIF stands for at most 4096 pixels and
/// has 12 bits then; a run of BMP has 255 pixels in two bytes. TIFF may deflate as PNG does; WebP has no bound and
/// gets that of PNG.
fn pixels_max(format: ImageFormat, bytes: u64) -> u64 {
    match format {
        ImageFormat::Jpeg => 8 * 64 * bytes,
        ImageFormat::Png => 8 * 1032 * bytes,
        ImageFormat::Gif => PIXELS_FREE.max(2731 * bytes),
        ImageFormat::Bmp => PIXELS_FREE.max(128 * bytes),
        _ => PIXELS_FREE.max(8 * 1032 * bytes),
    }
}

/// Height and width, within the limits.
fn look(bytes: &[u8], format: ImageFormat) -> std::result::Result<(usize, usize), String> {
    if format == ImageFormat::Tiff && !tiff::tags_fit(bytes) {
        return Err(format!("a tag announces more values than a file of {} bytes can hold", bytes.len()));
    }
    let (width, height) = ImageReader::with_format(Cursor::new(bytes), format)
        .into_dimensions()
        .map_err(|e| cannot(format, &e))?;
    let pixels = u64::from(width) * u64::from(height);
    if pixels == 0 || pixels > PIXELS_MAX {
        return Err(format!("an image of 1 to {PIXELS_MAX} pixels was wanted, found {width}x{height}"));
    }
    if pixels > pixels_max(format, bytes.len() as u64) {
        return Err(format!("{} bytes cannot hold an image of {width}x{height} pixels", bytes.len()));
    }
    Ok((height as usize, width as usize))
}

fn decode_whole(bytes: &[u8], path: &Path, orientation: Orientation) -> Result<DynamicImage> {
    let decoded = || {
        let format = format(bytes)?;
        let bytes = &*pixels_of(bytes, format);
        let (height, width) = look(bytes, format)?;
        whole(bytes, format, orientation)?;
        let cannot = |e| cannot(format, &e);
        let mut limits = Limits::default();
        // 16-bit values with transparency, and as much again for the decoder.
        limits.max_alloc = Some(16 * (height * width) as u64 + (1 << 20));
        let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
        reader.limits(limits.clone());
        let mut decoder = reader.into_decoder().map_err(cannot)?;
        limits.reserve(decoder.total_bytes()).map_err(cannot)?;
        decoder.set_limits(limits).map_err(cannot)?;
        let turn = match orientation {
            Orientation::Ignored => None,
            // Damage in what describes an image is no damage of the image.
            Orientation::Applied => decoder.orientation().ok(),
        };
        let mut image = DynamicImage::from_decoder(decoder).map_err(cannot)?;
        turn.into_iter().for_each(|turn| image.apply_orientation(turn));
        Ok(image)
    };
    decoded().map_err(|what: String| Error::file(path, what))
}

fn cannot(format: ImageFormat, error: &image::ImageError) -> String {
    format!("the {} image cannot be decoded: {error}", file_kind::name(format))
}

/// What decoders pass over: data that end before the image does and, of users' own images, data that are left over.
fn whole(bytes: &[u8], format: ImageFormat, orientation: Orientation) -> std::result::Result<(), String> {
    let missing = match format {
        ImageFormat::Jpeg => jpeg::check(bytes, orientation == Orientation::Applied).err(),
        // The length of everything behind the first 8 bytes; the last byte may be padding.
        ImageFormat::WebP => bytes
            .get(4..8)
            .map(|b| 8 + u64::from(u32::from_le_bytes([b[0], b[1], b[2], b[3]])))
            .filter(|&length| length > bytes.len() as u64 + 1)
            .map(|length| format!("the file ends early: {} of {length} bytes are there", bytes.len())),
        _ => None,
    };
    match missing {
        None => Ok(()),
        Some(what) => Err(format!("the {} image cannot be decoded: {what}", file_kind::name(format))),
    }
}
