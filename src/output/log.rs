//! `log.jsonl`: one JSON object per line with `event` and `step`. It is read by programs: `task` counts
//! from 0, as the arrays of `results.json` do, while everything printed for people counts from 1.

use super::atomic;
use crate::error::{Error, Result};
use serde_json::{Map, Value, json};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The log of a run, open for appending.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Log {
    /// Opens the log. On a resume `keep` is the length that the checkpoint recorded ([`Log::len`]):
    /// what was written after it is cut off, because those steps are done again. `None` starts an
    /// empty log. A log that is shorter than recorded is cut after its last whole line, with a
    /// sentence in `warnings`.
    ///
    /// # Errors
    /// [`Error::File`] if the file cannot be opened or cut.
    pub fn open(path: &Path, keep: Option<u64>, warnings: &mut Vec<String>) -> Result<Log> {
        let fail = |e: std::io::Error| Error::file(path, atomic::explain(&e, "opened for writing"));
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(fail)?;
        let found = file.metadata().map_err(fail)?.len();
        let wanted = keep.unwrap_or(0);
        let bytes = if found >= wanted {
            wanted
        } else {
            let mut text = Vec::new();
            file.read_to_end(&mut text).map_err(fail)?;
            let whole = text.iter().rposition(|b| *b == b'\n').map_or(0, |at| at as u64 + 1);
            warnings.push(format!(
                "{}: the checkpoint recorded {wanted} bytes, found {found}; lines are missing, the log goes on after byte {whole}",
                path.display()
            ));
            whole
        };
        file.set_len(bytes).map_err(fail)?;
        file.seek(SeekFrom::End(0)).map_err(fail)?;
        Ok(Log { path: path.to_path_buf(), file, bytes })
    }

    /// Appends one line: `event`, `step`, then the members of `fields`, which must be a JSON object
    /// or null.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be written.
    pub fn append(&mut self, event: &str, step: u64, fields: Value) -> Result<()> {
        let mut line = Map::new();
        line.insert("event".into(), json!(event));
        line.insert("step".into(), json!(step));
        match fields {
            Value::Object(fields) => {
                line.extend(fields.into_iter().filter(|(k, _)| k != "event" && k != "step"))
            }
            Value::Null => {}
            other => {
                line.insert("value".into(), other);
            }
        }
        let text = format!("{}\n", Value::Object(line));
        self.file
            .write_all(text.as_bytes())
            .map_err(|e| Error::file(&self.path, atomic::explain(&e, "written")))?;
        self.bytes += text.len() as u64;
        Ok(())
    }

    /// Waits until every line is on the disk: before a checkpoint records the length.
    ///
    /// # Errors
    /// [`Error::File`] if the disk refuses.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|e| Error::file(&self.path, atomic::explain(&e, "written")))
    }

    /// Length in bytes, for the checkpoint.
    pub fn len(&self) -> u64 {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }
}
