//! Labels of the published data sets without their images: what a plan needs to know of them.
//!
//! Where the images per class are published they are those; where only totals are, the images are spread
//! evenly over the classes (and, for CORe50, the sessions).

use super::image_set::{DataSet, ImageSet};
use super::joined;
use super::sets::{self, Published};
use super::tasks;
use crate::config::schema::Data;

/// The labels and domains of `config.dataset`, limited as its images would be; `None` for sets that are not
/// published. A note says what is not exact. The images cannot be read.
pub fn labels(config: &Data) -> Option<DataSet> {
    let mut data = of(config)?;
    match tasks::selected(&config.classes.0, &data.class_names) {
        Ok(None) => {}
        Ok(Some(labels)) => data.select_labels(&labels),
        // Names are those of the files, which are not here; a list of names has as many classes.
        Err(_) => {
            let n = config.classes.0.len().min(data.class_names.len()) as u32;
            data.select_labels(&(0..n).collect::<Vec<u32>>());
            data.notes.push(format!("data.classes names {n} classes, the first {n} stand for them"));
        }
    }
    data.train.keep_per_class(config.train_per_class);
    data.test.keep_per_class(config.test_per_class);
    Some(data)
}

fn of(config: &Data) -> Option<DataSet> {
    let name = config.dataset.word();
    let published = sets::row(config.dataset).published;
    if let Published::Joined = published {
        let part = |dataset| of(&Data { dataset, ..config.clone() });
        let parts: Option<Vec<DataSet>> = config.joined_names().ok()?.into_iter().map(part).collect();
        return parts.map(joined::join);
    }
    let classes = config.dataset.classes()?;
    Some(match published {
        Published::PerClass([train, test]) => data_set(name, classes, part(0, train), part(0, test)),
        Published::Balanced(train, test) => spread(name, classes, &[(name, train, test)]),
        Published::Totals(train, test) => inexact(spread(name, classes, &[(name, train, test)])),
        Published::Domains(domains) => inexact(spread(name, classes, domains)),
        Published::Unknown | Published::Joined => return None,
    })
}

fn inexact(mut data: DataSet) -> DataSet {
    data.notes.push(format!("{}: images are spread evenly over the classes, which is not exact", data.name));
    data
}

/// Domains with so many training and test images, which are spread evenly over the classes.
fn spread(name: &str, classes: usize, domains: &[(&str, usize, usize)]) -> DataSet {
    let (mut train, mut test) = (ImageSet::default(), ImageSet::default());
    for (domain, &(_, trained, tested)) in domains.iter().enumerate() {
        let each =
            |n: usize| (0..classes).map(|k| (k + 1) * n / classes - k * n / classes).collect::<Vec<_>>();
        train.append(part(domain as u32, &each(trained)));
        test.append(part(domain as u32, &each(tested)));
    }
    let mut data = data_set(name, classes, train, test);
    data.domain_names = domains.iter().map(|(domain, ..)| domain.to_string()).collect();
    data
}

fn part(domain: u32, per_class: &[usize]) -> ImageSet {
    let labels: Vec<u32> =
        per_class.iter().enumerate().flat_map(|(k, &n)| std::iter::repeat_n(k as u32, n)).collect();
    ImageSet::without_images(domain, labels)
}

fn data_set(name: &str, classes: usize, train: ImageSet, test: ImageSet) -> DataSet {
    DataSet {
        name: name.into(),
        train,
        test,
        class_names: (0..classes).map(|k| format!("class {k}")).collect(),
        domain_names: vec![name.into()],
        ..DataSet::default()
    }
}
