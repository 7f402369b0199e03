//! The plan of the house, held by reading the code: which room knows which,
//! who alone may touch sled and the wall clock, how long a file may be, and that
//! SAFETY.md cites tests that exist.
//!
//! Unit tests are exempt: they may borrow from any room.

#![cfg(test)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What each room may know. Those that wire the line may know all.
const ARROWS: &[(&str, &[&str])] = &[
    ("clock", &[]),
    ("health", &["clock"]),
    ("ledger", &[]),
    ("aws", &[]),
    ("sensor", &["clock"]),
    ("record", &["clock", "sensor"]),
    ("spool", &["clock", "ledger", "record"]),
    ("drain", &["clock", "record", "spool"]),
    ("sink", &["aws", "clock", "drain", "ledger", "record"]),
    ("config", &["aws", "clock", "drain", "ledger", "record", "sensor", "sink", "spool"]),
];
const WIRING: &[&str] = &["agent", "cli", "lib", "main"];

/// Words that only one file may say, and why.
const RESERVED: &[(&str, &str, &str)] = &[
    ("sled::", "spool/store.rs", "so that sled can be replaced: go through `Store`"),
    ("SystemTime::now", "clock.rs", WALL_CLOCK),
    ("Utc::now", "clock.rs", WALL_CLOCK),
    ("Local::now", "clock.rs", WALL_CLOCK),
    ("clock_gettime", "clock.rs", WALL_CLOCK),
];
const WALL_CLOCK: &str =
    "the wall clock may be wrong, and `clock` knows when: take a `Moment` (`Instant` is free)";

/// Lines, without the unit tests. Longer functions are clippy's business.
const MAX_LINES: usize = 450;

struct Source {
    /// Below `src/`, as `spool/store.rs`.
    path: String,
    /// Without comments and unit tests, as many lines as the original down to them.
    code: String,
}

impl Source {
    /// The module at the top of the crate that it belongs to.
    fn room(&self) -> &str {
        let first = self.path.split('/').next().unwrap();
        first.strip_suffix(".rs").unwrap_or(first)
    }
}

fn sources() -> Vec<Source> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut folders, mut sources) = (vec![top.clone()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.file_stem().is_some_and(|name| name == "tests") {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                sources.push(read(&top, path));
            }
        }
    }
    assert!(sources.len() > 10, "src/ is somewhere else");
    sources
}

fn read(top: &Path, path: PathBuf) -> Source {
    let text = fs::read_to_string(&path).unwrap();
    let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap();
    let code = code.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>();
    let path = path.strip_prefix(top).unwrap().to_str().unwrap().to_owned();
    Source { path, code: code.join("\n") }
}

/// The modules that `crate::…` names in `code`, alone or in braces.
fn named_rooms(code: &str) -> BTreeSet<&str> {
    let after = code.split("crate::").skip(1);
    after
        .flat_map(|rest| rest.strip_prefix('{').map_or_else(|| vec![rest], members))
        .map(word)
        .collect()
}

/// The items of a group in braces, `group` being what follows the opening one.
fn members(group: &str) -> Vec<&str> {
    let (mut depth, mut start, mut items) = (0, 0, Vec::new());
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            '}' => {
                items.push(group.get(start..at).unwrap());
                break;
            }
            ',' if depth == 0 => {
                items.push(group.get(start..at).unwrap());
                start = at + 1;
            }
            _ => {}
        }
    }
    items.retain(|item| !item.trim().is_empty());
    items
}

fn word(text: &str) -> &str {
    let text = text.trim_start();
    text.split(|letter: char| !letter.is_alphanumeric() && letter != '_').next().unwrap()
}

fn assert_none(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn the_arrows_hold() {
    let mut complaints = Vec::new();
    for source in sources() {
        let (path, room) = (&source.path, source.room());
        if WIRING.contains(&room) {
            continue;
        }
        let Some((_, known)) = ARROWS.iter().find(|(name, _)| *name == room) else {
            complaints.push(format!(
                "src/{path}: the room `{room}` is new: say in tests/house.rs what it may know"
            ));
            continue;
        };
        for other in named_rooms(&source.code) {
            if other != room && !known.contains(&other) {
                complaints.push(format!(
                    "src/{path}: `{room}` must not know `{other}`: take a value that agent.rs \
                     hands over, or move the code to the room that it is about"
                ));
            }
        }
    }
    assert_none(complaints);
}

#[test]
fn what_one_file_keeps_for_all_is_asked_of_it() {
    let mut complaints = Vec::new();
    for source in sources() {
        for (text, keeper, why) in RESERVED {
            if source.path != *keeper && source.code.contains(text) {
                complaints
                    .push(format!("src/{}: `{text}` belongs in src/{keeper}, {why}", source.path));
            }
        }
    }
    assert_none(complaints);
}

#[test]
fn no_file_is_too_long_to_read() {
    let long = |source: &Source| source.code.lines().count() > MAX_LINES;
    let complaint = |source: Source| {
        let lines = source.code.lines().count();
        format!("src/{}: {lines} lines, {MAX_LINES} at most: split it by subject", source.path)
    };
    assert_none(sources().into_iter().filter(long).map(complaint).collect());
}

#[test]
fn every_test_that_the_safety_page_cites_exists() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(top.join("SAFETY.md")).unwrap();
    let cited: Vec<_> = page.split('`').filter_map(|text| text.split_once(".rs::")).collect();
    assert!(cited.len() > 20, "SAFETY.md cites its tests in another form: {cited:?}");
    let is_test = |(path, name): &(&str, &str)| {
        let text = fs::read_to_string(top.join(format!("{path}.rs"))).unwrap_or_default();
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let function = format!("fn {name}(");
        let at = lines.iter().position(|line| line.contains(&function)).unwrap_or(0);
        let before = lines.iter().take(at).rev();
        before.take_while(|line| line.starts_with("#[")).any(|line| *line == "#[test]")
    };
    let complaint = |(path, name)| format!("SAFETY.md: there is no test {name} in {path}.rs");
    assert_none(cited.into_iter().filter(|cited| !is_test(cited)).map(complaint).collect());
}

#[test]
fn rooms_are_found_in_every_form_of_a_path() {
    let code = "use crate::{clock::{self, Moment}, drain, sink::{Sink, lake::{A, B}},};
        use crate::record::Run; fn f() { crate::spool::open(crate :: x) } pub(crate) fn g() {}";
    let rooms: Vec<_> = named_rooms(code).into_iter().collect();
    assert_eq!(rooms, ["clock", "drain", "record", "sink", "spool"]);
}
