//! TLS, and a proxy on the way.

use iot_agent_test_support::firehose::{FirehoseStandIn, Options};
use iot_agent_test_support::process::Launch;
use iot_agent_test_support::relay::Relay;
use iot_agent_test_support::rig::{Rig, SOON, assert_complete, stop};

use crate::AGENT;

fn tls() -> Options {
    Options { tls: true, ..Options::default() }
}

fn trusting(rig: &Rig, other: Option<&FirehoseStandIn>) -> Launch {
    let ca = other.unwrap_or(&rig.stand_in).ca_pem_path().unwrap();
    rig.launch().set("sink.firehose.ca_file", ca.display())
}

fn delivers(rig: &Rig, launch: Launch) {
    let mut agent = launch.start();
    agent.wait_for("samples", SOON, |_| rig.stand_in.stats().stored.samples >= 10);
    let ended = stop(&mut agent);
    assert_complete(&rig.stand_in.stored(), ended, 1);
    assert_eq!(rig.stand_in.stored().totals().duplicates, 0);
}

#[test]
fn the_authority_in_ca_file_is_trusted_and_no_other() {
    let rig = Rig::with(AGENT, tls());
    delivers(&rig, trusting(&rig, None));

    let other = FirehoseStandIn::start(tls());
    let mut agent = trusting(&rig, Some(&other)).start();
    agent.wait_for("a warning", SOON, |agent| agent.stderr().contains("nothing is delivered"));
    let log = agent.stderr();
    println!("{log}");
    for words in
        ["UnknownIssuer", "is not in ca_file", &other.ca_pem_path().unwrap().display().to_string()]
    {
        assert!(log.contains(words), "no {words} in {log}");
    }
    let ended = stop(&mut agent);
    let mut agent = trusting(&rig, None).start();
    agent.wait_for("the rest", SOON, |_| {
        rig.stand_in.stored().missing("test-host", ended.run, ended.samples).is_empty()
    });
}

#[test]
fn a_proxy_tunnels_unless_no_proxy_names_the_endpoint() {
    let rig = Rig::with(AGENT, tls());
    let proxy = Relay::proxy();
    delivers(&rig, trusting(&rig, None).env("HTTPS_PROXY", proxy.url()));
    assert_eq!(proxy.connections(), 1);
    let around = trusting(&rig, None).env("HTTPS_PROXY", proxy.url()).env("NO_PROXY", "127.0.0.1");
    let before = rig.stand_in.stats().stored.samples;
    let mut agent = around.start();
    agent.wait_for("samples", SOON, |_| rig.stand_in.stats().stored.samples > before);
    assert_eq!(proxy.connections(), 1);
}
