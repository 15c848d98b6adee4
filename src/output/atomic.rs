//! Files whose contents are replaced as a whole: after a failure or a crash they are the old or the new ones.

use crate::error::{Error, Result};
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// The end of the names of temporary files.
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
    // A device or a pipe, such as /dev/stdout, has no contents to keep and must not be renamed over.
    if std::fs::metadata(path).is_ok_and(|m| !m.is_file() && !m.is_dir()) {
        let done = OpenOptions::new().write(true).open(path).and_then(|mut file| fill(&mut file));
        return done.map_err(|e| Error::file(path, explain(&e, "written")));
    }
    prepare(path, fill)?.commit()
}

/// New contents of a file that are on the disk beside it. Dropped without [`Prepared::commit`] they are removed.
#[derive(Debug)]
pub struct Prepared {
    path: PathBuf,
    temporary: PathBuf,
}

/// The first half of [`write_with`]: everything that a full disk can fail.
///
/// # Errors
/// As [`write_with`].
pub fn prepare(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<Prepared> {
    let prepared = Prepared { path: path.to_path_buf(), temporary: temporary_name(path)? };
    fill_and_sync(&prepared.temporary, fill).map_err(|e| Error::file(path, explain(&e, "written")))?;
    Ok(prepared)
}

impl Prepared {
    /// Replaces the file.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be replaced.
    pub fn commit(self) -> Result<()> {
        let done = std::fs::rename(&self.temporary, &self.path).and_then(|()| sync_dir(&self.path));
        done.map_err(|e| Error::file(&self.path, explain(&e, "written")))
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        // After a commit there is none.
        let _ = std::fs::remove_file(&self.temporary);
    }
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

fn fill_and_sync(temporary: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).open(temporary)?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    fill(&mut out)?;
    let file = out.into_inner().map_err(|e| e.into_error())?;
    file.sync_all()
}

/// Writes the folder to the disk, and with it the rename.
fn sync_dir(path: &Path) -> io::Result<()> {
    match File::open(folder_of(path))?.sync_all() {
        // Some network file systems do not support it; the rename has happened.
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

/// A sentence for an input or output error; `done` is the operation that failed, such as "written".
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
