//! Kills: a child that samples, commits, delivers and evicts as fast as it
//! can is killed at any moment, again and again over one folder. It says what
//! is durable, and this process holds the spool to it, and what the next start
//! says of the run.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use super::*;
use crate::spool::chunk::Chunk;

const FOLDER: &str = "SPOOL_OF_THE_KILL_TEST";
const NAME: &str = "spool::tests::crash::kills_lose_nothing_that_was_durable";

fn fast(folder: &Path) -> Settings {
    Settings {
        max_loss: Some(Duration::from_millis(20)),
        max_bytes: 8 * 1024 * 1024,
        ..settings(folder)
    }
}

fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("@{text}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

/// The child's life.
fn live(folder: &Path) {
    let begun = Instant::now();
    let mut rig = Rig::open(&fast(folder));
    let run = rig.run;
    // The harness has begun a line of its own.
    println!();
    say(&format!("run {run}"));
    // What was delivered before each commit began, until it is durable.
    let (mut acked, mut committing) = (Vec::new(), None);
    let mut leases = Vec::new();
    for round in 0u64.. {
        rig.now = at(u64::try_from(begun.elapsed().as_millis()).unwrap());
        rig.push_many(3, 2500);
        rig.spool.all_have(rig.next_seq - 1);
        let was_committing = rig.spool.committing.is_some();
        rig.spool.tick(&rig.now);
        if !was_committing && rig.spool.committing.is_some() {
            // A commit takes everything but what exceeds its size.
            let whole = rig.spool.ram.oldest_ms().is_none();
            committing = Some((rig.next_seq, whole, std::mem::take(&mut acked)));
        }
        let heard =
            async { tokio::time::timeout(Duration::from_millis(1), rig.spool.hear()).await.ok() };
        if let Some(reply) = block_on(heard) {
            rig.spool.heard(reply);
            if rig.spool.committing.is_none()
                && let Some((next_seq, whole, gone)) = committing.take()
            {
                assert_eq!(rig.spool.stats().trouble, None);
                assert_eq!(rig.spool.stats().holding.lost_chunks, 0);
                if whole {
                    say(&format!("durable {run} {next_seq}"));
                }
                gone.iter().for_each(|(run, seq)| say(&format!("gone {run} {seq}")));
            }
        }
        rig.spool.prefetch();
        // Now and then it delivers faster than it samples.
        let deliveries = if round / 64 % 2 == 0 { 1 } else { 8 };
        for _ in 0..deliveries {
            let Some((chunk, lease)) = rig.spool.lease(round % 3 == 0) else { break };
            for entry in chunk.entries.iter().skip((round % 7 == 0).into()) {
                say(&format!("delivered {} {}", chunk.run, entry.seq));
                lease.ack(entry.seq);
            }
            let whole = (round % 7 != 0).then_some(chunk);
            leases.push((whole, lease));
        }
        if round % 5 == 0 {
            // A chunk is acknowledged when its lease ends.
            for (whole, _) in leases.drain(..) {
                let whole = whole.iter().flat_map(|chunk: &Chunk| {
                    chunk.entries.iter().map(|entry| (chunk.run, entry.seq))
                });
                acked.extend(whole);
            }
        }
        for marker in rig.spool.declarations() {
            match &marker {
                Marker::Gap(gap) => {
                    say(&format!("declared {} {} {}", gap.run, gap.first_seq, gap.last_seq));
                }
                Marker::RunEnd(end) => say(&format!("ended {} {}", end.run, end.last_seq)),
            }
            rig.spool.declared(marker);
        }
    }
}

#[derive(Default)]
struct Heard {
    /// By run, below which seq everything is durable.
    durable: BTreeMap<u64, u64>,
    /// By run, up to which seq it is said that nothing is missing.
    ended: BTreeMap<u64, u64>,
    told: BTreeSet<(u64, u64)>,
    gone: BTreeSet<(u64, u64)>,
}

impl Heard {
    fn take_in(&mut self, line: &str) {
        let mut words = line.split(' ');
        let what = words.next().unwrap();
        let numbers: Vec<u64> = words.map(|word| word.parse().unwrap()).collect();
        match (what, &numbers[..]) {
            ("run", &[run]) => assert_eq!(self.durable.insert(run, 0), None, "a run came twice"),
            ("durable", &[run, next_seq]) => *self.durable.get_mut(&run).unwrap() = next_seq,
            ("delivered", &[run, seq]) => drop(self.told.insert((run, seq))),
            ("gone", &[run, seq]) => drop(self.gone.insert((run, seq))),
            ("declared", &[run, first, last]) => {
                self.told.extend((first..=last).map(|seq| (run, seq)));
            }
            ("ended", &[run, last]) => {
                let said = self.ended.insert(run, last);
                assert!(said.is_none_or(|said| said == last), "two ends of one run");
            }
            other => panic!("{other:?}"),
        }
    }

    /// Listens to a child, which is killed when it has said so much.
    fn listen(&mut self, mut child: Child, lines: u32) {
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let (mut heard, mut line) = (0, String::new());
        // The last line may be cut.
        while out.read_line(&mut line).unwrap() > 0 && line.ends_with('\n') {
            if let Some(line) = line.trim_end().strip_prefix('@') {
                self.take_in(line);
                heard += 1;
            }
            if heard == lines {
                child.kill().unwrap();
            }
            line.clear();
        }
        let status = child.wait().unwrap();
        assert!(heard >= lines, "the child ended by itself: {status}");
    }
}

#[test]
fn kills_lose_nothing_that_was_durable() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return live(Path::new(&folder));
    }
    let kills = std::env::var("SPOOL_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(6);
    let folder = tempfile::tempdir().unwrap();
    let mut heard = Heard::default();
    for kill in 0..kills {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", NAME, "--nocapture", "--test-threads=1"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = rand::random_range(1..2000);
        println!("kill {kill} after {lines} lines");
        heard.listen(child, lines);
    }
    let mut rig = Rig::open(&fast(folder.path()));
    let drained: BTreeSet<(u64, u64)> =
        rig.drain(true).into_iter().map(|(run, seq)| (run.0, seq)).collect();
    for marker in rig.told() {
        match &marker {
            Marker::Gap(gap) => heard.told.extend(seqs_of(gap).map(|seq| (gap.run.0, seq))),
            Marker::RunEnd(end) => drop(heard.ended.insert(end.run.0, end.last_seq)),
        }
    }
    assert_eq!(rig.spool.stats().holding.lost_chunks, 0);
    let durable: u64 = heard.durable.values().sum();
    println!("{durable} durable samples, {} delivered or declared", heard.told.len());
    assert!(durable > 0);
    for (&run, &next_seq) in &heard.durable {
        // One that was said to be durable may have been the last word of a child.
        let ended = heard.ended.get(&run).map_or(0, |last| last + 1);
        assert!(ended >= next_seq, "run {run} is durable up to {next_seq}, not {ended}");
        for key in (0..ended).map(|seq| (run, seq)) {
            assert!(heard.told.contains(&key) || drained.contains(&key), "{key:?} is missing");
        }
    }
    let back: Vec<_> = heard.gone.intersection(&drained).collect();
    assert!(back.is_empty(), "acknowledged durably and back: {back:?}");
    rig.close();
}
