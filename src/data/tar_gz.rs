//! Files straight out of a `.tar.gz`.

use std::io::{self, Read};
use std::path::Path;

use super::folder::{self, DEFLATE_RATIO_MAX};
use crate::error::{Error, Result};

/// No archive that is read whole comes near this size.
const UNPACKED_MAX: u64 = 1 << 30;

/// The contents of `names` in `folder` of the archive, in that order.
///
/// # Errors
/// `Error::File` when the archive is damaged or cut, unpacks to more than 1 GiB, or lacks a file.
pub fn read(path: &Path, folder: &str, names: &[&str]) -> Result<Vec<Vec<u8>>> {
    unpack(&folder::read(path, folder::FILE_BYTES_MAX)?, path, folder, names)
}

/// [`read`] for the bytes of an archive; `path` is only for messages.
pub fn unpack(bytes: &[u8], path: &Path, folder: &str, names: &[&str]) -> Result<Vec<Vec<u8>>> {
    const SHOWN: usize = 12;
    let limit = (bytes.len() as u64).saturating_mul(DEFLATE_RATIO_MAX).min(UNPACKED_MAX);
    let fail = |e: io::Error| Error::file(path, format!("the archive cannot be unpacked: {e}"));
    let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(bytes).take(limit));
    let mut found: Vec<Option<Vec<u8>>> = vec![None; names.len()];
    let mut others = Vec::new();
    for entry in tar.entries().map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).trim_start_matches("./").to_string();
        let wanted = name.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/'));
        let Some(i) = wanted.and_then(|wanted| names.iter().position(|name| *name == wanted)) else {
            others.push(name);
            continue;
        };
        let (start, size) = (entry.raw_file_position(), entry.size());
        let mut content = Vec::new();
        entry.take(size).read_to_end(&mut content).map_err(fail)?;
        if content.len() as u64 != size {
            let found = content.len();
            let what = format!(
                "offset {start} of the unpacked data: {size} bytes of {name} were wanted, found {found}"
            );
            return Err(Error::file(path, what));
        }
        found[i] = Some(content);
    }
    // The rest of the stream: gzip checks its sum at the end.
    io::copy(&mut tar.into_inner(), &mut io::sink()).map_err(fail)?;
    if let Some(i) = found.iter().position(Option::is_none) {
        others.truncate(SHOWN);
        let there = if others.is_empty() { "nothing else".into() } else { others.join(", ") };
        let what =
            format!("the archive has no {folder}/{}; beside what was wanted it holds: {there}", names[i]);
        return Err(Error::file(path, what.chars().take(400).collect::<String>()));
    }
    Ok(found.into_iter().flatten().collect())
}
