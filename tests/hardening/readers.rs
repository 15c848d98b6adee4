//! The readers, each with small intact files. `read` says whether a file was taken; an error must be a sentence.

use super::files::{encoded, gunzip, gzip};
use super::support::{OPTIONS, Store, fixture_bytes as fixture, npz as npz_of, read_npz, repository};
use l2p_engine::comm::wire;
use l2p_engine::config::Config;
use l2p_engine::config::schema::Data;
use l2p_engine::data::tasks::parse_class_order;
use l2p_engine::data::{self, cifar, idx, image_file, listing, source, svhn, tar_gz};
use l2p_engine::import::load_bytes;
use l2p_engine::import::ports::{self, Port};
use l2p_engine::output::{State, TensorData};
use l2p_engine::{Error, Result};
use std::path::{Path, PathBuf};

type Read = Box<dyn Fn(&[u8]) -> bool>;
type Named = (&'static str, fn() -> Reader);

pub struct Reader {
    pub name: &'static str,
    pub seeds: Vec<Vec<u8>>,
    pub read: Read,
    /// Bytes of memory that a byte of the file can justify, beyond a fixed part.
    pub ratio: usize,
    /// Bytes of memory that its pixels can justify: a small picture may stand on a large canvas.
    pub announced: fn(&[u8]) -> usize,
}

/// A deflated byte holds at most so many.
const DEFLATED: usize = 1032;

fn fixtures(names: &[&str]) -> Vec<Vec<u8>> {
    names.iter().map(|name| fixture(name)).collect()
}

fn reader(
    name: &'static str,
    seeds: Vec<Vec<u8>>,
    ratio: usize,
    read: impl Fn(&[u8]) -> bool + 'static,
) -> Reader {
    Reader { name, seeds, read: Box::new(read), ratio, announced: |_| 0 }
}

fn bad() -> &'static Path {
    Path::new("bad file")
}

fn taken<T>(result: Result<T>) -> bool {
    match result {
        Ok(_) => true,
        Err(error) => is_sentence(&error),
    }
}

/// False: the file is refused, in words.
fn is_sentence(error: &Error) -> bool {
    let text = error.to_string();
    // The longest lists the tensors of a checkpoint that do not fit.
    assert!(text.len() > 20 && text.len() < 10_000, "{} bytes: {text}", text.len());
    false
}

fn backbone(name: &'static str, seeds: Vec<Vec<u8>>, ratio: usize) -> Reader {
    let read = |bytes: &[u8]| match load_bytes("bad file", bytes, &OPTIONS) {
        Ok(backbone) => {
            assert!(backbone.tensors.values().all(|t| t.data.iter().all(|v| v.is_finite())));
            true
        }
        Err(error) => is_sentence(&error),
    };
    reader(name, seeds, ratio, read)
}

pub fn npz() -> Reader {
    let mut small = read_npz("golden/loader_checkpoint.npz");
    small.retain(|name, _| !name.contains("encoderblock") || name.contains("encoderblock_0/"));
    let seeds = [(Store::F32, false), (Store::F16, true)]
        .map(|(as_type, deflated)| npz_of(&small, as_type, deflated));
    backbone("npz", seeds.to_vec(), 2 * DEFLATED)
}

pub fn safetensors() -> Reader {
    let names = ["timm_vit", "hf_dinov2", "timm_reg3_positions"].map(|n| format!("import/{n}.safetensors"));
    backbone("safetensors", names.iter().map(|n| fixture(n)).collect(), 16)
}

pub fn torch() -> Reader {
    backbone("torch", fixtures(&["import/torch_plain.pth", "import/torch_nested.pt"]), 64)
}

/// Checkpoints of programs that train prompts, each as one of every program.
pub fn ports() -> Reader {
    let read = |bytes: &[u8]| {
        let of = [Port::L2pPytorch, Port::DualPromptPytorch, Port::CodaPrompt, Port::Pilot];
        of.into_iter().filter(|&port| taken(ports::read_bytes("bad file", bytes, port))).count() > 0
    };
    reader("ports", fixtures(&["adopt/l2p_pytorch.pth", "adopt/pilot_coda.pth"]), 64, read)
}

pub fn idx() -> Reader {
    let mut images = vec![0, 0, 8, 3, 0, 0, 0, 20, 0, 0, 0, 2, 0, 0, 0, 2];
    images.resize(16 + 20 * 4, 9);
    let mut labels = vec![0, 0, 8, 1, 0, 0, 0, 20];
    labels.resize(8 + 20, 3);
    let packed = [gzip(&images), gzip(&labels)];
    let whole = (images.clone(), labels.clone());
    let read = move |bytes: &[u8]| {
        let as_images = taken(idx::read_pair((bytes, bad()), (&whole.1, bad())));
        let as_labels = taken(idx::read_pair((&whole.0, bad()), (bytes, bad())));
        as_images || as_labels
    };
    let seeds = [vec![images, labels], packed.to_vec()].concat();
    reader("idx", seeds, 2 * DEFLATED, read)
}

pub fn cifar_pickle() -> Reader {
    let mut seeds = fixtures(&["data/cifar-10-batches-py/data_batch_1"]);
    for kind in ["bytes", "text"] {
        seeds.extend((2..=5).map(|protocol| fixture(&format!("data/pickles/{kind}_{protocol}"))));
    }
    let read =
        |bytes: &[u8]| taken(cifar::read_python(bytes, bad(), &cifar::CIFAR10, &mut Default::default()));
    reader("CIFAR pickle", seeds, 400, read)
}

pub fn cifar_binary() -> Reader {
    let seeds = fixtures(&["data/cifar-100-binary/test.bin"]);
    let read =
        |bytes: &[u8]| taken(cifar::read_binary(bytes, bad(), &cifar::CIFAR100, &mut Default::default()));
    reader("CIFAR binary", seeds, 16, read)
}

pub fn mat() -> Reader {
    let seeds = fixtures(&["data/svhn/train_32x32.mat", "data/svhn/test_32x32.mat"]);
    reader("mat", seeds, 3 * DEFLATED, |bytes| taken(svhn::read(bytes, bad())))
}

fn in_a_folder(name: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(name);
    (folder, path)
}

fn all_read(tree: Result<source::Tree>, bytes: usize) -> bool {
    match tree {
        Err(error) => is_sentence(&error),
        Ok(tree) => tree.files.iter().fold(true, |whole, (_, file)| match file.read() {
            Err(error) => is_sentence(&error),
            Ok(content) => {
                assert!(content.len() <= DEFLATED * bytes, "{} bytes out of {bytes}", content.len());
                whole
            }
        }),
    }
}

/// Zip and tar, which are opened by path.
pub fn archives() -> Reader {
    let seeds = fixtures(&["data/core50/core50_128x128.zip", "data/imagenet_r/imagenet-r.tar"]);
    let (folder, zip) = in_a_folder("a.zip");
    let tar = folder.path().join("a.tar");
    let read = move |bytes: &[u8]| {
        let _kept = &folder;
        let path = if bytes.starts_with(b"PK") { &zip } else { &tar };
        std::fs::write(path, bytes).expect("a written file");
        all_read(source::Tree::open(path), bytes.len())
    };
    reader("zip and tar", seeds, 2 * DEFLATED, read)
}

pub fn packed_archives() -> Reader {
    let seeds = fixtures(&["data/cub200/CUB_200_2011.tgz", "data/notmnist_small/notMNIST_small.tar.gz"]);
    let (folder, path) = in_a_folder("a.tgz");
    let config = Data { cache_gb: 0, ..Default::default() };
    let read = move |bytes: &[u8]| {
        let _kept = &folder;
        std::fs::write(&path, bytes).expect("a written file");
        // Outside, and inside.
        let packed = gzip(bytes);
        let outside = all_read(tar_gz::open(&path, &mut data::cache::Cache::of(&config)), bytes.len());
        std::fs::write(&path, packed).expect("a written file");
        let inside = all_read(tar_gz::open(&path, &mut data::cache::Cache::of(&config)), bytes.len());
        outside || inside
    };
    let seeds = [seeds.iter().map(|seed| gunzip(seed)).collect(), seeds].concat();
    reader("tar.gz", seeds, 3 * DEFLATED, read)
}

/// Decoders hold a picture in four bytes a pixel, or eight, beside the three of the result.
fn canvas(bytes: &[u8]) -> usize {
    image_file::dimensions(bytes, bad()).map_or(0, |(height, width)| 16 * height * width)
}

fn pictures(name: &'static str, seeds: Vec<Vec<u8>>, ratio: usize) -> Reader {
    let read = |bytes: &[u8]| {
        let known = taken(image_file::dimensions(bytes, bad()));
        match image_file::decode_rgb(bytes, bad()) {
            Ok((pixels, width, height)) => {
                assert_eq!(pixels.len(), 3 * width * height);
                known
            }
            Err(error) => is_sentence(&error),
        }
    };
    Reader { announced: canvas, ..reader(name, seeds, ratio, read) }
}

pub fn png() -> Reader {
    let names = ["alpha.png", "bits.png", "deep.png", "grey.png", "palette.png"];
    let mut seeds: Vec<_> = names.iter().map(|n| fixture(&format!("data/pictures/{n}"))).collect();
    seeds.push(encoded(image::ImageFormat::Png));
    pictures("png", seeds, 8 * DEFLATED)
}

pub fn jpeg() -> Reader {
    let names = ["rgb.jpg", "subsampled.jpg", "grey.jpg", "progressive.jpg"];
    let mut seeds: Vec<_> = names.iter().map(|n| fixture(&format!("data/pictures/{n}"))).collect();
    seeds.push(encoded(image::ImageFormat::Jpeg));
    pictures("jpeg", seeds, 8 * DEFLATED)
}

pub fn other_images() -> Reader {
    use image::ImageFormat::{Bmp, Gif, Tiff, WebP};
    pictures("bmp, gif, tiff, webp", [Bmp, Gif, Tiff, WebP].map(encoded).to_vec(), 8 * DEFLATED)
}

/// Lists of files, tables, and orders of classes.
pub fn lists() -> Reader {
    let seeds: [&[u8]; 3] = [
        b"a/b.png 1 x\nc.jpg\tcat\ty\n",
        b"path,label,task\na.png,1,x\n\"b,c.png\",2,y\n",
        b"# order\ndog\n0\nship\n",
    ];
    let names: Vec<String> = ["cat", "dog", "ship"].map(String::from).to_vec();
    let read = move |bytes: &[u8]| {
        let list = taken(listing::of_list(bytes, bad(), bad()));
        let table = taken(listing::of_csv(bytes, bad(), bad()));
        let order = taken(parse_class_order(&String::from_utf8_lossy(bytes), bad(), &names));
        list || table || order
    };
    reader("lists", seeds.map(<[u8]>::to_vec).to_vec(), 400, read)
}

pub fn toml() -> Reader {
    let configs = repository().join("configs");
    let read = |name: &str| std::fs::read(configs.join(name)).expect("a configuration");
    let seeds = ["default.toml", "cifar100_dualprompt.toml", "five_datasets_l2p.toml"].map(read).to_vec();
    let read = |bytes: &[u8]| taken(Config::from_toml(&String::from_utf8_lossy(bytes), "bad file"));
    reader("toml", seeds, 2000, read)
}

/// Parameters with their description, as one rank sends them to another and as a checkpoint holds them.
pub fn checkpoint() -> Reader {
    let state = State {
        step: 7,
        meta: serde_json::json!({ "task": 1, "classes": [3, 1] }),
        tensors: vec![
            ("params/head".into(), vec![2, 3], TensorData::F32(vec![0.5; 6])),
            ("m/head".into(), vec![6], TensorData::F64(vec![1.5; 6])),
        ],
    };
    let read = |bytes: &[u8]| taken(State::from_bytes(bytes));
    reader("checkpoint", vec![state.to_bytes().expect("bytes")], 100, read)
}

/// What one process of a run sends to another, once that has joined.
pub fn frames() -> Reader {
    use wire::{Frame, Hello, Launched, Message, Parts};
    let hello = Hello {
        engine: "0.1.0".into(),
        process: 1,
        processes: 2,
        ranks: 1,
        host: "here".into(),
        fingerprint: "0123abcd".into(),
    };
    let launched = Launched { ranks: vec![1, 1], hosts: vec!["here".into(); 2], rank_timeout_ms: 5 };
    let messages = [
        Message::Hello(hello),
        Message::Start(launched),
        Message::Refused { why: "another configuration".into() },
        Message::Call { number: 3, purpose: "sum".into() },
        Message::Ended { rank: 1, interrupted: None },
    ];
    let bytes = |message: Message| {
        let mut bytes = Vec::new();
        let frame = Frame { message, parts: Parts::new(vec![vec![7; 30], Vec::new(), vec![1, 2]]) };
        wire::write(&mut bytes, &frame).expect("memory");
        bytes
    };
    let read = |mut bytes: &[u8]| match wire::read(&mut bytes, wire::Limit::MEMBER) {
        Ok(_) => true,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            false
        }
    };
    reader("frames", messages.map(bytes).to_vec(), 100, read)
}

/// All readers. Each has a test in the deep lane and a target of cargo-fuzz.
pub const ALL: [Named; 17] = [
    ("npz", npz),
    ("safetensors", safetensors),
    ("torch", torch),
    ("ports", ports),
    ("idx", idx),
    ("cifar_pickle", cifar_pickle),
    ("cifar_binary", cifar_binary),
    ("mat", mat),
    ("archives", archives),
    ("packed_archives", packed_archives),
    ("png", png),
    ("jpeg", jpeg),
    ("other_images", other_images),
    ("lists", lists),
    ("toml", toml),
    ("checkpoint", checkpoint),
    ("frames", frames),
];
