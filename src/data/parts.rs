//! Which part of a data set a folder, a list or a word in a table stands for.

/// A part of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subset {
    Train,
    Test,
    Validation,
}

/// What belongs to each part, before or after it is a set.
#[derive(Debug, Clone, Default)]
pub struct BySubset<T> {
    pub train: T,
    pub test: T,
    pub val: T,
}

const TRAIN: [&str; 5] = ["train", "training", "trainset", "trn", "traindata"];
const TEST: [&str; 5] = ["test", "testing", "testset", "tst", "testdata"];
const VALIDATION: [&str; 6] = ["val", "valid", "validation", "validate", "valset", "dev"];
/// Words that may stand beside one of those.
const BESIDE: [&str; 12] =
    ["seg", "set", "data", "dataset", "image", "images", "img", "imgs", "split", "part", "list", "labels"];

impl Subset {
    /// The part that a name stands for, in any case: `train`, `Training`, `seg_train`, `test-images`.
    pub fn named(name: &str) -> Option<Subset> {
        let name = name.to_ascii_lowercase();
        let words = name.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
        let mut found = None;
        for word in words {
            let subset = match word {
                _ if TRAIN.contains(&word) => Subset::Train,
                _ if TEST.contains(&word) => Subset::Test,
                _ if VALIDATION.contains(&word) => Subset::Validation,
                _ if BESIDE.contains(&word) => continue,
                _ => return None,
            };
            if found.replace(subset).is_some() {
                return None;
            }
        }
        found
    }
}

impl<T> BySubset<T> {
    pub fn get_mut(&mut self, subset: Subset) -> &mut T {
        match subset {
            Subset::Train => &mut self.train,
            Subset::Test => &mut self.test,
            Subset::Validation => &mut self.val,
        }
    }
}

impl<T> BySubset<Vec<T>> {
    /// All items, part by part.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.train.iter().chain(&self.test).chain(&self.val)
    }
}
