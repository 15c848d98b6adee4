//! Finding and reading the files of a data set; messages that say what was looked for and what is there.

use std::path::{Path, PathBuf};

use super::file_kind::{self, FileKind};
use crate::error::{Error, Result};

/// No file of the supported data sets comes near this size.
pub const FILE_BYTES_MAX: u64 = 2 << 30;
/// No deflate stream unpacks to more than this many times its size (zlib's "technical details").
pub const DEFLATE_RATIO_MAX: u64 = 1032;

/// One layout in which a data set is published.
pub struct FolderLayout<'a> {
    /// Sub-folders of the given folder to look in; the empty one is the folder itself.
    pub folders: &'a [&'a str],
    pub files: &'a [&'a str],
    /// Each file may also have `.gz` appended.
    pub or_gz: bool,
}

impl FolderLayout<'_> {
    /// Paths of all files, in the order of `files`, from the first sub-folder that has them all.
    pub fn find(&self, dir: &Path) -> Option<Vec<PathBuf>> {
        let found = |folder: &Path, name: &str| {
            let plain = folder.join(name);
            let packed = folder.join(format!("{name}.gz"));
            if plain.is_file() { Some(plain) } else { (self.or_gz && packed.is_file()).then_some(packed) }
        };
        self.folders.iter().find_map(|sub| {
            let folder = if sub.is_empty() { dir.to_path_buf() } else { dir.join(sub) };
            self.files.iter().map(|name| found(&folder, name)).collect()
        })
    }

    /// For messages.
    pub fn describe(&self) -> String {
        let folders: Vec<String> = self
            .folders
            .iter()
            .map(|sub| if sub.is_empty() { "the folder itself".into() } else { format!("{sub}/") })
            .collect();
        let gz = if self.or_gz { " (plain or .gz)" } else { "" };
        format!("{}{gz} in {}", self.files.join(", "), folders.join(" or "))
    }
}

/// Folders that are looked through for the files of a data set.
const SEARCHED_MAX: usize = 2000;
const SEARCH_DEPTH: usize = 4;

/// The folders below `dir`, itself first, then level by level; hidden ones and those of `avoid` are left out.
pub fn folders_below(dir: &Path, avoid: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let mut all = vec![dir.to_path_buf()];
    let mut level = 0..1;
    for _ in 0..SEARCH_DEPTH {
        for i in level.clone() {
            let Ok(entries) = std::fs::read_dir(&all[i]) else { continue };
            let mut below: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
            below.retain(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
                !name.starts_with('.') && !avoid(&name) && path.is_dir()
            });
            below.sort();
            below.truncate(SEARCHED_MAX.saturating_sub(all.len()));
            all.extend(below);
        }
        level = level.end..all.len();
    }
    all
}

/// Why a download cannot be what was wanted, where its content says so.
pub fn not_a_download(bytes: &[u8]) -> Option<String> {
    match FileKind::of(&bytes[..bytes.len().min(file_kind::HEAD)]) {
        FileKind::Other(what @ ("an HTML page" | "an empty file" | "an XML file")) => {
            Some(format!("the file is {what} and not the download; fetch it again"))
        }
        FileKind::Other(what) if what.contains("Git LFS") => Some(format!("the file is {what}")),
        _ => None,
    }
}

/// What an error of unpacking means.
pub fn unpacking(error: &std::io::Error) -> String {
    let text = error.to_string();
    // What `tar` says when a block is cut.
    if error.kind() == std::io::ErrorKind::UnexpectedEof || text.contains("read entire block") {
        return "the file ends early: the download is truncated".into();
    }
    text
}

/// The path of `data.dir`, a folder or a file.
///
/// # Errors
/// `Error::Config` when it is not set; `Error::File` when there is nothing.
pub fn given<'a>(dir: &'a str, data_set: &str) -> Result<&'a Path> {
    if dir.is_empty() {
        return Err(Error::config(format!(
            "data.dir is not set: data set {data_set} needs the folder of its files (`data.dir` or `--data-dir`)"
        )));
    }
    let path = Path::new(dir);
    match std::fs::metadata(path) {
        Ok(_) => Ok(path),
        Err(e) => Err(Error::file(path, format!("cannot open the folder of {data_set}: {e}"))),
    }
}

/// The folder of `data.dir`.
///
/// # Errors
/// As [`given`], and `Error::File` when it is not a folder.
pub fn open<'a>(dir: &'a str, data_set: &str) -> Result<&'a Path> {
    let path = given(dir, data_set)?;
    if !path.is_dir() {
        return Err(Error::file(path, format!("the folder of {data_set} was wanted, found a file")));
    }
    Ok(path)
}

/// The error for a folder in which nothing of what `wanted` describes is whole.
pub fn not_found(dir: &Path, data_set: &str, wanted: &[String]) -> Error {
    const SHOWN: usize = 12;
    let mut names: Vec<String> = match std::fs::read_dir(dir) {
        Ok(entries) => entries
            .flatten()
            .map(|entry| {
                let slash = if entry.path().is_dir() { "/" } else { "" };
                format!("{}{slash}", entry.file_name().to_string_lossy())
            })
            .collect(),
        Err(_) => Vec::new(),
    };
    names.sort();
    if let [only] = names.as_mut_slice()
        && only.ends_with('/')
        && let Ok(entries) = std::fs::read_dir(dir.join(&only))
    {
        let mut inside: Vec<String> =
            entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        inside.sort();
        inside.truncate(SHOWN);
        *only += &format!(" (with {})", inside.join(", "));
    }
    let more = names.len().saturating_sub(SHOWN);
    names.truncate(SHOWN);
    let mut there = if names.is_empty() { "nothing".into() } else { names.join(", ") };
    if more > 0 {
        there += &format!(" and {more} more");
    }
    Error::file(
        dir,
        format!("no {data_set} here. Looked for {}. The folder holds: {there}", wanted.join("; or ")),
    )
}

/// The text of a regular file.
///
/// # Errors
/// As [`read`], and when it is not UTF-8, with the offset.
pub fn read_text(path: &Path) -> Result<String> {
    text(read(path, FILE_BYTES_MAX)?, path)
}

/// `bytes` as text; `path` is only for messages.
///
/// # Errors
/// `Error::File` with the offset when they are not UTF-8.
pub fn text(bytes: Vec<u8>, path: &Path) -> Result<String> {
    String::from_utf8(bytes)
        .map_err(|e| Error::file(path, format!("offset {}: not UTF-8 text", e.utf8_error().valid_up_to())))
}

/// UTF-16 with its mark (Excel's "Unicode text") as UTF-8; other bytes as they are. `path` is only for messages.
///
/// # Errors
/// `Error::File` for UTF-16 that is none.
pub fn of_utf16(bytes: Vec<u8>, path: &Path) -> Result<Vec<u8>> {
    let unit: fn([u8; 2]) -> u16 = match bytes.as_slice() {
        [0xff, 0xfe, ..] => u16::from_le_bytes,
        [0xfe, 0xff, ..] => u16::from_be_bytes,
        _ => return Ok(bytes),
    };
    let units = bytes[2..].as_chunks::<2>().0.iter().map(|pair| unit(*pair));
    let text: std::result::Result<String, _> = char::decode_utf16(units).collect();
    text.map(String::into_bytes).map_err(|_| Error::file(path, "damaged UTF-16 text; save it as UTF-8"))
}

fn is_web_address(path: &Path) -> bool {
    ["http:", "https:"].iter().any(|scheme| path.starts_with(scheme))
}

/// The whole of a regular file.
///
/// # Errors
/// `Error::File` when it cannot be read, is not a regular file, or has more than `most` bytes.
pub fn read(path: &Path, most: u64) -> Result<Vec<u8>> {
    let meta = std::fs::metadata(path).map_err(|e| match is_web_address(path) {
        true => Error::file(path, "nothing is downloaded: save the file and give its path"),
        false => Error::file(path, format!("cannot be read: {e}")),
    })?;
    if !meta.is_file() {
        return Err(Error::file(path, "a file was wanted, found a folder or a device"));
    }
    if meta.len() > most {
        return Err(Error::file(path, format!("at most {most} bytes are read, the file has {}", meta.len())));
    }
    std::fs::read(path).map_err(|e| Error::file(path, format!("cannot be read: {e}")))
}
