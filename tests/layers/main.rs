//! The arrows of `docs/architecture.md`: which room of `src/` may know which other, that no files take names from
//! each other in a circle, where `unsafe` may stand, and what no room does. Reads the sources; needs nothing else.

mod circles;

use circles::Tree;
use std::path::{Path, PathBuf};

/// A room, or a part of one with arrows of its own, and the rooms it may name. Everything may name `error`.
const ARROWS: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("rng", &[]),
    ("device", &[]),
    ("tensor", &["device"]),
    ("ops", &["device", "tensor"]),
    // The pipeline of `data`, where the images lie on a device.
    ("ops/preprocess", &["ops", "device", "tensor", "data", "config", "rng"]),
    ("comm", &[]),
    ("config", &[]),
    ("data", &["config", "pickle", "rng"]),
    ("import", &["pickle"]),
    ("pickle", &[]),
    ("protobuf", &[]),
    ("onnx", &["protobuf"]),
    ("output", &["config", "protobuf", "tensor"]),
    ("nn", &["ops", "device", "tensor", "onnx", "rng"]),
    ("prompts", &["nn", "ops", "device", "tensor", "config", "onnx", "rng"]),
    ("network", &["prompts", "nn", "ops", "device", "tensor", "config", "onnx", "rng"]),
    ("optim", &["nn", "ops", "device", "tensor", "config"]),
    (
        "methods",
        &[
            "network", "prompts", "optim", "nn", "ops", "device", "tensor", "comm", "config", "onnx",
            "output", "rng",
        ],
    ),
    (
        "learner",
        &[
            "methods", "network", "prompts", "nn", "ops", "device", "tensor", "config", "data", "import",
            "onnx", "output", "rng",
        ],
    ),
    (
        "train",
        &[
            "learner", "methods", "network", "prompts", "optim", "nn", "ops", "device", "tensor", "comm",
            "config", "data", "import", "output", "rng",
        ],
    ),
    (
        "self_check",
        &[
            "testing", "learner", "methods", "network", "nn", "ops", "device", "tensor", "config", "data",
            "output", "rng",
        ],
    ),
    ("serve", &["train", "learner", "device", "data", "output"]),
    (
        "cli",
        &[
            "self_check",
            "serve",
            "train",
            "learner",
            "methods",
            "ops",
            "device",
            "tensor",
            "comm",
            "config",
            "data",
            "import",
            "output",
        ],
    ),
    ("testing", &["ops", "device", "tensor", "rng", "data", "config"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            all.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            all.push(path);
        }
    }
    all.sort();
    all
}

/// Lines of code, numbered, without comments.
fn code(text: &str) -> Vec<(usize, String)> {
    text.lines().enumerate().map(|(i, l)| (i + 1, l.split("//").next().unwrap_or("").to_string())).collect()
}

fn first_word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The rooms that a file names and the lines where it does: after `crate::`, also in braces that span
/// lines.
fn named(text: &str) -> Vec<(usize, String)> {
    let lines: Vec<String> = code(text).into_iter().map(|(_, line)| line).collect();
    let whole = lines.join("\n");
    let mut rooms = Vec::new();
    for (at, _) in whole.match_indices("crate::") {
        let number = whole[..at].matches('\n').count() + 1;
        let after = &whole[at + "crate::".len()..];
        let Some(list) = after.strip_prefix('{') else {
            rooms.push((number, first_word(after)));
            continue;
        };
        let (mut depth, mut item) = (1, 0);
        for (i, c) in list.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            // The first word of each item is a room; what follows `::` is that room's own affair.
            if depth == 0 || (depth == 1 && c == ',') {
                rooms.push((number, first_word(list[item..i].trim())));
                item = i + 1;
            }
            if depth == 0 {
                break;
            }
        }
    }
    rooms
}

fn arrow_violations(room: &str, text: &str) -> Vec<String> {
    let allowed = ARROWS.iter().find(|(r, _)| *r == room).map(|(_, a)| *a);
    let Some(allowed) = allowed else { return vec![format!("room `{room}` has no line in ARROWS")] };
    let mut found = Vec::new();
    for (number, other) in named(text) {
        let is_room = ARROWS.iter().any(|(r, _)| *r == other);
        let may = other == room || other == "error" || allowed.contains(&other.as_str());
        if is_room && !may {
            found.push(format!("line {number}: `{room}` may not know `{other}`"));
        }
    }
    found
}

/// No files take names from each other in a circle; every circle is listed with the names.
#[test]
fn no_circles_between_files() {
    let root = root();
    let found = Tree::of(&root, &sources(&root)).circles();
    let text: Vec<String> = found
        .iter()
        .map(|circle| format!("{}\n    {}", circle.files.join(", "), circle.arrows.join("\n    ")))
        .collect();
    assert!(text.is_empty(), "circles of files below src/:\n{}", text.join("\n"));
}

fn each_source(check: impl Fn(&str, &str, &str) -> Vec<String>) {
    let root = root();
    let mut found = Vec::new();
    let mut seen = 0;
    for path in sources(&root) {
        let relative = path.strip_prefix(&root).expect("below src").to_str().expect("UTF-8").to_string();
        let own = ARROWS.iter().map(|(r, _)| *r).find(|r| r.contains('/') && relative.starts_with(r));
        let room = own.or(relative.split('/').next()).expect("a room").trim_end_matches(".rs").to_string();
        if ["lib", "main"].contains(&room.as_str()) {
            continue;
        }
        seen += 1;
        let text = std::fs::read_to_string(&path).expect("a source");
        found.extend(check(&room, &relative, &text).into_iter().map(|v| format!("src/{relative}, {v}")));
    }
    assert!(seen > 50, "only {seen} files were read");
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn arrows() {
    each_source(|room, _, text| arrow_violations(room, text));
    assert_eq!(arrow_violations("ops", "use crate::network::Model;").len(), 1);
    assert_eq!(arrow_violations("tensor", "fn f(x: crate::ops::float::Float) {}").len(), 1);
    assert!(arrow_violations("nn", "use crate::ops::gelu; // crate::train is not named").is_empty());
    let group = "use crate::{\n    error::Error,\n    ops::{gelu, sum},\n    train::run,\n};";
    assert_eq!(arrow_violations("nn", group).len(), 1);
    assert!(arrow_violations("nn", "use crate::ops::{gelu, data};").is_empty());
}

fn unsafe_violations(relative: &str, text: &str) -> Vec<String> {
    let allowed = relative.starts_with("device/")
        || relative == "ops/float.rs"
        // The type of the product routines, which matmul/cpu.rs calls.
        || relative == "ops/matmul/library.rs"
        || (relative.starts_with("ops/") && (relative.ends_with("/cpu.rs") || relative.ends_with("/cuda.rs")))
        || relative == "tensor/memory.rs"
        // A file is mapped into memory: reading 350 MB twice would cost seconds.
        || relative == "import/mod.rs";
    let lines = code(text).into_iter();
    let used =
        lines.filter(|(_, l)| l.split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| w == "unsafe"));
    used.filter(|_| !allowed)
        .map(|(n, _)| format!("line {n}: `unsafe` outside of the ops' cpu.rs, cuda.rs and device"))
        .collect()
}

#[test]
fn unsafe_stays_at_the_bottom() {
    each_source(|_, relative, text| unsafe_violations(relative, text));
    assert_eq!(unsafe_violations("nn/block.rs", "let x = unsafe { y };").len(), 1);
}

fn forbidden(relative: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (number, line) in code(text) {
        for (word, where_allowed, why) in [
            ("cudarc", "device/", "only device names the driver crate"),
            ("super::super", "", "rooms are named from `crate::`, where the arrows are checked"),
            (
                "panic!",
                "testing/ tensor/on_device.rs tensor/view.rs",
                "bad input is an error; what cannot happen says so with `unreachable!`",
            ),
            (".unwrap()", "", "errors are sentences; an `expect` says why it cannot fail"),
            ("todo!", "", "no stubs"),
            ("unimplemented!", "", "no stubs"),
            ("Device::Cpu =>", "ops/ device/", "only ops and device decide by device"),
            ("SystemTime", "output/", "nothing but file names and events may depend on the time"),
            ("thread_rng", "", "randomness comes from rng.rs"),
        ] {
            let allowed = where_allowed.split_whitespace().any(|room| relative.starts_with(room));
            if line.contains(word) && !allowed {
                found.push(format!("line {number}: `{word}`: {why}"));
            }
        }
    }
    found
}

#[test]
fn what_no_room_does() {
    each_source(|_, relative, text| forbidden(relative, text));
    assert_eq!(forbidden("nn/vit.rs", "match dev { Device::Cpu => 1 }").len(), 1);
    assert_eq!(forbidden("train/run.rs", "x.unwrap()").len(), 1);
}

#[test]
fn files_stay_readable() {
    each_source(|_, _, text| {
        let lines = text.lines().count();
        if lines <= 720 { Vec::new() } else { vec![format!("{lines} lines; split it (720 at most)")] }
    });
}
