//! The job, its arguments and its tables as Terraform plans them, on a bucket of the
//! AWS stand-in.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use iot_agent_test_support::full;
use iot_agent_test_support::ministack::{CREDENTIALS, Ministack};
use iot_agent_test_support::process::{Launch, succeed};
use iot_agent_test_support::records::text;
use iot_agent_test_support::terraform::Plan;
use serde_json::json;

use crate::{
    AGENT, DATED, SOON, WHOLE, ask, assert_aggregates, assert_completeness, assert_processed,
    first_sent, samples, spark,
};

/// The very job that is planned, as Glue starts it, on the stand-in's bucket, of
/// which `objects` is a copy; what it printed.
#[track_caller]
fn glue(plan: &Plan, ministack: &Ministack, objects: &Path) -> String {
    let job = plan.the("aws_glue_job");
    let options = job["default_arguments"].as_object().unwrap();
    let option = |name: &str| options[name].as_str().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let bucket = format!("s3://{}/", option("--lake_bucket"));
    let script = text(&job["command"][0], "script_location");
    let beside = option("--extra-py-files").split(',').chain(option("--extra-files").split(','));
    for url in beside.chain([script]) {
        let file = objects.join(url.strip_prefix(&bucket).expect("it is in the lake's bucket"));
        fs::copy(&file, folder.path().join(file.file_name().unwrap())).unwrap();
    }
    let defaults = spark_defaults(&ministack.endpoint());
    fs::write(folder.path().join("spark-defaults.conf"), defaults).unwrap();
    let mut command = spark();
    command
        .arg(script.rsplit('/').next().unwrap())
        // What Glue hands over of its own; a value may have lost its name.
        .args(["true", "--JOB_NAME", text(job, "name"), "--JOB_RUN_ID", "jr_1"])
        .args(options.iter().flat_map(|(name, value)| [name, value.as_str().unwrap()]))
        .current_dir(folder.path())
        .env("SPARK_CONF_DIR", folder.path())
        .env("AWS_ENDPOINT_URL", ministack.endpoint())
        .envs(CREDENTIALS);
    succeed(&mut command)
}

/// How Spark reads and writes `s3://` here, where Glue has a way of its own.
fn spark_defaults(endpoint: &str) -> String {
    let find = "from importlib.util import find_spec; from pathlib import Path; \
         jars = Path(find_spec('sagemaker_pyspark').origin).with_name('jars'); \
         print(*jars.glob('hadoop-aws-*'), *jars.glob('aws-java-sdk-bundle-*'), sep=':')";
    let jars = succeed(Command::new(full("python")).args(["-c", find]));
    format!(
        "spark.master local[*]\n\
         spark.ui.enabled false\n\
         spark.driver.host 127.0.0.1\n\
         spark.driver.bindAddress 127.0.0.1\n\
         spark.sql.shuffle.partitions 4\n\
         spark.driver.extraClassPath {jars}\
         spark.hadoop.fs.s3.impl org.apache.hadoop.fs.s3a.S3AFileSystem\n\
         spark.hadoop.fs.s3a.endpoint {endpoint}\n\
         spark.hadoop.fs.s3a.path.style.access true\n\
         # It would sign for no region but us-east-1.\n\
         spark.hadoop.fs.s3a.aws.credentials.provider \
         org.apache.hadoop.fs.s3a.AnonymousAWSCredentialsProvider\n"
    )
}

/// A Glue type as DuckDB names that of a Parquet column.
fn duckdb_type(glue: &str) -> String {
    let inside = |kind: &str| glue.strip_prefix(kind)?.strip_prefix('<')?.strip_suffix('>');
    let field = |field: &str| {
        let (name, kind) = field.split_once(':').expect("a name and a type");
        format!("{name} {}", duckdb_type(kind))
    };
    let list = |members: &str, each: &dyn Fn(&str) -> String| {
        members.split(',').map(each).collect::<Vec<_>>().join(", ")
    };
    match (inside("array"), inside("struct"), inside("map"), glue) {
        (Some(item), ..) => format!("{}[]", duckdb_type(item)),
        (_, Some(fields), ..) => format!("STRUCT({})", list(fields, &field)),
        (_, _, Some(pair), _) => format!("MAP({})", list(pair, &duckdb_type)),
        (.., "string") => "VARCHAR".to_owned(),
        (.., "timestamp") => "TIMESTAMP WITH TIME ZONE".to_owned(),
        (.., plain) => plain.to_uppercase(),
    }
}

/// What is written into each table has the columns that are planned for it.
#[track_caller]
fn assert_columns(plan: &Plan, bucket: &str, lake: &Path) {
    let mut seen = 0;
    for (_, kind, table) in plan.resources() {
        let location = &table["storage_descriptor"][0]["location"];
        let folder = location.as_str().and_then(|url| url.strip_prefix(&format!("s3://{bucket}/")));
        let folder = folder.unwrap_or_default().trim_end_matches('/');
        if kind != "aws_glue_catalog_table" || folder == "data" {
            continue;
        }
        seen += 1;
        let columns = [&table["storage_descriptor"][0]["columns"], &table["partition_keys"]];
        let columns = columns.into_iter().flat_map(|list| list.as_array().into_iter().flatten());
        let planned: BTreeMap<_, _> = columns
            .map(|column| (text(column, "name"), duckdb_type(text(column, "type"))))
            .collect();
        let written = ask(lake, &format!("describe from {{{folder}}}"));
        let written: BTreeMap<_, _> = written
            .iter()
            .map(|row| (text(row, "column_name"), text(row, "column_type").replace('"', "")))
            .collect();
        assert_eq!(written, planned, "{folder}");
    }
    assert_eq!(seen, DATED.len() + WHOLE.len());
}

#[test]
fn the_planned_job_makes_the_planned_tables_in_a_bucket_and_says_so() {
    let plan = Plan::of("examples/complete");
    let bucket = text(plan.the("aws_s3_bucket"), "bucket");
    let stream = text(plan.the("aws_kinesis_firehose_delivery_stream"), "name");
    let home = tempfile::tempdir().unwrap();
    let ministack = Ministack::start();
    ministack.apply(&plan.0);
    let past = "--simulate --seed 7 --devices 2 --late 0.05 --backfill 6h";
    let fleet = Launch::new(AGENT, home.path()).args(past.split(' ')).set("sample.interval", "60s");
    let fleet = fleet.set("send.interval", "1s").envs(CREDENTIALS);
    let mut agent = fleet.firehose(stream, &ministack.endpoint()).start();
    agent.wait_for("six hours", SOON, |_| {
        let data = ministack.fetch(bucket).join("data");
        data.exists() && samples(&data) >= 2 * 360
    });
    assert_eq!(agent.terminate(SOON).code(), Some(0), "{}", agent.stderr());
    let lake = ministack.fetch(bucket);
    let good = first_sent(ask(&lake, "from lake where marker is null"));
    let bad = json!({ "id_device": "a b", "timestamp_sent": "2026-11-01 00", "run": 1, "seq": 1 });
    ministack.put(stream, &format!("{bad}\n"));
    let said = glue(&plan, &ministack, &lake);
    let lake = ministack.fetch(bucket);
    assert_processed(&lake, &good);
    assert_eq!(ask(&lake, "from {quarantine}").len(), 1);
    assert_completeness(&lake);
    assert_aggregates(&lake);
    assert_columns(&plan, bucket, &lake);

    // The alarm on the job counts lines of the job's own log.
    let logs = &plan.the("aws_glue_job")["default_arguments"]["--custom-logGroup-prefix"];
    let waits = plan.resources().into_iter().find(|(_, kind, filter)| {
        let of = filter["log_group_name"].as_str().unwrap_or_default();
        *kind == "aws_cloudwatch_log_metric_filter" && of.starts_with(logs.as_str().unwrap())
    });
    let pattern = text(waits.expect("a filter of the job's log").2, "pattern").trim_matches('"');
    assert!(!pattern.is_empty() && said.contains(pattern), "no {pattern:?} in: {said}");
}
