//! The whole line into Amazon Data Firehose, as far as ministack is one: lines
//! parted and converted to Parquet by the Glue table, read back from S3.
//!
//! Needs: .venv

#![cfg(test)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sdk_firehose::config::{BehaviorVersion, Region};
use aws_sdk_firehose::primitives::Blob;
use aws_sdk_firehose::types::Record;
use aws_sdk_firehose::{Client, Config};
use chrono::{DateTime, Utc};
use iot_agent_test_support::duckdb;
use iot_agent_test_support::ministack::{CREDENTIALS, Ministack};
use iot_agent_test_support::process::{Agent, Launch};
use iot_agent_test_support::records::{self, by_identity, number};
use serde_json::{Value, json};

const AGENT: &str = env!("CARGO_BIN_EXE_iot-agent");
const STREAM: &str = "iot-telemetry";
const BUCKET: &str = "lake";

/// Long enough for a busy machine; no test waits for it unless it fails.
const SOON: Duration = Duration::from_secs(60);

fn agent(home: &Path, endpoint: &str) -> Launch {
    Launch::new(AGENT, home)
        .firehose(STREAM, endpoint)
        .envs(CREDENTIALS)
        .set("device.id", "test-host")
        .set("device.labels.site", "attic")
        .set("device.labels.rack", "7")
        .set("spool.max_loss", "1s")
        .set("send.interval", "1s")
}

#[track_caller]
fn stop(mut agent: Agent) -> String {
    assert_eq!(agent.terminate(SOON).code(), Some(0), "{}", agent.stderr());
    agent.stderr()
}

/// UTC `yyyy-MM-dd HH`.
fn hour() -> String {
    DateTime::<Utc>::from(SystemTime::now()).format("%Y-%m-%d %H").to_string()
}

#[test]
fn what_waited_in_the_spool_arrives_field_by_field() {
    let home = tempfile::tempdir().unwrap();
    // Whatever a device can feel, and what this host feels.
    let simulation = ["--simulate", "--seed", "7", "--devices", "3", "--backfill", "1h"];
    for words in [&simulation[..], &[]] {
        let mut offline = agent(home.path(), "http://127.0.0.1:1")
            .set("sample.interval", if words.is_empty() { "250ms" } else { "10s" })
            .args(words.iter().copied())
            .start();
        let said = "nothing is delivered, samples are kept";
        offline.wait_for("an outage", SOON, |agent| agent.stderr().contains(said));
        stop(offline);
    }
    let mut export = Launch::new(AGENT, home.path()).args(["spool", "export"]).start();
    assert!(export.finish(SOON).success(), "{}", export.stderr());
    let waited = by_identity(records::samples(&export.stdout()));
    assert!(waited.len() > 100, "{} waited", waited.len());

    let ministack = Ministack::start();
    ministack.create_stream(STREAM, BUCKET);
    let begun = hour();
    let mut online = agent(home.path(), &ministack.endpoint()).start();
    online.wait_for("all that waited, and more", SOON, |_| {
        let data = ministack.fetch(BUCKET).join("data");
        let rows = duckdb::query(&data, "select count(*) as rows from lake where marker is null");
        rows.first().is_some_and(|row| number(row, "rows") > waited.len() as u64)
    });
    let said = stop(online);
    assert!(!said.contains("nothing is delivered"), "{said}");

    let objects = ministack.fetch(BUCKET);
    assert!(!objects.join("errors").exists());
    let rows = duckdb::query(&objects.join("data"), "from lake where marker is null");
    let partitions: BTreeSet<&str> =
        rows.iter().map(|row| records::text(row, "timestamp_sent")).collect();
    assert!(partitions.iter().all(|sent| *sent == begun || *sent == hour()), "{partitions:?}");
    let mut rows = by_identity(rows);
    for (key, sample) in &waited {
        assert_eq!(rows.remove(key).as_ref(), Some(sample));
    }
    // What was sampled since then.
    assert!(!rows.is_empty());
    for row in rows.values() {
        assert_eq!((&row["id_device"], &row["simulated"]), (&json!("test-host"), &json!(false)));
    }
}

#[tokio::test]
async fn a_field_of_a_wrong_type_goes_to_the_errors_and_touches_no_other_row() {
    let home = tempfile::tempdir().unwrap();
    let ministack = Ministack::start();
    ministack.create_stream(STREAM, BUCKET);
    let launch = agent(home.path(), &ministack.endpoint()).set("sample.interval", "250ms");
    let mut agent = launch.start();
    let line = |seq: u64, field: &str, value: Value| {
        let sent = hour();
        let mut sample = json!({
            "id_device": "by-hand", "timestamp_sent": sent, "run": 1, "seq": seq, "cpu": 0.5,
        });
        sample[field] = value;
        format!("{sample}\n")
    };
    put(&ministack, line(0, "humidity", json!(0.5))).await;
    put(&ministack, line(1, "disks", json!("full"))).await;

    let by_hand = "select cpu, seq from lake where id_device = 'by-hand'";
    let by_agent = "select count(*) as rows, max(seq) as last from lake \
         where id_device = 'test-host' and marker is null";
    agent.wait_for("rows of both", SOON, |_| {
        let data = ministack.fetch(BUCKET).join("data");
        let rows = duckdb::query(&data, by_agent);
        let some = rows.first().is_some_and(|row| number(row, "rows") > 0);
        some && !duckdb::query(&data, by_hand).is_empty()
    });
    stop(agent);
    let objects = ministack.fetch(BUCKET);
    // A column that the table does not have is left out; the record counts.
    let rows = duckdb::query(&objects.join("data"), by_hand);
    assert_eq!(rows, [json!({"cpu": 0.5, "seq": 0})]);
    let rows = duckdb::query(&objects.join("data"), by_agent);
    assert_eq!(number(&rows[0], "rows"), number(&rows[0], "last") + 1);
    let errors = objects.join("errors/format-conversion-failed");
    assert!(errors.exists(), "{:?}", fs::read_dir(&objects).unwrap().collect::<Vec<_>>());
}

async fn put(ministack: &Ministack, line: String) {
    let config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .credentials_provider(Credentials::new("test", "test", None, None, "test"))
        .endpoint_url(ministack.endpoint())
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .build();
    let record = Record::builder().data(Blob::new(line)).build().unwrap();
    let put = Client::from_conf(config).put_record_batch().delivery_stream_name(STREAM);
    assert_eq!(put.records(record).send().await.unwrap().failed_put_count(), 0);
}
