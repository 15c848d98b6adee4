//! Configuration: TOML text to a checked [`Config`].
//!
//! [`schema`] says which keys exist, [`load()`] reads layers (file, `--set`, options) on top of the
//! defaults, [`Config::resolve`] sets what the method implies, [`Config::check`] refuses what cannot
//! work, [`Config::to_toml`] writes everything back.

mod check;
mod enums;
pub mod keys;
pub mod load;
pub mod published;
pub mod schema;
pub mod task_sizes;
mod write;

pub use load::{Loaded, load, load_with_notes};
pub use schema::Config;
