//! Checks image files, and keeps decoded images of earlier runs.
//!
//! The images of a set lie in one file, named by the SHA-256 of the image files' contents, so that a changed file
//! or list is another name. It is written beside its place, flushed and renamed: two runs at once write the same
//! file twice, and a killed one leaves nothing that would be read. Sets that are too large for the cache are
//! checked once and then decoded when an image is needed; of them only the sizes are kept. Without a cache each
//! start decodes every image once. [`super::tar_gz`] keeps its unpacked archives in the same folder.
//!
//! `L2PPACK1`, key (32 bytes), number of images, 1 where pixels follow (two 64-bit little-endian
//! numbers); per image height, width and CRC-32C of its pixels (32 bits each); the CRC-32C of all
//! before it; the pixels, (height, width, 3) each.

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::image_file::{self, Orientation};
use super::source::FileSource;
use crate::config::schema::Data;
use crate::error::{Error, Result};

const MAGIC: &[u8; 8] = b"L2PPACK1";
/// Part of the key: another version may decode differently, or refuse what this one takes.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), ", 2");
const HEAD: usize = 8 + 32 + 8 + 8;
const ENTRY: usize = 12;
/// Decoded pixels held at once while a set is written.
const CHUNK_BYTES: u64 = 64 << 20;
pub(super) const TEMPORARY: &str = ".tmp";
/// Temporary files that old belong to runs that were killed.
const TEMPORARY_LIFE: Duration = Duration::from_secs(24 * 3600);

/// Where decoded images are kept, and how many.
#[derive(Debug)]
pub struct Cache {
    pub(super) dir: Option<PathBuf>,
    /// In bytes of decoded pixels per list of files, and of an unpacked archive.
    pub limit: u64,
    /// For the user: what could not be kept, and why.
    pub notes: Vec<String>,
}

/// The decoded images of one list of files.
#[derive(Debug, Clone)]
pub struct Pack(Arc<Open>);

#[derive(Debug)]
struct Open {
    file: File,
    images: Vec<PackedImage>,
    with_pixels: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct PackedImage {
    height: u32,
    width: u32,
    crc: u32,
    /// Of its pixels in the file.
    offset: u64,
}

impl PackedImage {
    fn bytes(&self) -> u64 {
        3 * u64::from(self.height) * u64::from(self.width)
    }

    fn print(&self) -> Print {
        Print { height: self.height, width: self.width, crc: self.crc }
    }
}

impl Pack {
    /// Pixels, height and width of image `i`; `None` where they are not kept or not what was written.
    pub fn read(&self, i: usize) -> Option<(Vec<u8>, usize, usize)> {
        let (image, file) = (self.0.images[i], &self.0.file);
        if !self.0.with_pixels {
            return None;
        }
        // `Cache::open` has checked the sum of the sizes against the file's length.
        let mut pixels = vec![0; image.bytes() as usize];
        file.read_exact_at(&mut pixels, image.offset).ok()?;
        (crc32c::crc32c(&pixels) == image.crc).then_some((
            pixels,
            image.height as usize,
            image.width as usize,
        ))
    }
}

/// The folder of this program in the user's cache; `None` where neither `XDG_CACHE_HOME` nor `HOME` says where.
pub fn user_folder() -> Option<PathBuf> {
    let given = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|dir| dir.is_absolute());
    let base = given.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")));
    base.map(|base| base.join("l2p-engine"))
}

impl Cache {
    /// The cache that `data.cache_dir` and `data.cache_gb` ask for.
    pub fn of(config: &Data) -> Cache {
        let dir =
            if config.cache_dir.is_empty() { user_folder() } else { Some(PathBuf::from(&config.cache_dir)) };
        let dir = dir.filter(|_| config.cache_gb > 0);
        Cache { dir, limit: (config.cache_gb as u64).saturating_mul(1_000_000_000), notes: Vec::new() }
    }

    /// Decodes all of `sources`, or finds them in a pack of files that were decoded.
    ///
    /// # Errors
    /// Every file that cannot be read or decoded, in order.
    pub fn check(
        &mut self,
        sources: &[FileSource],
        orientation: Orientation,
    ) -> std::result::Result<CheckedFiles, Vec<Damage>> {
        let digest = |source: &FileSource| -> Result<([u8; 32], u64)> {
            let bytes = source.read()?;
            let (height, width) = image_file::dimensions(&bytes, &source.path())?;
            Ok((Sha256::digest(&bytes).into(), 3 * height as u64 * width as u64))
        };
        let files = CheckedSources { sources, orientation, looked: sources.par_iter().map(digest).collect() };
        let whole = files.looked.iter().all(Result::is_ok);
        if let Some(dir) = self.dir.clone().filter(|_| whole) {
            match files.pack(&dir, self.limit) {
                Ok(open) => {
                    let prints = open.images.iter().map(PackedImage::print).collect();
                    return Ok(CheckedFiles { pack: Some(Pack(Arc::new(open))), prints });
                }
                Err(PackFailure::Damaged(damages)) => return Err(damages),
                Err(PackFailure::Disk(error)) => self.notes.push(format!(
                    "decoded images are not kept, each is decoded when it is needed: {} cannot be written: {error}",
                    dir.display()
                )),
            }
        }
        let mut prints = Vec::with_capacity(sources.len());
        let decoded = files.decode(|(pixels, height, width)| {
            prints.push(Print { height: height as u32, width: width as u32, crc: crc32c::crc32c(&pixels) });
            Ok(())
        });
        match decoded {
            Ok(()) => Ok(CheckedFiles { pack: None, prints }),
            Err(PackFailure::Damaged(damages)) => Err(damages),
            Err(PackFailure::Disk(_)) => unreachable!("nothing is written"),
        }
    }
}

/// Files that can be decoded.
#[derive(Debug)]
pub struct CheckedFiles {
    /// Their images, where there is a cache.
    pub pack: Option<Pack>,
    /// By file.
    pub prints: Vec<Print>,
}

/// What equal images have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Print {
    height: u32,
    width: u32,
    /// CRC-32C of the pixels.
    crc: u32,
}

/// A file that cannot be used.
#[derive(Debug)]
pub struct Damage {
    /// Its place among the files.
    pub index: usize,
    pub error: Error,
}

/// Files with their digests and the bytes of their pixels.
struct CheckedSources<'a> {
    sources: &'a [FileSource],
    orientation: Orientation,
    looked: Vec<Result<([u8; 32], u64)>>,
}

/// What stops a pack.
enum PackFailure {
    Damaged(Vec<Damage>),
    Disk(io::Error),
}

impl From<io::Error> for PackFailure {
    fn from(error: io::Error) -> PackFailure {
        PackFailure::Disk(error)
    }
}

impl CheckedSources<'_> {
    /// The pack of these files, all of which were looked at, in `dir`.
    fn pack(&self, dir: &Path, limit: u64) -> std::result::Result<Open, PackFailure> {
        let (mut key, mut total) = (Sha256::new(), 0);
        key.update(VERSION);
        if self.orientation == Orientation::Applied {
            key.update("upright");
        }
        for (digest, size) in self.looked.iter().flatten() {
            key.update(digest);
            total += size;
        }
        let key: [u8; 32] = key.finalize().into();
        let path = dir.join(format!("{}.pack", hex(&key)));
        match open(&path, &key, self.sources.len()) {
            // Sizes alone are enough only while the pixels do not fit: the limit may have been raised since.
            Some(open) if open.with_pixels || total > limit => Ok(open),
            _ => write(dir, &path, (&key, self.sources.len(), total <= limit), |out| {
                self.decode(|image| out.push(image))
            }),
        }
    }

    /// Hands the images to `take` in order; after a damaged file the rest is only checked.
    fn decode(
        &self,
        mut take: impl FnMut(DecodedBytes) -> io::Result<()>,
    ) -> std::result::Result<(), PackFailure> {
        let (mut damages, mut first) = (Vec::new(), 0);
        let size = |looked: &Result<([u8; 32], u64)>| looked.as_ref().map_or(0, |(_, size)| *size);
        while first < self.sources.len() {
            let mut held = 0;
            let fits = |looked: &&Result<([u8; 32], u64)>| {
                held += size(looked);
                held <= CHUNK_BYTES
            };
            let last = first + self.looked[first..].iter().take_while(fits).count().max(1);
            let one = |i: usize| match &self.looked[i] {
                Ok((digest, _)) => decode(&self.sources[i], digest, self.orientation),
                Err(error) => Err(error.clone()),
            };
            let decoded: Vec<Result<DecodedBytes>> = (first..last).into_par_iter().map(one).collect();
            for (index, image) in (first..last).zip(decoded) {
                match image {
                    Ok(image) if damages.is_empty() => take(image)?,
                    Ok(_) => {}
                    Err(error) => damages.push(Damage { index, error }),
                }
            }
            first = last;
        }
        if damages.is_empty() { Ok(()) } else { Err(PackFailure::Damaged(damages)) }
    }
}

/// A key as the name of a file.
pub(super) fn hex(key: &[u8; 32]) -> String {
    key.iter().map(|b| format!("{b:02x}")).collect()
}

type DecodedBytes = (Vec<u8>, usize, usize);

fn decode(source: &FileSource, digest: &[u8; 32], orientation: Orientation) -> Result<DecodedBytes> {
    let bytes = source.read()?;
    if Sha256::digest(&bytes).as_slice() != digest {
        return Err(Error::file(source.path(), "the file changed while it was read; start again"));
    }
    image_file::decode(&bytes, &source.path(), orientation)
}

/// What stops an unpacked archive: its input is bad, or it cannot be written.
pub(super) enum CacheFailure {
    Input(Error),
    Disk(io::Error),
}

impl From<Error> for CacheFailure {
    fn from(error: Error) -> CacheFailure {
        CacheFailure::Input(error)
    }
}

impl From<io::Error> for CacheFailure {
    fn from(error: io::Error) -> CacheFailure {
        CacheFailure::Disk(error)
    }
}

/// A pack while it is written.
struct Writing {
    out: BufWriter<File>,
    images: Vec<PackedImage>,
    with_pixels: bool,
}

impl Writing {
    fn push(&mut self, (pixels, height, width): DecodedBytes) -> io::Result<()> {
        let crc = crc32c::crc32c(&pixels);
        self.images.push(PackedImage { height: height as u32, width: width as u32, crc, offset: 0 });
        if self.with_pixels {
            self.out.write_all(&pixels)?;
        }
        Ok(())
    }
}

/// A temporary file in `dir` with `count` images, flushed to the disk and renamed to `path`.
fn write(
    dir: &Path,
    path: &Path,
    (key, count, with_pixels): (&[u8; 32], usize, bool),
    fill: impl FnOnce(&mut Writing) -> std::result::Result<(), PackFailure>,
) -> std::result::Result<Open, PackFailure> {
    std::fs::create_dir_all(dir)?;
    remove_old(dir);
    let temporary = tempfile::Builder::new().suffix(TEMPORARY).tempfile_in(dir)?;
    let mut file = temporary.as_file().try_clone()?;
    // The head has its place before the pixels; it is known only after them.
    file.seek(SeekFrom::Start(head_len(count) as u64))?;
    let mut writing = Writing { out: BufWriter::new(file), images: Vec::with_capacity(count), with_pixels };
    fill(&mut writing)?;
    let Writing { out, mut images, .. } = writing;
    let file = out.into_inner().map_err(|e| e.into_error())?;

    let mut head = Vec::with_capacity(head_len(count));
    head.extend_from_slice(MAGIC);
    head.extend_from_slice(key);
    head.extend_from_slice(&(count as u64).to_le_bytes());
    head.extend_from_slice(&u64::from(with_pixels).to_le_bytes());
    for image in &images {
        for value in [image.height, image.width, image.crc] {
            head.extend_from_slice(&value.to_le_bytes());
        }
    }
    head.extend_from_slice(&crc32c::crc32c(&head).to_le_bytes());
    file.write_all_at(&head, 0)?;
    file.sync_all()?;
    temporary.persist(path).map_err(|e| e.error)?;
    // Some network file systems cannot flush a folder; the rename has happened all the same.
    let _ = File::open(dir).and_then(|dir| dir.sync_all());
    place(&mut images);
    Ok(Open { file, images, with_pixels })
}

fn head_len(count: usize) -> usize {
    HEAD + count * ENTRY + 4
}

/// Sets the offsets; where the file must end.
fn place(images: &mut [PackedImage]) -> Option<u64> {
    let mut offset = head_len(images.len()) as u64;
    for image in images {
        image.offset = offset;
        offset = offset.checked_add(image.bytes())?;
    }
    Some(offset)
}

/// The pack at `path`, if it is there, whole, and of these images.
fn open(path: &Path, key: &[u8; 32], count: usize) -> Option<Open> {
    let file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    if length < head_len(count) as u64 {
        return None;
    }
    let mut head = vec![0; head_len(count)];
    file.read_exact_at(&mut head, 0).ok()?;
    let (head, crc) = head.split_at(head.len() - 4);
    let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| head[at + i]));
    let with_pixels = number(48) == 1;
    let right = crc32c::crc32c(head).to_le_bytes() == *crc
        && head[..8] == *MAGIC
        && head[8..40] == *key
        && number(40) == count as u64;
    if !right {
        return None;
    }
    let image = |entry: &[u8]| {
        let value = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| entry[at + i]));
        PackedImage { height: value(0), width: value(4), crc: value(8), offset: 0 }
    };
    let mut images: Vec<PackedImage> = head[HEAD..].chunks_exact(ENTRY).map(image).collect();
    let end = place(&mut images)?;
    (!with_pixels || end == length).then_some(Open { file, images, with_pixels })
}

/// Removes what killed runs left.
pub(super) fn remove_old(dir: &Path) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let age = entry.metadata().and_then(|meta| meta.modified()).ok().and_then(|at| at.elapsed().ok());
        let is_temporary = entry.file_name().to_string_lossy().ends_with(TEMPORARY);
        if is_temporary && age.is_some_and(|age| age > TEMPORARY_LIFE) {
            // Another run may have been faster.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
