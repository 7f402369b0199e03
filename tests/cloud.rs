//! The whole line into what Terraform plans, as far as ministack is AWS: the very
//! stream, tables and policy of the plans of infra/examples.
//!
//! Needs: .venv, terraform
//! Tier: full

#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use chrono::Utc;
use iot_agent_test_support::duckdb;
use iot_agent_test_support::ministack::{CREDENTIALS, Ministack};
use iot_agent_test_support::process::Launch;
use iot_agent_test_support::records::{self, by_identity, text};
use iot_agent_test_support::terraform::{Infra, Plan};
use serde_json::{Value, json};

const AGENT: &str = env!("CARGO_BIN_EXE_iot-agent");
const MINIMAL: &str = "examples/minimal";
const COMPLETE: &str = "examples/complete";
const OTHER: &str = "other-stream";

/// Long enough for a busy machine; no test waits for it unless it fails.
const SOON: Duration = Duration::from_secs(60);

fn agent(home: &Path, stream: &str, endpoint: &str) -> Launch {
    Launch::new(AGENT, home)
        .firehose(stream, endpoint)
        .envs(CREDENTIALS)
        .set("spool.max_loss", "1s")
        .set("send.interval", "1s")
}

/// Samples an hour of the past while nothing answers; what then waits, by identity.
fn outage(home: &Path, stream: &str) -> BTreeMap<(String, u64, u64), Value> {
    let simulation = ["--simulate", "--seed", "11", "--devices", "2", "--backfill", "1h"];
    let mut offline = agent(home, stream, "http://127.0.0.1:1").args(simulation).start();
    let said = "nothing is delivered, samples are kept";
    offline.wait_for("an outage", SOON, |agent| agent.stderr().contains(said));
    assert_eq!(offline.terminate(SOON).code(), Some(0), "{}", offline.stderr());
    let mut export = Launch::new(AGENT, home).args(["spool", "export"]).start();
    assert!(export.finish(SOON).success(), "{}", export.stderr());
    let waited = by_identity(records::samples(&export.stdout()));
    assert!(waited.len() > 100, "{} waited", waited.len());
    waited
}

#[test]
fn what_is_sampled_is_what_athena_reads_and_what_is_no_row_lies_with_the_errors() {
    let plan = Plan::of(MINIMAL);
    let bucket = text(plan.the("aws_s3_bucket"), "bucket");
    let database = text(plan.the("aws_glue_catalog_database"), "name");
    let stream = text(plan.the("aws_kinesis_firehose_delivery_stream"), "name");
    let ministack = Ministack::start();
    ministack.apply(&plan.0);
    let home = tempfile::tempdir().unwrap();
    let waited = outage(home.path(), stream);

    let simulation = ["--simulate", "--seed", "11", "--devices", "2"];
    let online = agent(home.path(), stream, &ministack.endpoint());
    let mut online = online.args(simulation).start();
    let sql = "select id_device, run, seq, timestamp, cpu, ram from raw where marker is null";
    let mut rows: BTreeMap<_, Value> = BTreeMap::new();
    online.wait_for("all that waited", SOON, |_| {
        let count = "select count(*) as rows from raw where marker is null";
        let seen = ministack.athena_in(database, bucket, count);
        seen.first().is_some_and(|row| {
            text(row, "rows").parse::<usize>().is_ok_and(|rows| rows >= waited.len())
        })
    });
    assert_eq!(online.terminate(SOON).code(), Some(0), "{}", online.stderr());
    for row in ministack.athena_in(database, bucket, sql) {
        let key = ["id_device", "run", "seq"].map(|key| text(&row, key).to_owned());
        assert!(rows.insert(key, row).is_none(), "a row twice");
    }
    for sample in waited.values() {
        let key = [
            text(sample, "id_device").to_owned(),
            sample["run"].to_string(),
            sample["seq"].to_string(),
        ];
        let row = &rows[&key];
        assert_eq!(row["timestamp"], sample["timestamp"]);
        for share in ["cpu", "ram"] {
            let read = row[share].as_str().map(|text| text.parse::<f64>().unwrap());
            assert_eq!(json!(read), sample[share], "{share} of {key:?}");
        }
    }
    println!("{} rows of {} that waited are as they were", rows.len(), waited.len());
    let saved = |name: &str| {
        let resources = plan.resources().into_iter();
        let mut queries = resources.filter(|(_, kind, _)| *kind == "aws_athena_named_query");
        let query = queries.find(|(_, _, query)| query["name"] == name);
        let query = query.unwrap_or_else(|| panic!("no saved query {name}")).2;
        ministack.athena_in(database, bucket, text(query, "query"))
    };
    for name in ["billed", "completeness", "disk_full", "hottest", "silent"] {
        println!("{name}: {} rows", saved(name).len());
    }
    let devices = saved("latest");
    let devices: Vec<_> = devices.iter().map(|row| text(row, "id_device")).collect();
    assert_eq!(devices, ["sim-0001", "sim-0002"]);

    let objects = ministack.fetch(bucket);
    assert!(!objects.join("errors").exists());
    let count = "select count(*) as rows from lake";
    let before = duckdb::query(&objects.join("data"), count);
    ministack.put(stream, "{\"id_device\":\"no-hour\"}\n");
    ministack.put(
        stream,
        &format!("{}\n", json!({ "timestamp_sent": "2026-11-01 00", "disks": "full" })),
    );
    let objects = ministack.fetch(bucket);
    for reason in ["processing-failed", "format-conversion-failed"] {
        assert!(objects.join("errors").join(reason).exists(), "{reason}");
    }
    assert_eq!(duckdb::query(&objects.join("data"), count), before);
}

#[test]
fn partitioned_by_arrival_the_same_rows_lie_in_the_hour_in_which_they_came() {
    let infra = Infra::new();
    infra.init(COMPLETE);
    let variables = infra.path(COMPLETE).join("terraform.tfvars");
    fs::write(variables, "partitioning = \"arrival\"\n").unwrap();
    let plan = infra.plan(COMPLETE);
    let bucket = text(plan.the("aws_s3_bucket"), "bucket");
    let stream = text(plan.the("aws_kinesis_firehose_delivery_stream"), "name");
    let ministack = Ministack::start();
    ministack.apply(&plan.0);
    let home = tempfile::tempdir().unwrap();
    let waited = outage(home.path(), stream);

    let hour = || Utc::now().format("%Y-%m-%d %H").to_string();
    let begun = hour();
    let mut online = agent(home.path(), stream, &ministack.endpoint()).start();
    let rows = |sql: &str| {
        let data = ministack.fetch(bucket).join("data");
        if data.exists() { duckdb::query(&data, sql) } else { Vec::new() }
    };
    online.wait_for("all that waited", SOON, |_| {
        rows("select id_device from lake where marker is null").len() > waited.len()
    });
    assert_eq!(online.terminate(SOON).code(), Some(0), "{}", online.stderr());
    let found = rows("from lake where marker is null");
    let hours: BTreeSet<_> = found.iter().map(|row| text(row, "timestamp_sent")).collect();
    assert!(hours.iter().all(|of| *of == begun || *of == hour()), "{hours:?}");
    let found = by_identity(found);
    for (key, sample) in &waited {
        assert_eq!(found.get(key), Some(sample));
    }
}

#[test]
fn a_device_delivers_to_its_stream_and_is_denied_everything_else() {
    let plan = Plan::of(MINIMAL);
    let bucket = text(plan.the("aws_s3_bucket"), "bucket");
    let stream = text(plan.the("aws_kinesis_firehose_delivery_stream"), "name");
    let ministack = Ministack::strict();
    ministack.apply(&plan.0);
    ministack.create_stream(OTHER, "other-lake");
    // The plan is of another account and region than the stand-in's.
    let planned = text(plan.the("aws_iam_policy"), "policy").to_owned();
    let mut policy: Value = serde_json::from_str(&planned).unwrap();
    let arn = format!("arn:aws:firehose:eu-west-1:000000000000:deliverystream/{stream}");
    policy["Statement"][0]["Resource"] = json!([arn]);
    let key = ministack.device(&policy.to_string());
    let allowed = ministack.allowed(stream, OTHER, bucket, &key);
    assert_eq!(allowed.lines().collect::<Vec<_>>(), ["describe", "put batch"]);

    let home = tempfile::tempdir().unwrap();
    let mut agent = Launch::new(AGENT, home.path())
        .firehose(stream, &ministack.endpoint())
        .env("AWS_ACCESS_KEY_ID", &key.0)
        .env("AWS_SECRET_ACCESS_KEY", &key.1)
        .set("sample.interval", "250ms")
        .set("send.interval", "1s")
        .start();
    agent.wait_for("a row", SOON, |_| {
        let data = ministack.fetch(bucket).join("data");
        data.exists() && !duckdb::query(&data, "select seq from lake").is_empty()
    });
    assert_eq!(agent.terminate(SOON).code(), Some(0), "{}", agent.stderr());
}
