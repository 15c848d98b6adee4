//! The part of MATLAB's level 5 format that SVHN's files use: real arrays of numbers, packed or not.
//! Source: MathWorks, "MAT-File Format", R2024a, chapter 1.
//!
//! Own code, like the pickles, because the input is a download: lengths are held against the file
//! before anything is allocated, and nothing recurses.

use std::io::Read;
use std::path::Path;

use super::folder::DEFLATE_RATIO_MAX;
use crate::error::{Error, Result};

const HEADER: usize = 128;
const MATRIX: u32 = 14;
const COMPRESSED: u32 = 15;
const NAME_MAX: u64 = 64;
const AXES_MAX: u64 = 8;

/// An array of whole numbers from 0 to 255.
#[derive(Debug)]
pub struct Array {
    /// Extents; the first varies fastest.
    pub dims: Vec<usize>,
    pub values: Vec<u8>,
}

type Parsed<T> = std::result::Result<T, String>;

/// The array `name`; `path` is only for messages.
///
/// # Errors
/// `Error::File` with the offset of the element that is damaged, too large for the file, or no array
/// of whole numbers from 0 to 255; or when there is no such array.
pub fn array(bytes: &[u8], path: &Path, name: &str) -> Result<Array> {
    let fail = |at: usize, what: String| Error::file(path, format!("offset {at}: {what}"));
    let little = match bytes.get(..HEADER).map(|header| (&header[124..126], &header[126..128])) {
        Some((b"\x00\x01", b"IM")) => true,
        Some((b"\x01\x00", b"MI")) => false,
        _ => {
            let what = format!("the header of a MATLAB 5 file was wanted, found {} other bytes", bytes.len());
            return Err(fail(0, what));
        }
    };
    let mut at = HEADER;
    while at < bytes.len() {
        let mut reader =
            MatReader { stream: Box::new(&bytes[at..]), left: (bytes.len() - at) as u64, little };
        let (kind, len) = reader.tag().map_err(|what| fail(at, what))?.long();
        let end = (at + 8).checked_add(len as usize).filter(|&end| end <= bytes.len()).ok_or_else(|| {
            fail(at, format!("an element of {len} bytes, the file has {} more", bytes.len() - at - 8))
        })?;
        let content = &bytes[at + 8..end];
        let found = match kind {
            MATRIX => MatReader { stream: Box::new(content), left: u64::from(len), little }.matrix(name),
            COMPRESSED => {
                let left = u64::from(len) * DEFLATE_RATIO_MAX;
                let stream = Box::new(flate2::read::ZlibDecoder::new(content));
                let mut reader = MatReader { stream, left, little };
                match reader.tag().map(Tag::long) {
                    Ok((MATRIX, len)) => {
                        reader.left = reader.left.min(u64::from(len));
                        reader.matrix(name)
                    }
                    Ok(_) => Ok(None),
                    Err(what) => Err(what),
                }
            }
            _ => Ok(None),
        };
        if let Some(array) = found.map_err(|what| fail(at, format!("in the element there: {what}")))? {
            return Ok(array);
        }
        // Elements start at multiples of 8, but not behind packed ones.
        at = if kind == COMPRESSED { end } else { end.next_multiple_of(8) };
    }
    Err(Error::file(path, format!("the file has no array `{name}`")))
}

/// What stands before data: their type and length; up to 4 bytes stand in the tag itself.
enum Tag {
    Long { kind: u32, len: u32 },
    Short { kind: u32, len: u32, data: [u8; 4] },
}

impl Tag {
    fn long(self) -> (u32, u32) {
        match self {
            Tag::Long { kind, len } | Tag::Short { kind, len, .. } => (kind, len),
        }
    }
}

struct MatReader<'a> {
    stream: Box<dyn Read + 'a>,
    /// Most bytes that can follow.
    left: u64,
    little: bool,
}

impl MatReader<'_> {
    fn bytes(&mut self, n: u64) -> Parsed<Vec<u8>> {
        if n > self.left {
            return Err(format!("{n} bytes were wanted, at most {} can follow", self.left));
        }
        let mut out = Vec::new();
        self.stream.by_ref().take(n).read_to_end(&mut out).map_err(|e| format!("cannot be unpacked: {e}"))?;
        if out.len() as u64 != n {
            return Err(format!("{n} bytes were wanted, found {}", out.len()));
        }
        self.left -= n;
        Ok(out)
    }

    fn number(&self, bytes: &[u8]) -> u32 {
        let bytes = [bytes[0], bytes[1], bytes[2], bytes[3]];
        if self.little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) }
    }

    fn tag(&mut self) -> Parsed<Tag> {
        let bytes = self.bytes(8)?;
        let (first, second) = (self.number(&bytes), self.number(&bytes[4..]));
        let (kind, len) = (first & 0xffff, first >> 16);
        Ok(match len {
            0 => Tag::Long { kind, len: second },
            1..=4 => Tag::Short { kind, len, data: [bytes[4], bytes[5], bytes[6], bytes[7]] },
            _ => return Err(format!("a short element of 1 to 4 bytes was wanted, found {len}")),
        })
    }

    /// Type and data of an element of at most `most` bytes.
    fn element(&mut self, what: &str, most: u64) -> Parsed<(u32, Vec<u8>)> {
        match self.tag()? {
            Tag::Short { kind, len, data } => Ok((kind, data[..len as usize].to_vec())),
            Tag::Long { len, .. } if u64::from(len) > most => {
                Err(format!("{what} of at most {most} bytes was wanted, found {len}"))
            }
            Tag::Long { kind, len } => {
                let data = self.bytes(u64::from(len))?;
                // The last element need not be filled up.
                let fill = u64::from(len.next_multiple_of(8) - len).min(self.left);
                self.bytes(fill)?;
                Ok((kind, data))
            }
        }
    }

    /// The array in the matrix element whose tag was read, if it has this name.
    fn matrix(&mut self, name: &str) -> Parsed<Option<Array>> {
        let (_, flags) = self.element("array flags", 8)?;
        if flags.len() != 8 {
            return Err(format!("array flags of 8 bytes were wanted, found {}", flags.len()));
        }
        let (_, dims) = self.element("extents", 4 * AXES_MAX)?;
        let dims: Vec<usize> = dims.chunks_exact(4).map(|b| self.number(b) as usize).collect();
        let (_, own_name) = self.element("a name", NAME_MAX)?;
        if own_name != name.as_bytes() {
            return Ok(None);
        }
        let flags = self.number(&flags);
        // Classes 6 to 15 are arrays of numbers; bit 11 says that imaginary parts follow.
        if !(6..=15).contains(&(flags & 0xff)) || flags & 0x800 != 0 {
            return Err(format!("`{name}`: an array of real numbers was wanted, found flags {flags:#x}"));
        }
        let count = dims.iter().try_fold(1usize, |n, &length| n.checked_mul(length));
        let (kind, data) = self.element(name, self.left)?;
        let wanted =
            |found: &str| format!("`{name}`: whole numbers from 0 to 255 were wanted, found {found}");
        let size = match kind {
            1 | 2 => 1,
            3 | 4 => 2,
            5..=7 => 4,
            9 => 8,
            _ => return Err(wanted(&format!("elements of type {kind}"))),
        };
        if count.and_then(|n| n.checked_mul(size)) != Some(data.len()) {
            return Err(format!("`{name}`: {} bytes do not fill {dims:?} values of {size}", data.len()));
        }
        if kind == 2 {
            return Ok(Some(Array { dims, values: data }));
        }
        let mut values = Vec::with_capacity(data.len() / size);
        for bytes in data.chunks_exact(size) {
            let number = value(kind, bytes, self.little);
            // NaN is not equal to itself.
            if f64::from(number as u8) != number {
                return Err(wanted(&number.to_string()));
            }
            values.push(number as u8);
        }
        Ok(Some(Array { dims, values }))
    }
}

/// A number of the type `kind`, 1 to 7 or 9.
fn value(kind: u32, bytes: &[u8], little: bool) -> f64 {
    match kind {
        1 => f64::from(bytes[0] as i8),
        2 => f64::from(bytes[0]),
        3 => f64::from(i16::from_le_bytes(lowest_first(bytes, little))),
        4 => f64::from(u16::from_le_bytes(lowest_first(bytes, little))),
        5 => f64::from(i32::from_le_bytes(lowest_first(bytes, little))),
        6 => f64::from(u32::from_le_bytes(lowest_first(bytes, little))),
        7 => f64::from(f32::from_le_bytes(lowest_first(bytes, little))),
        _ => f64::from_le_bytes(lowest_first(bytes, little)),
    }
}

fn lowest_first<const N: usize>(bytes: &[u8], little: bool) -> [u8; N] {
    let mut out: [u8; N] = std::array::from_fn(|i| bytes[i]);
    if !little {
        out.reverse();
    }
    out
}
