//! The costs in infra/README.md are what the prices of infra/prices.json make of
//! the quantities that stand above them.

#![cfg(test)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

/// Of a device in 30 days.
const SAMPLES: f64 = 30.0 * 86_400.0 / 10.0;

/// Seven samples are what fits into the 5 KiB that Firehose bills.
const BILLED_BYTES: f64 = 5120.0 / 7.0;

/// By default an object is written each five minutes, and at 128 MiB.
const OBJECTS: f64 = 30.0 * 24.0 * 12.0;
const OBJECTS_A_GB: f64 = 1024.0 / 128.0;

/// Of the job's two workers.
const DPU: f64 = 2.0;

/// As AWS counts them.
const GB: f64 = (1 << 30) as f64;

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The rows of both tables: of each fleet a cell, by the first of the row.
fn rows(readme: &str) -> BTreeMap<&str, Vec<&str>> {
    let section = readme.split("## What it costs").nth(1).unwrap();
    let lines = section.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let cells = lines.map(|line| line.split(" | ").collect::<Vec<_>>());
    cells.filter(|row| row.len() == 4).map(|row| (row[0], row[1..].to_vec())).collect()
}

fn number(cell: &str) -> f64 {
    cell.replace(',', "").parse().unwrap_or_else(|_| panic!("{cell:?} is no number"))
}

/// As the tables have it: cents below a hundred, thousands apart above.
fn cell(value: f64) -> String {
    if value < 100.0 {
        return format!("{value:.2}");
    }
    let digits = format!("{value:.0}");
    let comma = |(at, digit)| {
        let first = at > 0 && (digits.len() - at) % 3 == 0;
        [first.then_some(','), Some(digit)]
    };
    digits.chars().enumerate().flat_map(comma).flatten().collect()
}

#[test]
fn the_costs_are_what_prices_make_of_quantities() {
    let (readme, prices) = (read("infra/README.md"), read("infra/prices.json"));
    let prices: Value = serde_json::from_str(&prices).unwrap();
    let price = |name: &str| prices["prices"][name]["usd"].as_f64().unwrap();
    let rows = rows(&readme);
    for (column, devices) in [1.0, 100.0, 10_000.0].into_iter().enumerate() {
        let given = |row: &str| number(rows[row][column]);
        let samples = devices * SAMPLES;
        let billed = samples * BILLED_BYTES / GB;
        let objects = f64::max(OBJECTS, billed * OBJECTS_A_GB);
        let kept = samples * given("bytes of Parquet a sample") / GB;

        let ingested = billed * (price("firehose_ingestion") + price("firehose_conversion"));
        let parted =
            billed * price("firehose_partitioning") + objects / 1000.0 * price("firehose_objects");
        let stored = kept * price("s3_storage") + objects / 1000.0 * price("s3_put");
        let watched = 6.0 * price("cloudwatch_alarm")
            + price("cloudwatch_metric")
            + price("cloudwatch_dashboard")
            + price("kms_key");
        let layers = |runs: f64, minutes: f64| {
            runs * minutes / 60.0 * DPU * price("glue")
                + price("cloudwatch_alarm")
                + price("cloudwatch_metric")
        };
        let hourly = layers(30.0 * 24.0, given("minutes of a run each hour"));
        let daily = layers(30.0, given("minutes of a run each day"));
        let without = ingested + parted + stored + watched;
        for (row, value) in [
            ("samples", samples),
            ("GB that Firehose bills", billed),
            ("objects", objects),
            ("GB of Parquet", kept),
            ("Firehose, Parquet included", ingested),
            ("its partitions by `timestamp_sent`", parted),
            ("S3", stored),
            ("alarms, dashboard, key", watched),
            ("layers each hour", hourly),
            ("layers each day", daily),
            ("**sum, layers each hour**", without + hourly),
            ("**sum, layers each day**", without + daily),
            ("**sum, no layers**", without),
            ("**sum, no layers, `partitioning = \"arrival\"`**", without - parted),
        ] {
            let found = rows[row][column].trim_matches('*');
            assert_eq!(found, cell(value), "{row}, {devices} devices");
        }
    }
}
