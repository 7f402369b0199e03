//! Records as tests compare them, whichever way they came: as NDJSON, or as
//! rows that DuckDB read back.

use std::collections::BTreeMap;

use chrono::DateTime;
use serde_json::Value;

/// The records in `ndjson`, but for a last line that is still being written.
#[track_caller]
pub fn parse(ndjson: &str) -> Vec<Value> {
    let whole = ndjson.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let record = |line| {
        serde_json::from_str(line).unwrap_or_else(|error| panic!("no record: {line}: {error}"))
    };
    whole.lines().map(record).collect()
}

/// The same without markers.
#[track_caller]
pub fn samples(ndjson: &str) -> Vec<Value> {
    let mut records = parse(ndjson);
    records.retain(|record| record["marker"].is_null());
    records
}

/// When it was sampled, in milliseconds since the Unix epoch.
#[track_caller]
pub fn timestamp_ms(record: &Value) -> i64 {
    let text = text(record, "timestamp");
    let date = DateTime::parse_from_rfc3339(text);
    date.unwrap_or_else(|error| panic!("{text} is no date: {error}")).timestamp_millis()
}

#[track_caller]
pub fn text<'a>(record: &'a Value, field: &str) -> &'a str {
    record[field].as_str().unwrap_or_else(|| panic!("no text {field} in {record}"))
}

#[track_caller]
pub fn number(record: &Value, field: &str) -> u64 {
    record[field].as_u64().unwrap_or_else(|| panic!("no whole number {field} in {record}"))
}

/// Samples by device, run and seq, as JSON has them: without nulls; and without
/// `timestamp_sent`, which is another one each time they are handed over.
/// Panics over one that is there twice.
#[track_caller]
pub fn by_identity(records: Vec<Value>) -> BTreeMap<(String, u64, u64), Value> {
    let mut found = BTreeMap::new();
    for mut record in records {
        drop_nulls(&mut record);
        drop_fields(&mut record, &["timestamp_sent"]);
        let (device, run) = (text(&record, "id_device").to_owned(), number(&record, "run"));
        let key = (device, run, number(&record, "seq"));
        assert!(!found.contains_key(&key), "twice: {key:?}");
        found.insert(key, record);
    }
    found
}

/// Simulated samples by device and the moment they were asked for (ms since
/// the Unix epoch), without what belongs to one start of the agent. Two starts
/// of one seed have the same where they overlap.
///
/// `interval_ms` is the simulated one. A late sample's timestamp lies before
/// its moment; with one sample of each device that is not late, its seq tells.
#[track_caller]
pub fn by_moment(records: Vec<Value>, interval_ms: i64) -> BTreeMap<(String, i64), Value> {
    let begin_ms = |record: &Value| timestamp_ms(record) - seq_ms(record, interval_ms);
    let begin_ms = records.iter().map(begin_ms).max().unwrap_or_default();
    let mut found = BTreeMap::new();
    for mut record in records {
        let moment_ms = begin_ms + seq_ms(&record, interval_ms);
        let key = (text(&record, "id_device").to_owned(), moment_ms);
        drop_nulls(&mut record);
        let of_the_start = ["run", "seq", "timestamp_sent", "backlog_bytes", "backlog_age_s"];
        drop_fields(&mut record, &of_the_start);
        assert!(!found.contains_key(&key), "twice: {key:?}");
        found.insert(key, record);
    }
    found
}

fn seq_ms(record: &Value, interval_ms: i64) -> i64 {
    i64::try_from(number(record, "seq")).expect("seqs are small") * interval_ms
}

fn drop_fields(record: &mut Value, names: &[&str]) {
    let fields = record.as_object_mut().expect("a record is an object");
    fields.retain(|name, _| !names.contains(&name.as_str()));
}

/// As JSON has it: members that are null are left out.
pub fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(values) => values.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_moment_of_a_late_sample_follows_from_its_seq() {
        let record = |seq: u64, timestamp: &str| {
            json!({
                "id_device": "sim-0001", "run": 5, "seq": seq, "timestamp": timestamp,
                "timestamp_sent": "2026-11-24 02", "cpu": 0.5, "temperature": null,
            })
        };
        let records =
            vec![record(0, "2026-11-24T01:30:00.123Z"), record(1, "2026-11-24T02:00:10.000Z")];
        let found = by_moment(records, 10_000);
        let moments: Vec<i64> = found.keys().map(|(_, moment_ms)| *moment_ms).collect();
        assert_eq!(moments, [1_795_485_600_000, 1_795_485_610_000]);
        let first = found.into_values().next().unwrap();
        let timestamp = "2026-11-24T01:30:00.123Z";
        assert_eq!(first, json!({"id_device": "sim-0001", "timestamp": timestamp, "cpu": 0.5}));
    }

    #[test]
    fn a_row_is_the_record_it_came_from() {
        let record = r#"{"id_device":"a","run":1,"seq":2,"disks":[{"fs":"ext4"}]}"#;
        let row = json!({
            "id_device": "a", "run": 1, "seq": 2, "cpu": null, "timestamp_sent": "2026-11-24 02",
            "disks": [{"fs": "ext4", "read_bytes": null}],
        });
        let half_written = format!("{record}\n{{\"id_dev");
        assert_eq!(by_identity(parse(&half_written)), by_identity(vec![row]));
    }

    #[test]
    #[should_panic(expected = "twice")]
    fn a_row_that_is_there_twice_is_found() {
        by_identity(parse(&"{\"id_device\":\"a\",\"run\":1,\"seq\":2}\n".repeat(2)));
    }
}
