//! kill -9 where the spool is busiest: in a start, a drain, a switch of
//! generations, a stop, and in the salvage of what a disk has damaged. Each kill
//! is held to have hit what it was for.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use iot_agent::ledger::Ledger;
use iot_agent_test_support::firehose::Stored;
use iot_agent_test_support::process::{Agent, Launch};
use iot_agent_test_support::relay::Relay;
use iot_agent_test_support::rig::{Rig, SOON, run_of};
use iot_agent_test_support::{by_tier, rng};
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rustix::process::Signal;
use serde_json::Value;

use super::kills::{COMMIT, INTERVAL, MAX_LOSS};
use crate::AGENT;

const DEVICES: u64 = 10;

/// Samples a second of each device, ten times the real ones.
const RATE: i64 = 100;

/// Kills for one moment until one of them hits it.
const TRIES: u32 = 20;

/// A spool of a few small generations, one of which is full every few seconds.
fn busy(rig: &Rig) -> Launch {
    rig.launch()
        .args(["--simulate", "--devices", &DEVICES.to_string(), "--profile", "uniform"])
        .args(["--speed", "10x"])
        .set("spool.max_bytes", "8MiB")
        .set("spool.keep_free", "1MiB")
}

/// What of `run` arrived or was declared, from its first sample on, and what is
/// missing before the last that is there.
fn accounted(stored: &Stored, device: &str, run: u64) -> (u64, Vec<u64>) {
    let gaps = stored.markers().iter().filter(|line| line["id_device"] == device);
    let gaps = gaps.map(|line| &line["marker"]);
    let gaps = gaps.filter(|marker| marker["kind"] == "gap" && marker["run"] == run);
    let seq = |marker: &Value, name: &str| marker[name].as_u64().unwrap();
    let gaps: Vec<(u64, u64)> =
        gaps.map(|marker| (seq(marker, "first_seq"), seq(marker, "last_seq"))).collect();
    let there = |seq: u64| {
        stored.times(device, run, seq) > 0
            || gaps.iter().any(|(first, last)| (*first..=*last).contains(&seq))
    };
    // No run lasts for more than some seconds.
    let end = (0..20_000).rev().find(|seq| there(*seq)).map_or(0, |last| last + 1);
    (end, (0..end).filter(|seq| !there(*seq)).collect())
}

/// Agents that are killed, and the disk that they share.
struct Victims {
    rig: Rig,
    relay: Relay,
    random: StdRng,
    kills: u32,
    /// How many of them hit which moment.
    hits: BTreeMap<&'static str, u32>,
    /// Runs, when they began, and when they were killed.
    runs: Vec<(u64, DateTime<Utc>, DateTime<Utc>)>,
    logs: Vec<String>,
}

impl Victims {
    fn new() -> Self {
        let rig = Rig::new(AGENT);
        let relay = Relay::to(rig.address());
        let (hits, runs, logs) = (BTreeMap::new(), Vec::new(), Vec::new());
        Self { rig, relay, random: rng(), kills: 0, hits, runs, logs }
    }

    fn start(&self) -> Agent {
        busy(&self.rig).set("sink.firehose.endpoint_url", self.relay.url()).start()
    }

    fn wait(&mut self, upto: Duration) {
        thread::sleep(self.random.random_range(Duration::ZERO..=upto));
    }

    /// Kills an agent; `hit` looks at what is left.
    fn kill(
        &mut self,
        moment: &'static str,
        mut agent: Agent,
        hit: impl FnOnce(&Self, &str) -> bool,
    ) -> bool {
        let at = Utc::now();
        agent.kill9();
        self.kills += 1;
        let log = agent.stderr();
        let hit = hit(self, &log);
        *self.hits.entry(moment).or_default() += u32::from(hit);
        if let Some((run, began)) = began(&log) {
            self.runs.push((run, began, at));
        }
        self.logs.push(log);
        hit
    }

    /// Kills agents within a time that shrinks, until one of them is hit.
    #[track_caller]
    fn kill_early(
        &mut self,
        moment: &'static str,
        mut attempt: impl FnMut(&mut Self, Duration) -> bool,
    ) {
        let mut within = Duration::from_millis(150);
        for _ in 0..TRIES {
            if attempt(self, within) {
                return;
            }
            within /= 2;
        }
        panic!("no kill hits a {moment}");
    }

    /// Before the first sample.
    fn in_a_start(&mut self) {
        self.kill_early("start", |victims, within| {
            let agent = victims.start();
            victims.wait(within);
            victims.kill("start", agent, |_, log| began(log).is_none())
        });
    }

    /// Between SIGTERM and the end.
    fn in_a_stop(&mut self) {
        self.kill_early("stop", |victims, within| {
            let mut agent = victims.start();
            run_of(&mut agent);
            victims.wait(Duration::from_secs(2));
            agent.signal(Signal::TERM);
            victims.wait(within);
            victims.kill("stop", agent, |_, log| !log.contains(" stopped "))
        });
    }

    /// While samples of earlier runs arrive, and more of them wait.
    fn in_a_drain(&mut self) {
        self.kill_early("drain", |victims, within| {
            victims.backlog();
            let last = victims.last();
            victims.relay.mend();
            let before = victims.rig.stand_in.stats().stored.samples;
            let mut agent = victims.start();
            let arrived = |rig: &Rig| rig.stand_in.stats().stored.samples > before + 1000;
            agent.wait_for("a drain", SOON, |_| arrived(&victims.rig));
            victims.wait(within);
            victims.kill("drain", agent, |victims, _| victims.waits(last))
        });
    }

    /// While a database is made for what comes next, or a finished one goes.
    fn in_a_switch(&mut self) {
        self.relay.pull();
        let halfway = |rig: &Rig| ["making", "going"].map(|name| rig.spool().join(name).exists());
        self.kill_early("switch", |victims, within| {
            let mut agent = victims.start();
            run_of(&mut agent);
            let start = Instant::now();
            while halfway(&victims.rig) == [false, false] {
                assert!(start.elapsed() < SOON, "no switch\n{}", agent.stderr());
                thread::sleep(Duration::from_micros(200));
            }
            victims.wait(within / 20);
            victims.kill("switch", agent, |victims, _| halfway(&victims.rig) != [false, false])
        });
    }

    /// A backlog of a few seconds, by an agent that is killed as well.
    fn backlog(&mut self) {
        self.relay.pull();
        let mut agent = self.start();
        run_of(&mut agent);
        thread::sleep(Duration::from_secs(2));
        self.wait(Duration::from_secs(2));
        self.kill("outage", agent, |_, _| true);
    }

    /// Zeroes a part of what the spool keeps.
    fn damage(&mut self) {
        let folders = fs::read_dir(self.rig.spool()).unwrap().flatten();
        let databases: Vec<PathBuf> =
            folders.map(|folder| folder.path().join("db")).filter(|db| db.is_file()).collect();
        let db = databases.choose(&mut self.random).unwrap();
        let mut bytes = fs::read(db).unwrap();
        let used = bytes.iter().rposition(|&byte| byte != 0).unwrap();
        let at = self.random.random_range(0..used);
        bytes[at..(at + used / 4).min(used)].fill(0);
        fs::write(db, bytes).unwrap();
    }

    /// After damage was met, before all that was salvaged is delivered.
    fn in_a_salvage(&mut self) {
        const MET: &str = "the disk no longer has all that was written to it";
        self.kill_early("salvage", |victims, within| {
            victims.backlog();
            let last = victims.last();
            victims.damage();
            victims.relay.mend();
            let mut agent = victims.start();
            run_of(&mut agent);
            agent.wait_for("damage, or none that matters", SOON, |agent| {
                agent.stderr().contains(MET) || !victims.waits(last)
            });
            victims.wait(within);
            victims.kill("salvage", agent, |victims, log| log.contains(MET) && victims.waits(last))
        });
    }

    /// The last chunk that waits on disk.
    fn last(&self) -> u64 {
        let book = Ledger::peek(&self.rig.spool()).unwrap();
        book.and_then(|book| book.outstanding.last()).expect("there is a backlog")
    }

    /// Whether a chunk up to this one still waits.
    fn waits(&self, upto: u64) -> bool {
        let book = Ledger::peek(&self.rig.spool()).unwrap().unwrap_or_default();
        book.outstanding.at_or_before(upto).is_some()
    }

    /// Delivers what is left. How long (ms) before its kill the oldest sample
    /// was taken that is lost; panics where one is missing that `excused` does
    /// not explain.
    #[track_caller]
    fn settle(&mut self, excused: impl Fn(&[String]) -> bool) -> i64 {
        self.relay.mend();
        self.rig.drain(|| busy(&self.rig));
        let stored = self.rig.stand_in.stored();
        let (mut worst, mut unreported) = (TimeDelta::zero(), 0);
        for (run, began, at) in &self.runs {
            for device in 1..=DEVICES {
                let device = format!("sim-{device:04}");
                let (end, missing) = accounted(&stored, &device, *run);
                if !missing.is_empty() {
                    let logs = self.logs.join("");
                    assert!(
                        excused(&self.logs),
                        "{device}, run {run}: {missing:?} of {end}\n{logs}"
                    );
                    unreported += missing.len();
                }
                let taken = TimeDelta::milliseconds(end as i64 * 1000 / RATE);
                worst = worst.max(*at - *began - taken);
            }
        }
        println!(
            "{} kills, of them in a moment of their own {:?}; at most {} ms lost, \
             {unreported} samples counted in the log only; {:?}",
            self.kills,
            self.hits,
            worst.num_milliseconds(),
            stored.totals()
        );
        worst.num_milliseconds()
    }
}

/// The run of an agent that began to sample, and when.
fn began(log: &str) -> Option<(u64, DateTime<Utc>)> {
    let line = log.lines().find(|line| line.contains(" sampling "))?;
    let (_, run) = line.split_once(" run=")?;
    let date = line.split_whitespace().next()?.parse().ok()?;
    Some((run.split_whitespace().next()?.parse().ok()?, date))
}

#[test]
fn a_kill_in_a_start_a_drain_a_switch_of_generations_or_a_stop_is_like_any_other() {
    let mut victims = Victims::new();
    for round in 0..by_tier(4, 12, 100) {
        match round % 4 {
            0 => victims.in_a_switch(),
            1 => victims.in_a_start(),
            2 => victims.in_a_drain(),
            _ => victims.in_a_stop(),
        }
    }
    let lost_ms = victims.settle(|_| false);
    assert!(lost_ms <= (MAX_LOSS + INTERVAL + COMMIT).num_milliseconds(), "{lost_ms} ms");
}

#[test]
fn a_kill_in_a_salvage_hides_no_loss() {
    let mut victims = Victims::new();
    for _ in 0..by_tier(1, 3, 40) {
        victims.in_a_salvage();
    }
    victims.settle(|logs| logs.iter().any(|log| counted(log) > 0));
}

/// Chunks that the log says are lost without a declaration.
fn counted(log: &str) -> u64 {
    let lines = log.lines().filter(|line| line.contains("no longer has all that was written"));
    let words = lines.flat_map(str::split_whitespace);
    words.filter_map(|word| word.strip_prefix("lost=")?.parse::<u64>().ok()).sum()
}
