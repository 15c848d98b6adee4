//! Several data sets one after the other, each with classes and a domain of its own (5-datasets).
//!
//! Labels of the i-th set follow those of the sets before it, as google-research/l2p @ dd8836e adds 10 i. Its
//! order is CIFAR-10, MNIST, SVHN, notMNIST, Fashion-MNIST (`libml/input_pipeline.py`, lines 797-799);
//! JH-LEE-KR/l2p-pytorch has SVHN, MNIST, CIFAR-10, notMNIST, Fashion-MNIST. Images keep their sizes and channels:
//! each is brought to the network's input by itself.

use super::cache::Cache;
use super::image_set::{DataSet, ImageSet};
use crate::config::schema::Data;
use crate::error::{Error, Result};

/// The data sets `config.joined`, all from `config.dir`, each read by `read`.
///
/// # Errors
/// Those of `read`; `Error::Config` for a word that is no data set.
pub fn load(
    config: &Data,
    cache: &mut Cache,
    mut read: impl FnMut(&Data, &mut Cache) -> Result<DataSet>,
) -> Result<DataSet> {
    let names = config.joined_names().map_err(Error::config)?;
    let parts: Result<Vec<DataSet>> =
        names.into_iter().map(|dataset| read(&Data { dataset, ..config.clone() }, cache)).collect();
    let data = join(parts?);
    data.check()?;
    Ok(data)
}

/// Puts data sets behind one another; classes are named `set/class`.
pub fn join(parts: Vec<DataSet>) -> DataSet {
    let mut all = DataSet {
        name: parts.iter().map(|part| part.name.as_str()).collect::<Vec<_>>().join("+"),
        ..DataSet::default()
    };
    for part in parts {
        let (classes, domain) = (all.class_names.len() as u32, all.domain_names.len() as u32);
        let add = |to: &mut ImageSet, mut set: ImageSet| {
            set.labels.iter_mut().for_each(|label| *label += classes);
            set.domains.fill(domain);
            to.append(set);
        };
        add(&mut all.train, part.train);
        add(&mut all.test, part.test);
        add(&mut all.val, part.val);
        all.class_names.extend(part.class_names.iter().map(|class| format!("{}/{class}", part.name)));
        all.domain_names.push(part.name);
        all.notes.extend(part.notes);
        all.split_here |= part.split_here;
    }
    all
}
