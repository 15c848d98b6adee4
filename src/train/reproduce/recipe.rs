//! What is to be reproduced: a TOML file of rows.

use crate::config::published::Published;
use crate::config::{self, Config};
use crate::error::{Error, Result};
use crate::train::seeds;
use serde::Deserialize;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// A file of rows as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecipeFile {
    title: String,
    #[serde(rename = "row", default)]
    rows: Vec<RecipeRow>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecipeRow {
    name: String,
    config: PathBuf,
    #[serde(default)]
    set: Vec<String>,
    seeds: String,
    #[serde(default)]
    compared: Compared,
    published: Option<String>,
    not_comparable: Option<String>,
}

/// Which of our numbers stands beside the published one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub enum Compared {
    /// Every test image chooses its own prompts.
    #[default]
    #[serde(rename = "each image")]
    EachImage,
    /// The images of a test batch vote, as the official evaluation does.
    #[serde(rename = "batch vote")]
    BatchVote,
}

impl Compared {
    pub fn words(self) -> &'static str {
        match self {
            Compared::EachImage => "each image",
            Compared::BatchVote => "batch vote",
        }
    }
}

/// A configuration, its seeds, and what somebody published for it.
#[derive(Debug, Clone)]
pub struct Row {
    /// Also the name of its folder.
    pub name: String,
    pub config: Config,
    pub seeds: Vec<u64>,
    pub compared: Compared,
    pub published: Option<Published>,
    /// Why our number and the published one are of different things, if they are.
    pub not_comparable: Option<String>,
}

/// The rows of a file.
#[derive(Debug, Clone)]
pub struct Recipe {
    pub title: String,
    pub rows: Vec<Row>,
}

/// What the command line says of all rows.
#[derive(Debug, Clone, Default)]
pub struct Given {
    pub data_dir: Option<String>,
    /// Where the weight files lie that the configurations name.
    pub weights_dir: Option<PathBuf>,
    pub init_checkpoint: Option<String>,
    pub set: Vec<String>,
    /// Names of the rows that are wanted; empty: all.
    pub only: Vec<String>,
}

impl Recipe {
    /// Reads a file of rows and the configurations that it names, which are found from its folder.
    ///
    /// # Errors
    /// `Error::File` if a file cannot be read; `Error::Config` naming the row if it does not make sense.
    pub fn read(path: &Path, given: &Given) -> Result<Recipe> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| Error::file(path, format!("the file of rows cannot be read: {e}")))?;
        let file: RecipeFile = toml::from_str(&text).map_err(|e| {
            Error::file(
                path,
                format!("is no file of rows (docs/reproduce.md has the keys): {}", e.to_string().trim()),
            )
        })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut names = HashSet::new();
        for row in &file.rows {
            let whole = !row.name.is_empty()
                && row.name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
            if !whole || !names.insert(row.name.clone()) {
                return Err(Error::config(format!(
                    "{}: row `{}`: wanted a name of its own from letters, digits, `_` and `-`, which is also that of its \
                     folder",
                    path.display(),
                    row.name
                )));
            }
        }
        if let Some(unknown) = given.only.iter().find(|name| !names.contains(*name)) {
            let all: Vec<&str> = file.rows.iter().map(|row| row.name.as_str()).collect();
            return Err(Error::config(format!(
                "--only {unknown}: no such row; there are {}",
                all.join(", ")
            )));
        }
        let wanted = |row: &RecipeRow| given.only.is_empty() || given.only.contains(&row.name);
        let rows: Vec<Row> =
            file.rows.into_iter().filter(wanted).map(|row| row.read(folder, given)).collect::<Result<_>>()?;
        if rows.is_empty() {
            return Err(Error::config(format!(
                "{}: wanted at least one [[row]], found none",
                path.display()
            )));
        }
        Ok(Recipe { title: file.title, rows })
    }
}

impl RecipeRow {
    fn read(self, folder: &Path, given: &Given) -> Result<Row> {
        let of_row = |e: Error| match e {
            Error::Config(what) => Error::config(format!("row `{}`: {what}", self.name)),
            other => other,
        };
        let sets: Vec<String> = self.set.iter().chain(&given.set).cloned().collect();
        let (checkpoint, data_dir) = (given.init_checkpoint.as_deref(), given.data_dir.as_deref());
        let mut config = config::load(Some(&folder.join(&self.config)), &sets, None, checkpoint, data_dir)
            .map_err(of_row)?;
        let named = config.model.init_checkpoint.clone();
        if let Some(weights) = &given.weights_dir
            && checkpoint.is_none()
            && !named.starts_with("bundled:")
            && Path::new(&named).is_relative()
        {
            config.model.init_checkpoint = weights.join(named).display().to_string();
        }
        let text = self.published.as_ref().or(config.published.first());
        let published = text.map(|text| Published::parse(text).map_err(Error::config)).transpose();
        let changed = (!given.set.is_empty())
            .then(|| format!("the command line changed settings: --set {}", given.set.join(" --set ")));
        Ok(Row {
            seeds: seeds::parse("seeds", &self.seeds).map_err(of_row)?,
            published: published.map_err(of_row)?,
            not_comparable: self.not_comparable.clone().or(changed),
            name: self.name,
            config,
            compared: self.compared,
        })
    }
}
