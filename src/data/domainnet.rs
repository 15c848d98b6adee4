//! DomainNet. Source: Peng et al. 2019, <http://ai.bu.edu/M3SDA/>.
//!
//! Per domain `<domain>_train.txt` and `<domain>_test.txt` with lines `<domain>/<class>/<file> <label>`, and
//! the pictures at those paths or, as downloaded, in `<domain>.zip`. The domains whose lists are there are
//! taken, in alphabetical order.

use super::folder;
use super::image_set::DataSet;
use super::listing::{self, ListedImage, Owner};
use super::parts::BySubset;
use super::source::Tree;
use crate::error::{Error, Result};

const NAME: &str = "domainnet";
const DOMAINS: [&str; 6] = ["clipart", "infograph", "painting", "quickdraw", "real", "sketch"];

/// The set from `dir` or its usual sub-folders.
///
/// # Errors
/// As [`super::load`].
pub fn load(dir: &str) -> Result<DataSet> {
    let dir = folder::open(dir, NAME)?;
    let lists = |root: &std::path::Path, domain: &str| {
        let paths = ["train", "test"].map(|part| root.join(format!("{domain}_{part}.txt")));
        paths.iter().all(|path| path.is_file()).then_some(paths)
    };
    let roots = ["", "domainnet", "DomainNet"].map(|sub| dir.join(sub));
    let root = roots.iter().find(|root| DOMAINS.iter().any(|domain| lists(root, domain).is_some()));
    let Some(root) = root else {
        let wanted = "clipart_train.txt and clipart_test.txt (also infograph, painting, quickdraw, real, sketch) in the folder itself or domainnet/";
        return Err(folder::not_found(dir, NAME, &[wanted.into()]));
    };
    let (mut parts, mut missing) = ([Vec::new(), Vec::new()], Vec::new());
    for domain in DOMAINS {
        let Some(paths) = lists(root, domain) else {
            missing.push(domain);
            continue;
        };
        let zip = root.join(format!("{domain}.zip"));
        let packed = !root.join(domain).is_dir() && zip.is_file();
        let archive = if packed { Some(Tree::open(&zip)?) } else { None };
        for (part, path) in parts.iter_mut().zip(&paths) {
            for row in listing::of_list(&folder::read(path, folder::FILE_BYTES_MAX)?, root, path)? {
                let source = match &archive {
                    None => row.source,
                    Some(tree) => tree.get(&row.name).cloned().ok_or_else(|| {
                        let what = format!("line {}: {} has no {}", row.line, zip.display(), row.name);
                        Error::file(path, what)
                    })?,
                };
                part.push(ListedImage { source, domain: Some(domain.into()), ..row });
            }
        }
    }
    let [train, test] = parts;
    let parts = BySubset { train, test, val: Vec::new() };
    let mut data = listing::data_set(NAME, parts, None, root, Owner::Published)?;
    if !missing.is_empty() {
        data.notes.push(format!("{} has no lists of the domains {}", root.display(), missing.join(", ")));
    }
    data.check()?;
    Ok(data)
}
