//! A [`Config`] back to TOML, its hash, and the difference of two.

use super::keys;
use super::kinds::{Key, KeyKind};
use super::load::as_map;
use super::resolve::is_free;
use super::schema::Config;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write;

impl Config {
    /// Every key with its value and its comment. Read back, it is the same configuration; the same
    /// configuration always gives the same text.
    pub fn to_toml(&self) -> String {
        self.write(true)
    }

    /// The first 16 hexadecimal digits of the SHA-256 of [`Config::to_toml`] without the comments, so
    /// that a better worded comment does not make a run another run.
    pub fn config_hash(&self) -> String {
        let digest = Sha256::digest(self.write(false).as_bytes());
        digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    /// Every key whose value differs: its path, the value here, the value in `other`.
    pub fn differences(&self, other: &Config) -> Vec<(String, String, String)> {
        let (ours, theirs) = (as_map(self), as_map(other));
        keys::paths()
            .into_iter()
            .map(|(path, _)| {
                let (a, b) = (value_at(&ours, &path), value_at(&theirs, &path));
                (path, a, b)
            })
            .filter(|(_, a, b)| a != b)
            .collect()
    }

    /// Every key that a run must keep when it is resumed, with its value as TOML.
    pub fn identity_pairs(&self) -> BTreeMap<String, String> {
        self.pairs().into_iter().filter(|(path, _)| !is_free(path)).collect()
    }

    /// Where this configuration differs from [`Config::identity_pairs`] that an earlier version may have written: key,
    /// value there, value here, which is `None` for a key that is unknown here. A key that is missing there has its
    /// default.
    pub fn differences_to(&self, there: &BTreeMap<String, String>) -> Vec<(String, String, Option<String>)> {
        let there = there
            .iter()
            .map(|(key, value)| (keys::renamed(key).unwrap_or_else(|| key.clone()), value.clone()));
        let mut there: BTreeMap<String, String> = there.filter(|(key, _)| !is_free(key)).collect();
        let defaults = Config::default().identity_pairs();
        let mut all = Vec::new();
        for (path, here) in self.identity_pairs() {
            let value = there.remove(&path).or_else(|| defaults.get(&path).cloned()).unwrap_or_default();
            if value != here {
                all.push((path, value, Some(here)));
            }
        }
        all.extend(there.into_iter().map(|(key, value)| (key, value, None)));
        all
    }

    /// Every key with its value as TOML, in the order of the file.
    pub fn pairs(&self) -> Vec<(String, String)> {
        let values = as_map(self);
        let with_value = |(path, _): (String, _)| {
            let value = value_at(&values, &path);
            (path, value)
        };
        keys::paths().into_iter().map(with_value).collect()
    }

    fn write(&self, comments: bool) -> String {
        let values = as_map(self);
        let mut out = String::new();
        let scalars: Vec<&Key> =
            Config::KEYS.iter().filter(|k| !matches!(k.kind, KeyKind::Table(_))).collect();
        write_keys(&mut out, scalars.into_iter(), &values, comments);
        for key in Config::KEYS {
            let (KeyKind::Table(keys), Some(Value::Object(inner))) = (key.kind, values.get(key.name)) else {
                continue;
            };
            out.push('\n');
            if comments {
                write_comment(&mut out, key);
            }
            let _ = writeln!(out, "[{}]", key.name);
            write_keys(&mut out, keys.iter(), inner, comments);
        }
        out
    }
}

fn write_keys<'a>(
    out: &mut String,
    keys: impl Iterator<Item = &'a Key>,
    values: &Map<String, Value>,
    comments: bool,
) {
    for key in keys {
        if comments {
            write_comment(out, key);
        }
        if let Some(value) = values.get(key.name) {
            let _ = writeln!(out, "{} = {}", key.name, toml_value(value));
        }
    }
}

/// The comment of a key; for a word also the words that are accepted.
fn write_comment(out: &mut String, key: &Key) {
    for line in key.doc {
        let _ = writeln!(out, "#{line}");
    }
    if let KeyKind::Word(words) = key.kind {
        let _ = writeln!(out, "# One of: {}.", words.join(", "));
    }
}

fn value_at(values: &Map<String, Value>, path: &str) -> String {
    let mut parts = path.split('.');
    let first = parts.next().and_then(|p| values.get(p));
    parts.fold(first, |v, p| v.and_then(|v| v.get(p))).map_or("nan".into(), toml_value)
}

fn toml_value(value: &Value) -> String {
    match value {
        // What is not finite has no place in JSON and becomes null there.
        Value::Null => "nan".into(),
        Value::Bool(b) => b.to_string(),
        // {:?} writes the point that makes it a float in TOML: 1.0, 1e-7.
        Value::Number(n) => match (n.as_u64(), n.as_f64()) {
            (Some(whole), _) => whole.to_string(),
            (None, Some(float)) => format!("{float:?}"),
            (None, None) => n.to_string(),
        },
        Value::String(s) => text(s),
        Value::Array(items) => {
            format!("[{}]", items.iter().map(toml_value).collect::<Vec<_>>().join(", "))
        }
        Value::Object(_) => unreachable!("a table is not the value of a key"),
    }
}

/// A TOML basic string on one line.
fn text(s: &str) -> String {
    let mut out = String::from("\"");
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
