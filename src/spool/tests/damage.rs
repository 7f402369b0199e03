//! Damage: files of a real spool are cut, flipped, zeroed, lost, or replaced by
//! old or foreign ones. It always starts, and each sample that was durable is
//! delivered, declared, or, where nothing says what was in a chunk, counted.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use iot_agent_test_support::{by_tier, rng};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, RngExt, SeedableRng};

use super::*;
use crate::spool::carve::{Find, carve, files};
use crate::spool::chunk::Chunk;

type Key = (String, Run, u64);

/// A frame of the samples here holds no more.
const SAMPLES_A_CHUNK: usize = 12;

/// A spool as a kill or a stop left it.
struct Base {
    name: &'static str,
    home: tempfile::TempDir,
    max_bytes: u64,
    /// What was durable and not acknowledged.
    held: BTreeSet<Key>,
}

impl Base {
    /// Of `devices`, in some starts, partly delivered.
    fn new(name: &'static str, devices: u64, rounds: u64, max_bytes: u64, clean: bool) -> Self {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("spool");
        let settings = Settings { max_bytes, ..settings(&path) };
        let mut base = Self { name, home, max_bytes, held: BTreeSet::new() };
        for start in 0..3 {
            let mut rig = Rig::open(&settings);
            let mut seq = 0;
            for round in 0..rounds {
                for device in (0..devices).map(|device| format!("sim-{device}")) {
                    for n in 0..3 {
                        let bytes = [300, 1500, 4000][(round % 3) as usize];
                        let sample = sample(&device, rig.run, seq + n, rig.now, bytes);
                        base.held.insert((device.clone(), rig.run, seq + n));
                        rig.spool.push(sample, true, rig.now.boot_ms);
                    }
                }
                seq += 3;
                rig.commit();
                if round % 7 == 6 {
                    base.deliver(&mut rig, if round % 2 == 0 { 3 } else { 6 });
                }
                if start == 1 && round == rounds / 2 {
                    copy(&path, &base.path("older"));
                }
            }
            rig.pass(10_000);
            rig.pass(10_000);
            assert_eq!(rig.spool.stats().holding.evicted_samples, 0);
            if clean { rig.close() } else { rig.crash() }
        }
        base
    }

    /// Delivers some of the oldest.
    fn deliver(&mut self, rig: &mut Rig, chunks: usize) {
        rig.spool.prefetch();
        rig.pump();
        let mut leases = Vec::new();
        while leases.len() < chunks
            && let Some((chunk, lease)) = rig.spool.lease(true)
        {
            for entry in &chunk.entries {
                lease.ack(entry.seq);
                self.held.remove(&(chunk.device.to_string(), chunk.run, entry.seq));
            }
            leases.push(lease);
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }
}

/// The folders of the generations in `spool`, oldest first.
fn generations(spool: &Path) -> Vec<PathBuf> {
    let firsts = crate::spool::generation::firsts(spool).unwrap();
    firsts.into_iter().map(|first| crate::spool::generation::folder_of(spool, first)).collect()
}

/// The samples of the frames that are whole in the files of `spool`.
fn readable(spool: &Path) -> BTreeSet<Key> {
    let mut keys = BTreeSet::new();
    for file in files(spool).unwrap() {
        carve(&file, true, |_, find| {
            let Find::Whole(_, frame) = find else { return };
            let chunk = Chunk::decode(frame).unwrap();
            let of = |seq| (chunk.device.to_string(), chunk.run, seq);
            keys.extend(chunk.entries.iter().map(|entry| of(entry.seq)));
        })
        .unwrap();
    }
    keys
}

const KINDS: [&str; 13] = [
    "cut",
    "bit flips",
    "zeroed",
    "noise",
    "file lost",
    "file old",
    "file foreign",
    "ledger",
    "generation lost",
    "generation foreign",
    "swapped",
    "leftovers",
    "renames",
];

/// Damages `spool`; says how.
fn damage(kind: &str, spool: &Path, base: &Base, foreign: &Base, random: &mut StdRng) -> String {
    let folders = generations(spool);
    let folder = folders.choose(random).unwrap().clone();
    let within = files(&folder).unwrap();
    // Most of the bytes are in the one file.
    let file = match random.random_bool(0.7) {
        true => folder.join("db"),
        false => within.choose(random).unwrap().clone(),
    };
    let below = file.strip_prefix(spool).unwrap().to_owned();
    match kind {
        "cut" => {
            let length = fs::metadata(&file).unwrap().len();
            let to = if random.random() {
                random.random_range(0..length)
            } else {
                length - length.min(random.random_range(1..9000))
            };
            fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(to).unwrap();
            format!("{below:?} cut from {length} to {to}")
        }
        "bit flips" => {
            let flips = random.random_range(1..40);
            let mut bytes = fs::read(&file).unwrap();
            for _ in 0..flips {
                let at = random.random_range(0..bytes.len());
                bytes[at] ^= 1 << random.random_range(0..8);
            }
            fs::write(&file, bytes).unwrap();
            format!("{flips} bits of {below:?} flipped")
        }
        "zeroed" | "noise" => {
            let mut bytes = fs::read(&file).unwrap();
            let blocks = bytes.len().div_ceil(4096);
            let count = random.random_range(1..=(blocks / 8).clamp(1, 40));
            for _ in 0..count {
                let from = random.random_range(0..blocks) * 4096;
                let to = (from + 4096).min(bytes.len());
                match kind {
                    "zeroed" => bytes[from..to].fill(0),
                    _ => random.fill_bytes(&mut bytes[from..to]),
                }
            }
            fs::write(&file, bytes).unwrap();
            format!("{count} blocks of {below:?} {kind}")
        }
        "file lost" => {
            fs::remove_file(&file).unwrap();
            format!("{below:?} lost")
        }
        "file old" => {
            let older = base.path("older");
            let common: Vec<_> = generations(&older)
                .into_iter()
                .map(|path| path.join("db"))
                .filter(|path| spool.join(path.strip_prefix(&older).unwrap()).exists())
                .collect();
            match common.choose(random) {
                Some(old) => {
                    let below = old.strip_prefix(&older).unwrap();
                    fs::copy(old, spool.join(below)).unwrap();
                    format!("{below:?} as it was before")
                }
                None => "nothing is that old".into(),
            }
        }
        "ledger" => damage_ledger(spool, base, foreign, random),
        _ => damage_folder(kind, spool, &folder, foreign, random),
    }
}

/// The same with the ledger.
fn damage_ledger(spool: &Path, base: &Base, foreign: &Base, random: &mut StdRng) -> String {
    let ledger = spool.join("ledger");
    match random.random_range(0..6) {
        0 => {
            fs::remove_file(ledger).unwrap();
            "ledger lost".into()
        }
        1 => {
            fs::copy(base.path("older").join("ledger"), ledger).unwrap();
            "ledger as it was before".into()
        }
        2 => {
            fs::copy(foreign.path("spool").join("ledger"), ledger).unwrap();
            "ledger of another spool".into()
        }
        3 => {
            let to = random.random_range(0..5_000_000);
            fs::OpenOptions::new().write(true).open(ledger).unwrap().set_len(to).unwrap();
            format!("ledger cut to {to}")
        }
        slots => {
            let mut bytes = fs::read(&ledger).unwrap();
            for slot in [0, 4 << 20].into_iter().take(if slots == 4 { 1 } else { 2 }) {
                bytes[slot + random.random_range(0..300)] ^= 4;
            }
            fs::write(&ledger, bytes).unwrap();
            format!("bits of the ledger flipped ({slots})")
        }
    }
}

/// The same with a whole generation or what is beside it.
fn damage_folder(
    kind: &str,
    spool: &Path,
    folder: &Path,
    foreign: &Base,
    random: &mut StdRng,
) -> String {
    let folder = folder.to_owned();
    match kind {
        "file foreign" => {
            let others = generations(&foreign.path("spool"));
            fs::copy(others.choose(random).unwrap().join("db"), folder.join("db")).unwrap();
            format!("the db of another spool in {folder:?}")
        }
        "generation lost" => {
            fs::remove_dir_all(&folder).unwrap();
            format!("{folder:?} lost")
        }
        "generation foreign" => {
            let others = generations(&foreign.path("spool"));
            let other = others.choose(random).unwrap();
            if random.random() {
                fs::remove_dir_all(&folder).unwrap();
                copy(other, &folder);
                format!("{folder:?} of another spool")
            } else {
                let to = spool.join(other.file_name().unwrap());
                let _ = fs::remove_dir_all(&to);
                copy(other, &to);
                format!("{to:?} of another spool")
            }
        }
        "swapped" => {
            let (one, other) =
                (folder.join("db"), generations(spool).choose(random).unwrap().join("db"));
            let aside = spool.join("x");
            fs::rename(&one, &aside).unwrap();
            if one != other {
                fs::rename(&other, &one).unwrap();
            }
            fs::rename(&aside, &other).unwrap();
            format!("{one:?} and {other:?} swapped")
        }
        "leftovers" => {
            fs::write(folder.join("snap.000000000FFFFFFF.generating"), []).unwrap();
            for name in ["making", "going", "rebuilding", "damaged"] {
                if random.random() {
                    copy(&folder, &spool.join(name));
                }
            }
            let names =
                ["gen-5", "gen-00000000000000000007", "gen-99999999999999999999", "gen-x", "x"];
            let name = names.choose(random).unwrap();
            let _ = fs::create_dir(spool.join(name));
            format!("leftovers of {folder:?}, and {name}")
        }
        "renames" => {
            let first = folder.file_name().unwrap().to_str().unwrap().strip_prefix("gen-").unwrap();
            let built = spool.join(format!("rebuilt-{first}"));
            if random.random() {
                fs::rename(&folder, &built).unwrap();
            } else {
                copy(&folder, &built);
            }
            format!("{built:?} is there")
        }
        other => panic!("{other}"),
    }
}

/// What became of the samples.
#[derive(Default)]
struct Fate {
    cases: usize,
    held: usize,
    /// In frames that were whole after the damage.
    readable: usize,
    delivered: usize,
    declared: usize,
    counted: usize,
    /// Readable, and not delivered all the same.
    wasted: usize,
}

fn open(settings: &Settings) -> Rig {
    let mut rig = Rig::starting(settings, Box::new(SledOpener));
    let until = Instant::now() + PATIENCE;
    while !rig.spool.opened {
        assert!(Instant::now() < until, "{:?}", rig.spool.stats());
        rig.hear();
    }
    rig
}

fn drain(rig: &mut Rig) -> BTreeSet<Key> {
    let mut keys = BTreeSet::new();
    let until = Instant::now() + PATIENCE;
    loop {
        rig.spool.prefetch();
        while let Some((chunk, lease)) = rig.spool.lease(true) {
            for entry in &chunk.entries {
                lease.ack(entry.seq);
                keys.insert((chunk.device.to_string(), chunk.run, entry.seq));
            }
        }
        if !rig.spool.more_to_come() {
            return keys;
        }
        assert!(Instant::now() < until, "{:?}", rig.spool.stats());
        rig.spool.prefetch();
        rig.pump();
    }
}

fn declared(rig: &mut Rig) -> BTreeSet<Key> {
    let mut keys = BTreeSet::new();
    for marker in rig.told() {
        if let Marker::Gap(gap) = &marker {
            keys.extend(seqs_of(gap).map(|seq| (gap.device.clone(), gap.run, seq)));
        }
    }
    keys
}

/// Starts on what is left, and accounts for all that was held.
fn account(spool: &Path, base: &Base, fate: &mut Fate) {
    let readable: BTreeSet<Key> = readable(spool).intersection(&base.held).cloned().collect();
    let settings = Settings { max_bytes: base.max_bytes, ..settings(spool) };
    let mut rig = open(&settings);
    let fresh = |rig: &mut Rig, seqs: std::ops::Range<u64>| {
        let run = rig.run;
        for seq in seqs.clone() {
            rig.spool.push(sample("fresh", run, seq, rig.now, 100), true, rig.now.boot_ms);
        }
        seqs.map(|seq| ("fresh".to_owned(), run, seq)).collect::<BTreeSet<Key>>()
    };
    let mut new = fresh(&mut rig, 0..5);
    rig.commit();
    let mut delivered = drain(&mut rig);
    assert!(new.iter().all(|key| delivered.contains(key)));
    new = fresh(&mut rig, 5..10);
    rig.commit();
    let mut told = declared(&mut rig);
    let stats = rig.spool.stats();
    assert!(stats.holding.disk_bytes <= base.max_bytes, "{stats:?}");
    rig.crash();
    let mut rig = open(&settings);
    delivered.extend(drain(&mut rig));
    told.extend(declared(&mut rig));
    assert!(new.iter().all(|key| delivered.contains(key)), "what came after the damage is safe");
    assert_eq!(rig.spool.stats().holding.lost_chunks, 0, "and once is enough");
    rig.close();

    let missing: Vec<&Key> =
        base.held.iter().filter(|key| !delivered.contains(key) && !told.contains(key)).collect();
    let counted = stats.holding.untold_chunks as usize * SAMPLES_A_CHUNK;
    assert!(missing.len() <= counted, "unreported: {missing:?}\n{stats:?}");
    fate.cases += 1;
    fate.held += base.held.len();
    fate.readable += readable.len();
    fate.delivered += base.held.intersection(&delivered).count();
    fate.declared +=
        base.held.iter().filter(|key| !delivered.contains(*key) && told.contains(*key)).count();
    fate.counted += missing.len();
    fate.wasted += readable.difference(&delivered).count();
}

#[test]
fn no_damage_goes_unreported_or_keeps_it_from_starting() {
    let mut random = rng();
    let bases = [
        Base::new("one device, small", 1, 40, 64 << 20, false),
        Base::new("one device, many generations", 1, 150, 16 << 20, false),
        Base::new("one device, stopped", 1, 100, 16 << 20, true),
        Base::new("three devices", 3, 60, 16 << 20, false),
    ];
    let mut fates: BTreeMap<&str, Fate> = BTreeMap::new();
    for case in 0..by_tier(26, 78, 390) {
        let kind = KINDS[case % KINDS.len()];
        // Any case can be had again by its own seed.
        let seed = std::env::var("SPOOL_DAMAGE_SEED").ok().and_then(|text| text.parse().ok());
        let seed = seed.unwrap_or_else(|| random.random());
        let mut random = StdRng::seed_from_u64(seed);
        let mut order: Vec<&Base> = bases.iter().collect();
        order.shuffle(&mut random);
        let (base, foreign) = (order[0], order[1]);
        let home = tempfile::tempdir().unwrap();
        let spool = home.path().join("spool");
        copy(&base.path("spool"), &spool);
        let how = damage(kind, &spool, base, foreign, &mut random);
        println!("case {case}, seed {seed}: {}: {how}", base.name);
        account(&spool, base, fates.entry(kind).or_default());
    }
    println!("{:20} cases  samples  readable  delivered  declared  counted  unreported", "kind");
    for (kind, fate) in &fates {
        let share = |count: usize| 100.0 * count as f64 / fate.held as f64;
        println!(
            "{kind:20} {:5} {:8} {:8.2}% {:9.2}% {:8.2}% {:7.2}%           0   ({} readable and lost)",
            fate.cases,
            fate.held,
            share(fate.readable),
            share(fate.delivered),
            share(fate.declared),
            share(fate.counted),
            fate.wasted,
        );
    }
}
