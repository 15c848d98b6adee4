//! Runs as one page that needs nothing but itself, its drawings as files, and its numbers for other programs.

mod charts;
mod export;
mod figures;
mod metrics;
mod page;
mod parts;
mod profile;
mod runs;
mod svg;

pub use export::{csv, json, latex};
pub use figures::all as figures;
pub use page::{html, html_with};
pub use parts::{Figure, verdicts};
pub use runs::{Choices, Group, History, Run, entropy, read};
