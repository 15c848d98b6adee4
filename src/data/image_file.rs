//! One PNG or JPEG file.

use std::io::Cursor;
use std::path::Path;

use image::{DynamicImage, ImageFormat, ImageReader, Limits};

use super::folder;
use crate::error::{Error, Result};

/// No image file comes near this size.
pub const FILE_BYTES_MAX: u64 = 256 << 20;
const PIXELS_MAX: u64 = 100_000_000;
/// Most pixels per byte of file: PNG packs 8 pixels of 1 bit in a byte and deflates that by at most
/// 1032; JPEG spends at least one bit on each block of 8x8.
const PNG_PIXELS_PER_BYTE_MAX: u64 = 8 * 1032;
const JPEG_PIXELS_PER_BYTE_MAX: u64 = 8 * 64;

/// Pixels (height, width, 3), height and width. Grey is repeated to 3 channels, transparency ignored.
///
/// # Errors
/// `Error::File` when the file cannot be read, is neither PNG nor JPEG, is damaged, or has more than
/// 100 million pixels or more than its length can hold.
pub fn read_rgb(path: &Path) -> Result<(Vec<u8>, usize, usize)> {
    decode_rgb(&folder::read(path, FILE_BYTES_MAX)?, path)
}

/// [`read_rgb`] for the bytes of a file; `path` is only for messages.
pub fn decode_rgb(bytes: &[u8], path: &Path) -> Result<(Vec<u8>, usize, usize)> {
    let (format, height, width) = look(bytes, path)?;
    let image = decode(bytes, format, height * width, path)?.into_rgb8();
    Ok((image.into_raw(), height, width))
}

/// The same in one channel, (height, width).
pub fn decode_grey(bytes: &[u8], path: &Path) -> Result<(Vec<u8>, usize, usize)> {
    let (format, height, width) = look(bytes, path)?;
    let image = decode(bytes, format, height * width, path)?.into_luma8();
    Ok((image.into_raw(), height, width))
}

/// Height and width, from the file's head.
///
/// # Errors
/// As [`read_rgb`], but for damage behind the head.
pub fn dimensions(bytes: &[u8], path: &Path) -> Result<(usize, usize)> {
    look(bytes, path).map(|(_, height, width)| (height, width))
}

fn look(bytes: &[u8], path: &Path) -> Result<(ImageFormat, usize, usize)> {
    let fail = |what: String| Error::file(path, what);
    let (format, pixels_per_byte) = match image::guess_format(bytes) {
        Ok(format @ ImageFormat::Png) => (format, PNG_PIXELS_PER_BYTE_MAX),
        Ok(format @ ImageFormat::Jpeg) => (format, JPEG_PIXELS_PER_BYTE_MAX),
        _ => return Err(fail("a PNG or JPEG image was wanted, found another kind of file".into())),
    };
    let (width, height) = ImageReader::with_format(Cursor::new(bytes), format)
        .into_dimensions()
        .map_err(|e| fail(format!("the image cannot be decoded: {e}")))?;
    let pixels = u64::from(width) * u64::from(height);
    if pixels == 0 || pixels > PIXELS_MAX {
        return Err(fail(format!("an image of 1 to {PIXELS_MAX} pixels was wanted, found {width}x{height}")));
    }
    if pixels > pixels_per_byte * bytes.len() as u64 {
        return Err(fail(format!("{} bytes cannot hold an image of {width}x{height} pixels", bytes.len())));
    }
    Ok((format, height as usize, width as usize))
}

fn decode(bytes: &[u8], format: ImageFormat, pixels: usize, path: &Path) -> Result<DynamicImage> {
    let mut limits = Limits::default();
    // 16-bit values with transparency, and as much again for the decoder.
    limits.max_alloc = Some(16 * pixels as u64 + (1 << 20));
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits);
    reader.decode().map_err(|e| Error::file(path, format!("the image cannot be decoded: {e}")))
}
