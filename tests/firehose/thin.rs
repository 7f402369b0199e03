//! A spool that is full for long keeps all of its hours, evenly coarser.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use iot_agent_test_support::by_tier;
use iot_agent_test_support::firehose::Stored;
use iot_agent_test_support::process::Launch;
use iot_agent_test_support::rig::{Ended, Rig, SOON, dates, ids, stop};
use serde_json::Value;

use crate::AGENT;

const DEVICES: u64 = 4;

/// The most that seqs kept side by side may lie further apart in one place than
/// in another, the freshest samples and those that memory had aside.
const UNEVEN: u64 = 4;

fn small(rig: &Rig) -> Launch {
    rig.launch()
        .args(["--simulate", "--devices", &DEVICES.to_string(), "--late", "0"])
        .set("sample.interval", "1s")
        .set("spool.max_bytes", "8MiB")
        .set("spool.keep_free", "1MiB")
}

/// First and last seq, and how many of them arrive, of each `thinned` gap.
fn thinned(lines: &[Value], device: &str, run: u64) -> Vec<(u64, u64, u64)> {
    let of_device = lines.iter().filter(|line| line["id_device"] == device);
    let gaps = of_device.map(|line| &line["marker"]).filter(|marker| marker["run"] == run);
    let gaps = gaps.filter(|marker| marker["kind"] == "gap").map(|marker| {
        assert_eq!(marker["reason"], "thinned", "{marker}");
        let [first, last, kept] =
            ["first_seq", "last_seq", "kept"].map(|name| marker[name].as_u64().unwrap());
        (first, last, kept)
    });
    gaps.collect()
}

/// Asserts that each sample of a device's run arrived or was thinned; returns
/// how far apart those are that arrived.
fn account(stored: &Stored, device: &str, ended: Ended) -> Vec<u64> {
    let end = ended.samples / DEVICES;
    let arrived: BTreeMap<_, _> = dates(stored, device, ended.run);
    let gaps = thinned(stored.markers(), device, ended.run);
    for (first, last, kept) in &gaps {
        let there = arrived.range(first..=last).count() as u64;
        assert!(there >= *kept && *last < end, "{device}: {first} to {last}: {there} of {kept}");
    }
    let told = |seq: &u64| gaps.iter().any(|(first, last, _)| (first..=last).contains(&seq));
    let missing: Vec<u64> =
        (0..end).filter(|seq| !arrived.contains_key(seq) && !told(seq)).collect();
    assert!(missing.is_empty(), "{device} lacks {missing:?} of {end}");
    let seqs: Vec<u64> = arrived.into_keys().collect();
    assert_eq!((seqs[0], seqs[seqs.len() - 1]), (0, end - 1), "from the first to the last");
    seqs.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

#[test]
fn a_long_outage_under_a_small_bound_leaves_all_of_its_hours() {
    let rig = Rig::new(AGENT);
    let mut agent = small(&rig)
        .args(["--speed", "3600x"])
        .set("sink.firehose.endpoint_url", "http://127.0.0.1:9")
        .start();
    let (lasts, mut most, mut full) = (Duration::from_secs(by_tier(5, 8, 120)), 0, None);
    agent.wait_for("a spool that is full for a while", SOON * 5, |agent| {
        most = most.max(rig.spool_bytes());
        if full.is_none() && agent.stderr().contains("the spool is full, its history loses") {
            full = Some(Instant::now());
        }
        thread::sleep(Duration::from_millis(80));
        full.is_some_and(|since| since.elapsed() > lasts)
    });
    assert!(most <= 8 << 20, "{most} bytes");
    let old = stop(&mut agent);
    // By hand it says the same.
    let waits = rig.waiting();
    let exported = rig.json(&["spool", "export"]);
    let samples = exported.iter().filter(|line| line["marker"].is_null()).count() as u64;
    assert_eq!(samples, waits);
    let told = exported.iter().filter(|line| line["marker"]["reason"] == "thinned").count();
    assert!(told > 0, "an export tells of what was thinned");

    rig.drain(|| small(&rig));
    let stored = rig.stand_in.stored();
    assert_eq!(rig.stand_in.stats().stored.duplicates, 0);
    let devices: Vec<&str> = ids(&stored, old.run).collect();
    assert_eq!(devices.len() as u64, DEVICES, "{devices:?}");
    println!(
        "{} samples within {} hours, {waits} waited in {most} bytes at most",
        old.samples,
        old.samples / DEVICES / 3600
    );
    for device in devices {
        let steps = account(&stored, device, old);
        let alike: Vec<_> = steps.chunk_by(|a, b| a == b).map(|a| (a[0], a.len())).collect();
        println!("{device}: {alike:?}");
        // What came before memory held any, up to what is fresh.
        let coarse: Vec<u64> = steps.iter().copied().filter(|step| *step > 1).collect();
        let common = coarse[coarse.len() / 2];
        let widest = steps.iter().max().unwrap();
        assert!(*widest <= common * UNEVEN, "{widest} apart, where {common} is common");
    }
}
