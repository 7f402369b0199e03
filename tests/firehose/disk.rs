//! What the disk under the spool gets.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use iot_agent_test_support::by_tier;
use iot_agent_test_support::firehose::Options;
use iot_agent_test_support::process::Agent;
use iot_agent_test_support::relay::Relay;
use iot_agent_test_support::rig::{Rig, SOON, ids, stop};

use crate::AGENT;

const MIB: u64 = 1 << 20;

/// Of a device's run: what was declared as given up, from first to last seq.
type Declared = Vec<(u64, u64)>;

#[test]
fn a_full_spool_stays_within_its_bound_and_declares_what_it_dropped() {
    const DEVICES: u64 = 4;
    const MAX_BYTES: u64 = 8 * MIB;
    let rig = Rig::new(AGENT);
    let launch = || {
        rig.launch()
            .args(["--simulate", "--devices", &DEVICES.to_string(), "--profile", "uniform"])
            .set("sample.interval", "1s")
            .set("spool.max_bytes", "8MiB")
            .set("spool.keep_free", "1MiB")
    };
    // More than the spool takes, and than is sampled until it is stopped.
    let mut agent = launch()
        .set("sink.firehose.endpoint_url", "http://127.0.0.1:9")
        .args(["--backfill", "60d"])
        .start();
    let (mut most, mut full) = (0, None);
    agent.wait_for("a spool that is full for a while", SOON * 5, |agent| {
        most = most.max(rig.spool_bytes());
        assert!(most <= MAX_BYTES, "{most} bytes");
        if full.is_none() && agent.stderr().contains("the spool is full, the oldest samples go") {
            full = Some(Instant::now());
        }
        thread::sleep(Duration::from_millis(80));
        full.is_some_and(|since| since.elapsed() > Duration::from_secs(by_tier(3, 10, 60)))
    });
    let old = stop(&mut agent);
    assert!(rig.spool_bytes() <= MAX_BYTES);

    let ended = rig.drain(launch);
    let stored = rig.stand_in.stored();
    let (mut present, mut declared) = (0, 0);
    for device in ids(&stored, old.run) {
        let gaps = gaps(&rig, device, old.run);
        let end = old.samples / DEVICES;
        let is_declared =
            |seq: u64| gaps.iter().any(|(first, last)| (*first..=*last).contains(&seq));
        let arrived = |seq| stored.times(device, old.run, seq) > 0;
        let missing = (0..end).filter(|seq| !arrived(*seq) && !is_declared(*seq)).count();
        let both = (0..end).filter(|seq| arrived(*seq) && is_declared(*seq)).count();
        assert_eq!((missing, both), (0, 0), "{device}: {gaps:?} of {end}");
        declared += (0..end).filter(|seq| is_declared(*seq)).count() as u64;
        present += (0..end).filter(|seq| arrived(*seq)).count() as u64;
        assert!(gaps.iter().all(|(_, last)| *last < end), "{gaps:?}");
    }
    println!(
        "{} samples: {present} arrived, {declared} declared; {most} bytes at most; {ended:?}",
        old.samples
    );
    assert_eq!(present + declared, old.samples);
    assert!(declared > 0, "nothing was dropped");
    assert!(present > old.samples / 10, "too much was dropped");
    assert_eq!(stored.totals().duplicates, 0);
}

fn gaps(rig: &Rig, device: &str, run: u64) -> Declared {
    let stored = rig.stand_in.stored();
    let ours = stored.markers().iter().filter(|line| line["id_device"] == device);
    let gaps = ours.map(|line| &line["marker"]).filter(|marker| marker["run"] == run);
    gaps.map(|marker| {
        assert_eq!((&marker["kind"], &marker["reason"]), (&"gap".into(), &"evicted".into()));
        assert_eq!(marker["kept"], 0);
        (marker["first_seq"].as_u64().unwrap(), marker["last_seq"].as_u64().unwrap())
    })
    .collect()
}

/// Bytes that the agent made the kernel write to a disk (proc_pid_io(5)).
fn written(agent: &Agent) -> u64 {
    let io = fs::read_to_string(format!("/proc/{}/io", agent.pid())).unwrap();
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).unwrap();
    line.parse().unwrap()
}

#[test]
fn on_an_sd_card_a_connected_agent_writes_nothing_even_after_an_outage() {
    const TMPFS_MAGIC: i64 = 0x0102_1994;
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let kind = rustix::fs::statfs(folder).unwrap().f_type;
    assert_ne!(kind as i64, TMPFS_MAGIC, "{} is no disk", folder.display());
    let home = tempfile::tempdir_in(folder).unwrap();
    let rig = Rig::at(AGENT, Options::default(), home);
    let relay = Relay::to(rig.address());
    // Two minutes by default; this long is an outage in a test.
    let launch = rig.launch().set("spool.max_loss", "4s");
    let mut agent = launch.set("sink.firehose.endpoint_url", relay.url()).start();
    let samples = || rig.stand_in.stats().stored.samples;
    agent.wait_for("deliveries", SOON, |_| samples() >= 30);
    let quiet = |agent: &Agent| {
        let seen = || (written(agent), rig.spool_bytes(), samples());
        let before = seen();
        thread::sleep(Duration::from_secs(by_tier(4, 20, 60)));
        let after = seen();
        println!("(bytes written, bytes in the spool, samples): {before:?}, then {after:?}");
        assert!(after.2 > before.2 + 20);
        assert_eq!((after.0, after.1), (before.0, before.1));
    };
    quiet(&agent);
    if by_tier(true, false, false) {
        return println!("an outage and its end take half a minute: not in the quick tier");
    }

    let empty = rig.spool_bytes();
    relay.pull();
    agent.wait_for("a commit", SOON, |_| rig.spool_bytes() > empty);
    relay.mend();
    let before = samples();
    agent.wait_for("deliveries again", SOON, |_| samples() > before);
    // What the outage made durable is acknowledged on the disk, too.
    thread::sleep(Duration::from_secs(10));
    quiet(&agent);
    stop(&mut agent);
}
