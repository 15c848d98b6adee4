//! CORe50, 128x128. Source: Lomonaco & Maltoni 2017, <https://vlomonaco.github.io/core50/>.
//!
//! `s1` to `s11` are sessions (domains), in each `o1` to `o50` objects (classes), in each PNG files
//! `C_<session>_<object>_<frame>.png`; unpacked or in `core50_128x128.zip`. Sessions 3, 7 and 10 are for
//! testing; the others, in order, are the official tasks. Source: google-research/l2p @ dd8836e,
//! `input_pipeline.py`, line 857.

use super::folder;
use super::image_set::{DataSet, ImageSet, Sample};
use super::source::Tree;
use crate::error::{Error, Result};

const NAME: &str = "core50";
const FOLDER: &str = "core50_128x128";
const SESSIONS: u32 = 11;
const OBJECTS: u32 = 50;
const TEST_SESSIONS: [u32; 3] = [3, 7, 10];

/// The set from `dir` or its usual sub-folders.
///
/// # Errors
/// As [`super::load`].
pub fn load(dir: &str) -> Result<DataSet> {
    let dir = folder::open(dir, NAME)?;
    let zip = format!("{FOLDER}.zip");
    let at = |name: &str| ["", "core50"].map(|sub| dir.join(sub).join(name)).into_iter();
    let has_sessions = |path: &std::path::Path| path.join("s1").is_dir();
    let unpacked = at(FOLDER).chain([dir.to_path_buf()]).find(|path| has_sessions(path));
    let Some(path) = unpacked.or_else(|| at(&zip).find(|path| path.is_file())) else {
        let wanted = format!("{FOLDER}/ with s1/ to s{SESSIONS}/, or {zip}, in the folder itself or core50/");
        return Err(folder::not_found(dir, NAME, &[wanted]));
    };
    let tree = match path.is_dir() {
        true => Tree::open(&path)?,
        false => Tree::open(&path)?.without_common_folder(),
    };
    let number = |text: &str, letter: char, last: u32| -> Option<u32> {
        text.strip_prefix(letter)?.parse().ok().filter(|n| (1..=last).contains(n))
    };
    let mut samples: Vec<(u32, u32, Sample)> = Vec::new();
    for (name, source) in tree.files {
        let mut parts = name.split('/');
        let (session, object, file) = (parts.next(), parts.next(), parts.next());
        if !file.is_some_and(|file| file.ends_with(".png")) {
            continue;
        }
        let session = session.and_then(|text| number(text, 's', SESSIONS));
        let object = object.and_then(|text| number(text, 'o', OBJECTS));
        let (Some(session), Some(object)) = (session, object) else {
            let what = format!(
                "a path such as s1/o50/C_01_50_000.png was wanted; sessions go to {SESSIONS}, objects to {OBJECTS}"
            );
            return Err(Error::file(source.path(), what));
        };
        samples.push((session, object, Sample { source, label: object - 1, domain: session - 1 }));
    }
    // By number, not by name; frames stay in order.
    samples.sort_by_key(|&(session, object, _)| (session, object));
    let part = |test: bool| {
        let of_part = samples.iter().filter(|(session, ..)| TEST_SESSIONS.contains(session) == test);
        ImageSet::of_files(of_part.map(|(.., sample)| sample.clone()).collect())
    };
    let data = DataSet {
        name: NAME.into(),
        train: part(false),
        test: part(true),
        class_names: (1..=OBJECTS).map(|object| format!("o{object}")).collect(),
        domain_names: (1..=SESSIONS).map(|session| format!("s{session}")).collect(),
        ..DataSet::default()
    };
    data.check()?;
    Ok(data)
}
