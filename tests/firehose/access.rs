//! The service says no: what the agent says then, and how often.

use std::fs;
use std::thread;

use iot_agent_test_support::by_tier;
use iot_agent_test_support::firehose::{Fault, Faults, Key, Options};
use iot_agent_test_support::process::{Agent, Launch};
use iot_agent_test_support::rig::{Ended, Rig, SOON, assert_complete, stop};

use crate::AGENT;

/// Waits until nothing was delivered at so many attempts; then asserts that the
/// log holds one line about it, with these words, and that nothing was stored.
fn said_once(rig: &Rig, agent: &mut Agent, words: &[&str]) {
    // Waits grow up to a minute.
    let attempts = by_tier(4, 6, 12);
    agent.wait_for("attempts", SOON * 10, |_| rig.stand_in.stats().put_requests >= attempts);
    let log = agent.stderr();
    let lines: Vec<&str> = log.lines().filter(|l| l.contains("nothing is delivered")).collect();
    let [line] = lines[..] else { panic!("not one line after {attempts} attempts:\n{log}") };
    println!("{line}");
    for word in words.iter().chain(&["iot-telemetry", "eu-west-1", "samples are kept"]) {
        assert!(line.contains(word), "no {word} in {line}");
    }
    assert_eq!(log.matches("WARN").count() + log.matches("ERROR").count(), 1, "{log}");
    assert_eq!(rig.stand_in.stats().stored.samples, 0);
}

/// Asserts that all of what was sampled meanwhile arrives once an agent is
/// started that is set up right.
fn mended_by_a_restart(rig: &Rig, mut agent: Agent, launch: impl Fn() -> Launch) {
    let first = stop(&mut agent);
    let mut ended = rig.drain(launch);
    ended.push(first);
    all_there(rig, &ended);
}

fn all_there(rig: &Rig, ended: &[Ended]) {
    let stored = rig.stand_in.stored();
    ended.iter().for_each(|ended| assert_complete(&stored, *ended, 1));
    assert_eq!(stored.totals().duplicates, 0);
}

/// The agent before a service that answers so, which then stops doing so.
fn mended_by_the_service(fault: Fault, words: &[&str]) {
    let rig = Rig::new(AGENT);
    rig.stand_in.set_faults(Faults::Always(fault));
    let mut agent = rig.launch().start();
    said_once(&rig, &mut agent, words);
    rig.stand_in.set_faults(Faults::Never);
    delivers_again(&rig, agent);
}

fn delivers_again(rig: &Rig, mut agent: Agent) {
    agent.wait_for("word of the end", SOON * 2, |agent| {
        agent.stderr().contains("delivering again after")
    });
    let ended = stop(&mut agent);
    assert_eq!(agent.stderr().matches("delivering again").count(), 1);
    all_there(rig, &[ended]);
}

fn wrong_stream() {
    let rig = Rig::new(AGENT);
    let launch = || rig.launch().set("sink.firehose.stream", "iot-telemetry-2");
    let mut agent = launch().start();
    let words = ["there is no stream iot-telemetry-2", "aws firehose list-delivery-streams"];
    said_once(&rig, &mut agent, &words);
    mended_by_a_restart(&rig, agent, || rig.launch());
}

fn bad_key() {
    let rig = Rig::new(AGENT);
    let mut agent = rig.launch().env("AWS_SECRET_ACCESS_KEY", "mistyped").start();
    said_once(&rig, &mut agent, &["secret does not fit", "AKIASTANDIN00000", "aws sts"]);
    mended_by_a_restart(&rig, agent, || rig.launch());
}

fn no_credentials() {
    let rig = Rig::new(AGENT);
    let launch = rig.command().env("AWS_EC2_METADATA_DISABLED", "true");
    let mut agent = launch.set("sink.firehose.endpoint_url", rig.stand_in.url()).start();
    agent.wait_for("the warning", SOON, |agent| agent.stderr().contains("nothing is delivered"));
    let log = agent.stderr();
    println!("{log}");
    assert!(log.contains("no AWS credentials") && log.contains("aws configure"), "{log}");
    mended_by_a_restart(&rig, agent, || rig.launch());
}

/// The profile's token expires; a renewed one in the file is found without a restart.
fn expired_token() {
    let session = |number: u32| Key {
        session_token: Some(format!("token-{number}")),
        ..Key::new(&format!("ASIASTANDIN0000{number}"), &format!("secret-{number}"))
    };
    // One without a token does not expire with the others.
    let renewed = Key::new("AKIARENEWED00000", "renewed");
    let keys = vec![session(1), renewed.clone()];
    let rig = Rig::with(AGENT, Options { keys, ..Options::default() });
    let file = rig.home().join("credentials");
    let write = |key: &Key| {
        let Key { access_key_id, secret_access_key, session_token } = key;
        let token = session_token.iter().map(|token| format!("aws_session_token = {token}\n"));
        let text = format!(
            "[default]\naws_access_key_id = {access_key_id}\n\
             aws_secret_access_key = {secret_access_key}\n{}",
            token.collect::<String>()
        );
        fs::write(&file, text).unwrap();
    };
    write(&session(1));
    rig.stand_in.expire_tokens();
    let launch = rig.command().set("sink.firehose.endpoint_url", rig.stand_in.url());
    let mut agent = launch.env("AWS_SHARED_CREDENTIALS_FILE", &file).start();
    said_once(&rig, &mut agent, &["session token", "has expired", "renew it"]);
    write(&renewed);
    delivers_again(&rig, agent);
}

#[test]
fn what_stands_in_the_way_is_said_once_with_the_remedy_and_costs_nothing() {
    let denied = "User: arn:aws:iam::123456789012:user/pi is not authorized to perform: \
                  firehose:PutRecordBatch on resource: \
                  arn:aws:firehose:eu-west-1:123456789012:deliverystream/iot-telemetry";
    let denied = Fault::error(400, "AccessDeniedException", denied);
    let policy = ["may not do firehose:PutRecordBatch", "\"Effect\":\"Allow\"", "aws iam simulate"];
    let page = ["Welcome to the guest network", "is endpoint_url or a proxy right?"];
    let bytes = ["unreadable bytes", "is endpoint_url or a proxy right?"];
    thread::scope(|scope| {
        scope.spawn(wrong_stream);
        scope.spawn(bad_key);
        scope.spawn(no_credentials);
        scope.spawn(expired_token);
        scope.spawn(move || mended_by_the_service(denied, &policy));
        scope.spawn(move || mended_by_the_service(Fault::Html, &page));
        scope.spawn(move || mended_by_the_service(Fault::Garbage, &bytes));
    });
}
