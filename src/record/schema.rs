//! The columns of the record, read from `infra/schema/sample.json`.
//!
//! That file is the one source: the Parquet writer, the Glue table and the
//! queries all read it. It is compiled in, and the test below holds what the
//! record writes to it, member by member and type by type, both ways.

use std::sync::LazyLock;

use serde::Deserialize;

const TEXT: &str = include_str!("../../infra/schema/sample.json");

/// Why a schema cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error(
        "{0:?} is no column type; write string, double, bigint, boolean, array<TYPE>, \
         map<TYPE,TYPE> or struct<NAME:TYPE,...>"
    )]
    Type(String),
}

/// A Hive column type, as far as the record needs them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Type {
    String,
    Double,
    /// 64 bits, signed.
    Bigint,
    Boolean,
    Array(Box<Type>),
    /// Name and type of each member, in order.
    Struct(Vec<(String, Type)>),
    /// Key and value.
    Map(Box<Type>, Box<Type>),
}

/// One column.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Column {
    pub name: String,
    #[serde(rename = "type")]
    pub column_type: Type,
    /// What it means, for people.
    pub comment: String,
    /// It names folders and is no column of the files in them.
    #[serde(default)]
    pub partition: bool,
}

/// All columns, the partition's included, in the order of the file.
pub fn columns() -> &'static [Column] {
    // The text is part of this program, and a test reads it.
    static COLUMNS: LazyLock<Vec<Column>> = LazyLock::new(|| parse(TEXT).unwrap_or_default());
    &COLUMNS
}

fn parse(text: &str) -> serde_json::Result<Vec<Column>> {
    #[derive(Deserialize)]
    struct Schema {
        columns: Vec<Column>,
    }
    serde_json::from_str::<Schema>(text).map(|schema| schema.columns)
}

impl TryFrom<String> for Type {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        match read_type(&text) {
            Some((found, "")) => Ok(found),
            _ => Err(Error::Type(text)),
        }
    }
}

/// The type at the start of `text`, and what follows it.
fn read_type(text: &str) -> Option<(Type, &str)> {
    let end = text.find(['<', '>', ',']).unwrap_or(text.len());
    let (word, rest) = text.split_at_checked(end)?;
    let scalar = match word {
        "string" => Type::String,
        "double" => Type::Double,
        "bigint" => Type::Bigint,
        "boolean" => Type::Boolean,
        _ => {
            let (nested, rest) = read_arguments(word, rest.strip_prefix('<')?)?;
            return Some((nested, rest.strip_prefix('>')?));
        }
    };
    Some((scalar, rest))
}

fn read_arguments<'a>(word: &str, text: &'a str) -> Option<(Type, &'a str)> {
    match word {
        "array" => {
            let (element, rest) = read_type(text)?;
            Some((Type::Array(Box::new(element)), rest))
        }
        "map" => {
            let (key, rest) = read_type(text)?;
            let (value, rest) = read_type(rest.strip_prefix(',')?)?;
            Some((Type::Map(Box::new(key), Box::new(value)), rest))
        }
        "struct" => {
            let (mut members, mut rest) = (Vec::new(), text);
            loop {
                let (name, typed) = rest.split_once(':')?;
                let (member, after) = read_type(typed)?;
                members.push((name.to_owned(), member));
                match after.strip_prefix(',') {
                    Some(more) => rest = more,
                    None => return Some((Type::Struct(members), after)),
                }
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use serde_json::Value;

    use super::*;
    use crate::clock::Moment;
    use crate::record::{
        Backlog, ClockState, Gap, GapReason, Line, Marker, Recorder, Run, Settings, dated,
    };
    use crate::sensor::{DiskReading, Reading, Readings, Sensor, ThermalReading};

    fn parsed(text: &str) -> Result<Type, Error> {
        Type::try_from(text.to_owned())
    }

    #[test]
    fn hive_types_are_read() {
        let named = |name: &str, member| (name.to_owned(), member);
        assert_eq!(parsed("bigint"), Ok(Type::Bigint));
        let pair = Type::Struct(vec![
            named("a", Type::Map(Box::new(Type::String), Box::new(Type::Double))),
            named("b", Type::Array(Box::new(Type::Boolean))),
        ]);
        assert_eq!(
            parsed("array<struct<a:map<string,double>,b:array<boolean>>>"),
            Ok(Type::Array(Box::new(pair)))
        );
    }

    #[test]
    fn what_is_no_hive_type_is_named() {
        for bad in ["", "int", "array<", "array<string", "array<string>>", "map<string>"] {
            assert_eq!(parsed(bad), Err(Error::Type(bad.to_owned())));
        }
        for bad in ["struct<>", "struct<a>", "struct<a:string,>", "string,string", "ärray<string>"]
        {
            assert!(parsed(bad).unwrap_err().to_string().contains(bad));
        }
    }

    #[test]
    fn the_file_is_read_and_has_one_partition() {
        let columns = parse(TEXT).unwrap();
        assert_eq!(columns, self::columns());
        let partitions: Vec<_> = columns.iter().filter(|c| c.partition).collect();
        assert_eq!(partitions.len(), 1);
        assert_eq!(partitions[0].name, "timestamp_sent");
        let names: BTreeSet<_> = columns.iter().map(|c| &c.name).collect();
        assert_eq!(names.len(), columns.len(), "a name is there twice");
    }

    struct OneHost;

    impl Sensor for OneHost {
        fn simulated(&self) -> bool {
            false
        }
        fn device_ids(&self) -> Option<Vec<String>> {
            None
        }
        fn read(&mut self, _: usize, _: i64) -> Reading {
            Reading::default()
        }
    }

    /// Every reading there can be: a new one does not compile until it is here.
    fn all_readings() -> Readings {
        Readings {
            temperature: Some(48.3),
            cpu: Some(0.25),
            ram: Some(0.5),
            hd: Some(0.75),
            uptime_s: Some(1),
            load1: Some(0.1),
            swap: Some(0.0),
            rx_bytes: Some(2),
            tx_bytes: Some(3),
            throttled: Some(0x50005),
            disks: vec![DiskReading {
                mount: "/".into(),
                fs: "ext4".into(),
                total_bytes: 4,
                used: 0.5,
                read_bytes: Some(5),
                written_bytes: Some(6),
            }],
            sensors: vec![ThermalReading { label: "cpu".into(), celsius: 48.3 }],
        }
    }

    fn full_sample() -> Value {
        let labels = [("site".into(), "attic".into())].into();
        let settings = Settings { id: "pi-attic".into(), labels };
        let at = Moment { wall_ms: 10, boot_ms: 10, synced: true };
        let reading = Reading { readings: all_readings(), late: Duration::ZERO };
        let mut recorder = Recorder::new(&settings, &OneHost, Run(9));
        let sample = recorder.record(0, reading, at, Backlog { bytes: 7, age_s: 8 }).unwrap();
        let (timestamp_ms, clock) = dated(&sample.at, None);
        assert_eq!(clock, ClockState::Synced);
        let line = Line {
            device: &sample.device,
            run: sample.run,
            seq: sample.seq,
            timestamp_ms,
            clock,
            timestamp_sent: "2026-11-24 14",
            body: &sample.body,
        };
        let mut out = Vec::new();
        line.render(&mut out);
        serde_json::from_slice(&out).unwrap()
    }

    fn full_marker() -> Value {
        let gap = Gap {
            device: "pi-attic".into(),
            run: Run(9),
            first_seq: 0,
            last_seq: 9,
            kept: 0,
            reason: GapReason::Evicted,
            simulated: false,
            stride_log2: 0,
        };
        let mut out = Vec::new();
        Marker::Gap(gap).render(0, "2026-11-24 14", &mut out);
        serde_json::from_slice(&out).unwrap()
    }

    /// `value` has the type, and every member of every struct in it.
    fn assert_is(value: &Value, expected: &Type, place: &str) {
        match expected {
            Type::String => assert!(value.is_string(), "{place}: {value}"),
            Type::Double => assert!(value.is_number(), "{place}: {value}"),
            Type::Bigint => assert!(value.is_i64(), "{place}: {value}"),
            Type::Boolean => assert!(value.is_boolean(), "{place}: {value}"),
            Type::Array(element) => {
                let values = value.as_array().expect(place);
                assert!(!values.is_empty(), "{place} is empty and proves nothing");
                values.iter().for_each(|v| assert_is(v, element, place));
            }
            Type::Map(_, of) => {
                let values = value.as_object().expect(place);
                assert!(!values.is_empty(), "{place} is empty and proves nothing");
                values.values().for_each(|v| assert_is(v, of, place));
            }
            Type::Struct(members) => {
                let values = value.as_object().expect(place);
                let names: BTreeSet<&str> = members.iter().map(|(name, _)| &**name).collect();
                let found: BTreeSet<&str> = values.keys().map(|k| &**k).collect();
                assert_eq!(found, names, "members of {place}");
                for (name, of) in members {
                    assert_is(&values[name], of, &format!("{place}.{name}"));
                }
            }
        }
    }

    #[test]
    fn the_record_writes_every_column_and_nothing_else() {
        let mut written = BTreeSet::new();
        for value in [full_sample(), full_marker()] {
            for (name, member) in value.as_object().unwrap() {
                let column = columns().iter().find(|column| column.name == *name);
                let column = column.unwrap_or_else(|| panic!("{name} is no column"));
                assert_is(member, &column.column_type, name);
                written.insert(name.clone());
            }
        }
        let all: BTreeSet<String> = columns().iter().map(|c| c.name.clone()).collect();
        assert_eq!(written, all);
    }
}
