//! Runs as one page that needs nothing but itself, and its drawings as files.

mod charts;
mod figures;
mod page;
mod runs;
mod svg;

pub use figures::{Figure, all as figures};
pub use page::html;
pub use runs::{Choices, Group, History, Run, entropy, read};
