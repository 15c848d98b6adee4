//! Where the bytes of an image file are: a file of its own, or a part of a `.zip` or `.tar` archive,
//! which is read where it lies; a `.tar.gz` is unpacked to a `.tar` before ([`super::tar_gz`]).
//!
//! Names are text: what is not UTF-8 in a name is written `\xE4` ([`name_text`]), so that different names stay
//! different; the path itself keeps its bytes.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::folder;
use super::image_file::FILE_BYTES_MAX;
use crate::error::{Error, Result};

/// Folders in folders; more is a loop of links.
const DEPTH_MAX: usize = 8;
const FILES_MAX: usize = 20_000_000;

/// The bytes of one file.
#[derive(Debug, Clone)]
pub enum FileSource {
    File(PathBuf),
    Archived(Arc<TarArchive>, ArchiveEntry),
}

/// An open archive.
#[derive(Debug)]
pub struct TarArchive {
    path: PathBuf,
    file: File,
}

/// A range of an archive.
#[derive(Debug, Clone)]
pub struct ArchiveEntry {
    name: String,
    start: u64,
    len: u64,
    /// The length after unpacking, where the range is a deflate stream.
    unpacked: Option<u64>,
}

/// The files below a folder or in an archive, by relative path with `/`, sorted.
#[derive(Debug, Default)]
pub struct Tree {
    pub files: Vec<(String, FileSource)>,
    /// The names of all folders, also of those without a file.
    all_folders: BTreeSet<String>,
}

/// A file name as text.
pub fn name_text(name: &[u8]) -> String {
    let mut text = String::new();
    for chunk in name.utf8_chunks() {
        text.push_str(chunk.valid());
        chunk.invalid().iter().for_each(|byte| text.push_str(&format!("\\x{byte:02X}")));
    }
    text
}

impl FileSource {
    /// For messages: the file's path, or the archive's with the name inside.
    pub fn path(&self) -> PathBuf {
        match self {
            FileSource::File(path) => path.clone(),
            FileSource::Archived(archive, part) => archive.path.join(&part.name),
        }
    }

    /// The first `most` bytes, or all where there are fewer; empty for what cannot be read.
    pub fn head(&self, most: usize) -> Vec<u8> {
        let mut head = Vec::new();
        let read = match self {
            FileSource::File(path) if path.is_file() => {
                File::open(path).and_then(|file| file.take(most as u64).read_to_end(&mut head))
            }
            FileSource::File(_) => Ok(0),
            FileSource::Archived(archive, part) => {
                let mut bytes = vec![0; part.len.min(most as u64) as usize];
                let read = archive.file.read_exact_at(&mut bytes, part.start);
                match part.unpacked {
                    _ if read.is_err() => Ok(0),
                    None => {
                        head = bytes;
                        Ok(0)
                    }
                    // What was unpacked before the packed bytes ended stays.
                    Some(_) => flate2::read::DeflateDecoder::new(bytes.as_slice())
                        .take(most as u64)
                        .read_to_end(&mut head),
                }
            }
        };
        // A file that cannot be read shows when all of it is wanted.
        drop(read);
        head
    }

    /// The whole content.
    ///
    /// # Errors
    /// `Error::File` when it cannot be read, is larger than any image, or is damaged in the archive.
    pub fn read(&self) -> Result<Vec<u8>> {
        let FileSource::Archived(archive, part) = self else {
            return folder::read(&self.path(), FILE_BYTES_MAX);
        };
        let fail = |what: String| Error::file(self.path(), format!("offset {}: {what}", part.start));
        if part.len.max(part.unpacked.unwrap_or(0)) > FILE_BYTES_MAX {
            return Err(fail(format!("at most {FILE_BYTES_MAX} bytes are read, the file has {}", part.len)));
        }
        // `Tree` has checked the range against the archive's length.
        let mut bytes = vec![0; part.len as usize];
        archive
            .file
            .read_exact_at(&mut bytes, part.start)
            .map_err(|e| fail(format!("{} bytes cannot be read: {e}", part.len)))?;
        let Some(unpacked) = part.unpacked else { return Ok(bytes) };
        let mut out = Vec::new();
        let stream = flate2::read::DeflateDecoder::new(bytes.as_slice());
        match stream.take(unpacked + 1).read_to_end(&mut out) {
            Ok(_) if out.len() as u64 == unpacked => Ok(out),
            Ok(_) => Err(fail(format!("{unpacked} unpacked bytes were wanted, found {}", out.len()))),
            Err(e) => Err(fail(format!("cannot be unpacked: {e}"))),
        }
    }
}

impl Tree {
    /// The files below a folder, or in a `.zip` or `.tar` file.
    ///
    /// # Errors
    /// `Error::File` when the folder or archive cannot be read.
    pub fn open(path: &Path) -> Result<Tree> {
        let mut tree = Tree::default();
        match path.extension().and_then(|e| e.to_str()) {
            _ if path.is_dir() => tree.walk(path, "", 0)?,
            Some("zip") => tree.zip(path)?,
            Some("tar") => {
                let (archive, length) = open(path)?;
                tree.tar(path, archive, length)?;
            }
            _ => return Err(Error::file(path, "a folder, a .zip or a .tar file was wanted")),
        }
        Ok(tree.sorted())
    }

    /// The files in a tar archive of `length` bytes that lies in `file`; `path` is its name.
    ///
    /// # Errors
    /// `Error::File` for a damaged archive and for links and paths that lead out of it.
    pub fn of_tar(path: &Path, file: File, length: u64) -> Result<Tree> {
        let mut tree = Tree::default();
        tree.tar(path, Arc::new(TarArchive { path: path.to_path_buf(), file }), length)?;
        Ok(tree.sorted())
    }

    /// By path; of several parts with one path the last, as programs that unpack leave it.
    fn sorted(mut self) -> Tree {
        self.files.sort_by(|a, b| a.0.cmp(&b.0));
        self.files.dedup_by(|later, kept| {
            let same = later.0 == kept.0;
            if same {
                std::mem::swap(later, kept);
            }
            same
        });
        self
    }

    /// The same for some of the folder's sub-folders.
    ///
    /// # Errors
    /// As [`Tree::open`].
    pub fn open_parts(dir: &Path, parts: &[&str]) -> Result<Tree> {
        let mut tree = Tree::default();
        for part in parts {
            tree.walk(&dir.join(part), &format!("{part}/"), 1)?;
        }
        Ok(tree.sorted())
    }

    fn push(&mut self, name: String, source: FileSource, path: &Path) -> Result<()> {
        if self.files.len() == FILES_MAX {
            return Err(Error::file(path, format!("more than {FILES_MAX} files")));
        }
        self.files.push((name, source));
        Ok(())
    }

    fn walk(&mut self, dir: &Path, prefix: &str, depth: usize) -> Result<()> {
        let fail = |e: std::io::Error| Error::file(dir, format!("the folder cannot be read: {e}"));
        if depth > DEPTH_MAX {
            return Err(Error::file(dir, format!("more than {DEPTH_MAX} folders in one another")));
        }
        for entry in std::fs::read_dir(dir).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let name = name_text(entry.file_name().as_bytes());
            if is_hidden(&name) {
                continue;
            }
            let path = entry.path();
            let kind = entry.file_type().map_err(fail)?;
            if kind.is_dir() || kind.is_symlink() && path.is_dir() {
                self.all_folders.insert(format!("{prefix}{name}"));
                self.walk(&path, &format!("{prefix}{name}/"), depth + 1)?;
            } else {
                self.push(format!("{prefix}{name}"), FileSource::File(path), dir)?;
            }
        }
        Ok(())
    }

    fn zip(&mut self, path: &Path) -> Result<()> {
        let fail = |e: &dyn std::fmt::Display| Error::file(path, format!("no readable zip archive: {e}"));
        let (archive, length) = open(path)?;
        let mut zip = zip::ZipArchive::new(std::io::BufReader::new(&archive.file)).map_err(|e| fail(&e))?;
        for i in 0..zip.len() {
            let entry = zip.by_index_raw(i).map_err(|e| fail(&e))?;
            let name = zip_name(&entry);
            if is_hidden(&name) {
                continue;
            }
            if let Some(folder) = name.strip_suffix('/') {
                self.all_folders.insert(folder.to_string());
                continue;
            }
            let wanted =
                |what: &str| Error::file(path.join(&name), format!("entry {i} of the archive {what}"));
            let unpacked = match entry.compression() {
                _ if entry.encrypted() => return Err(wanted("is encrypted")),
                zip::CompressionMethod::Stored => None,
                zip::CompressionMethod::Deflated => Some(entry.size()),
                other => return Err(wanted(&format!("is packed with {other}, not stored or deflated"))),
            };
            let (start, len) = (entry.data_start().unwrap_or(u64::MAX), entry.compressed_size());
            if start.checked_add(len).is_none_or(|end| end > length) {
                return Err(wanted(&format!("ends behind the file of {length} bytes")));
            }
            let source = FileSource::Archived(
                archive.clone(),
                ArchiveEntry { name: name.clone(), start, len, unpacked },
            );
            drop(entry);
            self.push(name, source, path)?;
        }
        Ok(())
    }

    fn tar(&mut self, path: &Path, archive: Arc<TarArchive>, length: u64) -> Result<()> {
        let fail = |e: std::io::Error, last: &str| {
            let place = if last.is_empty() { String::new() } else { format!(" behind {}", shown(last)) };
            Error::file(path, format!("no readable tar archive{place}: {e}"))
        };
        (&archive.file).rewind().map_err(|e| fail(e, ""))?;
        let mut tar = tar::Archive::new(std::io::BufReader::new(&archive.file));
        let mut last = String::new();
        for entry in tar.entries_with_seek().map_err(|e| fail(e, ""))? {
            let entry = entry.map_err(|e| fail(e, &last))?;
            let name = name_text(&entry.path_bytes()).trim_start_matches("./").to_string();
            last.clone_from(&name);
            let kind = entry.header().entry_type();
            let refuse = |what| Error::file(path, format!("{} {what}", shown(&name)));
            if name.starts_with('/') || name.split('/').any(|part| part == "..") {
                return Err(refuse("leads out of the archive; it is not read"));
            }
            if kind.is_symlink() || kind.is_hard_link() {
                return Err(refuse("is a link; unpack the archive, links in it are not followed"));
            }
            if kind.is_dir() && !is_hidden(&name) {
                self.all_folders.insert(name.trim_end_matches('/').to_string());
            }
            if !kind.is_file() || is_hidden(&name) {
                continue;
            }
            let (start, len) = (entry.raw_file_position(), entry.size());
            if start.checked_add(len).is_none_or(|end| end > length) {
                let what =
                    format!("offset {start}: {len} bytes were wanted, the archive has {length} in all");
                return Err(Error::file(path.join(shown(&name)), what));
            }
            let part = ArchiveEntry { name: name.clone(), start, len, unpacked: None };
            self.push(name, FileSource::Archived(archive.clone(), part), path)?;
        }
        Ok(())
    }

    /// The tree below `prefix`, which ends with `/`; paths lose it.
    pub fn below(&self, prefix: &str) -> Tree {
        let inside = |(name, source): &(String, FileSource)| {
            name.strip_prefix(prefix).map(|rest| (rest.to_string(), source.clone()))
        };
        let folder = |name: &String| name.strip_prefix(prefix).map(String::from);
        let all_folders = self.all_folders.iter().filter_map(folder).collect();
        Tree { files: self.files.iter().filter_map(inside).collect(), all_folders }
    }

    /// The sorted names of the folders at the top in which there is no file, at any depth.
    pub fn empty_folders(&self) -> Vec<String> {
        let full = self.folders();
        let top = self.all_folders.iter().filter(|name| !name.contains('/'));
        top.filter(|name| !full.contains(&name.as_str())).cloned().collect()
    }

    /// The sorted names of the folders at the top.
    pub fn folders(&self) -> Vec<&str> {
        let mut names: Vec<&str> =
            self.files.iter().filter_map(|(name, _)| name.split_once('/').map(|(top, _)| top)).collect();
        names.dedup();
        names
    }

    /// Without the folders that everything lies in, as archives have them.
    pub fn without_common_folder(mut self) -> Tree {
        loop {
            let top = self.files.first().and_then(|(name, _)| name.split_once('/')).map(|(top, _)| top);
            let Some(prefix) = top.map(|top| format!("{top}/")) else { return self };
            if !self.files.iter().all(|(name, _)| name.starts_with(&prefix)) {
                return self;
            }
            self = self.below(&prefix);
        }
    }

    /// The file of this path.
    pub fn get(&self, name: &str) -> Option<&FileSource> {
        let i = self.files.binary_search_by(|(n, _)| n.as_str().cmp(name)).ok()?;
        Some(&self.files[i].1)
    }
}

/// The name of an entry with `/` between folders. Windows programs write `\\`, and names in the code page of the
/// machine, which is taken for the one that the format says (437).
fn zip_name<R: Read>(entry: &zip::read::ZipFile<R>) -> String {
    let raw = entry.name_raw();
    let name = match std::str::from_utf8(raw) {
        Ok(name) => name.to_string(),
        Err(_) => entry.name().map_or_else(|_| name_text(raw), |name| name.into_owned()),
    };
    name.replace('\\', "/")
}

fn open(path: &Path) -> Result<(Arc<TarArchive>, u64)> {
    let fail = |e| Error::file(path, format!("cannot be read: {e}"));
    let file = File::open(path).map_err(fail)?;
    let length = file.metadata().map_err(fail)?.len();
    Ok((Arc::new(TarArchive { path: path.to_path_buf(), file }), length))
}

/// The name of a part, for messages: it may be of any length.
pub fn shown(name: &str) -> String {
    name.chars().take(120).collect()
}

/// Hidden files, and what macOS and Windows leave in folders and archives.
fn is_hidden(name: &str) -> bool {
    name.split('/').any(|part| part.starts_with('.') || part == "__MACOSX" || part == "Thumbs.db")
}
