//! A soak: many devices and random faults for as long as the tier allows, and
//! then the agent takes no more of the machine than it did at first.
//!
//! Needs: time

#![cfg(test)]

use std::thread;
use std::time::{Duration, Instant};

use iot_agent::ledger::Ledger;
use iot_agent_test_support::firehose::{Fault, Faults, Options};
use iot_agent_test_support::process::Agent;
use iot_agent_test_support::relay::Relay;
use iot_agent_test_support::rig::{Rig, SOON, assert_complete, run_of, stop};
use iot_agent_test_support::{by_tier, rng};
use rand::RngExt;
use rand::rngs::StdRng;

const AGENT: &str = env!("CARGO_BIN_EXE_iot-agent");

const DEVICES: u64 = 100;

/// A connection may just have been made, and a store just be open.
const FILES_MORE: usize = 4;
/// sled's seven and the spool's own come and go with a store.
const THREADS_MORE: u64 = 8;
const ANONYMOUS_KIB_MORE: u64 = 3 * 1024;
/// Half a generation may stay for what comes next.
const DISK_BYTES_MORE: u64 = 9 << 20;

#[derive(Debug)]
struct Footprint {
    files: usize,
    threads: u64,
    anonymous_kib: u64,
    disk_bytes: u64,
}

/// What the agent takes once all is delivered and nothing fails.
fn at_rest(rig: &Rig, agent: &mut Agent) -> Footprint {
    rig.stand_in.set_faults(Faults::Never);
    agent.wait_for("an empty spool", SOON * 5, |_| {
        thread::sleep(Duration::from_millis(200));
        let book = Ledger::peek(&rig.spool()).unwrap();
        book.is_some_and(|book| book.outstanding_chunks == 0)
    });
    Footprint {
        files: agent.open_files(),
        threads: agent.status("Threads"),
        anonymous_kib: agent.status("RssAnon"),
        disk_bytes: rig.spool_bytes(),
    }
}

fn faults(random: &mut StdRng) -> Faults {
    let shares = [
        (8, Fault::FailShare(0.5)),
        (6, Fault::Throttle),
        (4, Fault::error(500, "InternalFailure", "ill")),
        (4, Fault::Status(503)),
        (5, Fault::Cut),
        (5, Fault::LoseAnswer),
        (4, Fault::Slow(400)),
        (2, Fault::Html),
        (2, Fault::Garbage),
        (2, Fault::Empty),
        (3, Fault::WrongCount),
    ];
    Faults::mix(random.random(), shares)
}

/// Faults and outages of a few seconds, one after the other.
fn suffer(rig: &Rig, relay: &Relay, random: &mut StdRng, lasts: Duration) {
    let until = Instant::now() + lasts;
    while Instant::now() < until {
        rig.stand_in.set_faults(faults(random));
        if random.random_bool(0.4) {
            relay.pull();
        }
        thread::sleep(Duration::from_millis(random.random_range(500..6000)));
        relay.mend();
    }
}

#[test]
fn after_a_soak_it_takes_no_more_than_at_first_and_has_lost_nothing() {
    let mut random = rng();
    let rig = Rig::with(AGENT, Options { keep_records: false, ..Options::default() });
    let relay = Relay::to(rig.address());
    let mut agent = rig
        .launch()
        .args(["--simulate", "--devices", &DEVICES.to_string(), "--profile", "uniform"])
        .set("spool.max_loss", "3s")
        .set("sink.firehose.endpoint_url", relay.url())
        .start();
    run_of(&mut agent);
    let lasts = Duration::from_secs(by_tier(20, 24, 15 * 60));
    suffer(&rig, &relay, &mut random, lasts / 4);
    let early = at_rest(&rig, &mut agent);
    suffer(&rig, &relay, &mut random, lasts * 3 / 4);
    let late = at_rest(&rig, &mut agent);
    let ended = stop(&mut agent);
    let stored = rig.stand_in.stored();
    println!(
        "{lasts:?}: {ended:?}; faults {:?}; {:?}\n\
         after a quarter {early:?}\nat the end      {late:?}",
        rig.stand_in.stats().faults,
        stored.totals()
    );
    assert_complete(&stored, ended, DEVICES);
    assert!(late.files <= early.files + FILES_MORE);
    assert!(late.threads <= early.threads + THREADS_MORE);
    assert!(late.anonymous_kib <= early.anonymous_kib + ANONYMOUS_KIB_MORE);
    assert!(late.disk_bytes <= early.disk_bytes + DISK_BYTES_MORE);
}
