//! SIGHUP: the configuration changes under the running agent, or stays as it
//! was; either way the process and its run go on, and every sample arrives once.

#![cfg(test)]

use std::fs;

use iot_agent_test_support::firehose::Options;
use iot_agent_test_support::manager::Manager;
use iot_agent_test_support::process::{Agent, Launch, free_port};
use iot_agent_test_support::records;
use iot_agent_test_support::rig::{DEVICE, Rig, SOON, assert_complete, run_of, stop};
use rustix::process::Signal;

const AGENT: &str = env!("CARGO_BIN_EXE_iot-agent");
const STAYS: &str = "the old configuration stays: ";
const TAKEN: &str = "configuration read again from ";

/// What a rig sets, in the file: what is set on the command line cannot change.
fn toml(endpoint: &str, more: &str) -> String {
    format!(
        r#"device.id = "{DEVICE}"
spool.max_loss = "1s"
clock.wait = "0s"
send.interval = "1s"
sink.firehose = {{ stream = "iot-telemetry", region = "eu-west-1", endpoint_url = "{endpoint}" }}
{more}"#
    )
}

const FIREHOSE: &str = "sink.kind = \"firehose\"\n";
const FAST: &str = "sample.interval = \"100ms\"\n";

struct Reloads {
    rig: Rig,
    manager: Manager,
}

impl Reloads {
    fn new() -> Self {
        let options = Options { keep_records: true, ..Options::default() };
        Self { rig: Rig::with(AGENT, options), manager: Manager::new() }
    }

    fn start(&self, toml: &str) -> Agent {
        let key = self.rig.stand_in.key().environment();
        let launch = Launch::new(AGENT, self.rig.home()).config(toml);
        let launch = key.iter().fold(launch, |launch, (name, value)| launch.env(name, value));
        self.manager.service(launch, None).start()
    }

    /// Writes the file, waits until the agent has dealt with it, and asserts that
    /// the log then says `word` once more.
    #[track_caller]
    fn change(&self, agent: &mut Agent, toml: &str, word: &str) {
        let count = |agent: &Agent| agent.stderr().matches(word).count();
        let (before, readies) = (count(agent), self.manager.values("READY").len());
        fs::write(self.rig.home().join("iot-agent.toml"), toml).unwrap();
        agent.signal(Signal::HUP);
        agent.wait_for("the end of the reload", SOON, |_| {
            self.manager.values("READY").len() > readies
        });
        assert_eq!(count(agent), before + 1, "{}", agent.stderr());
    }

    fn stored(&self) -> u64 {
        self.rig.stand_in.stats().stored.samples
    }

    #[track_caller]
    fn wait_for_more(&self, agent: &mut Agent) {
        let enough = self.stored() + 20;
        agent.wait_for("deliveries", SOON, |_| self.stored() >= enough);
    }

    /// Every sample of the one run arrived once.
    #[track_caller]
    fn assert_whole(&self, mut agent: Agent, run: u64) {
        let ended = stop(&mut agent);
        assert_eq!(ended.run, run, "{}", agent.stderr());
        let stored = self.rig.stand_in.stored();
        println!("{ended:?}; {:?}", stored.totals());
        assert_complete(&stored, ended, 1);
        assert_eq!(stored.totals().duplicates, 0);
        assert_eq!(stored.runs().count(), 1, "one run");
    }
}

#[test]
fn interval_and_labels_change_without_a_new_run() {
    let reloads = Reloads::new();
    let url = reloads.rig.stand_in.url();
    let site = |site: &str| format!("device.labels = {{ site = \"{site}\" }}\n{FIREHOSE}");
    let slow = "sample.interval = \"30s\"\n";
    let mut agent = reloads.start(&toml(&url, &(site("attic") + slow)));
    let (run, pid) = (run_of(&mut agent), agent.pid());
    agent.wait_for("the first sample", SOON, |_| reloads.stored() > 0);
    reloads.change(&mut agent, &toml(&url, &(site("cellar") + FAST)), TAKEN);
    // Not before minutes have passed at the old interval.
    reloads.wait_for_more(&mut agent);
    assert_eq!(agent.pid(), pid);
    reloads.assert_whole(agent, run);

    let stored = reloads.rig.stand_in.stored();
    let mut samples: Vec<_> = stored.samples().collect();
    samples.sort_by_key(|sample| sample["seq"].as_u64());
    let sites: Vec<_> = samples.iter().map(|s| s["labels"]["site"].as_str().unwrap()).collect();
    let moved = sites.iter().position(|site| *site == "cellar").unwrap();
    assert!(moved > 0 && sites[moved..].iter().all(|site| *site == "cellar"), "{sites:?}");

    let told = reloads.manager.told();
    let reloading = told.iter().position(|told| told.get("RELOADING") == Some("1")).unwrap();
    let monotonic: u64 = told[reloading].get("MONOTONIC_USEC").unwrap().parse().unwrap();
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic).tv_sec as u64;
    assert!(monotonic > 0 && monotonic / 1_000_000 <= now, "{monotonic} of {now} s");
    assert!(told[reloading..].iter().any(|told| told.get("READY") == Some("1")));
}

#[test]
fn what_is_wrong_is_said_once_and_changes_nothing() {
    let reloads = Reloads::new();
    let good = toml(&reloads.rig.stand_in.url(), &format!("{FIREHOSE}{FAST}"));
    let mut agent = reloads.start(&good);
    let run = run_of(&mut agent);
    reloads.wait_for_more(&mut agent);
    let bad = good.replace("100ms", "soon");
    reloads.change(&mut agent, &bad, &format!("{STAYS}/"));
    assert!(agent.stderr().contains("sample.interval"), "{}", agent.stderr());
    reloads.wait_for_more(&mut agent);
    // One that is right, but for another start.
    let spool = format!("{good}spool.max_bytes = \"64MiB\"\n");
    reloads.change(&mut agent, &spool, &format!("{STAYS}[spool] can only change at a start"));
    let other = good.replace(DEVICE, "another");
    reloads.change(&mut agent, &other, &format!("{STAYS}device.id can only change at a start"));
    let no_ca = good.replace(" }", ", ca_file = \"/nonexistent\" }");
    reloads.change(&mut agent, &no_ca, &format!("{STAYS}ca_file /nonexistent"));
    reloads.change(&mut agent, "not toml at all", STAYS);
    reloads.wait_for_more(&mut agent);
    // And it still listens.
    reloads.change(&mut agent, &good.replace("100ms", "150ms"), TAKEN);
    reloads.wait_for_more(&mut agent);
    reloads.assert_whole(agent, run);
}

#[test]
fn an_endpoint_that_was_wrong_is_mended_and_the_backlog_arrives() {
    let reloads = Reloads::new();
    let nowhere = format!("http://127.0.0.1:{}", free_port());
    let toml = |url: &str| toml(url, &format!("{FIREHOSE}{FAST}"));
    let mut agent = reloads.start(&toml(&nowhere));
    let run = run_of(&mut agent);
    agent.wait_for("an outage", SOON, |agent| agent.stderr().contains("nothing is delivered"));
    reloads.change(&mut agent, &toml(&reloads.rig.stand_in.url()), TAKEN);
    reloads.wait_for_more(&mut agent);
    reloads.assert_whole(agent, run);
}

#[test]
fn another_sink_takes_over_between_two_samples() {
    let reloads = Reloads::new();
    let toml = |sink: &str| toml(&reloads.rig.stand_in.url(), &format!("{sink}{FAST}"));
    let mut agent = reloads.start(&toml(FIREHOSE));
    let run = run_of(&mut agent);
    reloads.wait_for_more(&mut agent);
    reloads.change(&mut agent, &toml("sink.kind = \"stdout\"\n"), TAKEN);
    agent.wait_for("records", SOON, |agent| agent.stdout().lines().count() > 20);
    let ended = stop(&mut agent);
    assert_eq!(ended.run, run);
    let stored = reloads.rig.stand_in.stored();
    let printed: Vec<u64> =
        records::samples(&agent.stdout()).iter().map(|r| records::number(r, "seq")).collect();
    let times = |seq: u64| {
        let there = printed.iter().filter(|printed| **printed == seq).count();
        usize::from(stored.times(DEVICE, run, seq)) + there
    };
    let wrong: Vec<u64> = (0..ended.samples).filter(|seq| times(*seq) != 1).collect();
    assert!(wrong.is_empty(), "missing or doubled: {wrong:?} of {}", ended.samples);
}
