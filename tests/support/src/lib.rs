//! What the whole-binary tests share: the agent as a child process, what reads
//! its lake back, and what stands in for the world around it.
//!
//! Everything here panics with a sentence when it cannot do its work: a test
//! that cannot run has failed.

pub mod debian;
pub mod duckdb;
pub mod emulator;
pub mod firehose;
pub mod manager;
pub mod ministack;
pub mod mounts;
pub mod netns;
pub mod packages;
pub mod power;
pub mod process;
pub mod records;
pub mod relay;
pub mod rig;
pub mod terraform;
pub mod trace;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;

const POLL: Duration = Duration::from_millis(20);

/// Waits until `condition` holds, and panics with `what` if it does not within
/// `deadline`.
#[track_caller]
pub fn eventually(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < deadline, "not within {deadline:?}: {what}");
        thread::sleep(POLL);
    }
}

/// The count for the tier that `tests/run` names in `IOT_TEST_TIER`; `default`
/// without it.
pub fn by_tier<T>(quick: T, default: T, full: T) -> T {
    match std::env::var("IOT_TEST_TIER").as_deref() {
        Ok("quick") => quick,
        Ok("full") => full,
        Ok("default") | Err(_) => default,
        Ok(other) => panic!("IOT_TEST_TIER is {other:?}; quick, default and full exist"),
    }
}

/// The seed of this run, from `IOT_TEST_SEED`; 0 without it. Printed, for a
/// failing test shows what it printed.
pub fn seed() -> u64 {
    let seed = std::env::var("IOT_TEST_SEED").map_or(0, |text| {
        text.parse().unwrap_or_else(|_| panic!("IOT_TEST_SEED is {text:?}, not a whole number"))
    });
    println!("IOT_TEST_SEED={seed} repeats this");
    seed
}

/// Random numbers that follow from [`seed`].
pub fn rng() -> StdRng {
    StdRng::seed_from_u64(seed())
}

/// A path below the repository's top.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// Waits for the lock at `path`, made where it is missing, which is held as
/// long as the file is open: two groups of tests may want one thing at once.
pub(crate) fn locked(path: &Path) -> File {
    fs::create_dir_all(path.parent().expect("it has one")).expect("its folder can be made");
    let file = File::create(path).expect("it can be written");
    file.lock().expect("a lock");
    file
}

/// The Python that `tests/run` installed, with all of `tests/requirements.txt`.
pub fn python() -> PathBuf {
    installed(".venv/bin/python", "tests/run")
}

/// A program that `tests/run --full` installed, of those in
/// `tests/requirements-full.txt` or the Python that has them.
pub fn full(program: &str) -> PathBuf {
    installed(&format!(".venv-full/bin/{program}"), "tests/run --full")
}

fn installed(path: &str, by: &str) -> PathBuf {
    let path = repository(path);
    assert!(path.exists(), "{} is missing: `{by}` installs it", path.display());
    path
}

/// One of the scripts beside this crate.
fn script(name: &str) -> PathBuf {
    repository("tests/support/py").join(name)
}
