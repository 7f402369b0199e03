//! The files that are installed are held to the types.

use std::collections::BTreeMap;

use crate::config::keys::KEYS;
use crate::config::model::{Config, Sink};
use crate::config::tests::{INSTALLED, read, read_bytes};

/// One setting of the installed file.
struct Shown {
    key: String,
    /// The line without its `#`.
    line: String,
    /// The comment above it, as one line.
    comment: String,
}

fn installed() -> Vec<Shown> {
    let (mut section, mut comment, mut shown) = ("", String::new(), Vec::new());
    for line in INSTALLED.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']');
        } else if let Some(text) = line.strip_prefix("# ") {
            comment = format!("{comment} {}", text.trim());
        } else if let Some(line) = line.strip_prefix('#').filter(|line| line.contains('=')) {
            let name = line.split(' ').next().unwrap();
            shown.push(Shown {
                key: format!("{section}.{name}"),
                line: line.to_owned(),
                comment: std::mem::take(&mut comment),
            });
        } else {
            comment.clear();
        }
    }
    shown
}

/// The configurations in which every key counts somewhere, after `line` was
/// added to `section`.
fn everywhere(key: &str, line: &str) -> [Config; 3] {
    let section = key.rsplit_once('.').unwrap().0;
    let with = |set: &[(&str, &str)], simulate| {
        let mut sections: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (section, line) in set {
            sections.entry(section).or_default().push(line);
        }
        let named = |line: &str| line.split(' ').next().unwrap().to_owned();
        let lines = sections.entry(section).or_default();
        lines.retain(|other| named(other) != named(line));
        lines.push(line);
        let text: Vec<String> = sections
            .iter()
            .map(|(name, lines)| format!("[{name}]\n{}", lines.join("\n")))
            .collect();
        read(&text.join("\n"), simulate)
    };
    let firehose = [("sink", "kind = \"firehose\""), ("sink.firehose", "stream = \"other\"")];
    [with(&[], false), with(&[], true), with(&firehose, false)]
}

#[test]
fn the_installed_file_holds_every_key_once_in_the_tables_order() {
    let shown: Vec<String> = installed().into_iter().map(|shown| shown.key).collect();
    let keys: Vec<&str> = KEYS.iter().map(super::super::keys::Key::stem).collect();
    assert_eq!(shown, keys);
}

#[test]
fn the_installed_file_as_it_is_sets_nothing() {
    for simulate in [false, true] {
        assert_eq!(read(INSTALLED, simulate), read("", simulate));
    }
}

#[test]
fn the_installed_file_shows_each_default_or_says_that_there_is_none() {
    let mut all_defaults = INSTALLED.to_owned();
    for Shown { key, line, comment } in installed() {
        let is_default = match key.as_str() {
            // Setting the kind is what makes the three differ.
            "sink.kind" => read(&format!("[sink]\n{line}"), false) == read("", false),
            _ => everywhere(&key, &line) == everywhere(&key, "#"),
        };
        let claims_default = !comment.contains("No default");
        assert_eq!(is_default, claims_default, "{key}: {comment}");
        if is_default {
            all_defaults = all_defaults.replace(&format!("\n#{line}\n"), &format!("\n{line}\n"));
        }
    }
    assert_ne!(all_defaults, INSTALLED);
    for simulate in [false, true] {
        assert_eq!(read(&all_defaults, simulate), read("", simulate));
    }
}

#[test]
fn the_installed_file_is_right_with_every_key_in_use() {
    let mut text = INSTALLED.to_owned();
    for Shown { line, .. } in installed() {
        text = text.replace(&format!("\n#{line}\n"), &format!("\n{line}\n"));
    }
    let config = read(&text, false);
    assert_eq!(config.device.id, "pi-attic");
    assert_eq!(config.device.labels["site"], "attic");
}

/// A list is right for no key, so each says what it allows.
#[test]
fn the_installed_file_names_what_each_key_allows() {
    for Shown { key, comment, .. } in installed() {
        let (section, name) = key.rsplit_once('.').unwrap();
        let value = if key == "device.labels" { "{ x = [] }" } else { "[]" };
        let text = format!("[{section}]\n{name} = {value}\n");
        let problems = read_bytes(text.as_bytes(), false).unwrap_err();
        let remedy = problems[0].remedy.strip_prefix("Write ").unwrap();
        let allowed = remedy.split(", for example ").next().unwrap().trim_end_matches('.');
        assert!(comment.contains(allowed), "{key} allows {allowed}; its comment: {comment}");
    }
}

#[test]
fn the_examples_are_right() {
    let firehose = include_str!("../../../config/examples/firehose.toml");
    assert!(matches!(read(firehose, false).sink, Sink::Firehose(_)));
    let simulate = read(include_str!("../../../config/examples/simulate.toml"), true);
    assert_eq!(simulate.simulate.unwrap().devices, 20);
}
