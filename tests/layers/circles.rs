//! Circles between files: file A takes a name from file B, which (perhaps through others) takes one from A.
//!
//! A path is followed to the file that defines the name, through `pub use` of the files on the way. A file that
//! only declares and re-exports (a face) therefore never is a part of a circle, but a `mod.rs` is that defines
//! things its children take while it takes theirs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Path segments after `crate`, such as `["tensor", "view"]`.
type Segments = Vec<String>;

/// One file of `src`, as a module.
#[derive(Debug, Default)]
pub struct Module {
    /// Below `src/`.
    file: String,
    /// The names it re-exports: the name here, and what it stands for.
    exports: BTreeMap<String, Segments>,
    /// The modules whose names it all re-exports.
    globs: Vec<Segments>,
    /// The names of items that it defines itself, whatever their kind.
    items: BTreeSet<String>,
    /// The paths that it takes, as far as they lie in this crate.
    takes: BTreeSet<Segments>,
}

/// All modules by their segments.
pub struct Tree(BTreeMap<Segments, Module>);

/// Files that take names from each other, and which.
#[derive(Debug, PartialEq)]
pub struct Circle {
    pub files: Vec<String>,
    /// `a.rs -> b.rs: Name, Other`
    pub arrows: Vec<String>,
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The text without comments, strings, and what follows `#[cfg(test)]` at the end of a file.
fn plain(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        if line.starts_with("#[cfg(test)]") {
            break;
        }
        out += line.split("//").next().unwrap_or("");
        out.push('\n');
    }
    out
}

fn module_of(file: &str) -> Segments {
    let path = file.trim_end_matches(".rs").trim_end_matches("/mod");
    if ["lib", "main"].contains(&path) { Vec::new() } else { path.split('/').map(String::from).collect() }
}

/// The paths of a `use` tree, each with the name that it binds: `a::{b, c as d}` is a::b (b) and a::c (d).
fn use_tree(text: &str, before: &[String], into: &mut Vec<(Segments, String)>) {
    let text = text.trim();
    if let Some(at) = text.find('{') {
        let mut start: Segments = before.to_vec();
        start.extend(text[..at].split("::").map(str::trim).filter(|s| !s.is_empty()).map(String::from));
        let inner = &text[at + 1..text.rfind('}').unwrap_or(text.len())];
        let (mut depth, mut item) = (0, 0);
        for (i, c) in inner.char_indices().chain([(inner.len(), ',')]) {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    if !inner[item..i].trim().is_empty() {
                        use_tree(&inner[item..i], &start, into);
                    }
                    item = i + 1;
                }
                _ => {}
            }
        }
        return;
    }
    let (path, name) = match text.split_once(" as ") {
        Some((path, name)) => (path.trim(), Some(name.trim().to_string())),
        None => (text, None),
    };
    let mut path: Segments =
        before.iter().cloned().chain(path.split("::").map(|s| s.trim().into())).collect();
    if path.last().is_some_and(|last| last == "self") {
        path.pop();
    }
    let last = path.last().cloned().unwrap_or_default();
    into.push((path, name.unwrap_or(last)));
}

/// From the crate: `crate::`, `self::` and `super::` replaced, and the names of child modules understood.
/// `None` for other crates.
fn absolute(module: &[String], path: &[String], modules: &BTreeSet<Segments>) -> Option<Segments> {
    let mut base = module.to_vec();
    let mut rest = path;
    match rest.first()?.as_str() {
        "crate" => {
            base.clear();
            rest = &rest[1..];
        }
        "self" => rest = &rest[1..],
        "super" => {
            while rest.first().is_some_and(|s| s == "super") {
                base.pop();
                rest = &rest[1..];
            }
        }
        first => {
            base.push(first.into());
            if !modules.contains(&base) {
                return None;
            }
            base.pop();
        }
    }
    base.extend(rest.iter().cloned());
    Some(base)
}

impl Module {
    fn read(file: &str, text: &str, modules: &BTreeSet<Segments>) -> Module {
        let own = module_of(file);
        let text = plain(text);
        let mut module = Module { file: file.into(), ..Module::default() };
        let mut aliases: BTreeMap<String, Segments> = BTreeMap::new();
        let mut rest = String::new();
        // `use` items, which may span lines; everything else is searched for paths.
        let mut at = 0;
        while let Some(found) = next_use(&text[at..]) {
            let (start, end) = (at + found.0, at + found.1);
            rest += &text[at..start];
            at = end + 1;
            let item = text[start..end].trim();
            let exported = item.starts_with("pub");
            let Some((_, tree)) = item.split_once("use ") else { continue };
            let mut paths = Vec::new();
            use_tree(tree, &[], &mut paths);
            for (path, name) in paths {
                let Some(mut path) = absolute(&own, &path, modules) else { continue };
                let glob = path.last().is_some_and(|last| last == "*");
                if glob {
                    path.pop();
                }
                match (exported, glob) {
                    (true, true) => module.globs.push(path),
                    (true, false) => {
                        module.exports.insert(name.clone(), path.clone());
                        aliases.insert(name, path);
                    }
                    (false, _) => {
                        aliases.insert(name, path.clone());
                        // A module that is named alone says nothing; what is taken from it follows.
                        if glob || !modules.contains(&path) {
                            module.takes.insert(path);
                        }
                    }
                }
            }
        }
        rest += &text[at..];
        for item in items(&rest) {
            module.items.insert(item);
        }
        for path in inline_paths(&rest) {
            let first = &path[0];
            let full = match aliases.get(first) {
                Some(alias) if modules.contains(alias) => {
                    Some(alias.iter().chain(&path[1..]).cloned().collect::<Segments>())
                }
                _ if ["crate", "super", "self"].contains(&first.as_str()) => absolute(&own, &path, modules),
                _ => absolute(&own, &path, modules),
            };
            module.takes.extend(full);
        }
        module
    }

    /// Whether the file only declares modules and re-exports names.
    fn is_face(&self) -> bool {
        self.items.is_empty()
    }
}

/// Where the next `use` item begins, with its `pub`, and its semicolon.
fn next_use(text: &str) -> Option<(usize, usize)> {
    let mut line_start = 0;
    for line in text.split_inclusive('\n') {
        let trimmed = line.trim_start();
        let body = trimmed.strip_prefix("pub(crate) ").or(trimmed.strip_prefix("pub(super) "));
        let body = body.or(trimmed.strip_prefix("pub ")).unwrap_or(trimmed);
        if body.starts_with("use ") {
            let end = line_start + text[line_start..].find(';')?;
            return Some((line_start, end));
        }
        line_start += line.len();
    }
    None
}

/// The names of items at the outermost level of a file.
fn items(text: &str) -> Vec<String> {
    const KINDS: [&str; 9] =
        ["fn", "struct", "enum", "trait", "const", "static", "type", "macro_rules!", "union"];
    let mut found = Vec::new();
    for line in text.lines().filter(|l| !l.starts_with([' ', '}', ')', '#'])) {
        let mut words = line.split_whitespace().filter(|w| !w.starts_with("pub"));
        while let Some(word) = words.next() {
            if KINDS.contains(&word) {
                let name: String =
                    words.next().unwrap_or_default().chars().take_while(|c| is_word(*c)).collect();
                if word != "const" || name != "fn" {
                    found.push(name);
                    break;
                }
                found.extend(words.next().map(|w| w.chars().take_while(|c| is_word(*c)).collect()));
                break;
            }
            if !["unsafe", "async", "extern"].contains(&word) {
                break;
            }
        }
    }
    found
}

/// Everything of the form `a::b`, as segments, once.
fn inline_paths(text: &str) -> BTreeSet<Segments> {
    let mut found = BTreeSet::new();
    let bytes = text.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        if !is_word(bytes[i] as char) || (i > 0 && (is_word(bytes[i - 1] as char) || bytes[i - 1] == b':')) {
            i += 1;
            continue;
        }
        let end = text[i..].find(|c: char| !is_word(c) && c != ':').map_or(text.len(), |n| i + n);
        let path: Segments =
            text[i..end].split("::").filter(|s| !s.is_empty()).map(|s| s.trim_matches(':').into()).collect();
        if path.len() > 1 && path.iter().all(|s| !s.is_empty()) {
            found.insert(path);
        }
        i = end.max(i + 1);
    }
    found
}

impl Tree {
    /// `files` below `src/`, with their texts.
    pub fn new(files: &[(String, String)]) -> Tree {
        let modules: BTreeSet<Segments> = files.iter().map(|(file, _)| module_of(file)).collect();
        let read = |(file, text): &(String, String)| (module_of(file), Module::read(file, text, &modules));
        Tree(files.iter().filter(|(file, _)| file != "main.rs").map(read).collect())
    }

    /// Every source below `src`.
    pub fn of(src: &Path, paths: &[std::path::PathBuf]) -> Tree {
        let files: Vec<(String, String)> = paths
            .iter()
            .map(|path| {
                let file = path.strip_prefix(src).expect("below src").to_str().expect("UTF-8").to_string();
                (file, std::fs::read_to_string(path).expect("a source"))
            })
            .collect();
        Tree::new(&files)
    }

    /// The module that defines what `path` names, and the name; `None` if there is no such module.
    fn resolve(&self, path: &[String], steps: usize) -> Option<(&Segments, String)> {
        let longest = (0..=path.len()).rev().find(|n| self.0.contains_key(&path[..*n]))?;
        let (segments, module) = self.0.get_key_value(&path[..longest])?;
        let Some(name) = path.get(longest) else { return Some((segments, String::new())) };
        if steps == 0 || module.items.contains(name) {
            return Some((segments, name.clone()));
        }
        if let Some(target) = module.exports.get(name) {
            let target: Segments = target.iter().chain(&path[longest + 1..]).cloned().collect();
            return self.resolve(&target, steps - 1);
        }
        for glob in &module.globs {
            let target: Segments = glob.iter().chain(&path[longest..]).cloned().collect();
            if let Some(found) = self.resolve(&target, steps - 1)
                && self.0[found.0].items.contains(name)
            {
                return Some(found);
            }
        }
        Some((segments, name.clone()))
    }

    /// What each module takes from each other, by their segments.
    fn arrows(&self) -> BTreeMap<&Segments, BTreeMap<&Segments, BTreeSet<String>>> {
        let mut arrows: BTreeMap<_, BTreeMap<_, BTreeSet<String>>> = BTreeMap::new();
        for (from, module) in &self.0 {
            for path in &module.takes {
                let Some((to, name)) = self.resolve(path, 8) else { continue };
                // A name that a macro defines is not among the items; a face has none of its own.
                if to == from || to.is_empty() || self.0[to].is_face() {
                    continue;
                }
                let names = arrows.entry(from).or_default().entry(to).or_default();
                names.insert(if name.is_empty() { "all".into() } else { name });
            }
        }
        arrows
    }

    /// Every circle: each strongly connected set of two or more files.
    pub fn circles(&self) -> Vec<Circle> {
        let arrows = self.arrows();
        let reach = |from: &Segments| {
            let mut seen: BTreeSet<&Segments> = BTreeSet::new();
            let mut open: Vec<&Segments> =
                arrows.get(from).map_or(Vec::new(), |to| to.keys().copied().collect());
            while let Some(next) = open.pop() {
                if seen.insert(next) {
                    open.extend(arrows.get(next).into_iter().flat_map(|to| to.keys().copied()));
                }
            }
            seen
        };
        let reached: BTreeMap<&Segments, BTreeSet<&Segments>> =
            self.0.keys().map(|m| (m, reach(m))).collect();
        let mut circles = Vec::new();
        let mut done: BTreeSet<&Segments> = BTreeSet::new();
        for (module, there) in &reached {
            if done.contains(module) || !there.contains(module) {
                continue;
            }
            let members: Vec<&Segments> =
                there.iter().copied().filter(|other| reached[other].contains(module)).collect();
            done.extend(&members);
            let file = |m: &Segments| self.0[m].file.clone();
            let mut lines = Vec::new();
            for from in &members {
                for (to, names) in arrows.get(*from).into_iter().flatten() {
                    if members.contains(to) {
                        let names: Vec<&str> = names.iter().map(String::as_str).collect();
                        lines.push(format!("{} -> {}: {}", file(from), file(to), names.join(", ")));
                    }
                }
            }
            circles.push(Circle { files: members.iter().map(|m| file(m)).collect(), arrows: lines });
        }
        circles
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circles(files: &[(&str, &str)]) -> Vec<Circle> {
        let files: Vec<(String, String)> =
            files.iter().map(|(f, t)| (f.to_string(), t.to_string())).collect();
        Tree::new(&files).circles()
    }

    #[test]
    fn two_files_that_take_from_each_other() {
        let found = circles(&[
            ("a/mod.rs", "mod b;\nmod c;\n"),
            ("a/b.rs", "use super::c::{self, One};\npub struct Two;\n"),
            ("a/c.rs", "pub struct One;\nfn f(x: crate::a::b::Two) {}\n"),
        ]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].files, ["a/b.rs", "a/c.rs"]);
        assert_eq!(found[0].arrows, ["a/b.rs -> a/c.rs: One", "a/c.rs -> a/b.rs: Two"]);
    }

    #[test]
    fn a_face_is_looked_through() {
        let face = ("a/mod.rs", "mod b;\nmod c;\npub use b::Two;\npub use c::*;\n");
        let straight =
            [face, ("a/b.rs", "pub struct Two;\n"), ("a/c.rs", "use super::Two;\npub struct One;\n")];
        assert!(circles(&straight).is_empty());
        let back = ("a/b.rs", "use crate::a::One;\npub struct Two;\n");
        assert_eq!(circles(&[face, back, straight[2]]).len(), 1);
    }

    #[test]
    fn a_mod_file_that_defines_what_its_children_take() {
        let child = ("a/b.rs", "use super::One;\npub fn two(x: One) {}\n");
        let uses = circles(&[("a/mod.rs", "mod b;\npub struct One;\nfn f() {\n    b::two(One)\n}\n"), child]);
        assert_eq!(uses[0].files, ["a/mod.rs", "a/b.rs"]);
        let imports = [("a/mod.rs", "mod b;\nuse b::two;\npub struct One;\n"), child];
        assert_eq!(circles(&imports).len(), 1);
        assert!(circles(&[("a/mod.rs", "mod b;\npub use b::two;\npub struct One;\n"), child]).is_empty());
    }

    #[test]
    fn modules_by_another_name_and_comments() {
        let b = ("b.rs", "use crate::c::d as e;\npub fn f() {\n    e::g();\n}\n");
        let d = ("c/d.rs", "pub fn g() {\n    // crate::b::f()\n}\n");
        let face = ("c/mod.rs", "pub mod d;\n");
        assert!(circles(&[b, d, face]).is_empty());
        assert_eq!(circles(&[b, ("c/d.rs", "pub fn g() {\n    crate::b::f();\n}\n"), face]).len(), 1);
        let tested = ("c/d.rs", "pub fn g() {}\n#[cfg(test)]\nmod tests {\n    use crate::b::f;\n}\n");
        assert!(circles(&[b, tested, face]).is_empty());
    }
}
