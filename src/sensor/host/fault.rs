//! What a sensor can suffer, and saying it once.

use std::collections::HashSet;
use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Why a value is absent.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("{path} cannot be read: {source}; see what `cat {path}` says as the agent's user")]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{0} is missing or empty; is /proc restricted (ProcSubset=pid in the unit)?")]
    Hidden(&'static str),
    #[error("{path} says {text:?}, which is no reading; update its driver, or leave it out")]
    Garbage { path: PathBuf, text: String },
    #[error(
        "{path} says {celsius} °C, which is no temperature of a running computer; \
         is the sensor connected?"
    )]
    OutOfRange { path: PathBuf, celsius: f64 },
    #[error(
        "no thermal sensor is called {wanted:?}, so there is no temperature; \
         set sample.temperature_sensor to one of {known:?}"
    )]
    NoSuchSensor { wanted: String, known: Vec<String> },
    #[error("the file system of {path} cannot be asked: {source}; is it still mounted?")]
    Unmeasured { path: PathBuf, source: io::Error },
    #[error("the thread that asks disks and sensors cannot be started: {0}; is memory short?")]
    NoThread(io::Error),
}

impl Fault {
    pub fn unreadable(path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Unreadable { path: path.to_owned(), source: source.into() }
    }

    pub fn garbage(path: &Path, text: &[u8]) -> Self {
        let text = String::from_utf8_lossy(text).trim_end().chars().take(40).collect();
        Self::Garbage { path: path.to_owned(), text }
    }
}

/// Says the first fault of each thing and keeps quiet about the next ones: a
/// sensor that fails every other second would otherwise fill the log.
#[derive(Debug, Default)]
pub(super) struct Faults(Mutex<HashSet<String>>);

impl Faults {
    /// The value, or nothing and a word in the log if it is the first fault
    /// of `what`.
    pub fn once<T>(&self, what: impl Display, read: Result<T, Fault>) -> Option<T> {
        read.map_err(|fault| {
            if self.is_first(&what) {
                tracing::warn!("{what} is left out: {fault}");
            }
        })
        .ok()
    }

    /// True the first time it is asked about `what`.
    pub fn is_first(&self, what: impl Display) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(what.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thing_is_said_once() {
        let faults = Faults::default();
        assert!(faults.is_first("a"));
        assert!(!faults.is_first("a"));
        assert!(faults.is_first("b"));
    }

    #[test]
    fn a_fault_names_the_place_and_the_remedy_and_quotes_little() {
        let fault = Fault::garbage(Path::new("/sys/x"), &[b'z'; 4096]);
        let text = fault.to_string();
        assert!(text.contains("/sys/x") && text.contains("driver"), "{text}");
        assert!(text.len() < 150, "{text}");
    }
}
