//! `l2p-engine predict`.

use super::print;
use crate::error::{Error, Result};
use crate::learner::{Answer, SavedRun};
use clap::Args;
use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Classes listed per image.
const SHOWN: usize = 5;

/// Endings of image files, in any case; other files of a folder are left out.
const ENDINGS: &[&str] = &["png", "jpg", "jpeg", "jpe", "jfif", "webp", "bmp", "gif", "tif", "tiff"];

#[derive(Debug, Args)]
pub struct Predict {
    /// A work directory that `train` wrote, or a file that `export` wrote.
    #[arg(long, value_name = "DIR", default_value = "runs/default")]
    workdir: PathBuf,
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    #[arg(long, default_value = "auto")]
    device: String,
    /// Where the backbone lies now, if it has moved; its checksum must be the run's.
    #[arg(long, value_name = "FILE")]
    init_checkpoint: Option<String>,
    /// Print one JSON object per image.
    #[arg(long)]
    json: bool,
    /// Paths on standard input end with a zero byte instead of a line end, as `find -print0` writes them.
    #[arg(short = '0', long)]
    null: bool,
    /// Image files; folders, of which all images are taken, also those in folders below, by name; `-`: paths from
    /// standard input, one a line.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
}

impl Predict {
    pub fn run(self) -> Result<()> {
        let choice = super::device(&self.device)?;
        let mut saved = SavedRun::read(&self.workdir)?;
        saved.locate_backbone(self.init_checkpoint.as_deref())?;
        let choice = super::checked_to_answer(choice, &mut saved.config)?;
        let (mut files, mut failed) = (Vec::new(), 0);
        for given in self.given()? {
            let found = if given.is_dir() { images_in(&given) } else { Ok(vec![given]) };
            match found {
                Ok(found) => files.extend(found),
                Err(e) => failed += complain(&e),
            }
        }
        let all = files.len() + failed;
        if !files.is_empty() {
            let batch = saved.config.train.eval_batch_size.min(files.len());
            let mut learner = saved.learner(choice, batch)?;
            let names = learner.class_names.clone();
            learner.answer_files(&files, batch, |path, answer| match answer {
                Ok(answer) if self.json => print(&as_json(path, &answer, &names)),
                Ok(answer) => print(&as_line(path, &answer, &names)),
                Err(e) => failed += complain(&e),
            })?;
        }
        match failed {
            0 if all == 0 => Err(Error::failed("no image was named, so there is nothing to predict")),
            0 => Ok(()),
            _ => Err(Error::failed(format!("{failed} of {all} images could not be read"))),
        }
    }

    /// The paths of the command line, with those of standard input in the place of `-`.
    fn given(&self) -> Result<Vec<PathBuf>> {
        use crate::data::file_kind::{self, FileKind};
        let mut given = Vec::new();
        for path in &self.images {
            if path.as_os_str() != "-" {
                given.push(path.clone());
                continue;
            }
            let mut text = Vec::new();
            std::io::stdin()
                .read_to_end(&mut text)
                .map_err(|e| Error::failed(format!("standard input cannot be read: {e}")))?;
            // No path holds a zero byte.
            if !self.null && text.contains(&0) {
                let found = match FileKind::of(&text[..text.len().min(file_kind::HEAD)]) {
                    FileKind::Image(format) => {
                        format!("a {} image: save it and give its path", file_kind::name(format))
                    }
                    _ => "zero bytes; `-0` takes paths that end with them".into(),
                };
                return Err(Error::failed(format!(
                    "standard input: paths of images were wanted, one a line, found {found}"
                )));
            }
            let end = if self.null { 0 } else { b'\n' };
            let paths = text.split(|&byte| byte == end).map(|path| match self.null {
                true => path,
                false => path.strip_suffix(b"\r").unwrap_or(path),
            });
            given.extend(paths.filter(|path| !path.is_empty()).map(|path| PathBuf::from(os_string(path))));
        }
        Ok(given)
    }
}

/// Prints what is wrong with a file and counts it.
fn complain(error: &Error) -> usize {
    crate::output::say(&format!("l2p-engine: {error}"));
    1
}

#[cfg(unix)]
fn os_string(bytes: &[u8]) -> OsString {
    std::os::unix::ffi::OsStringExt::from_vec(bytes.to_vec())
}

#[cfg(not(unix))]
fn os_string(bytes: &[u8]) -> OsString {
    String::from_utf8_lossy(bytes).into_owned().into()
}

/// The image files in a folder and below it, by path. Links to folders are not followed.
fn images_in(dir: &Path) -> Result<Vec<PathBuf>> {
    let (mut files, mut folders) = (Vec::new(), vec![dir.to_path_buf()]);
    let unreadable = |dir: &Path, e| Error::file(dir, format!("the folder cannot be read: {e}"));
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir().map_err(|e| unreadable(&folder, e))? {
            let entry = entry.map_err(|e| unreadable(&folder, e))?;
            let (path, kind) = (entry.path(), entry.file_type().map_err(|e| unreadable(&folder, e))?);
            let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
            if kind.is_dir() {
                folders.push(path);
            } else if ending.is_some_and(|ending| ENDINGS.contains(&&*ending)) {
                files.push(path);
            }
        }
    }
    if files.is_empty() {
        let endings = ENDINGS.join(", .");
        return Err(Error::file(dir, format!("the folder holds no image file (wanted .{endings})")));
    }
    files.sort();
    Ok(files)
}

fn as_line(path: &Path, answer: &Answer, names: &[String]) -> String {
    let best: Vec<String> =
        answer.by_name(names).take(SHOWN).map(|(name, p)| format!("{name} {:.1} %", 100.0 * p)).collect();
    format!("{}: {}", path.display(), best.join(", "))
}

/// A path that is not UTF-8 has its exact bytes, in hexadecimal, beside the text that stands for it.
fn as_json(path: &Path, answer: &Answer, names: &[String]) -> String {
    let classes: Vec<_> = answer
        .by_name(names)
        .map(|(name, p)| serde_json::json!({ "class": name, "probability": p }))
        .collect();
    let mut line = serde_json::json!({ "image": path.to_string_lossy() });
    if path.to_str().is_none() {
        let bytes = path.as_os_str().as_encoded_bytes();
        line["image_bytes"] = bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into();
    }
    line["prompts"] = serde_json::json!(answer.prompts);
    line["classes"] = serde_json::json!(classes);
    line.to_string()
}
