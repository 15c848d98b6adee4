//! Images, labels and domains, as the files hold them: unsigned bytes, height by width by channels.
//! Images of one size lie in memory; image files are decoded when they are asked for.

use std::borrow::Cow;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::cache::{Cache, Damage, Pack, Print};
use super::extension::Extension;
use super::image_file::{self, Orientation};
use super::source::FileSource;
use crate::error::{Error, Result};

/// One part (training or test) of a data set.
#[derive(Debug, Clone, Default)]
pub struct ImageSet {
    /// (n): positions in [`DataSet::class_names`].
    pub labels: Vec<u32>,
    /// (n): positions in [`DataSet::domain_names`].
    pub domains: Vec<u32>,
    /// Together n images.
    blocks: Vec<ImageBlock>,
}

/// Consecutive images that are stored in one way.
#[derive(Debug, Clone)]
enum ImageBlock {
    Memory(PixelArray),
    Files(ImageFiles),
}

/// Images of one size in memory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PixelArray {
    /// In pixels.
    pub height: usize,
    /// In pixels.
    pub width: usize,
    /// 1 (grey) or 3 (red, green, blue).
    pub channels: usize,
    /// (n, height, width, channels).
    pub bytes: Vec<u8>,
}

/// Image files, with their decoded images where the cache has them.
#[derive(Debug, Clone)]
struct ImageFiles {
    sources: Vec<FileSource>,
    orientation: Orientation,
    pack: Option<Pack>,
    /// By file, once they are checked.
    prints: Vec<Print>,
}

/// An image file with its label and domain, before it becomes part of a set.
#[derive(Debug, Clone)]
pub struct Sample {
    pub source: FileSource,
    pub label: u32,
    pub domain: u32,
}

/// One image; its pixels are (height, width, channels).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image<'a> {
    pub pixels: Cow<'a, [u8]>,
    pub height: usize,
    pub width: usize,
    pub channels: usize,
}

/// A borrowed image, (height, width, channels).
#[derive(Debug, Clone, Copy)]
pub struct ImageView<'a> {
    pub pixels: &'a [u8],
    pub height: usize,
    pub width: usize,
    pub channels: usize,
}

/// A data set as loaded, before it is split into tasks.
#[derive(Debug, Clone, Default)]
pub struct DataSet {
    pub name: String,
    pub train: ImageSet,
    pub test: ImageSet,
    /// Images for validation, where the files have such a part: never trained on and never part of the test set.
    pub val: ImageSet,
    /// By label.
    pub class_names: Vec<String>,
    /// By domain: sessions, styles, tasks of a list file. A set without domains has one.
    pub domain_names: Vec<String>,
    /// What a user should know, as sentences: files left out, a split made here.
    pub notes: Vec<String>,
    /// Training and test images were told apart here and not by the files; a run keeps the lists.
    pub split_here: bool,
    /// Files that were left out because they are damaged, and why; a run keeps the list.
    pub damaged: Vec<(PathBuf, String)>,
    /// Where classes were added to those of a run.
    pub extension: Option<Extension>,
}

impl Image<'_> {
    pub fn view(&self) -> ImageView<'_> {
        ImageView { pixels: &self.pixels, height: self.height, width: self.width, channels: self.channels }
    }
}

impl PixelArray {
    fn image_len(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.bytes.len().checked_div(self.image_len()).unwrap_or(0)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn image(&self, i: usize) -> Image<'_> {
        let pixels = Cow::Borrowed(&self.bytes[i * self.image_len()..(i + 1) * self.image_len()]);
        Image { pixels, height: self.height, width: self.width, channels: self.channels }
    }
}

impl ImageBlock {
    fn len(&self) -> usize {
        match self {
            ImageBlock::Memory(pixels) => pixels.len(),
            ImageBlock::Files(files) => files.sources.len(),
        }
    }
}

impl ImageFiles {
    fn image(&self, i: usize) -> Result<Image<'static>> {
        // Damaged pixels in the cache are no reason to stop: the file itself is there.
        if let Some((pixels, height, width)) = self.pack.as_ref().and_then(|pack| pack.read(i)) {
            return Ok(Image { pixels: Cow::Owned(pixels), height, width, channels: 3 });
        }
        let source = &self.sources[i];
        let (pixels, height, width) = image_file::decode(&source.read()?, &source.path(), self.orientation)?;
        Ok(Image { pixels: Cow::Owned(pixels), height, width, channels: 3 })
    }
}

impl ImageSet {
    /// Images of one size with their labels, all of the one domain.
    pub fn in_memory(pixels: PixelArray, labels: Vec<u32>) -> ImageSet {
        ImageSet { domains: vec![0; labels.len()], labels, blocks: vec![ImageBlock::Memory(pixels)] }
    }

    /// Labels of images that are not here: for planning, not for reading.
    pub fn without_images(domain: u32, labels: Vec<u32>) -> ImageSet {
        ImageSet { domains: vec![domain; labels.len()], labels, blocks: Vec::new() }
    }

    /// Labels and domains of its first `n` images: for planning, not for reading.
    pub fn labels_of_first(&self, n: usize) -> ImageSet {
        let (labels, domains) = (self.labels[..n].to_vec(), self.domains[..n].to_vec());
        ImageSet { labels, domains, blocks: Vec::new() }
    }

    /// Image files, whose pixels are taken as they are stored.
    pub fn of_files(samples: Vec<Sample>) -> ImageSet {
        ImageSet::of_files_with(samples, Orientation::Ignored)
    }

    /// Image files.
    pub fn of_files_with(samples: Vec<Sample>, orientation: Orientation) -> ImageSet {
        let labels = samples.iter().map(|sample| sample.label).collect();
        let domains = samples.iter().map(|sample| sample.domain).collect();
        let sources = samples.into_iter().map(|sample| sample.source).collect();
        ImageSet {
            labels,
            domains,
            blocks: vec![ImageBlock::Files(ImageFiles {
                sources,
                orientation,
                pack: None,
                prints: Vec::new(),
            })],
        }
    }

    /// Adds the images of `other` behind its own; labels and domains are kept as they are.
    pub fn append(&mut self, other: ImageSet) {
        self.labels.extend(other.labels);
        self.domains.extend(other.domains);
        self.blocks.extend(other.blocks);
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// All images, where they have one size and lie in memory.
    pub fn in_one_piece(&self) -> Option<&PixelArray> {
        match self.blocks.as_slice() {
            [ImageBlock::Memory(pixels)] => Some(pixels),
            _ => None,
        }
    }

    /// Image `i`. Panics when `i` is not below `len()`.
    ///
    /// # Errors
    /// `Error::File` when its file cannot be read or decoded.
    pub fn image(&self, i: usize) -> Result<Image<'_>> {
        match self.locate(i) {
            (ImageBlock::Memory(pixels), at) => Ok(pixels.image(at)),
            (ImageBlock::Files(files), at) => files.image(at),
        }
    }

    /// The path of image `i`'s file, where it has one of its own.
    pub fn path(&self, i: usize) -> Option<PathBuf> {
        match self.locate(i) {
            (ImageBlock::Memory(_), _) => None,
            (ImageBlock::Files(files), at) => Some(files.sources[at].path()),
        }
    }

    /// The block of image `i` and its position there.
    fn locate(&self, i: usize) -> (&ImageBlock, usize) {
        let mut at = i;
        for block in &self.blocks {
            if at < block.len() {
                return (block, at);
            }
            at -= block.len();
        }
        unreachable!("image {i} of {}", self.len())
    }

    /// Checks sizes, labels and domains; `what` names the set in the message.
    ///
    /// # Errors
    /// `Error::Failed` when there is no image, a size is zero, channels are not 1 or 3, the pixels do
    /// not fill the labelled images, or a label or domain is not below `classes` and `domains`.
    pub fn check(&self, what: &str, classes: usize, domains: usize) -> Result<()> {
        let fail = |text: String| Err(Error::failed(format!("{what}: {text}")));
        if self.is_empty() {
            return fail("no images".into());
        }
        for block in &self.blocks {
            let ImageBlock::Memory(PixelArray { height, width, channels, bytes }) = block else { continue };
            if ![1, 3].contains(channels) {
                return fail(format!("images must have 1 or 3 channels, found {channels}"));
            }
            let size = height.checked_mul(*width).and_then(|n| n.checked_mul(*channels));
            if size.is_none_or(|size| size == 0 || !bytes.len().is_multiple_of(size)) {
                return fail(format!("{} values are no images of {height}x{width}x{channels}", bytes.len()));
            }
        }
        let images: usize = self.blocks.iter().map(ImageBlock::len).sum();
        if images != self.len() || images != self.domains.len() {
            let (labels, domains) = (self.len(), self.domains.len());
            return fail(format!("{images} images, {labels} labels and {domains} domains must be as many"));
        }
        for (kind, values, limit) in [("label", &self.labels, classes), ("domain", &self.domains, domains)] {
            if let Some(i) = values.iter().position(|&value| value as usize >= limit) {
                return fail(format!("{kind} {} of image {i} is not below {limit}", values[i]));
            }
        }
        Ok(())
    }

    /// Keeps the first `per_class` images of each class in stored order (0: all).
    pub fn keep_per_class(&mut self, per_class: usize) {
        if per_class == 0 {
            return;
        }
        let classes = self.labels.iter().max().map_or(0, |&label| label as usize + 1);
        let mut kept_of = vec![0; classes];
        let keep: Vec<bool> = self
            .labels
            .iter()
            .map(|&label| {
                let kept = &mut kept_of[label as usize];
                *kept += 1;
                *kept <= per_class
            })
            .collect();
        self.keep(&keep);
    }

    /// Keeps the images whose entry is true.
    ///
    /// # Shapes
    /// keep: (n).
    pub fn keep(&mut self, keep: &[bool]) {
        assert_eq!(keep.len(), self.len());
        let mut first = 0;
        for block in &mut self.blocks {
            let part = &keep[first..first + block.len()];
            first += part.len();
            match block {
                ImageBlock::Memory(pixels) => {
                    let size = pixels.image_len();
                    let kept = (0..part.len()).filter(|&i| part[i]).enumerate();
                    let n = kept.map(|(to, i)| pixels.bytes.copy_within(i * size..(i + 1) * size, to * size));
                    let n = n.count();
                    pixels.bytes.truncate(n * size);
                    pixels.bytes.shrink_to_fit();
                }
                ImageBlock::Files(files) => {
                    retain(&mut files.sources, part);
                    (files.pack, files.prints) = (None, Vec::new());
                }
            }
        }
        self.blocks.retain(|block| block.len() > 0);
        retain(&mut self.labels, keep);
        retain(&mut self.domains, keep);
    }

    /// Checks all image files, and finds their decoded images in `cache` or puts them there. Files that cannot be
    /// used, by position.
    pub fn check_files(&mut self, cache: &mut Cache) -> Vec<Damage> {
        let (mut damages, mut start) = (Vec::new(), 0);
        for block in &mut self.blocks {
            let len = block.len();
            if let ImageBlock::Files(files) = block {
                match cache.check(&files.sources, files.orientation) {
                    Ok(checked) => (files.pack, files.prints) = (checked.pack, checked.prints),
                    Err(found) => damages.extend(
                        found.into_iter().map(|damage| Damage { index: start + damage.index, ..damage }),
                    ),
                }
            }
            start += len;
        }
        damages
    }

    /// What equal images have in common; `None` for images in memory and for files that were not checked.
    pub fn print(&self, i: usize) -> Option<Print> {
        match self.locate(i) {
            (ImageBlock::Files(files), at) => files.prints.get(at).copied(),
            (ImageBlock::Memory(_), _) => None,
        }
    }
}

fn retain<T>(items: &mut Vec<T>, keep: &[bool]) {
    let mut keep = keep.iter();
    items.retain(|_| *keep.next().expect("one entry per item"));
    items.shrink_to_fit();
}

impl DataSet {
    /// A data set without domains.
    pub fn new(
        name: impl Into<String>,
        train: ImageSet,
        test: ImageSet,
        class_names: Vec<String>,
    ) -> Result<DataSet> {
        let name = name.into();
        let domain_names = vec![name.clone()];
        let data = DataSet { name, train, test, class_names, domain_names, ..DataSet::default() };
        data.check()?;
        Ok(data)
    }

    /// Checks all parts; see [`ImageSet::check`].
    ///
    /// # Errors
    /// As there.
    pub fn check(&self) -> Result<()> {
        let (classes, domains) = (self.class_names.len(), self.domain_names.len());
        self.train.check(&format!("{}, training images", self.name), classes, domains)?;
        self.test.check(&format!("{}, test images", self.name), classes, domains)?;
        if self.val.is_empty() {
            return Ok(());
        }
        self.val.check(&format!("{}, validation images", self.name), classes, domains)
    }

    /// [`DataSet::select_labels`] for a set with images.
    ///
    /// # Errors
    /// As [`DataSet::check`].
    pub fn select_classes(&mut self, labels: &[u32]) -> Result<()> {
        self.select_labels(labels);
        self.check()
    }

    /// Keeps the classes with these labels, which are numbered anew in the order given.
    pub fn select_labels(&mut self, labels: &[u32]) {
        let mut new = vec![None; self.class_names.len()];
        labels.iter().enumerate().for_each(|(to, &label)| new[label as usize] = Some(to as u32));
        for set in [&mut self.train, &mut self.test, &mut self.val] {
            let keep: Vec<bool> = set.labels.iter().map(|&label| new[label as usize].is_some()).collect();
            set.keep(&keep);
            set.labels.iter_mut().for_each(|label| *label = new[*label as usize].unwrap_or_default());
        }
        self.class_names = labels.iter().map(|&label| self.class_names[label as usize].clone()).collect();
    }

    /// File names and contents that describe the parts, where [`DataSet::split_here`]: lists of lines `path
    /// class [domain]` separated by tabs, and the classes. Data set `images` reads them, where the images are no
    /// parts of archives.
    pub fn lists(&self) -> Vec<(&'static str, Vec<u8>)> {
        let list = |set: &ImageSet| {
            let mut text = Vec::new();
            for i in 0..set.len() {
                let Some(path) = set.path(i) else { continue };
                let path = std::path::absolute(&path).unwrap_or(path);
                text.extend_from_slice(path.as_os_str().as_bytes());
                text.push(b'\t');
                text.extend_from_slice(self.class_names[set.labels[i] as usize].as_bytes());
                if self.domain_names.len() > 1 {
                    text.push(b'\t');
                    text.extend_from_slice(self.domain_names[set.domains[i] as usize].as_bytes());
                }
                text.push(b'\n');
            }
            text
        };
        let classes: String = self.class_names.iter().map(|name| format!("{name}\n")).collect();
        let parts = [("train.txt", list(&self.train)), ("test.txt", list(&self.test))];
        parts.into_iter().chain([("classes.txt", classes.into_bytes())]).collect()
    }

    /// The lines `path`, tab, reason of [`DataSet::damaged`]; `None` where nothing was left out.
    pub fn damaged_list(&self) -> Option<Vec<u8>> {
        let line = |(path, what): &(PathBuf, String)| {
            [path.as_os_str().as_bytes(), b"\t", what.replace('\n', " ").as_bytes(), b"\n"].concat()
        };
        (!self.damaged.is_empty()).then(|| self.damaged.iter().flat_map(line).collect())
    }
}
