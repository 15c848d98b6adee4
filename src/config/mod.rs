//! Configuration: TOML text to a checked [`Config`].
//!
//! [`schema`] defines the tables and keys, [`load()`] reads the file, `--set` and options on top of the
//! defaults, [`Config::resolve`] sets the keys that follow from the method, [`Config::check`] refuses
//! values that cannot work, [`Config::to_toml`] writes every key back.

mod check;
mod check_data;
mod complaints;
mod enums;
pub mod keys;
pub mod kinds;
pub mod load;
pub mod micro_batch;
pub mod published;
mod resolve;
pub mod schema;
mod shortcuts;
pub mod task_sizes;
mod traps;
mod write;

pub use load::{LoadedConfig, load, load_with_notes};
pub use resolve::CHANGEABLE;
pub use schema::Config;
