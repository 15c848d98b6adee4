//! What a file is, by its first bytes and not by its name.

use image::ImageFormat;

/// Bytes that decide.
pub const HEAD: usize = 1024;

/// The content of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A kind that is decoded.
    Image(ImageFormat),
    /// An image of a kind that is not decoded, by its name.
    OtherImage(&'static str),
    /// Something else, with its article: "an HTML page".
    Other(&'static str),
    Unknown,
}

impl FileKind {
    /// From the first [`HEAD`] bytes of a file, or all where there are fewer.
    pub fn of(head: &[u8]) -> FileKind {
        use FileKind::*;
        use ImageFormat::*;
        let at = |offset: usize, bytes: &[u8]| head.get(offset..).is_some_and(|rest| rest.starts_with(bytes));
        match head {
            [] => return Other("an empty file"),
            [0xff, 0xd8, 0xff, ..] => return Image(Jpeg),
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => return Image(Png),
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => return Image(Gif),
            [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] if !at(8, b"CR") => {
                return Image(Tiff);
            }
            [b'I', b'I', 42, 0, ..] => return OtherImage("Canon raw"),
            [b'I', b'I', b'R', ..] | [b'I', b'I', b'U', 0, ..] => return OtherImage("camera raw"),
            [0xff, 0x0a, ..] | [0, 0, 0, 12, b'J', b'X', b'L', b' ', ..] => return OtherImage("JPEG XL"),
            [0, 0, 0, 12, b'j', b'P', b' ', b' ', ..] | [0xff, 0x4f, 0xff, 0x51, ..] => {
                return OtherImage("JPEG 2000");
            }
            [b'8', b'B', b'P', b'S', ..] => return OtherImage("Photoshop"),
            [0, 0, 1, 0, 1..=64, 0, ..] => return OtherImage("ICO"),
            [b'q', b'o', b'i', b'f', ..] => return OtherImage("QOI"),
            [b'D', b'D', b'S', b' ', ..] => return OtherImage("DDS"),
            [0x76, 0x2f, 0x31, 0x01, ..] => return OtherImage("OpenEXR"),
            [b'#', b'?', b'R', b'A', b'D', ..] => return OtherImage("Radiance HDR"),
            [b'P', b'1'..=b'7', c, ..] if c.is_ascii_whitespace() => return OtherImage("PPM"),
            [b'%', b'P', b'D', b'F', ..] => return Other("a PDF document"),
            [b'P', b'K', 3 | 5, 4 | 6, ..] => return Other("a ZIP archive"),
            [0x1f, 0x8b, ..] => return Other("a gzip file"),
            [b'P', b'A', b'R', b'1', ..] => return Other("a Parquet file"),
            _ => {}
        }
        if at(0, b"RIFF") && at(8, b"WEBP") {
            return Image(WebP);
        }
        // The size of the second header tells a bitmap from text that starts with "BM".
        if at(0, b"BM") && head.get(14).is_some_and(|size| [12, 40, 52, 56, 64, 108, 124].contains(size)) {
            return Image(Bmp);
        }
        if at(4, b"ftyp") {
            return of_brands(&head[8..head.len().min(64)]);
        }
        if at(257, b"ustar") {
            return Other("a tar archive");
        }
        of_text(head)
    }

    /// The kind as the end of "this is …".
    pub fn describe(self) -> String {
        match self {
            FileKind::Image(format) => format!("a {} image", name(format)),
            FileKind::OtherImage(name) => {
                let article = if name.starts_with(['A', 'I', 'O']) || name == "SVG" { "an" } else { "a" };
                format!("{article} {name} image, which is not decoded here: convert it to JPEG or PNG")
            }
            FileKind::Other(what) => what.into(),
            FileKind::Unknown => "another kind of file".into(),
        }
    }
}

/// The name of a format that is decoded.
pub fn name(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Jpeg => "JPEG",
        ImageFormat::Png => "PNG",
        ImageFormat::WebP => "WebP",
        ImageFormat::Bmp => "BMP",
        ImageFormat::Gif => "GIF",
        ImageFormat::Tiff => "TIFF",
        _ => "other",
    }
}

/// ISO base media files: the major brand and the compatible ones (ISO/IEC 23008-12, AV1 Image File Format).
fn of_brands(brands: &[u8]) -> FileKind {
    let has = |names: &[&[u8; 4]]| brands.chunks_exact(4).any(|brand| names.iter().any(|n| *n == brand));
    if has(&[b"avif", b"avis"]) {
        FileKind::OtherImage("AVIF")
    } else if has(&[b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"]) {
        FileKind::OtherImage("HEIC")
    } else if has(&[b"crx "]) {
        FileKind::OtherImage("Canon raw")
    } else {
        FileKind::Other("a video")
    }
}

fn of_text(head: &[u8]) -> FileKind {
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    // Every character of UTF-8 text but the one that the end may have cut.
    let valid = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(e) if e.error_len().is_none() && e.valid_up_to() > 0 => {
            std::str::from_utf8(&head[..e.valid_up_to()]).unwrap_or("")
        }
        Err(_) => return FileKind::Unknown,
    };
    let text = valid.trim_start().to_ascii_lowercase();
    let is_markup = text.starts_with('<');
    if is_markup && text.contains("<svg") {
        FileKind::OtherImage("SVG")
    } else if is_markup && ["<html", "<!doctype html", "<head", "<body"].iter().any(|tag| text.contains(tag))
    {
        FileKind::Other("an HTML page")
    } else if is_markup && text.starts_with("<?xml") {
        FileKind::Other("an XML file")
    } else if text.starts_with("version https://git-lfs") {
        FileKind::Other("a Git LFS pointer and not the file itself (`git lfs pull` fetches it)")
    } else if valid.chars().any(|c| c.is_control() && !c.is_whitespace()) {
        FileKind::Unknown
    } else {
        FileKind::Other("a text file")
    }
}
