//! The stand-ins stand in: what went to the AWS stand-in comes back as rows, and
//! a pulled cable cuts what goes over it.
//!
//! Needs: root, .venv

#![cfg(test)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_sdk_firehose::config::{BehaviorVersion, Region};
use aws_sdk_firehose::primitives::Blob;
use aws_sdk_firehose::types::Record;
use aws_sdk_firehose::{Client, Config};
use iot_agent_test_support::ministack::Ministack;
use iot_agent_test_support::netns::{Netns, Wire};
use iot_agent_test_support::{duckdb, eventually};
use serde_json::json;

const SOON: Duration = Duration::from_secs(30);

fn client(ministack: &Ministack) -> Client {
    let config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .credentials_provider(Credentials::new("test", "test", None, None, "test"))
        .endpoint_url(ministack.endpoint())
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .build();
    Client::from_conf(config)
}

/// One record of these samples, all of one hour but the last.
fn record(seqs: std::ops::Range<u32>) -> Record {
    let last = seqs.end - 1;
    let line = |seq| {
        let hour = if seq == last { "03" } else { "02" };
        let sample = json!({
            "id_device": "pi-attic", "timestamp_sent": format!("2026-11-24 {hour}"),
            "run": 9_007_199_254_740_991_u64, "seq": seq, "cpu": 0.25,
            "disks": [{"mount": "/", "fs": "ext4", "total_bytes": 10, "used": 0.5}],
            "labels": {"site": "attic"},
        });
        format!("{sample}\n")
    };
    Record::builder().data(Blob::new(seqs.map(line).collect::<String>())).build().unwrap()
}

#[tokio::test]
async fn aggregated_records_come_back_as_rows_of_the_schema() {
    let ministack = Ministack::start();
    ministack.create_stream("iot-telemetry", "lake");
    let put = client(&ministack).put_record_batch().delivery_stream_name("iot-telemetry");
    let (whole, beyond_the_limit) = (record(0..500), record(1000..1501));
    let answer = put.records(whole).records(beyond_the_limit).send().await.unwrap();
    assert_eq!(answer.failed_put_count(), 0);

    let sql = "select timestamp_sent, count(distinct seq) as seqs, min(run) as run, avg(cpu) as cpu, \
               any_value(disks[1].used) as used, any_value(labels['site']) as site, \
               count(temperature) as temperatures from lake group by 1 order by 1";
    let row = |hour, seqs| {
        json!({
            "timestamp_sent": hour, "seqs": seqs, "run": 9_007_199_254_740_991_u64,
            "cpu": 0.25, "used": 0.5, "site": "attic", "temperatures": 0,
        })
    };
    let objects = ministack.fetch("lake");
    let rows = duckdb::query(&objects.join("data"), sql);
    assert_eq!(rows, [row("2026-11-24 02", 499), row("2026-11-24 03", 1)]);
    assert!(objects.join("errors/processing-failed").exists(), "AWS takes 500 lines to a record");
}

#[test]
fn a_namespace_has_loopback_of_its_own_and_no_network() {
    let netns = Netns::new();
    let outside = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    netns.inside(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(TcpStream::connect(outside).is_err());
        let far: SocketAddr = (Wire::FAR.parse::<std::net::Ipv4Addr>().unwrap(), 80).into();
        assert!(TcpStream::connect_timeout(&far, SOON).is_err());
    });
}

#[test]
fn a_pulled_cable_delays_what_was_under_way_and_refuses_what_is_new() {
    let wire = Wire::new();
    let listener = wire.far.inside(|| TcpListener::bind((Wire::FAR, 0)).unwrap());
    let address = listener.local_addr().unwrap();
    let connect = || wire.near.inside(|| TcpStream::connect_timeout(&address, SOON));
    let (mut near, mut far) = (connect().unwrap(), listener.accept().unwrap().0);

    wire.cut();
    near.write_all(b"!").unwrap();
    far.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    assert!(far.read(&mut [0]).is_err(), "the cable is cut, and yet a byte came through");
    assert!(connect().is_err());

    wire.mend();
    far.set_read_timeout(Some(SOON)).unwrap();
    assert_eq!(far.read(&mut [0]).unwrap(), 1);
    eventually("new connections", SOON, || connect().is_ok());
}
