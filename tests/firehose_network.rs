//! A pulled cable: what is under way falls into a black hole. Names that nobody
//! resolves.
//!
//! Needs: root

#![cfg(test)]

use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use iot_agent_test_support::by_tier;
use iot_agent_test_support::netns::Wire;
use iot_agent_test_support::relay::Relay;
use iot_agent_test_support::rig::{Rig, SOON, assert_complete, run_of, stop};

const AGENT: &str = env!("CARGO_BIN_EXE_iot-agent");

#[test]
fn a_pulled_cable_delays_and_loses_nothing_and_deliveries_are_back_within_20_s() {
    let rig = Rig::new(AGENT);
    let wire = Wire::new();
    // Only a socket of the far end is of that network; the stand-in stays here.
    let listener = wire.far.inside(|| TcpListener::bind((Wire::FAR, 0)).unwrap());
    let relay = Relay::on(listener, Some(rig.address()));
    let launch = rig.launch().set("sink.firehose.endpoint_url", relay.url());
    let mut agent = launch.wrapped_in(wire.near.wrapper()).start();
    run_of(&mut agent);
    let samples = || rig.stand_in.stats().stored.samples;
    agent.wait_for("samples", SOON, |_| samples() >= 10);
    for seconds in by_tier(vec![5], vec![5, 15], vec![5, 15, 45, 120]) {
        wire.cut();
        thread::sleep(Duration::from_secs(seconds));
        let before = samples();
        wire.mend();
        let back = Instant::now();
        agent.wait_for("deliveries", SOON, |_| samples() > before);
        println!("{seconds} s without a cable, deliveries {:?} after", back.elapsed());
        assert!(back.elapsed() < Duration::from_secs(20), "{:?}", back.elapsed());
    }
    let ended = stop(&mut agent);
    // A stop waits for an answer that fell into the hole, and keeps the rest.
    rig.drain(|| rig.launch());
    let stored = rig.stand_in.stored();
    println!("{:?}", stored.totals());
    assert_complete(&stored, ended, 1);
}

#[test]
fn without_names_everything_waits_and_deliveries_are_back_within_20_s() {
    let rig = Rig::new(AGENT);
    let wire = Wire::new();
    let listener = wire.far.inside(|| TcpListener::bind((Wire::FAR, 0)).unwrap());
    let port = listener.local_addr().unwrap().port();
    let plug = || Relay::on(listener.try_clone().unwrap(), Some(rig.address()));
    let mut relay = plug();
    let known = format!("{} firehose.test\n", Wire::FAR);
    wire.near.etc("hosts", &known);
    wire.near.etc("nsswitch.conf", "hosts: files dns\n");
    // Its port is closed, so that a question is answered at once; and an address
    // of the same wire where nobody is, so that one is never answered.
    let resolvers = [Wire::FAR, Wire::NOBODY];
    wire.near.etc("resolv.conf", &format!("nameserver {}\n", resolvers[0]));
    let url = format!("http://firehose.test:{port}");
    let launch = rig.launch().set("sink.firehose.endpoint_url", url);
    let mut agent = launch.wrapped_in(wire.near.wrapper()).start();
    run_of(&mut agent);
    let samples = || rig.stand_in.stats().stored.samples;
    agent.wait_for("samples", SOON, |_| samples() >= 10);
    for (nth, resolver) in resolvers.into_iter().enumerate() {
        wire.near.etc("resolv.conf", &format!("nameserver {resolver}\n"));
        wire.near.etc("hosts", "");
        // What is connected needs no name.
        drop(relay);
        relay = plug();
        let outages = |log: &str| log.matches("nothing is delivered, samples are kept").count();
        agent.wait_for("a word of it", SOON, |agent| outages(&agent.stderr()) > nth);
        let before = samples();
        wire.near.etc("hosts", &known);
        let back = Instant::now();
        agent.wait_for("deliveries", SOON, |_| samples() > before);
        println!("resolver {resolver}: deliveries {:?} after", back.elapsed());
        assert!(back.elapsed() < Duration::from_secs(20), "{:?}", back.elapsed());
    }
    assert!(agent.stderr().contains("is there a network and a name server"), "{}", agent.stderr());
    let ended = stop(&mut agent);
    rig.drain(|| rig.launch());
    let stored = rig.stand_in.stored();
    println!("{:?}", stored.totals());
    assert_complete(&stored, ended, 1);
}
