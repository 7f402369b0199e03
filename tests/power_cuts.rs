//! Power cuts: what the real binary wrote is played back up to some moment, as
//! a disk may have kept it, and the real binary must make the best of it.
//!
//! strace records a life of starts, deliveries, outages, a full spool, a kill
//! and clean stops. In each disk state made of it only what was synced is
//! certain. An agent on such a disk must start, sample and deliver; and of what
//! the ledger on it promises nothing may be missing undeclared.
//!
//! Needs: root, strace

#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use iot_agent::ledger::{Book, Ledger};
use iot_agent::spool::chunk::Chunk;
use iot_agent_test_support::firehose::{Options, Stored};
use iot_agent_test_support::power::Disk;
use iot_agent_test_support::process::{Agent, Launch};
use iot_agent_test_support::relay::Relay;
use iot_agent_test_support::rig::{Rig, SOON, STOP, run_of, stop};
use iot_agent_test_support::trace::{self, Op, Trace};
use iot_agent_test_support::{by_tier, rng};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const AGENT: &str = env!("CARGO_BIN_EXE_iot-agent");

const DEVICES: u64 = 10;

/// States that are looked at side by side: an agent mostly waits.
const ABREAST: usize = 6;

/// How long a backlog may stand still before a start counts as having brought
/// all it can, and how many starts there are before the rest counts as lost: on
/// a busy machine an agent may stand still itself.
const STILL: Duration = Duration::from_secs(5);
const STARTS: usize = 3;

type Sample = (String, u64, u64);

fn launch(rig: &Rig) -> Launch {
    let devices = DEVICES.to_string();
    rig.launch()
        .args(["--simulate", "--devices", &devices, "--profile", "uniform"])
        .set("spool.max_bytes", "8MiB")
        .set("spool.keep_free", "1MiB")
}

/// A life, as it went to the disk.
struct Recorded {
    ops: Vec<Op>,
    /// Which samples each chunk holds, by number, and from before which op on:
    /// thinning makes others under numbers that were used.
    chunks: BTreeMap<u64, Vec<(usize, Vec<Sample>)>>,
    /// Editions of the ledger, and before which op each was written.
    books: Vec<(usize, Book)>,
    stored: Stored,
}

/// Starts, deliveries, outages and stops of one agent.
struct Life {
    rig: Rig,
    relay: Relay,
    trace: Trace,
    starts: usize,
}

impl Life {
    fn new() -> Self {
        let rig = Rig::new(AGENT);
        let (relay, trace) = (Relay::to(rig.address()), Trace::of(rig.home()));
        Self { rig, relay, trace, starts: 0 }
    }

    /// One start, and what becomes of it, at `speed` times the real time.
    fn start(&mut self, speed: u32, live: impl FnOnce(&Self, &mut Agent)) {
        self.starts += 1;
        let log = self.rig.home().join(format!("strace-{}", self.starts));
        let mut agent = launch(&self.rig)
            .set("sink.firehose.endpoint_url", self.relay.url())
            .args(["--speed", &format!("{speed}x")])
            .wrapped_in(trace::wrapper(&log))
            .start();
        run_of(&mut agent);
        live(self, &mut agent);
        self.trace.read(&log);
    }

    fn generations(&self) -> usize {
        let names =
            fs::read_dir(self.rig.spool()).unwrap().flatten().map(|entry| entry.file_name());
        names.filter(|name| name.to_str().unwrap().starts_with("gen-")).count()
    }

    fn delivers(&self, agent: &mut Agent) {
        let arrived = || self.rig.stand_in.stats().stored.samples;
        let enough = arrived() + 10 * DEVICES;
        agent.wait_for("deliveries", SOON, |_| arrived() > enough);
    }

    /// Runs until the spool keeps this many generations.
    fn fills(&self, agent: &mut Agent, generations: usize) {
        agent.wait_for("a backlog", SOON * 3, |_| self.generations() >= generations);
    }

    fn empties(&self, agent: &mut Agent) {
        agent.wait_for("an empty spool", SOON * 3, |_| self.generations() <= 1);
        self.delivers(agent);
    }
}

fn record() -> Recorded {
    let mut life = Life::new();
    life.relay.pull();
    life.start(10, |life, agent| {
        life.fills(agent, 2);
        life.relay.mend();
        life.empties(agent);
        life.relay.pull();
        life.fills(agent, 2);
        stop(agent);
    });
    life.start(1, |_, agent| {
        thread::sleep(Duration::from_millis(2500));
        agent.kill9();
    });
    life.relay.mend();
    life.start(1, |life, agent| {
        life.empties(agent);
        stop(agent);
    });
    life.relay.pull();
    life.start(200, |_, agent| {
        let full = "the spool is full, its history loses resolution";
        agent.wait_for("a full spool", SOON * 3, |agent| agent.stderr().contains(full));
        thread::sleep(Duration::from_millis(500));
        agent.kill9();
    });
    life.relay.mend();
    life.start(1, |life, agent| {
        life.delivers(agent);
        thread::sleep(Duration::from_millis(500));
        agent.kill9();
    });
    life.start(1, |life, agent| {
        life.empties(agent);
        stop(agent);
    });
    let stored = life.rig.stand_in.stored();
    Recorded::new(life.trace.ops, stored)
}

impl Recorded {
    fn new(ops: Vec<Op>, stored: Stored) -> Self {
        let mut chunks: BTreeMap<u64, Vec<(usize, Vec<Sample>)>> = BTreeMap::new();
        let mut books = Vec::new();
        for (at, op) in ops.iter().enumerate() {
            let Op::Write { path, data, .. } = op else { continue };
            match path.file_name().and_then(|name| name.to_str()) {
                Some("db") => {
                    for (number, samples) in frames(data) {
                        chunks.entry(number).or_default().push((at, samples));
                    }
                }
                Some("ledger") => books.extend(book(data).map(|book| (at, book))),
                _ => {}
            }
        }
        Self { ops, chunks, books, stored }
    }

    /// What the ledger's newest certain edition says at `cut`.
    fn certain(&self, cut: usize) -> Option<&Book> {
        let is_ledger = |path: &Path| path.ends_with("ledger");
        let syncs = self.ops[..cut].iter().filter_map(|op| match op {
            Op::Sync { path, since } if is_ledger(path) => Some(*since),
            _ => None,
        });
        let since = syncs.max()?;
        self.books.iter().rev().find(|(at, _)| *at < since).map(|(_, book)| book)
    }

    /// Runs that may have been used before `cut`.
    fn runs(&self, cut: usize) -> BTreeSet<u64> {
        let certain = self.certain(cut).map(|book| book.run);
        let before = self.books.iter().take_while(|(at, _)| *at < cut);
        let runs: BTreeSet<u64> = before.map(|(_, book)| book.run).collect();
        // That of an edition which was only being written nobody has used.
        runs.into_iter().filter(|run| certain.is_some_and(|certain| *run <= certain)).collect()
    }

    /// What the chunks of these numbers hold as `book`, an edition, means them.
    fn samples(&self, book: &Book, numbers: impl Iterator<Item = u64>) -> BTreeSet<&Sample> {
        let written = self.books.iter().rev().find(|(_, known)| known == book);
        let upto = written.map_or(0, |(at, _)| *at);
        let samples = |number| {
            let made = self.chunks.get(&number)?;
            made.iter().rev().find(|(at, _)| *at < upto).map(|(_, samples)| samples)
        };
        numbers.filter_map(samples).flatten().collect()
    }

    /// Half of the cuts fall anywhere, half near what changes names or ledger.
    fn draw_cut(&self, random: &mut StdRng) -> usize {
        if random.random_bool(0.5) {
            return random.random_range(1..=self.ops.len());
        }
        let rare = self.ops.iter().enumerate().filter(|(_, op)| match op {
            Op::Write { path, .. } => !path.ends_with("db"),
            Op::Sync { .. } => false,
            _ => true,
        });
        let rare: Vec<usize> = rare.map(|(at, _)| at).collect();
        let near = rare[random.random_range(0..rare.len())] + random.random_range(0..4);
        near.clamp(1, self.ops.len())
    }
}

/// The chunks whose frames are in what was written.
fn frames(data: &[u8]) -> Vec<(u64, Vec<Sample>)> {
    let places = (0..data.len()).filter(|at| data[*at..].starts_with(b"iAF1"));
    let chunks = places.filter_map(|at| Chunk::decode(&data[at..]).ok());
    let samples = |chunk: Chunk| {
        let sample = |seq| (chunk.device.to_string(), chunk.run.0, seq);
        (chunk.number, chunk.entries.iter().map(|entry| sample(entry.seq)).collect())
    };
    chunks.map(samples).collect()
}

/// What an edition of the ledger says.
fn book(slot: &[u8]) -> Option<Book> {
    let length = u32::from_le_bytes(slot.strip_prefix(b"iAL")?.get(1..5)?.try_into().unwrap());
    Some(serde_json::from_slice(&slot[16..16 + length as usize]).expect("a book"))
}

fn numbers(book: &Book) -> impl Iterator<Item = u64> {
    book.outstanding.iter().flat_map(|(first, last)| first..=last)
}

/// What is neither there nor declared of `wanted`.
fn missing<'a>(wanted: &BTreeSet<&'a Sample>, stored: &[&Stored]) -> Vec<&'a Sample> {
    let mut declared: BTreeMap<(&str, u64), Vec<(u64, u64)>> = BTreeMap::new();
    for line in stored.iter().flat_map(|stored| stored.markers()) {
        let marker = &line["marker"];
        if marker["kind"] == "gap" {
            let [run, first, last] =
                ["run", "first_seq", "last_seq"].map(|name| marker[name].as_u64().unwrap());
            let device = line["id_device"].as_str().unwrap();
            declared.entry((device, run)).or_default().push((first, last));
        }
    }
    let there = |(device, run, seq): &Sample| {
        let gaps = declared.get(&(device.as_str(), *run));
        stored.iter().any(|stored| stored.times(device, *run, *seq) > 0)
            || gaps.is_some_and(|gaps| gaps.iter().any(|(f, l)| (*f..=*l).contains(seq)))
    };
    wanted.iter().copied().filter(|sample| !there(sample)).collect()
}

/// What came of one disk state.
struct Outcome {
    state: String,
    promised: usize,
    missing: usize,
    log: String,
}

/// Starts the agent on the disk that a cut has left.
fn look(recorded: &Recorded, disk: &Disk, seed: u64) -> Outcome {
    let mut random = StdRng::seed_from_u64(seed);
    let cut = recorded.draw_cut(&mut random);
    let state = format!("state {seed}, cut before op {cut} of {}", recorded.ops.len());
    let home = tempfile::tempdir().unwrap();
    disk.cut(cut, &mut random, home.path());
    let book = Ledger::peek(&home.path().join("spool")).unwrap();
    let certain = recorded.certain(cut);
    assert!(book.is_some() || certain.is_none(), "{state}: no ledger");
    let (book, certain) = (book.unwrap_or_default(), certain.cloned().unwrap_or_default());
    // A later edition was written once its frames were durable, so it holds, too.
    let promised = recorded.samples(&book, numbers(&book));
    let released = numbers(&certain).filter(|number| !book.outstanding.contains(*number));
    let released = recorded.samples(&certain, released);

    let options = Options { keep_records: false, ..Options::default() };
    let rig = Rig::at(AGENT, options, home);
    let mut runs = recorded.runs(cut);
    let mut log = String::new();
    for _ in 0..STARTS {
        let mut agent = launch(&rig).start();
        let run = run_of(&mut agent);
        assert!(runs.insert(run), "{state}: run {run} again");
        let left = wait_for_backlog(&rig, &mut agent, run, &promised);
        let status = agent.terminate(STOP + Duration::from_secs(3));
        log.push_str(&agent.stderr());
        assert!(status.success(), "{state}: {status}\n{log}");
        assert!(!log.contains("panicked at src"), "{state}:\n{log}");
        if left == 0 {
            break;
        }
    }
    let stored = rig.stand_in.stored();
    let unknown = missing(&released, &[&stored, &recorded.stored]);
    assert!(unknown.is_empty(), "{state}: released and not delivered: {unknown:?}");
    let missing = missing(&promised, &[&stored]).len();
    Outcome { state, promised: promised.len(), missing, log }
}

/// Waits until what is `promised` is there, or no more of it comes while the
/// agent lives; returns how much is missing then.
fn wait_for_backlog(rig: &Rig, agent: &mut Agent, run: u64, promised: &BTreeSet<&Sample>) -> usize {
    let (mut still, mut least) = (Instant::now(), usize::MAX);
    agent.wait_for("the backlog", SOON * 2, |_| {
        thread::sleep(Duration::from_millis(100));
        let stored = rig.stand_in.stored();
        let left = missing(promised, &[&stored]).len();
        if left < least {
            (still, least) = (Instant::now(), left);
        }
        let lives = stored.runs().any(|(_, of)| *of == run);
        lives && (left == 0 || still.elapsed() > STILL)
    });
    least
}

#[test]
fn after_a_power_cut_it_starts_and_misses_nothing_that_was_durable() {
    let mut random = rng();
    let start = Instant::now();
    let recorded = record();
    println!(
        "recorded {} operations, {} chunks, {} editions of the ledger within {:?}; {:?}",
        recorded.ops.len(),
        recorded.chunks.len(),
        recorded.books.len(),
        start.elapsed(),
        recorded.stored.totals()
    );
    let disk = Disk::new(&recorded.ops);
    let seeds: Vec<u64> = (0..by_tier(10, 40, 400)).map(|_| random.random()).collect();
    let (next, outcomes) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..ABREAST {
            scope.spawn(|| {
                while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = look(&recorded, &disk, *seed);
                    outcomes.lock().unwrap().push(outcome);
                }
            });
        }
    });
    let outcomes = outcomes.into_inner().unwrap();
    let promised: usize = outcomes.iter().map(|outcome| outcome.promised).sum();
    let bad: Vec<&Outcome> = outcomes.iter().filter(|outcome| outcome.missing > 0).collect();
    for Outcome { state, promised, missing, log } in &bad {
        println!("{state}: {missing} of {promised} promised samples missing\n{log}");
    }
    println!(
        "{} states within {:?}, {promised} samples promised in all, {} states miss some",
        outcomes.len(),
        start.elapsed(),
        bad.len()
    );
    assert!(bad.is_empty());
}
