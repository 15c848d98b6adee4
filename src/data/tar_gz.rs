//! Files straight out of a `.tar.gz`, or of a `.tar` that was unpacked already.
//!
//! A few large files are unpacked in memory ([`read`]). Many pictures have to be read at any place, which
//! gzip does not allow: [`open`] unpacks the archive once, into the cache's folder, as a `.tar` named by the
//! SHA-256 of the archive; without a cache into a file that has no name and lives as long as it is open.
//! Behind the unpacked bytes are 1024 zeros (the end of a tar archive) and the CRC-32C of the key and all
//! before it.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::cache::{self, Cache, CacheFailure};
use super::file_kind;
use super::folder::{self, DEFLATE_RATIO_MAX};
use super::source::{self, Tree};
use crate::error::{Error, Result};

/// Pictures are packed already: their archives shrink by the headers and the padding, to a third where the
/// pictures are tiny. What unpacks to more than this many times its size, and this beside, holds none.
const PICTURES_RATIO_MAX: u64 = 32;
const PICTURES_BESIDE: u64 = 16 << 20;
const CHUNK: usize = 1 << 16;
const END: [u8; 1024] = [0; 1024];
/// Behind the unpacked bytes.
const TAIL: u64 = END.len() as u64 + 4;

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
    if let Some(what) = folder::not_a_download(bytes) {
        return Err(Error::file(path, what));
    }
    let fail = |e: io::Error| {
        Error::file(path, format!("the archive cannot be unpacked: {}", folder::unpacking(&e)))
    };
    let is_packed = !bytes.get(257..).is_some_and(|rest| rest.starts_with(b"ustar"));
    let stream: Box<dyn Read + '_> = match is_packed {
        true => Box::new(flate2::read::GzDecoder::new(bytes).take(limit)),
        false => Box::new(bytes),
    };
    let mut tar = tar::Archive::new(stream);
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

/// `name.tar.gz` or `name.tgz` in `dir`, where it is there.
pub fn find(dir: &Path, name: &str) -> Option<PathBuf> {
    ["tar.gz", "tgz"]
        .map(|ending| dir.join(format!("{name}.{ending}")))
        .into_iter()
        .find(|path| path.is_file())
}

/// The files of an archive of pictures, unpacked once per content.
///
/// # Errors
/// `Error::File` when the archive is damaged or cut, unpacks to more than an archive of pictures can, or
/// cannot be unpacked for want of room on the disk; as [`Tree::of_tar`].
pub fn open(path: &Path, cache: &mut Cache) -> Result<Tree> {
    let cannot = |e: io::Error| Error::file(path, format!("cannot be read: {e}"));
    let packed = File::open(path).map_err(cannot)?;
    let mut head = Vec::new();
    (&packed).take(file_kind::HEAD as u64).read_to_end(&mut head).map_err(cannot)?;
    if let Some(what) = folder::not_a_download(&head).filter(|_| !head.is_empty()) {
        return Err(Error::file(path, what));
    }
    if let Some(dir) = cache.dir.clone() {
        match cached(&packed, path, &dir, cache.limit) {
            Ok((file, length)) => return Tree::of_tar(path, file, length),
            Err(CacheFailure::Input(error)) => return Err(error),
            Err(CacheFailure::Disk(error)) => cache.notes.push(format!(
                "{} is unpacked by every run: {} cannot be written: {error}",
                path.display(),
                dir.display()
            )),
        }
    }
    let file = tempfile::tempfile();
    let unpacked = file.map_err(CacheFailure::Disk).and_then(|file| {
        let length = inflate(&packed, path, &file, &[0; 32])?;
        Ok((file, length))
    });
    match unpacked {
        Ok((file, length)) => Tree::of_tar(path, file, length),
        Err(CacheFailure::Input(error)) => Err(error),
        Err(CacheFailure::Disk(error)) => {
            let folder = std::env::temp_dir();
            let what = format!("cannot be unpacked to {}, set TMPDIR to another: {error}", folder.display());
            Err(Error::file(path, what))
        }
    }
}

/// The unpacked archive in the cache, put there if it is not, and its length.
fn cached(
    packed: &File,
    path: &Path,
    dir: &Path,
    limit: u64,
) -> std::result::Result<(File, u64), CacheFailure> {
    let key = digest(packed, path)?;
    let place = dir.join(format!("{}.tar", cache::hex(&key)));
    if let Some(whole) = whole(&place, &key) {
        return Ok(whole);
    }
    std::fs::create_dir_all(dir)?;
    cache::remove_old(dir);
    let temporary = tempfile::Builder::new().suffix(cache::TEMPORARY).tempfile_in(dir)?;
    let length = inflate(packed, path, temporary.as_file(), &key)?;
    if digest(packed, path)? != key {
        return Err(Error::file(path, "the file changed while it was read; start again").into());
    }
    if length > limit {
        // Without its name the file goes with the run.
        return Ok((temporary.into_file(), length));
    }
    temporary.as_file().sync_all()?;
    Ok((temporary.persist(&place).map_err(|e| e.error)?, length))
}

fn digest(mut file: &File, path: &Path) -> Result<[u8; 32]> {
    let mut digest = Sha256::new();
    let read = file.rewind().and_then(|()| io::copy(&mut BufReader::with_capacity(CHUNK, file), &mut digest));
    read.map_err(|e| Error::file(path, format!("cannot be read: {e}")))?;
    Ok(digest.finalize().into())
}

/// The file at `path`, if it is there and as [`inflate`] left it, and the length of what was unpacked.
fn whole(path: &Path, key: &[u8; 32]) -> Option<(File, u64)> {
    let mut file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len().checked_sub(TAIL)?;
    let (mut crc, mut buffer, mut left) = (crc32c::crc32c(key), vec![0; CHUNK], length + TAIL - 4);
    while left > 0 {
        let n = left.min(CHUNK as u64) as usize;
        file.read_exact(&mut buffer[..n]).ok()?;
        crc = crc32c::crc32c_append(crc, &buffer[..n]);
        left -= n as u64;
    }
    let mut stored = [0; 4];
    file.read_exact(&mut stored).ok()?;
    (crc.to_le_bytes() == stored).then_some((file, length))
}

/// Unpacks `packed` into `to`; the number of unpacked bytes.
fn inflate(
    mut packed: &File,
    path: &Path,
    to: &File,
    key: &[u8; 32],
) -> std::result::Result<u64, CacheFailure> {
    let cannot = |e: io::Error| Error::file(path, format!("cannot be read: {e}"));
    packed.rewind().map_err(cannot)?;
    let limit = packed.metadata().map_err(cannot)?.len().saturating_mul(PICTURES_RATIO_MAX) + PICTURES_BESIDE;
    let mut stream = flate2::read::GzDecoder::new(BufReader::with_capacity(CHUNK, packed));
    let mut out = BufWriter::new(to);
    let (mut crc, mut buffer, mut length) = (crc32c::crc32c(key), vec![0; CHUNK], 0);
    loop {
        let bad = match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                length += n as u64;
                crc = crc32c::crc32c_append(crc, &buffer[..n]);
                out.write_all(&buffer[..n])?;
                (length > limit)
                    .then(|| format!("more than {limit} bytes, which no archive of pictures does"))
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => None,
            Err(e) => Some(format!("{length} bytes and no more: {e}")),
        };
        if let Some(bad) = bad {
            out.flush()?;
            let place = last_part(to).map_or(String::new(), |name| format!(", in or behind {name}"));
            return Err(Error::file(path, format!("the archive unpacks to {bad}{place}")).into());
        }
    }
    crc = crc32c::crc32c_append(crc, &END);
    out.write_all(&END)?;
    out.write_all(&crc.to_le_bytes())?;
    out.flush()?;
    Ok(length)
}

/// The last name that a cut tar archive holds.
fn last_part(mut file: &File) -> Option<String> {
    file.rewind().ok()?;
    let mut tar = tar::Archive::new(BufReader::new(file));
    let entries = tar.entries_with_seek().ok()?;
    let names =
        entries.map_while(|entry| entry.ok().map(|e| String::from_utf8_lossy(&e.path_bytes()).into_owned()));
    names.last().map(|name| source::shown(&name))
}
