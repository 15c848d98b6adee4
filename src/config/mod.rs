//! Configuration: TOML text to a checked [`Config`].

pub mod schema;

pub use schema::Config;
