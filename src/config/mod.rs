//! The configuration: what people write becomes values that are right.
//!
//! A [`Config`] that exists can be worked with: every value is of its type and
//! in its range, and they fit together. Whatever is wrong is said at once, each
//! with its place and its remedy ([`Errors`]). What only the world can tell
//! (whether a folder can be written, a stream exists) is not asked here.
//!
//! Sources, a later one winning key by key: the file, its drop-ins in the
//! order of their names, the environment (`IOT_AGENT_SECTION_KEY`), the
//! command line. What is not known is refused, so that a slip of the finger
//! never becomes a silent default.

mod draft;
mod files;
mod keys;
pub mod model;
mod name;
mod problem;
mod resolve;
#[cfg(test)]
mod tests;
mod value;

pub use files::DEFAULT_FILE;
pub use model::Config;
pub use problem::Errors;

use std::path::{Path, PathBuf};

/// One setting from the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// `section.key`.
    pub key: String,
    /// As TOML, or as bare text where text is wanted.
    pub value: String,
    /// The option it came from, for messages: `--set`, `--devices`.
    pub origin: String,
}

/// What the command line asks for.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// `--config`: this file and its drop-ins instead of [`DEFAULT_FILE`].
    pub file: Option<PathBuf>,
    pub overrides: Vec<Override>,
    /// `--simulate`.
    pub simulate: bool,
}

/// A configuration, and where it came from.
#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    /// The files that were read, in order.
    pub sources: Vec<PathBuf>,
    /// What is allowed but hardly meant.
    pub warnings: Vec<String>,
}

/// Says how much is logged. The log is set up before the config is read, so it
/// is the one variable with the prefix that is no key.
pub const LOG_VARIABLE: &str = "IOT_AGENT_LOG";

/// Reads the files, the environment of this process and the request.
///
/// # Errors
/// All that is wrong in any of them.
pub fn load(request: &Request) -> Result<Loaded, Errors> {
    let files = match &request.file {
        Some(file) => files::read(file, true),
        None => files::read(Path::new(DEFAULT_FILE), false),
    };
    let mut env: Vec<_> = std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value))
        .filter(|(name, _)| name.starts_with(keys::ENV_PREFIX) && name != LOG_VARIABLE)
        .collect();
    env.sort();
    let surroundings = files::surroundings();
    let (config, warnings) =
        resolve::resolve(&files, &env, &request.overrides, request.simulate, &surroundings)
            .map_err(Errors)?;
    Ok(Loaded { config, sources: files.into_iter().map(|file| file.path).collect(), warnings })
}
