//! Labels of the published data sets without their images: what a plan needs to know of them.
//!
//! Where the images per class are published they are those; where only totals are, the images are spread
//! evenly over the classes (and, for CORe50, the sessions).

use super::image_set::{DataSet, ImageSet};
use super::joined;
use super::tasks;
use crate::config::schema::{Data, DatasetName};

/// Images per class of MNIST (LeCun, Cortes & Burges) and of SVHN, cropped digits (Netzer et al. 2011).
const MNIST: [[usize; 10]; 2] = [
    [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
    [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
];
const SVHN: [[usize; 10]; 2] = [
    [4948, 13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659],
    [1744, 5099, 4149, 2882, 2523, 2384, 1977, 2019, 1660, 1595],
];
/// Training and test images of each domain of DomainNet (its lists).
const DOMAINNET: [(&str, usize, usize); 6] = [
    ("clipart", 33_525, 14_604),
    ("infograph", 36_023, 15_582),
    ("painting", 50_416, 21_850),
    ("quickdraw", 120_750, 51_750),
    ("real", 120_906, 52_041),
    ("sketch", 48_212, 20_916),
];
/// Sessions of CORe50 for training and for testing, of 11.
const CORE50: ([u32; 8], [u32; 3]) = ([1, 2, 4, 5, 6, 8, 9, 11], [3, 7, 10]);

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
    use DatasetName::*;
    let word = config.dataset.word();
    let even = |classes, train, test| Some(spread(word, classes, &[(word, train, test)]));
    let exact = |[train, test]: [[usize; 10]; 2]| Some(data_set(word, 10, part(0, &train), part(0, &test)));
    match config.dataset {
        Mnist => exact(MNIST),
        Svhn => exact(SVHN),
        FashionMnist => even(10, 60_000, 10_000),
        Cifar10 => even(10, 50_000, 10_000),
        Cifar100 => even(100, 50_000, 10_000),
        // The whole images of notMNIST_small; CORe50's published parts; 80 % of the 30,000 images.
        NotMnist => even(10, 14_979, 3_745).map(inexact),
        ImageNetR => even(200, 24_000, 6_000).map(inexact),
        Cub200 => even(200, 5_994, 5_794).map(inexact),
        DomainNet => Some(inexact(spread(word, 345, &DOMAINNET))),
        Core50 => {
            let (train, test) = (119_894, 44_972);
            let mut data = inexact(spread(word, 50, &[(word, train, test)]));
            data.domain_names = (1..=11).map(|session| format!("s{session}")).collect();
            for (set, sessions) in [(&mut data.train, &CORE50.0[..]), (&mut data.test, &CORE50.1[..])] {
                let n = set.domains.len();
                set.domains = (0..n).map(|i| sessions[i * sessions.len() / n] - 1).collect();
            }
            Some(data)
        }
        Joined => {
            let names = config.joined_names().ok()?;
            let part = |dataset| of(&Data { dataset, ..config.clone() });
            names.into_iter().map(part).collect::<Option<Vec<_>>>().map(joined::join)
        }
        MnistSubset | Images | Synthetic => None,
    }
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
