//! Files that are either the old one or the new one, whatever happens in between.

use crate::error::{Error, Result};
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// The end of the name of every file that is not yet whole.
pub const TEMPORARY: &str = ".tmp";

static NEXT: AtomicU64 = AtomicU64::new(0);

/// Replaces the contents of `path` with `bytes`: a temporary file beside it, flushed to the disk,
/// then renamed over it.
///
/// # Errors
/// [`Error::File`] saying what failed; `path` is then as it was and the temporary file is gone.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    write_with(path, |out| out.write_all(bytes))
}

/// [`write()`] with the contents produced piece by piece. `fill` may be handed a buffered writer.
///
/// # Errors
/// As [`write()`]; an error of `fill` too.
pub fn write_with(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let temporary = temporary_name(path)?;
    let done = write_and_rename(path, &temporary, fill);
    if done.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    done.map_err(|e| Error::file(path, explain(&e, "written")))
}

/// [`write()`] of `value` as JSON for people, with a newline at its end.
///
/// # Errors
/// As [`write()`].
pub fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::file(path, e))?;
    write(path, format!("{text}\n").as_bytes())
}

/// What [`write_json`] wrote; `what` the file should be, such as "a results.json".
///
/// # Errors
/// [`Error::File`] if the file cannot be read or is something else.
pub fn read_json<T: serde::de::DeserializeOwned>(path: &Path, what: &str) -> Result<T> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::file(path, explain(&e, "read")))?;
    serde_json::from_str(&text).map_err(|e| Error::file(path, format!("is not {what} of this engine: {e}")))
}

fn write_and_rename(
    path: &Path,
    temporary: &Path,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).open(temporary)?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    fill(&mut out)?;
    let file = out.into_inner().map_err(|e| e.into_error())?;
    file.sync_all()?;
    drop(file);
    std::fs::rename(temporary, path)?;
    sync_dir(path)
}

/// The rename itself is on the disk only when the folder is.
fn sync_dir(path: &Path) -> io::Result<()> {
    match File::open(folder_of(path))?.sync_all() {
        // Some network file systems cannot; the rename has happened all the same.
        Err(e) if matches!(e.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        other => other,
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn temporary_name(path: &Path) -> Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| Error::file(path, "this is not the name of a file"))?;
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let temporary = format!(".{}.{}.{number}{TEMPORARY}", name.to_string_lossy(), std::process::id());
    Ok(folder_of(path).join(temporary))
}

/// Removes temporary files that a killed run left in `folder`.
pub fn sweep(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') && name.ends_with(TEMPORARY) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// A sentence for an input/output error; `done` is what could not be done, such as "written".
pub fn explain(error: &io::Error, done: &str) -> String {
    let why = match error.kind() {
        ErrorKind::StorageFull => "the disk is full; free some space or choose another folder",
        ErrorKind::QuotaExceeded => "the disk quota is used up; free some space or choose another folder",
        ErrorKind::ReadOnlyFilesystem => "the file system is read-only; choose another folder",
        ErrorKind::PermissionDenied => "permission denied; check the owner and mode of the folder",
        ErrorKind::NotFound => "the file or its folder does not exist",
        ErrorKind::NotADirectory => "a part of the path is a file, not a folder",
        ErrorKind::IsADirectory | ErrorKind::DirectoryNotEmpty => "it is a folder, not a file",
        _ => return format!("cannot be {done}: {error}"),
    };
    format!("cannot be {done}: {why}")
}
