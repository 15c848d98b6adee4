//! The backbone of a run after either has moved.

use crate::error::{Error, Result};
use crate::import;
use std::path::{Path, PathBuf};

/// Folders above the run in which a relative path is looked for: `runs/name` is two below the folder that
/// `train` was started in.
const FOLDERS_ABOVE: usize = 4;

/// Where the backbone of the run in `workdir` lies now. `recorded` is the path in its configuration and `given`
/// the user's. A relative path is looked for below the current folder, the run's and those above it. Where it
/// leads to several files, the one with the checksum `sha256` counts.
///
/// # Errors
/// `Error::File` with the places that were tried, or if `given` is not the run's backbone.
pub fn locate_backbone(
    recorded: &str,
    given: Option<&str>,
    workdir: &Path,
    sha256: Option<&str>,
) -> Result<String> {
    let is_bundled = |path: &str| path.starts_with("bundled:");
    if let Some(given) = given {
        let found = if is_bundled(given) { None } else { Some(import::checksum(Path::new(given))?) };
        return match (found, sha256) {
            (Some(found), Some(wanted)) if found != wanted => Err(Error::file(
                given,
                format!(
                    "has the sha256 {found}; the run in {} was made on a backbone with {wanted}",
                    workdir.display()
                ),
            )),
            _ => Ok(given.to_string()),
        };
    }
    let path = Path::new(recorded);
    if is_bundled(recorded) || path.is_absolute() && path.exists() {
        return Ok(recorded.to_string());
    }
    let run = std::path::absolute(workdir).unwrap_or_else(|_| workdir.to_path_buf());
    let mut places = vec![path.to_path_buf()];
    if !path.is_absolute() {
        places.extend(run.ancestors().take(1 + FOLDERS_ABOVE).map(|folder| folder.join(path)));
    }
    // A file that moved together with its run.
    places.extend(path.file_name().map(|name| run.join(name)));
    let mut found: Vec<&PathBuf> = places.iter().filter(|place| place.exists()).collect();
    // The current folder may be one above the run.
    found.dedup_by_key(|place| std::fs::canonicalize(place).ok());
    let fits = |place: &&&PathBuf| match sha256 {
        Some(wanted) => import::checksum(place).is_ok_and(|found| found == wanted),
        None => true,
    };
    // Of one file the checksum is compared when it is loaded.
    let best = if found.len() < 2 { found.first() } else { found.iter().find(fits).or(found.first()) };
    match best {
        Some(place) => Ok(place.to_string_lossy().into_owned()),
        None => Err(Error::file(
            path,
            format!(
                "the backbone of the run in {} is not there, nor below the folders of the run; wanted the file with \
                 the sha256 {}; say where it is now with --init-checkpoint FILE",
                workdir.display(),
                sha256.unwrap_or("unknown")
            ),
        )),
    }
}
