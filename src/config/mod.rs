//! The configuration: what people write becomes values that are right.

pub mod model;

pub use model::Config;
