//! One setting as it was written becomes a value, or says what is wrong.
//!
//! Every reader knows its range, and names it in the error: the range is
//! written down once.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use bytesize::ByteSize;
use toml::de::{DeInteger, DeValue};

use crate::config::problem::veiled;
use crate::spool::KeepFree;

/// One setting as it was written.
pub struct Given<'a> {
    /// A label's name; empty for other keys.
    pub name: &'a str,
    pub value: &'a DeValue<'a>,
    /// The value's very characters.
    pub written: &'a str,
    /// Not from a file: text needs no quotes.
    pub bare: bool,
}

/// What is wrong with a value, and what would be right.
#[derive(Debug)]
pub struct Wrong {
    /// Follows the key's name: `"fast" is not a duration`.
    pub what: String,
    /// Follows `Write`: `a duration from 100ms to 1h`.
    pub allowed: String,
}

impl Given<'_> {
    /// The value for messages.
    fn shown(&self) -> String {
        const CHARS: usize = 40;
        let text = match self.value {
            DeValue::Table(_) => return "a table".into(),
            DeValue::Array(_) => return "a list".into(),
            DeValue::String(text) => text,
            _ => self.written,
        };
        let text = veiled(text);
        let mut cut: String = text.chars().take(CHARS).collect();
        if text.chars().count() > CHARS {
            cut.push('…');
        }
        if matches!(self.value, DeValue::String(_)) { format!("{cut:?}") } else { cut }
    }

    pub fn wrong<T>(&self, why: &str, allowed: impl Display) -> Result<T, Wrong> {
        Err(Wrong { what: format!("{} {why}", self.shown()), allowed: allowed.to_string() })
    }

    /// The value as text; a bare `42` or `true` is text where text is wanted.
    pub fn text(&self) -> Option<&str> {
        match self.value {
            DeValue::String(text) => Some(text),
            DeValue::Table(_) | DeValue::Array(_) => None,
            _ => self.bare.then_some(self.written),
        }
    }
}

fn whole(integer: &DeInteger<'_>) -> Option<i128> {
    i128::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// Whole days are `366d`, not `1year 18h`.
fn human_duration(value: Duration) -> String {
    const DAY_S: u64 = 86_400;
    match (value.as_secs() / DAY_S, value.as_secs() % DAY_S) {
        (days @ 1.., 0) => format!("{days}d"),
        _ => humantime::format_duration(value).to_string(),
    }
}

pub fn duration(given: &Given, range: RangeInclusive<Duration>) -> Result<Duration, Wrong> {
    let (min, max) = (human_duration(*range.start()), human_duration(*range.end()));
    let allowed = format!("a duration from {min} to {max}");
    let text = match given.value {
        DeValue::String(text) => text,
        DeValue::Integer(_) | DeValue::Float(_) => given.written,
        _ => return given.wrong("is not a duration", allowed),
    };
    match humantime::parse_duration(text) {
        Ok(value) if value < *range.start() => given.wrong("is too short", allowed),
        Ok(value) if value > *range.end() => given.wrong("is too long", allowed),
        Ok(value) => Ok(value),
        Err(humantime::DurationError::UnknownUnit { unit, .. }) if unit.is_empty() => {
            given.wrong("has no unit (ms, s, m, h or d)", allowed)
        }
        Err(_) => given.wrong("is not a duration (units: ms, s, m, h, d)", allowed),
    }
}

fn human_size(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string().replace(".0 ", " ")
}

/// A whole number counts bytes.
fn parse_size(given: &Given) -> Option<u64> {
    match given.value {
        DeValue::String(text) => text.trim().parse().ok().map(|ByteSize(bytes)| bytes),
        DeValue::Integer(integer) => whole(integer).and_then(|bytes| bytes.try_into().ok()),
        _ => None,
    }
}

pub fn size(given: &Given, range: RangeInclusive<u64>) -> Result<u64, Wrong> {
    let (min, max) = range.into_inner();
    let allowed = format!("a size from {} to {}", human_size(min), human_size(max));
    match parse_size(given) {
        None => given.wrong("is not a size (units: KiB, MiB, GiB; kB, MB, GB)", allowed),
        Some(bytes) if bytes < min => given.wrong("is too small", allowed),
        Some(bytes) if bytes > max => given.wrong("is too large", allowed),
        Some(bytes) => Ok(bytes),
    }
}

/// A size up to `max`, or a share of the file system up to 90 %: beyond it
/// hardly any disk would take a spool.
pub fn keep_free(given: &Given, max: u64) -> Result<KeepFree, Wrong> {
    const MAX_PERCENT: f64 = 90.0;
    let allowed = format!("a share from 0% to {MAX_PERCENT}% or a size up to {}", human_size(max));
    let share = given.text().and_then(|text| text.trim().strip_suffix('%'));
    if let Some(percent) = share {
        return match percent.trim_end().parse::<f64>() {
            Ok(percent) if (0.0..=MAX_PERCENT).contains(&percent) => {
                Ok(KeepFree::Share(percent / 100.0))
            }
            Ok(_) => given.wrong("is out of range", allowed),
            Err(_) => given.wrong("is not a share", allowed),
        };
    }
    match parse_size(given) {
        None => given.wrong("is neither a share nor a size", allowed),
        Some(bytes) if bytes > max => given.wrong("is too large", allowed),
        Some(bytes) => Ok(KeepFree::Bytes(bytes)),
    }
}

/// `"auto"` is `None`.
pub fn auto_or_duration(
    given: &Given,
    range: RangeInclusive<Duration>,
) -> Result<Option<Duration>, Wrong> {
    if given.text() == Some("auto") {
        return Ok(None);
    }
    duration(given, range)
        .map(Some)
        .map_err(|wrong| Wrong { allowed: format!("\"auto\" or {}", wrong.allowed), ..wrong })
}

pub fn integer(given: &Given, range: RangeInclusive<u64>) -> Result<u64, Wrong> {
    let allowed = format!("a whole number from {} to {}", range.start(), range.end());
    let DeValue::Integer(integer) = given.value else {
        return given.wrong("is not a whole number", allowed);
    };
    let value = whole(integer).and_then(|value| u64::try_from(value).ok());
    match value.filter(|value| range.contains(value)) {
        Some(value) => Ok(value),
        None => given.wrong("is out of range", allowed),
    }
}

fn parse_number(value: &DeValue) -> Option<f64> {
    match value {
        DeValue::Integer(integer) => whole(integer).map(|value| value as f64),
        DeValue::Float(float) => float.as_str().parse().ok(),
        _ => None,
    }
}

pub fn number(given: &Given, range: RangeInclusive<f64>) -> Result<f64, Wrong> {
    let allowed = format!("a number from {} to {}", range.start(), range.end());
    match parse_number(given.value) {
        None => given.wrong("is not a number", allowed),
        Some(value) if !range.contains(&value) => given.wrong("is out of range", allowed),
        Some(value) => Ok(value),
    }
}

/// `60`, `"60"` or `"60x"`.
pub fn factor(given: &Given, range: RangeInclusive<f64>) -> Result<f64, Wrong> {
    let allowed = format!("a factor from {}x to {}x", range.start(), range.end());
    let text = given.text().map(|text| text.strip_suffix('x').unwrap_or(text));
    match text.and_then(|text| text.parse().ok()).or_else(|| parse_number(given.value)) {
        None => given.wrong("is not a factor", allowed),
        Some(value) if !range.contains(&value) => given.wrong("is out of range", allowed),
        Some(value) => Ok(value),
    }
}

/// One of the words, each with its meaning.
pub fn choice<T: Copy>(given: &Given, words: &[(&str, T)]) -> Result<T, Wrong> {
    match words.iter().find(|(word, _)| given.text() == Some(word)) {
        Some((_, meaning)) => Ok(*meaning),
        None => {
            let quoted: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
            given.wrong("is not known", quoted.join(" or "))
        }
    }
}

/// Text of 1..=`max` printable characters.
pub fn text(given: &Given, max: usize) -> Result<String, Wrong> {
    let allowed = format!("text of 1 to {max} printable characters");
    match given.text() {
        None => given.wrong("is not text", allowed),
        Some("") => given.wrong("is empty", allowed),
        Some(text) if text.chars().count() > max => given.wrong("is too long", allowed),
        Some(text) if text.chars().any(char::is_control) => {
            given.wrong("holds a control character", allowed)
        }
        Some(text) => Ok(text.to_owned()),
    }
}

/// A label's name and value.
pub fn label(given: &Given, max: usize) -> Result<(String, String), Wrong> {
    let value = text(given, max)?;
    let name = DeValue::String(given.name.into());
    let name = text(&Given { value: &name, ..*given }, max)
        .map_err(|wrong| Wrong { what: format!("the name {}", wrong.what), ..wrong })?;
    Ok((name, value))
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Reads `value`, written as in a file.
    pub fn read<T>(value: &str, read: impl Fn(&Given) -> Result<T, Wrong>) -> Result<T, String> {
        let parsed = DeValue::parse(value).unwrap();
        let given = Given { name: "key", value: parsed.get_ref(), written: value, bare: false };
        read(&given).map_err(|wrong| wrong.what)
    }

    const KIB: u64 = 1024;

    #[test]
    fn durations_have_a_unit_and_a_range() {
        let hour = Duration::from_secs(3600);
        let of = |value: &str| read(value, |g| duration(g, Duration::from_secs(1)..=hour));
        assert_eq!(of("\"10s\""), Ok(Duration::from_secs(10)));
        assert_eq!(of("\"1m 30s\""), Ok(Duration::from_secs(90)));
        assert_eq!(of("\"1500ms\""), Ok(Duration::from_millis(1500)));
        assert_eq!(of("\"1h\""), Ok(hour));
        for (value, why) in [
            ("10", "10 has no unit"),
            ("\"10\"", "\"10\" has no unit"),
            ("1.5", "1.5 has no unit"),
            ("0", "0 is too short"),
            ("\"999ms\"", "is too short"),
            ("\"3601s\"", "is too long"),
            ("\"-5s\"", "is not a duration"),
            ("\"99999999999999999999s\"", "is not a duration"),
            ("\"\"", "is not a duration"),
            ("true", "true is not a duration"),
            ("[1]", "a list is not a duration"),
            ("{ s = 1 }", "a table is not a duration"),
        ] {
            let what = of(value).unwrap_err();
            assert!(what.contains(why), "{value}: {what}");
        }
    }

    #[test]
    fn sizes_tell_a_mebibyte_from_a_megabyte() {
        let of = |value: &str| read(value, |g| size(g, KIB..=u64::MAX / 2));
        assert_eq!(of("\"1MiB\""), Ok(KIB * KIB));
        assert_eq!(of("\"1 MiB\""), Ok(KIB * KIB));
        assert_eq!(of("\"1MB\""), Ok(1_000_000));
        assert_eq!(of("\"0.5GiB\""), Ok(512 * KIB * KIB));
        assert_eq!(of("1_000_000"), Ok(1_000_000));
        for (value, why) in [
            ("0", "0 is too small"),
            ("-1", "is not a size"),
            ("1.5", "is not a size"),
            ("\"lots\"", "is not a size"),
            ("\"-1MiB\"", "is not a size"),
            ("\"99999EiB\"", "is too large"),
            ("\"5%\"", "is not a size"),
        ] {
            let what = of(value).unwrap_err();
            assert!(what.contains(why), "{value}: {what}");
        }
    }

    #[test]
    fn keep_free_is_a_share_or_a_size() {
        let of = |value: &str| read(value, |g| keep_free(g, KIB));
        assert_eq!(of("\"5%\""), Ok(KeepFree::Share(0.05)));
        assert_eq!(of("\"2.5 %\""), Ok(KeepFree::Share(0.025)));
        assert_eq!(of("\"1KiB\""), Ok(KeepFree::Bytes(KIB)));
        assert_eq!(of("0"), Ok(KeepFree::Bytes(0)));
        for bad in ["\"91%\"", "\"-1%\"", "\"nan%\"", "\"%\"", "\"2KiB\"", "0.05", "\"\""] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn numbers_keep_to_their_range() {
        assert_eq!(read("0x10", |g| integer(g, 1..=16)), Ok(16));
        assert_eq!(read("1", |g| number(g, 0.0..=1.0)), Ok(1.0));
        assert_eq!(read("60", |g| factor(g, 1.0..=60.0)), Ok(60.0));
        assert_eq!(read("\"60x\"", |g| factor(g, 1.0..=60.0)), Ok(60.0));
        for bad in ["0", "17", "-1", "\"5\"", "1.0", "99999999999999999999999999999999999999999999"]
        {
            assert!(read(bad, |g| integer(g, 1..=16)).is_err(), "{bad}");
        }
        for bad in ["nan", "inf", "-0.1", "1.1", "\"1\"", "1e999"] {
            assert!(read(bad, |g| number(g, 0.0..=1.0)).is_err(), "{bad}");
        }
        for bad in ["\"nan\"", "\"60xx\"", "\"x\"", "0.5", "\"\"", "61"] {
            assert!(read(bad, |g| factor(g, 1.0..=60.0)).is_err(), "{bad}");
        }
    }
}
