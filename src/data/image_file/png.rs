//! PNG files without the chunks that no pixel depends on. Source: W3C, PNG (Third Edition), section 5.
//!
//! Texts, profiles and content credentials can be larger than the pixels by far, and damage in them does no harm.
//! The decoder is given the chunks of the image itself, so that its limits concern pixels only.

pub const SIGNATURE: &[u8; 8] = b"\x89PNG\r\n\x1a\n";
/// Chunks that are kept, beside the critical ones, if they are whole.
const KEPT: [&[u8; 4]; 8] = [b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"cICP", b"sBIT", b"bKGD", b"eXIf"];
/// Exif data in a JPEG segment have at most so many bytes.
const KEPT_BYTES_MAX: usize = 1 << 16;

/// The file without the other chunks, and with an end where everything else is there. A file whose pixels are cut
/// stays cut.
pub fn essential(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len().min(1 << 20));
    out.extend_from_slice(&bytes[..SIGNATURE.len().min(bytes.len())]);
    let mut at = SIGNATURE.len();
    while let Some(head) = bytes.get(at..at + 8) {
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let name: &[u8; 4] = head[4..].try_into().expect("four bytes");
        let critical = name[0].is_ascii_uppercase();
        let Some(chunk) = bytes.get(at..at.saturating_add(length).saturating_add(12)) else {
            if critical {
                out.extend_from_slice(&bytes[at..]);
                return out;
            }
            break;
        };
        let small = KEPT.contains(&name) && length <= KEPT_BYTES_MAX;
        if critical || small && crc(&chunk[4..8 + length]) == chunk[8 + length..] {
            out.extend_from_slice(chunk);
        }
        at += chunk.len();
        if name == b"IEND" {
            return out;
        }
    }
    out.extend_from_slice(b"\0\0\0\0IEND\xae\x42\x60\x82");
    out
}

fn crc(bytes: &[u8]) -> [u8; 4] {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum().to_be_bytes()
}
