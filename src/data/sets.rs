//! The data sets: a row each, with the reader and the published numbers of images.
//!
//! Names and class counts are in `config::enums::DatasetName`, because a configuration is checked without images.

use super::cache::Cache;
use super::image_set::DataSet;
use super::{
    bundled, cifar, core50, cub200, domainnet, idx, imagenet_r, images, joined, notmnist, svhn, synthetic,
};
use crate::config::schema::{Data, DatasetName};
use crate::error::Result;

/// What a reader gets.
pub struct Source<'a> {
    /// `dir` is the folder; the limits of the other keys are applied after reading.
    pub config: &'a Data,
    /// Only matters for `synthetic`.
    pub seed: u64,
    /// Room for unpacked archives.
    pub cache: &'a mut Cache,
}

/// A data set.
pub struct Row {
    /// The set as its files hold it.
    pub read: fn(Source) -> Result<DataSet>,
    pub published: Published,
}

/// How many images a set has, known without its files.
pub enum Published {
    /// Not known: the set comes with the program, or is the user's.
    Unknown,
    /// Training and test images of each class.
    PerClass([&'static [usize]; 2]),
    /// Training and test images, as many of each class.
    Balanced(usize, usize),
    /// Training and test images; how many of each class is not published.
    Totals(usize, usize),
    /// Training and test images of each domain; how many of each class is not published.
    Domains(&'static [(&'static str, usize, usize)]),
    /// Those of the sets in `data.joined`.
    Joined,
}

/// The row of `name`.
pub fn row(name: DatasetName) -> Row {
    use Published::*;
    let (read, published): (fn(Source) -> Result<DataSet>, Published) = match name {
        DatasetName::MnistSubset => (|_| bundled::mnist(), Unknown),
        DatasetName::LettersSubset => (|_| bundled::letters(), Unknown),
        DatasetName::Mnist => (|from| idx::load_mnist(&from.config.dir), PerClass(MNIST)),
        DatasetName::FashionMnist => {
            (|from| idx::load_fashion_mnist(&from.config.dir), Balanced(60_000, 10_000))
        }
        DatasetName::Cifar10 => {
            (|from| cifar::load(&from.config.dir, &cifar::CIFAR10), Balanced(50_000, 10_000))
        }
        DatasetName::Cifar100 => {
            (|from| cifar::load(&from.config.dir, &cifar::CIFAR100), Balanced(50_000, 10_000))
        }
        DatasetName::Svhn => (|from| svhn::load(&from.config.dir), PerClass(SVHN)),
        // The whole images of notMNIST_small.
        DatasetName::NotMnist => (|from| notmnist::load(&from.config.dir, from.cache), Totals(14_979, 3_745)),
        DatasetName::Core50 => (|from| core50::load(&from.config.dir), Domains(&CORE50)),
        // 80 % of the 30,000 images are for training.
        DatasetName::ImageNetR => (|from| imagenet_r::load(&from.config.dir), Totals(24_000, 6_000)),
        DatasetName::Cub200 => (|from| cub200::load(&from.config.dir, from.cache), Totals(5_994, 5_794)),
        DatasetName::DomainNet => (|from| domainnet::load(&from.config.dir), Domains(&DOMAINNET)),
        DatasetName::Joined => (read_joined, Joined),
        DatasetName::Images => (|from| images::load(&from.config.dir), Unknown),
        DatasetName::Synthetic => (|from| Ok(synthetic::load(from.seed)), Unknown),
    };
    Row { read, published }
}

fn read_joined(from: Source) -> Result<DataSet> {
    let Source { config, seed, cache } = from;
    joined::load(config, cache, |config, cache| (row(config.dataset).read)(Source { config, seed, cache }))
}

/// MNIST: LeCun, Cortes & Burges.
const MNIST: [&[usize]; 2] = [
    &[5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
    &[980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
];
/// SVHN, cropped digits: Netzer et al. 2011.
const SVHN: [&[usize]; 2] = [
    &[4948, 13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659],
    &[1744, 5099, 4149, 2882, 2523, 2384, 1977, 2019, 1660, 1595],
];
/// DomainNet: its lists.
const DOMAINNET: [(&str, usize, usize); 6] = [
    ("clipart", 33_525, 14_604),
    ("infograph", 36_023, 15_582),
    ("painting", 50_416, 21_850),
    ("quickdraw", 120_750, 51_750),
    ("real", 120_906, 52_041),
    ("sketch", 48_212, 20_916),
];
/// CORe50: 119,894 images in 8 sessions for training and 44,972 in 3 for testing, spread evenly over the sessions.
const CORE50: [(&str, usize, usize); 11] = [
    ("s1", 14_987, 0),
    ("s2", 14_987, 0),
    ("s3", 0, 14_991),
    ("s4", 14_987, 0),
    ("s5", 14_986, 0),
    ("s6", 14_987, 0),
    ("s7", 0, 14_991),
    ("s8", 14_987, 0),
    ("s9", 14_987, 0),
    ("s10", 0, 14_990),
    ("s11", 14_986, 0),
];
