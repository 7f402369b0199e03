//! Jumps of the clock, other boots, and a suspend: what waits meanwhile is
//! dated right.

use std::fs;
use std::path::Path;

use chrono::TimeDelta;
use iot_agent::ledger::Ledger;
use iot_agent_test_support::firehose::{FirehoseStandIn, Options};
use iot_agent_test_support::process::{Agent, Launch};
use iot_agent_test_support::records::{number, text, timestamp_ms};
use iot_agent_test_support::relay::Relay;
use serde_json::Value;

use super::{Kernel, SOON, clock_file, hour, in_1970, now_ms, set_right};

const INTERVAL_MS: i64 = 100;

/// A host that boots, suspends, and has its clock set.
struct Host {
    home: tempfile::TempDir,
    stand_in: FirehoseStandIn,
    relay: Relay,
}

/// What is to be told of one boot from the next.
const BOOTS: [&str; 3] = [
    "11111111-1111-4111-8111-111111111111",
    "22222222-2222-4222-8222-222222222222",
    "33333333-3333-4333-8333-333333333333",
];

impl Host {
    /// Without a network; its clock is `ahead` of this one in the end.
    fn new(ahead: TimeDelta) -> Self {
        let stand_in = FirehoseStandIn::start(Options { clock_ahead: ahead, ..Options::default() });
        let address = stand_in.url().split_once("://").unwrap().1.parse().unwrap();
        let relay = Relay::to(address);
        relay.pull();
        Self { home: tempfile::tempdir().unwrap(), stand_in, relay }
    }

    /// An agent whose clock shows `time`, in libfaketime's words, on the boot of
    /// that number; nobody has synchronised it.
    fn launch(&self, boot: usize, time: &str) -> Launch {
        let id = self.home.path().join("boot_id");
        fs::write(&id, format!("{}\n", BOOTS[boot])).unwrap();
        let script = "mount -t tmpfs tmpfs /run; \
                      mount --bind \"$0\" /proc/sys/kernel/random/boot_id; exec \"$@\"";
        let launch = in_1970(self.home.path(), &Kernel::Silent)
            .firehose("iot-telemetry", &self.relay.url())
            .wrapped_in(["unshare", "--mount", "sh", "-ec", script, id.to_str().unwrap()]);
        fs::write(clock_file(self.home.path()), time).unwrap();
        let keys = self.stand_in.key().environment();
        keys.iter().fold(launch, |launch, (name, value)| launch.env(name, value))
    }

    fn ledger(&self) -> Option<iot_agent::ledger::Book> {
        Ledger::peek(&self.home.path().join("spool")).unwrap()
    }

    /// Waits until some samples are durable.
    fn wait_for_backlog(&self, agent: &mut Agent) {
        let chunks = || self.ledger().map_or(0, |book| book.outstanding_chunks);
        let before = chunks();
        agent.wait_for("a backlog", SOON, |_| chunks() >= before + 3);
    }

    /// Lets the network in, waits until all is delivered, and stops.
    fn deliver(&self, mut agent: Agent) -> Vec<Value> {
        let waiting = self.ledger().and_then(|book| book.outstanding.last()).unwrap_or(0);
        self.relay.mend();
        agent.wait_for("deliveries", SOON, |_| {
            let book = self.ledger().unwrap_or_default();
            let left = book.outstanding.at_or_before(waiting).is_some();
            self.stand_in.stats().stored.samples > 30 && !left
        });
        stop(agent);
        self.stand_in.stored().lines().filter(|line| line["seq"].is_u64()).collect()
    }
}

/// As timesyncd leaves it at its first synchronisation.
pub fn synchronise(agent: &Agent) {
    let folder = format!("/proc/{}/root/run/systemd/timesync", agent.pid());
    fs::create_dir_all(&folder).unwrap();
    fs::write(Path::new(&folder).join("synchronized"), "").unwrap();
}

fn stop(mut agent: Agent) {
    assert_eq!(agent.terminate(SOON).code(), Some(0), "{}", agent.stderr());
}

fn run_of(agent: &mut Agent) -> u64 {
    iot_agent_test_support::rig::run_of(agent)
}

/// All samples of `run` are there, an interval apart, the first of them taken
/// about when it was started. Returns how many of them are in which state.
#[track_caller]
fn assert_dated(lines: &[Value], run: u64, start_ms: i64) -> [usize; 3] {
    let mut lines: Vec<&Value> = lines.iter().filter(|line| line["run"] == run).collect();
    lines.sort_by_key(|line| number(line, "seq"));
    let first_ms = timestamp_ms(lines[0]);
    assert!((start_ms - 1000..start_ms + 5000).contains(&first_ms), "{start_ms}: {}", lines[0]);
    for (seq, line) in (0..).zip(&lines) {
        assert_eq!(number(line, "seq"), seq);
        let due_ms = first_ms + seq as i64 * INTERVAL_MS;
        assert!((timestamp_ms(line) - due_ms).abs() < 1000, "{due_ms}: {line}");
    }
    states(&lines)
}

fn states(lines: &[&Value]) -> [usize; 3] {
    let of = |state: &str| lines.iter().filter(|line| line["clock"] == state).count();
    let states = ["synced", "corrected", "unsynced"].map(of);
    println!("synced, corrected, unsynced: {states:?}");
    states
}

/// No partition but those of the hours that it was.
#[track_caller]
fn assert_partitions(lines: &[Value], begun: &str) {
    for line in lines {
        let sent = text(line, "timestamp_sent");
        assert!(sent == begun || sent == hour(), "{line}");
    }
}

#[test]
fn what_waits_is_put_right_when_a_clock_jumps_at_its_synchronisation() {
    // An hour fast, a day slow, and as a Raspberry Pi wakes.
    for time in ["+3600", "-86400", "@1970-01-01 00:00:25"] {
        let host = Host::new(TimeDelta::zero());
        let (start_ms, begun) = (now_ms(), hour());
        let mut agent = host.launch(0, time).start();
        let run = run_of(&mut agent);
        host.wait_for_backlog(&mut agent);
        set_right(host.home.path());
        synchronise(&agent);
        host.wait_for_backlog(&mut agent);
        let lines = host.deliver(agent);
        let [synced, corrected, unsynced] = assert_dated(&lines, run, start_ms);
        assert!(synced >= 10 && corrected >= 10 && unsynced == 0, "{time}");
        assert_partitions(&lines, &begun);
    }
}

#[test]
fn samples_of_earlier_boots_are_dated_if_those_ever_saw_the_time() {
    let host = Host::new(TimeDelta::zero());
    let begun = hour();
    let woken = "@1970-01-01 00:00:25";
    let first_ms = now_ms();
    let mut agent = host.launch(0, woken).start();
    let first = run_of(&mut agent);
    host.wait_for_backlog(&mut agent);
    set_right(host.home.path());
    synchronise(&agent);
    let saw_time = || host.ledger().is_some_and(|book| !book.boots.is_empty());
    agent.wait_for("a note of the time", SOON, |_| saw_time());
    stop(agent);

    let mut agent = host.launch(1, woken).start();
    let second = run_of(&mut agent);
    host.wait_for_backlog(&mut agent);
    stop(agent);

    let third_ms = now_ms();
    let mut agent = host.launch(2, "+0").start();
    let third = run_of(&mut agent);
    synchronise(&agent);
    let lines = host.deliver(agent);
    let [_, corrected, unsynced] = assert_dated(&lines, first, first_ms);
    assert!(corrected >= 10 && unsynced == 0);
    let lost: Vec<&Value> = lines.iter().filter(|line| line["run"] == second).collect();
    let [synced, corrected, unsynced] = states(&lost);
    assert!((synced, corrected) == (0, 0) && unsynced >= 10);
    let [_, _, unsynced] = assert_dated(&lines, third, third_ms);
    assert_eq!(unsynced, 0);
    assert_partitions(&lines, &begun);
}

/// CLOCK_BOOTTIME counts on while a host sleeps.
#[test]
fn a_suspend_between_sampling_and_synchronisation_moves_no_date() {
    const ASLEEP_S: i64 = 7200;
    let host = Host::new(TimeDelta::seconds(ASLEEP_S));
    let first_ms = now_ms();
    let mut agent = host.launch(0, "@1970-01-01 00:00:25").start();
    let first = run_of(&mut agent);
    host.wait_for_backlog(&mut agent);
    stop(agent);

    let second_ms = now_ms() + ASLEEP_S * 1000;
    let asleep = ASLEEP_S.to_string();
    let mut agent = host
        .launch(0, &format!("+{asleep}"))
        .wrapped_in(["unshare", "--time", "--boottime", &asleep])
        .start();
    let second = run_of(&mut agent);
    synchronise(&agent);
    let lines = host.deliver(agent);
    let [synced, corrected, unsynced] = assert_dated(&lines, first, first_ms);
    assert!(synced == 0 && corrected >= 10 && unsynced == 0);
    assert_dated(&lines, second, second_ms);
}
