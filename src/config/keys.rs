//! The table of keys: the one list of what can be set.
//!
//! Reading, the names of environment variables, the nearest known key and the
//! test of the installed file all go by it.

use std::time::Duration;

use crate::config::draft::{Draft, Kind};
use crate::config::name;
use crate::config::value::{self, Given, Wrong};
use crate::drain::Order;
use crate::sensor::simulated::Profile;
use crate::spool::WhenFull;

/// What the name of every variable begins with.
pub const ENV_PREFIX: &str = "IOT_AGENT_";

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

const SECOND: Duration = ms(1000);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

const MIB: u64 = 1024 * 1024;
/// The largest file system of ext4 with its usual 32-bit block numbers.
const MAX_DISK: u64 = 16 * 1024 * 1024 * MIB;
/// Eight of the spool's smallest generations.
const MIN_SPOOL: u64 = 8 * MIB;
const MIN_LAKE: u64 = 16 * MIB;
/// Bytes a second: about what a device makes that samples every 6 s.
const MIN_RATE: u64 = 100;
const MAX_RATE: u64 = 1024 * MIB;

const LABEL_CHARS: usize = 64;
const TEXT_CHARS: usize = 128;

/// One thing that can be set.
pub struct Key {
    /// `section.key`; a last part of `*` stands for any name.
    pub name: &'static str,
    /// A value, as it is written in a file.
    pub example: &'static str,
    pub read: fn(&mut Draft, &Given) -> Result<(), Wrong>,
}

const fn key(
    name: &'static str,
    example: &'static str,
    read: fn(&mut Draft, &Given) -> Result<(), Wrong>,
) -> Key {
    Key { name, example, read }
}

fn put<T>(slot: &mut Option<T>, value: Result<T, Wrong>) -> Result<(), Wrong> {
    *slot = Some(value?);
    Ok(())
}

pub const KEYS: &[Key] = &[
    key("device.id", "\"pi-attic\"", |d, g| put(&mut d.id, name::name(g))),
    key("device.labels.*", "\"attic\"", |d, g| {
        let (name, text) = value::label(g, LABEL_CHARS)?;
        d.labels.insert(name, text);
        Ok(())
    }),
    key("sample.interval", "\"10s\"", |d, g| {
        put(&mut d.interval, value::duration(g, ms(100)..=DAY))
    }),
    key("sample.disk", "\"/\"", |d, g| put(&mut d.disk, name::path(g))),
    key("sample.temperature_sensor", "\"cpu_thermal temp1\"", |d, g| {
        put(&mut d.temperature_sensor, value::text(g, TEXT_CHARS))
    }),
    key("spool.path", "\"/var/lib/iot-agent/spool\"", |d, g| {
        put(&mut d.spool_path, name::folder(g))
    }),
    key("spool.max_loss", "\"auto\"", |d, g| {
        put(&mut d.max_loss, value::auto_or_duration(g, SECOND..=HOUR))
    }),
    key("spool.max_bytes", "\"256MiB\"", |d, g| {
        put(&mut d.spool_max_bytes, value::size(g, MIN_SPOOL..=MAX_DISK))
    }),
    key("spool.keep_free", "\"5%\"", |d, g| put(&mut d.keep_free, value::keep_free(g, MAX_DISK))),
    key("spool.when_full", "\"thin\"", |d, g| {
        let words = [("thin", WhenFull::Thin), ("drop-oldest", WhenFull::DropOldest)];
        put(&mut d.when_full, value::choice(g, &words))
    }),
    key("send.interval", "\"60s\"", |d, g| {
        put(&mut d.send_interval, value::duration(g, SECOND..=HOUR))
    }),
    key("send.order", "\"fresh-first\"", |d, g| {
        let words = [("fresh-first", Order::FreshFirst), ("oldest-first", Order::OldestFirst)];
        put(&mut d.order, value::choice(g, &words))
    }),
    key("send.backlog_rate", "\"200KiB\"", |d, g| {
        put(&mut d.backlog_rate, value::size(g, MIN_RATE..=MAX_RATE))
    }),
    key("send.daily_bytes", "\"20MiB\"", |d, g| {
        put(&mut d.daily_bytes, value::size(g, MIB..=MAX_DISK))
    }),
    key("clock.wait", "\"5m\"", |d, g| {
        put(&mut d.clock_wait, value::duration(g, Duration::ZERO..=DAY))
    }),
    key("sink.kind", "\"lake\"", |d, g| {
        let words = [("lake", Kind::Lake), ("firehose", Kind::Firehose), ("stdout", Kind::Stdout)];
        put(&mut d.kind, value::choice(g, &words))
    }),
    key("sink.firehose.stream", "\"iot-telemetry\"", |d, g| put(&mut d.stream, name::name(g))),
    key("sink.firehose.region", "\"eu-west-1\"", |d, g| put(&mut d.region, name::region(g))),
    key("sink.firehose.endpoint_url", "\"https://gateway.local:8443\"", |d, g| {
        put(&mut d.endpoint_url, name::endpoint_url(g))
    }),
    key("sink.firehose.profile", "\"telemetry\"", |d, g| {
        put(&mut d.aws_profile, value::text(g, TEXT_CHARS))
    }),
    key("sink.firehose.role_arn", "\"arn:aws:iam::123456789012:role/iot-agent\"", |d, g| {
        put(&mut d.role_arn, name::role_arn(g))
    }),
    key("sink.firehose.ca_file", "\"/etc/ssl/certs/gateway.pem\"", |d, g| {
        put(&mut d.ca_file, name::path(g))
    }),
    key("sink.lake.path", "\"/var/lib/iot-agent/lake\"", |d, g| {
        put(&mut d.lake_path, name::folder(g))
    }),
    key("sink.lake.max_bytes", "\"1GiB\"", |d, g| {
        put(&mut d.lake_max_bytes, value::size(g, MIN_LAKE..=MAX_DISK))
    }),
    key("simulate.profile", "\"realistic\"", |d, g| {
        let words = [("realistic", Profile::Realistic), ("uniform", Profile::Uniform)];
        put(&mut d.profile, value::choice(g, &words))
    }),
    key("simulate.devices", "1", |d, g| {
        put(&mut d.devices, value::integer(g, 1..=10_000).map(|devices| devices as usize))
    }),
    key("simulate.seed", "0", |d, g| put(&mut d.seed, value::integer(g, 0..=i64::MAX as u64))),
    key("simulate.late", "0.0", |d, g| put(&mut d.late, value::number(g, 0.0..=1.0))),
    key("simulate.speed", "\"1x\"", |d, g| put(&mut d.speed, value::factor(g, 1.0..=3600.0))),
    key("simulate.backfill", "\"0s\"", |d, g| {
        put(&mut d.backfill, value::duration(g, Duration::ZERO..=366 * DAY))
    }),
];

/// What a dotted name means.
pub enum Known {
    Key(&'static Key),
    Section,
}

impl Key {
    /// The section and the key's own name.
    fn split(&self) -> (&'static str, &'static str) {
        self.name.rsplit_once('.').unwrap_or(("", self.name))
    }

    /// The name without what stands for any name: `device.labels`.
    pub fn stem(&self) -> &'static str {
        self.name.trim_end_matches(".*")
    }

    /// The name of its environment variable.
    pub fn env(&self) -> String {
        format!("{ENV_PREFIX}{}", self.stem().replace('.', "_").to_uppercase())
    }

    fn matches(&self, name: &str) -> bool {
        let below = |stem| name.strip_prefix(stem).is_some_and(|rest| rest.starts_with('.'));
        name == self.name || self.stem() != self.name && below(self.stem())
    }
}

pub fn find(name: &str) -> Option<Known> {
    let section =
        |key: &&Key| key.name.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'));
    match KEYS.iter().find(|key| key.matches(name)) {
        Some(key) => Some(Known::Key(key)),
        None => KEYS.iter().find(section).map(|_| Known::Section),
    }
}

/// Sections in the table's order.
fn sections() -> Vec<&'static str> {
    let mut sections: Vec<&str> = KEYS.iter().map(|key| key.split().0).collect();
    sections.dedup();
    sections
}

/// A sentence about what the unknown `name` may have meant.
pub fn instead_of(name: &str, is_section: bool) -> String {
    let (section, last) = name.rsplit_once('.').unwrap_or(("", name));
    if is_section {
        let sections = sections();
        return match nearest(name, sections.iter().copied()) {
            Some(near) => format!("Did you mean [{near}]?"),
            None => format!("The sections are {}.", sections.join(", ")),
        };
    }
    if let Some(near) = nearest(name, KEYS.iter().map(Key::stem)) {
        return format!("Did you mean {near}?");
    }
    let named = |of: fn(&Key) -> &str, wanted: &str| -> Vec<&str> {
        KEYS.iter().filter(|key| of(key) == wanted).map(Key::stem).collect()
    };
    let elsewhere = named(|key| key.split().1, last);
    if !elsewhere.is_empty() {
        return format!("Did you mean {}?", elsewhere.join(" or "));
    }
    let siblings = named(|key| key.split().0, section);
    if !siblings.is_empty() {
        return format!("The keys there are {}.", siblings.join(", "));
    }
    format!("The sections are {}.", sections().join(", "))
}

/// A sentence about how to write `section`, or labels.
pub fn section_example(section: &str) -> String {
    match KEYS.iter().find(|key| key.split().0 == section) {
        Some(key) => {
            let name = if key.split().1 == "*" { "site" } else { key.split().1 };
            format!("Write a table, for example {{ {name} = {} }}.", key.example)
        }
        None => "Write a table.".into(),
    }
}

/// A sentence about which variable the unknown `name` may have meant.
pub fn variable_instead_of(name: &str) -> String {
    let variables: Vec<String> = KEYS.iter().map(Key::env).collect();
    match nearest(name, variables.iter().map(String::as_str)) {
        Some(near) => format!("Did you mean {near}? If not, unset it."),
        None => format!("Unset it; a key's variable is {ENV_PREFIX}SECTION_KEY."),
    }
}

/// The candidate that is at most two slips of the finger away, or one slip
/// for every four letters.
fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let slips = |candidate: &str| strsim::damerau_levenshtein(name, candidate);
    candidates
        .map(|candidate| (slips(candidate), candidate))
        .min_by_key(|(slips, _)| *slips)
        .filter(|(slips, _)| *slips <= (name.chars().count() / 4).clamp(1, 4))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_two_keys_share_a_variable() {
        let variables: BTreeSet<String> = KEYS.iter().map(Key::env).collect();
        assert_eq!(variables.len(), KEYS.len());
        assert!(variables.contains("IOT_AGENT_SINK_FIREHOSE_STREAM"));
        assert!(variables.contains("IOT_AGENT_DEVICE_LABELS"));
    }

    #[test]
    fn sections_and_keys_are_told_apart() {
        assert!(matches!(find("sink"), Some(Known::Section)));
        assert!(matches!(find("sink.firehose"), Some(Known::Section)));
        assert!(matches!(find("device.labels"), Some(Known::Section)));
        assert!(matches!(find("device.labels.a.b"), Some(Known::Key(_))));
        assert!(matches!(find("sink.kind"), Some(Known::Key(_))));
        for unknown in ["", "sin", "sink.", "sink.kind.x", "sink.firehose.", "device.labelsx"] {
            assert!(find(unknown).is_none(), "{unknown}");
        }
    }

    #[test]
    fn a_slip_finds_its_key() {
        for (slip, meant) in [
            ("send.intervall", "Did you mean send.interval?"),
            ("sampel.interval", "Did you mean sample.interval?"),
            ("sink.firehose.delivery_stream", "sink.firehose.region"),
            ("interval", "Did you mean sample.interval or send.interval?"),
            ("sink.stream", "Did you mean sink.firehose.stream?"),
            ("device.label", "Did you mean device.labels?"),
            ("x", "The sections are device, device.labels, sample, spool"),
        ] {
            assert!(instead_of(slip, false).contains(meant), "{}", instead_of(slip, false));
        }
        assert_eq!(instead_of("sinks.firehose", true), "Did you mean [sink.firehose]?");
        assert!(instead_of("credentials", true).contains("sink.lake"));
        let variable = variable_instead_of("IOT_AGENT_SEND_INTERVALL");
        assert!(variable.contains("IOT_AGENT_SEND_INTERVAL?"), "{variable}");
    }
}
