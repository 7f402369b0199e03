//! What the disk under the spool gets.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use iot_agent_test_support::by_tier;
use iot_agent_test_support::firehose::{Options, Stored};
use iot_agent_test_support::process::{Agent, Launch};
use iot_agent_test_support::relay::Relay;
use iot_agent_test_support::rig::{Ended, Rig, SOON, ids, stop};

use crate::AGENT;

const MIB: u64 = 1 << 20;

/// Of a device's run: what was declared as given up, from first to last seq.
type Declared = Vec<(u64, u64)>;

const DEVICES: u64 = 4;

/// An agent with a small spool.
fn small(rig: &Rig) -> Launch {
    rig.launch()
        .args(["--simulate", "--devices", &DEVICES.to_string(), "--profile", "uniform"])
        .set("sample.interval", "1s")
        .set("spool.max_bytes", "8MiB")
        .set("spool.keep_free", "1MiB")
        .set("spool.when_full", "drop-oldest")
}

/// Samples until the spool has been full for this long; the folder stays
/// within its bound all the while. Returns what it took at most.
fn overfill(rig: &Rig, agent: &mut Agent, lasts: Duration) -> u64 {
    let (mut most, mut full) = (0, None);
    agent.wait_for("a spool that is full for a while", SOON * 5, |agent| {
        most = most.max(rig.spool_bytes());
        assert!(most <= 8 * MIB, "{most} bytes");
        if full.is_none() && agent.stderr().contains("the spool is full, the oldest samples go") {
            full = Some(Instant::now());
        }
        thread::sleep(Duration::from_millis(80));
        full.is_some_and(|since| since.elapsed() > lasts)
    });
    most
}

/// Asserts that each sample of this run arrived or was declared, and not both;
/// returns how many were which.
fn account(rig: &Rig, ended: Ended) -> (u64, u64) {
    let stored = rig.stand_in.stored();
    let (mut present, mut declared) = (0, 0);
    for device in ids(&stored, ended.run) {
        let gaps = gaps(&stored, device, ended.run);
        let end = ended.samples / DEVICES;
        assert!(gaps.iter().all(|(_, last)| *last < end), "{gaps:?} of {end}");
        let (mut missing, mut both) = (Vec::new(), Vec::new());
        for seq in 0..end {
            let dropped = gaps.iter().any(|(first, last)| (*first..=*last).contains(&seq));
            match (stored.times(device, ended.run, seq) > 0, dropped) {
                (true, false) => present += 1,
                (false, true) => declared += 1,
                (false, false) => missing.push(seq),
                (true, true) => both.push(seq),
            }
        }
        assert!(missing.is_empty(), "{device}: {gaps:?} of {end}, and neither {missing:?}");
        assert!(both.is_empty(), "{device}: {gaps:?} of {end}, and yet {both:?}");
    }
    println!("{} samples: {present} arrived, {declared} declared", ended.samples);
    assert_eq!(present + declared, ended.samples);
    (present, declared)
}

fn gaps(stored: &Stored, device: &str, run: u64) -> Declared {
    let ours = stored.markers().iter().filter(|line| line["id_device"] == device);
    let of_run = ours.map(|line| &line["marker"]).filter(|marker| marker["run"] == run);
    let gaps = of_run.filter(|marker| marker["kind"] != "run_end");
    gaps.map(|marker| {
        assert_eq!((&marker["kind"], &marker["reason"]), (&"gap".into(), &"evicted".into()));
        assert_eq!(marker["kept"], 0);
        (marker["first_seq"].as_u64().unwrap(), marker["last_seq"].as_u64().unwrap())
    })
    .collect()
}

#[test]
fn a_full_spool_stays_within_its_bound_and_declares_what_it_dropped() {
    let rig = Rig::new(AGENT);
    let launch = small(&rig).args(["--speed", "3600x"]);
    let mut agent = launch.set("sink.firehose.endpoint_url", "http://127.0.0.1:9").start();
    let lasts = Duration::from_secs(by_tier(3, 10, 60));
    println!("{} bytes at most", overfill(&rig, &mut agent, lasts));
    let old = stop(&mut agent);
    assert!(rig.spool_bytes() <= 8 * MIB);
    rig.drain(|| small(&rig));
    let (present, declared) = account(&rig, old);
    assert!(declared > 0, "nothing was dropped");
    assert!(present > 20_000, "too much was dropped");
    assert_eq!(rig.stand_in.stats().stored.duplicates, 0);
}

/// Deliveries and drops go for the same samples, the oldest.
#[test]
fn what_a_full_spool_delivers_meanwhile_it_does_not_declare() {
    let rig = Rig::new(AGENT);
    let relay = Relay::to(rig.address());
    relay.pull();
    let launch = small(&rig).args(["--speed", "3600x"]);
    let mut agent = launch.set("sink.firehose.endpoint_url", relay.url()).start();
    overfill(&rig, &mut agent, Duration::from_secs(1));
    relay.mend();
    agent.wait_for("deliveries", SOON, |_| rig.stand_in.stats().stored.samples > 20_000);
    let old = stop(&mut agent);
    rig.drain(|| small(&rig));
    account(&rig, old);
    assert_eq!(rig.stand_in.stats().stored.duplicates, 0);
}

/// The past can wait where the present cannot.
#[test]
fn a_backfill_larger_than_the_spool_waits_for_the_sink_and_loses_nothing() {
    let rig = Rig::new(AGENT);
    let relay = Relay::to(rig.address());
    relay.pull();
    let hours = by_tier(6, 12, 48);
    let launch = small(&rig).args(["--backfill", &format!("{hours}h")]);
    let mut agent = launch.set("sink.firehose.endpoint_url", relay.url()).start();
    agent.wait_for("a backfill that waits", SOON * 5, |agent| {
        agent.stderr().contains("the simulated past waits for deliveries")
    });
    println!("waits with {} bytes in the spool", rig.spool_bytes());
    relay.mend();
    let all = DEVICES * 3600 * hours;
    agent.wait_for("the whole past", SOON * 10, |_| rig.stand_in.stats().stored.samples > all);
    let old = stop(&mut agent);
    rig.drain(|| small(&rig));
    let (present, declared) = account(&rig, old);
    assert!(present > all && declared == 0);
    assert_eq!(rig.stand_in.stats().stored.duplicates, 0);
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
