//! Disks that fill up, fail, take nothing, hang, and folders that vanish: the
//! agent samples on, delivers on, and takes to the disk again by itself.
//!
//! Needs: root, strace

#![cfg(test)]

#[path = "disks/failing.rs"]
mod failing;
#[path = "disks/first_start.rs"]
mod first_start;
#[path = "disks/hung.rs"]
mod hung;
#[path = "disks/newer.rs"]
mod newer;
#[path = "disks/removed.rs"]
mod removed;
#[path = "disks/unread.rs"]
mod unread;

use std::collections::{BTreeMap, BTreeSet};

use iot_agent_test_support::firehose::Stored;
use iot_agent_test_support::mounts::Mounted;
use iot_agent_test_support::process::{Agent, Launch};
use iot_agent_test_support::relay::Relay;
use iot_agent_test_support::rig::{Ended, Rig, SOON, run_of};

const AGENT: &str = env!("CARGO_BIN_EXE_iot-agent");

/// Said once when it begins, and once when it ends.
const TROUBLE: &str = "the spool takes no samples, they stay in memory";
const WELL: &str = "the spool takes samples again";

/// An agent whose spool lies on `disk`.
fn rig_on(disk: &Mounted) -> Rig {
    let home = tempfile::tempdir_in(disk.path()).unwrap();
    Rig::at(AGENT, Default::default(), home)
}

fn launch(rig: &Rig, relay: &Relay) -> Launch {
    rig.launch().set("sink.firehose.endpoint_url", relay.url())
}

#[track_caller]
fn wait_for_commit(rig: &Rig, agent: &mut Agent) {
    agent.wait_for("a commit", SOON, |_| rig.spool_bytes() > 100 << 10);
}

/// An agent with the plug pulled and something on its disk.
fn offline(rig: &Rig) -> (Relay, Agent) {
    let relay = Relay::to(rig.address());
    relay.pull();
    let mut agent = launch(rig, &relay).start();
    run_of(&mut agent);
    wait_for_commit(rig, &mut agent);
    (relay, agent)
}

const DEVICES: u64 = 10;

/// The same with ten simulated devices, and room for a backlog in many parts.
fn devices(launch: Launch) -> Launch {
    let devices = DEVICES.to_string();
    launch
        .args(["--simulate", "--devices", &devices, "--profile", "uniform"])
        .set("spool.max_bytes", "16MiB")
        .set("spool.keep_free", "0")
}

/// How many samples of that run of [`devices`] are neither there nor declared;
/// `None` as long as there is a device of which nothing is.
fn undeclared(stored: &Stored, ended: Ended) -> Option<usize> {
    let mut left: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
    for (device, _) in stored.runs().filter(|(_, run)| *run == ended.run) {
        let missing = stored.missing(device, ended.run, ended.samples / DEVICES);
        left.insert(device.clone(), missing.into_iter().collect());
    }
    for line in stored.markers().iter().filter(|line| line["marker"]["run"] == ended.run) {
        let (device, marker) = (line["id_device"].as_str().unwrap(), &line["marker"]);
        if marker["kind"] == "gap" {
            let [first, last] = ["first_seq", "last_seq"].map(|seq| marker[seq].as_u64().unwrap());
            let all = || (0..ended.samples / DEVICES).collect();
            let left = left.entry(device.to_owned()).or_insert_with(all);
            left.retain(|seq| !(first..=last).contains(seq));
        }
    }
    (left.len() as u64 == DEVICES).then(|| left.values().map(BTreeSet::len).sum())
}

/// Waits until samples arrive that were taken from now on.
#[track_caller]
fn assert_delivers(rig: &Rig, agent: &mut Agent) {
    let arrived = || rig.stand_in.stats().stored.samples;
    let enough = arrived() + 30;
    agent.wait_for("deliveries", SOON, |_| arrived() > enough);
}

#[track_caller]
fn assert_said_once(agent: &Agent) {
    let log = agent.stderr();
    let times = [TROUBLE, WELL].map(|words| log.matches(words).count());
    assert_eq!(times, [1, 1], "{log}");
}

#[track_caller]
fn assert_nothing_missing(rig: &Rig, ended: Ended) {
    rig.drain(|| rig.launch());
    let stored = rig.stand_in.stored();
    println!("{ended:?}; {:?}", stored.totals());
    iot_agent_test_support::rig::assert_complete(&stored, ended, 1);
}

/// Of every run what arrived is all up to some seq, whatever a kill took.
#[track_caller]
fn assert_unbroken(rig: &Rig) {
    let stored = rig.stand_in.stored();
    for (device, run) in stored.runs() {
        let end = (0..).take_while(|seq| stored.times(device, *run, *seq) > 0).count() as u64;
        let stray = (end..end + 10_000).filter(|seq| stored.times(device, *run, *seq) > 0);
        assert_eq!(stray.count(), 0, "{device}, run {run}: {end} is missing");
    }
}
