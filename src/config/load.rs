//! TOML text and `--set` to a [`Config`]: each key is looked up, each value checked against its kind,
//! and everything that is wrong is reported at once.

use super::keys;
use super::kinds::KeyKind;
use super::schema::Config;
use crate::error::{Error, Result};
use serde_json::{Map, Value, json};
use std::path::Path;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// `configs/default.toml`, used when no file is named.
pub const DEFAULT_TOML: &str = include_str!("../../configs/default.toml");
const DEFAULT_ORIGIN: &str = "configs/default.toml (built in)";

/// Configuration files are a few kilobytes; more is not one.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// At most so many complaints are listed.
const MAX_COMPLAINTS: usize = 10;

/// A checked configuration, and a sentence for each adjusted value, old name or likely mistake.
#[derive(Debug, Clone)]
pub struct LoadedConfig {
    pub config: Config,
    pub notes: Vec<String>,
}

/// The configuration of a run: the defaults, the file (or the built-in `configs/default.toml`), each
/// `--set` in order, then `--seed`, `--init-checkpoint` and `--data-dir`; resolved and checked.
///
/// # Errors
/// [`Error::File`] if the file cannot be read, [`Error::Config`] naming every key that is unknown,
/// has a wrong value, or does not fit the others.
pub fn load(
    config_path: Option<&Path>,
    sets: &[String],
    seed: Option<u64>,
    init_checkpoint: Option<&str>,
    data_dir: Option<&str>,
) -> Result<Config> {
    load_with_notes(config_path, sets, seed, init_checkpoint, data_dir).map(|loaded| loaded.config)
}

/// [`load`], with a note for each key in the name of an earlier version and those of [`Config::resolve`].
pub fn load_with_notes(
    config_path: Option<&Path>,
    sets: &[String],
    seed: Option<u64>,
    init_checkpoint: Option<&str>,
    data_dir: Option<&str>,
) -> Result<LoadedConfig> {
    let mut notes = Vec::new();
    let mut config = match config_path {
        Some(path) => parse(&read(path)?, &path.display().to_string(), &mut notes)?,
        None => parse(DEFAULT_TOML, DEFAULT_ORIGIN, &mut notes)?,
    };
    for set in sets {
        assign(&mut config, set, &mut notes)?;
    }
    if let Some(seed) = seed {
        config.seed = seed;
    }
    if let Some(path) = init_checkpoint {
        config.model.init_checkpoint = path.to_string();
    }
    if let Some(dir) = data_dir {
        config.data.dir = dir.to_string();
    }
    notes.extend(config.resolve());
    config.check()?;
    Ok(LoadedConfig { config, notes })
}

fn read(path: &Path) -> Result<String> {
    let meta = std::fs::metadata(path).map_err(|e| {
        Error::file(path, format!("the configuration file cannot be read: {e}; check `--config`"))
    })?;
    if meta.is_dir() {
        return Err(Error::file(path, "`--config` wants a TOML file, this is a folder"));
    }
    if meta.len() > MAX_FILE_BYTES {
        return Err(Error::file(
            path,
            format!("a configuration has at most {MAX_FILE_BYTES} bytes, this file has {}", meta.len()),
        ));
    }
    let bytes = std::fs::read(path)
        .map_err(|e| Error::file(path, format!("the configuration file cannot be read: {e}")))?;
    String::from_utf8(bytes)
        .map_err(|_| Error::file(path, "the configuration file must be UTF-8 text, this is not"))
}

impl Config {
    /// The configuration that `text` describes on top of the defaults. Neither resolved nor checked
    /// across keys: see [`Config::resolve`], [`Config::check`].
    ///
    /// # Errors
    /// [`Error::Config`] with one line per complaint: `origin`, line, full key, wanted, found.
    pub fn from_toml(text: &str, origin: &str) -> Result<Config> {
        parse(text, origin, &mut Vec::new())
    }

    /// Applies one `--set KEY=VALUE`. The value is TOML; words and paths may go without quotes.
    ///
    /// # Errors
    /// [`Error::Config`] as for a file; `self` is then unchanged.
    pub fn set(&mut self, assignment: &str) -> Result<()> {
        assign(self, assignment, &mut Vec::new())
    }
}

/// [`Config::from_toml`]; `notes` gets a sentence for each name of an earlier version.
fn parse(text: &str, origin: &str, notes: &mut Vec<String>) -> Result<Config> {
    let document = DeTable::parse(text).map_err(|e| {
        let line = e.span().map_or(1, |s| line_of(text, s.start));
        Error::config(format!("{origin}, line {line}: this is not TOML: {}", e.message().trim()))
    })?;
    let mut builder =
        Builder { text, origin, values: as_map(&Config::default()), complaints: Vec::new(), notes };
    builder.table(document.get_ref(), "");
    builder.finish()
}

/// [`Config::set`]; `notes` gets a sentence where the key is written with the name of an earlier version.
fn assign(config: &mut Config, assignment: &str, notes: &mut Vec<String>) -> Result<()> {
    let origin = "--set";
    let Some((path, value)) = assignment.split_once('=') else {
        return Err(Error::config(format!(
            "{origin} wants KEY=VALUE such as `prompt_pool.length=5`, found `{}`",
            short(assignment)
        )));
    };
    let (written, value) = (path.trim(), value.trim());
    let renamed = keys::renamed(written);
    let path = renamed.as_deref().unwrap_or(written);
    let Some(key) = keys::find(path) else {
        return Err(Error::config(format!("{origin}: unknown key `{}`; {}", short(path), keys::hint(path))));
    };
    let quoted = value.starts_with(['"', '\'']);
    let found = match key.kind {
        KeyKind::Table(_) => Err(keys::hint(path)),
        // A word or a path without quotes is taken as text.
        KeyKind::SizeOrAuto if value == "auto" => Ok(json!(value)),
        KeyKind::Text | KeyKind::Word(_) if !quoted => convert(key.kind, &DeValue::String(value.into())),
        kind => match DeValue::parse(value) {
            Ok(parsed) => convert(kind, parsed.get_ref()),
            Err(_) => match DeValue::parse(&quote_items(value)) {
                Ok(parsed) if matches!(kind, KeyKind::Texts | KeyKind::Names) => {
                    convert(kind, parsed.get_ref())
                }
                _ => Err(format!("must be {}, found `{}`", kind.wanted(), short(value))),
            },
        },
    };
    let found = found.map_err(|what| Error::config(format!("{origin}: `{path}` {what}")))?;
    if renamed.is_some() {
        notes.push(format!("{origin}: `{written}` is now `{path}`"));
    }
    let mut values = as_map(config);
    insert(&mut values, path, found);
    *config = from_map(values).map_err(|e| Error::config(format!("{origin}: {e}")))?;
    Ok(())
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Complaint {
    /// Byte position in the text.
    at: usize,
    what: String,
    /// The unknown key for which a hint is looked up, if the complaint is listed at all.
    unknown: Option<String>,
}

/// Walks a document and puts each value in its place.
struct Builder<'a> {
    text: &'a str,
    origin: &'a str,
    values: Map<String, Value>,
    complaints: Vec<Complaint>,
    notes: &'a mut Vec<String>,
}

impl Builder<'_> {
    fn table(&mut self, table: &DeTable, prefix: &str) {
        for (name, value) in table {
            let at = name.span().start;
            let path = match prefix {
                "" => name.get_ref().to_string(),
                _ => format!("{prefix}.{}", name.get_ref()),
            };
            // A quoted name with a dot in it is not the path it reads like.
            if name.get_ref().contains('.') {
                let what = format!("unknown key `\"{}\"`; write it without quotes", short(name.get_ref()));
                self.complain(at, what);
                continue;
            }
            let Some(today) = keys::renamed(&path) else {
                self.value(&path, at, value);
                continue;
            };
            let shown = |path: &str| match keys::find(&today).map(|key| key.kind) {
                Some(KeyKind::Table(_)) => format!("`[{path}]`"),
                _ => format!("`{path}`"),
            };
            let (old, new) = (shown(&path), shown(&today));
            let name = today.rsplit('.').next().unwrap_or_default();
            if table.iter().any(|(other, _)| other.get_ref() == name) {
                self.complain(
                    at,
                    format!("{old} is the earlier name of {new}, which is here as well; leave it out"),
                );
                continue;
            }
            self.notes.push(format!("{}, line {}: {old} is now {new}", self.origin, line_of(self.text, at)));
            self.value(&today, at, value);
        }
    }

    fn value(&mut self, path: &str, at: usize, value: &Spanned<DeValue>) {
        match (keys::find(path).map(|k| k.kind), value.get_ref()) {
            (None, DeValue::Table(inner)) if !path.contains('.') && !inner.is_empty() => {
                self.table(inner, path);
            }
            (None, _) => {
                let what = format!("unknown key `{}`", short(path));
                self.complaints.push(Complaint { at, what, unknown: Some(path.to_string()) });
            }
            (Some(KeyKind::Table(_)), DeValue::Table(inner)) => self.table(inner, path),
            (Some(KeyKind::Table(_)), other) => {
                let what = format!(
                    "`{path}` must be a table, found {}: write `[{path}]` and its keys below",
                    describe(other)
                );
                self.complain(at, what);
            }
            (Some(kind), found) => match convert(kind, found) {
                Ok(found) => insert(&mut self.values, path, found),
                Err(what) => self.complain(at, format!("`{path}` {what}")),
            },
        }
    }

    fn complain(&mut self, at: usize, what: String) {
        self.complaints.push(Complaint { at, what, unknown: None });
    }

    fn finish(mut self) -> Result<Config> {
        if self.complaints.is_empty() {
            return from_map(self.values).map_err(|e| Error::config(format!("{}: {e}", self.origin)));
        }
        self.complaints.sort();
        let mut lines: Vec<String> = self
            .complaints
            .iter()
            .take(MAX_COMPLAINTS)
            .map(|c| {
                let hint = c.unknown.as_ref().map_or(String::new(), |path| format!("; {}", keys::hint(path)));
                format!("{}, line {}: {}{hint}", self.origin, line_of(self.text, c.at), c.what)
            })
            .collect();
        if self.complaints.len() > MAX_COMPLAINTS {
            lines.push(format!("and {} more", self.complaints.len() - MAX_COMPLAINTS));
        }
        Err(Error::config(lines.join("\n")))
    }
}

/// The value of a key of `kind`, or what was wanted and found.
fn convert(kind: KeyKind, found: &DeValue) -> std::result::Result<Value, String> {
    let wrong = || format!("must be {}, found {}", kind.wanted(), describe(found));
    match (kind, found) {
        (KeyKind::Bool, DeValue::Boolean(b)) => Ok(json!(b)),
        (KeyKind::Size | KeyKind::Seed, DeValue::Integer(i)) => {
            let number = i64::from_str_radix(i.as_str(), i.radix()).map_err(|_| wrong())?;
            u64::try_from(number).map(|n| json!(n)).map_err(|_| wrong())
        }
        (KeyKind::Number, DeValue::Integer(i)) => {
            let number = i64::from_str_radix(i.as_str(), i.radix()).map_err(|_| wrong())?;
            Ok(json!(number as f64))
        }
        (KeyKind::Number, DeValue::Float(f)) => {
            let number: f64 = f.as_str().parse().map_err(|_| wrong())?;
            if number.is_finite() { Ok(json!(number)) } else { Err(wrong()) }
        }
        (KeyKind::Text, DeValue::String(s)) => Ok(json!(s)),
        (KeyKind::Word(words), DeValue::String(s)) => {
            if words.contains(&s.as_ref()) {
                return Ok(json!(s));
            }
            let near = keys::nearest_word(s, words);
            Err(format!("{}{}", wrong(), near.map_or(String::new(), |w| format!("; did you mean `{w}`?"))))
        }
        (KeyKind::Texts, DeValue::Array(items)) => list(items, KeyKind::Text).ok_or_else(wrong),
        (KeyKind::Sizes | KeyKind::SizeOrSizes, DeValue::Array(items)) => {
            list(items, KeyKind::Size).ok_or_else(wrong)
        }
        (KeyKind::Numbers, DeValue::Array(items)) => list(items, KeyKind::Number).ok_or_else(wrong),
        (KeyKind::SizeOrAuto, DeValue::String(s)) if s == "auto" => Ok(json!(s)),
        (KeyKind::SizeOrSizes | KeyKind::SizeOrAuto, DeValue::Integer(_)) => {
            convert(KeyKind::Size, found).map_err(|_| wrong())
        }
        (KeyKind::Names, DeValue::Array(items)) => {
            let name = |item: &Spanned<DeValue>| match item.get_ref() {
                DeValue::String(s) => Some(json!(s)),
                other => convert(KeyKind::Size, other).ok().map(|number| json!(number.to_string())),
            };
            items.iter().map(name).collect::<Option<Vec<_>>>().map(Value::Array).ok_or_else(wrong)
        }
        (KeyKind::Names, DeValue::String(s)) => Ok(json!([s])),
        (KeyKind::Names, DeValue::Integer(_)) => {
            convert(KeyKind::Size, found).map(|number| json!([number.to_string()])).map_err(|_| wrong())
        }
        _ => Err(wrong()),
    }
}

fn list(items: &[Spanned<DeValue>], kind: KeyKind) -> Option<Value> {
    items.iter().map(|item| convert(kind, item.get_ref()).ok()).collect::<Option<Vec<_>>>().map(Value::Array)
}

/// The found value for an error message.
fn describe(found: &DeValue) -> String {
    match found {
        DeValue::String(s) => format!("`\"{}\"`", short(s)),
        DeValue::Integer(i) => format!("`{}`", short(&i.to_string())),
        DeValue::Float(f) => format!("`{}`", short(f.as_str())),
        DeValue::Boolean(b) => format!("`{b}`"),
        DeValue::Datetime(d) => format!("the date `{d}`"),
        DeValue::Array(items) => {
            match items.iter().map(|i| describe_item(i.get_ref())).collect::<Option<Vec<_>>>() {
                Some(items) if items.len() <= 8 => format!("`[{}]`", items.join(", ")),
                _ => format!("a list of {} items", items.len()),
            }
        }
        DeValue::Table(_) => "a table".into(),
    }
}

fn describe_item(item: &DeValue) -> Option<String> {
    match item {
        DeValue::Array(_) | DeValue::Table(_) => None,
        other => Some(describe(other).replace('`', "")),
    }
}

/// At most 60 characters on one line.
fn short(text: &str) -> String {
    let one_line: String = text.chars().take(60).flat_map(char::escape_default).collect();
    if text.chars().count() > 60 { format!("{one_line}…") } else { one_line }
}

/// `[a, b]` with quotes around the items.
fn quote_items(value: &str) -> String {
    let inner = value.trim_start_matches('[').trim_end_matches(']');
    let items = inner.split(',').map(str::trim).filter(|i| !i.is_empty());
    format!("[{}]", items.map(|i| format!("{i:?}")).collect::<Vec<_>>().join(", "))
}

fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at.min(text.len())].iter().filter(|b| **b == b'\n').count() + 1
}

/// The configuration as nested maps in the order of the structs.
pub(super) fn as_map(config: &Config) -> Map<String, Value> {
    match serde_json::to_value(config) {
        Ok(Value::Object(map)) => map,
        other => unreachable!("a configuration serialises to a map, got {other:?}"),
    }
}

fn from_map(values: Map<String, Value>) -> serde_json::Result<Config> {
    serde_json::from_value(Value::Object(values))
}

fn insert(values: &mut Map<String, Value>, path: &str, value: Value) {
    match path.split_once('.') {
        None => {
            values.insert(path.to_string(), value);
        }
        Some((table, rest)) => {
            if let Some(Value::Object(inner)) = values.get_mut(table) {
                insert(inner, rest, value);
            }
        }
    }
}
