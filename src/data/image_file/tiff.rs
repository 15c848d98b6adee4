//! Tags of a TIFF that announce more values than the file has bytes: the decoder makes room for them before it reads.
//! Source: TIFF 6.0 (Adobe 1992), section 2; BigTIFF (libtiff).

/// Numbers of a file in its byte order, by offset.
struct Numbers<'a> {
    bytes: &'a [u8],
    little: bool,
}

impl Numbers<'_> {
    /// `width` <= 8 bytes.
    fn at(&self, offset: u64, width: usize) -> Option<u64> {
        let start = usize::try_from(offset).ok()?;
        let bytes = self.bytes.get(start..start.checked_add(width)?)?;
        let join = |value: u64, &byte: &u8| value << 8 | u64::from(byte);
        Some(if self.little { bytes.iter().rev().fold(0, join) } else { bytes.iter().fold(0, join) })
    }
}

/// Whether the values of every tag of the first image can lie in the file. A directory that is cut off is left to the
/// decoder, which says more.
pub fn tags_fit(bytes: &[u8]) -> bool {
    let numbers = Numbers { bytes, little: bytes.starts_with(b"II") };
    all_fit(&numbers, bytes.len() as u64).unwrap_or(true)
}

fn all_fit(numbers: &Numbers, length: u64) -> Option<bool> {
    let is_big = numbers.at(2, 2)? == 43;
    let (directory, tags, entry) = if is_big {
        let directory = numbers.at(8, 8)?;
        (directory.checked_add(8)?, numbers.at(directory, 8)?, 20)
    } else {
        let directory = numbers.at(4, 4)?;
        (directory.checked_add(2)?, numbers.at(directory, 2)?, 12)
    };
    // Beyond the file there are no entries, however many are announced.
    for i in 0..tags.min(length / entry) {
        let at = directory.checked_add(i * entry)?;
        let size = match numbers.at(at + 2, 2)? {
            3 | 8 => 2,
            4 | 9 | 11 | 13 => 4,
            5 | 10 | 12 | 16..=18 => 8,
            _ => 1,
        };
        let count = numbers.at(at + 4, if is_big { 8 } else { 4 })?;
        if count.checked_mul(size).is_none_or(|values| values > length) {
            return Some(false);
        }
    }
    Some(true)
}
