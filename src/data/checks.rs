//! What is wrong with the images of a set, before a run uses them: files that cannot be read, images that stand in
//! two parts or under two labels.

use std::collections::HashMap;

use super::cache::{Cache, Damage, Print};
use super::image_set::{DataSet, ImageSet};
use crate::error::{Error, Result};

/// Damaged files that are named; there may be a whole set of them.
const DAMAGED_SHOWN: usize = 100;
/// Images that are named in a note.
const SHOWN: usize = 5;

/// Checks every image file. Damaged ones are left out where `skip` says so.
///
/// # Errors
/// `Error::File` for one damaged file, `Error::Failed` with all of them for more.
pub fn files(data: &mut DataSet, skip: bool, cache: &mut Cache) -> Result<()> {
    let all = data.train.len() + data.test.len() + data.val.len();
    let mut damaged = Vec::new();
    for set in [&mut data.train, &mut data.test, &mut data.val] {
        let found = set.check_files(cache);
        if !found.is_empty() && skip {
            let mut keep = vec![true; set.len()];
            for Damage { index, error } in &found {
                keep[*index] = false;
                data.damaged.extend(set.path(*index).map(|path| (path, what(error))));
            }
            set.keep(&keep);
            damaged.extend(set.check_files(cache));
        } else {
            damaged.extend(found);
        }
    }
    if !data.damaged.is_empty() {
        data.notes.push(format!("{} of {all} image files are damaged and left out", data.damaged.len()));
    }
    let skipping = "`data.skip_damaged = true` leaves such files out";
    match damaged.as_slice() {
        [] => Ok(()),
        [Damage { error: Error::File { path, what }, .. }] => {
            Err(Error::file(path, format!("{what}; {skipping}")))
        }
        several => {
            let mut text =
                format!("{} of {all} image files of {} cannot be used:\n", several.len(), data.name);
            several.iter().take(DAMAGED_SHOWN).for_each(|d| text += &format!("  {}\n", d.error));
            if several.len() > DAMAGED_SHOWN {
                text += &format!("  and {} more\n", several.len() - DAMAGED_SHOWN);
            }
            Err(Error::failed(text + skipping))
        }
    }
}

fn what(error: &Error) -> String {
    match error {
        Error::File { what, .. } => what.clone(),
        other => other.to_string(),
    }
}

/// An image of a set.
#[derive(Clone, Copy)]
struct SetImage<'a> {
    set: &'a ImageSet,
    index: usize,
}

impl SetImage<'_> {
    fn label(self) -> u32 {
        self.set.labels[self.index]
    }

    fn shown(self) -> String {
        self.set.path(self.index).map_or(String::new(), |path| path.display().to_string())
    }

    /// Whether both have the same pixels.
    fn equals(self, other: SetImage) -> Result<bool> {
        Ok(self.set.image(self.index)? == other.set.image(other.index)?)
    }
}

/// Sentences about images of the test and validation parts that are training images as well, and about images
/// with two labels. Images are compared by their pixels.
///
/// # Errors
/// `Error::File` for a file that is gone.
pub fn overlap(data: &DataSet) -> Result<Vec<String>> {
    // By print: different images, or one with different labels, and whether it is trained on.
    let mut seen: HashMap<Print, Vec<(SetImage, bool)>> = HashMap::new();
    let (mut notes, mut two_labels) = (Vec::new(), Vec::new());
    for (part, set) in [("training", &data.train), ("test", &data.test), ("validation", &data.val)] {
        let (trains, mut shared) = (part == "training", Vec::new());
        for index in 0..set.len() {
            let (place, Some(print)) = (SetImage { set, index }, set.print(index)) else { continue };
            let mut equal = Vec::new();
            let candidates = seen.entry(print).or_default();
            for &(earlier, trained) in candidates.iter() {
                if place.equals(earlier)? {
                    equal.push((earlier, trained));
                }
            }
            if let Some((earlier, _)) = equal.iter().find(|(_, trained)| *trained && !trains) {
                shared.push(format!("{} (training: {})", place.shown(), earlier.shown()));
            }
            let same_label = equal.iter().any(|(earlier, _)| earlier.label() == place.label());
            if let [(earlier, _), ..] = *equal
                && !same_label
            {
                let named = |place: SetImage| {
                    format!("{} ({})", place.shown(), data.class_names[place.label() as usize])
                };
                two_labels.push(format!("{} and {}", named(earlier), named(place)));
            }
            if !same_label {
                candidates.push((place, trains));
            }
        }
        if !shared.is_empty() {
            notes.push(format!(
                "{} of {} {part} images have the pixels of a training image: {}",
                shared.len(),
                set.len(),
                first(&shared)
            ));
        }
    }
    if !two_labels.is_empty() {
        notes.push(format!(
            "images that stand under two labels: {}, {}",
            two_labels.len(),
            first(&two_labels)
        ));
    }
    Ok(notes)
}

/// The first of `items`, and how many more there are.
pub fn first(items: &[String]) -> String {
    let shown = items[..items.len().min(SHOWN)].join(", ");
    match items.len() - items.len().min(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
