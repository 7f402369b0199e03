//! Thinning: a full spool keeps all of its hours, and says what it took of them.

use std::fs;

use super::*;
use crate::spool::generation::disk_bytes;

const SMALL: u64 = 8 * 1024 * 1024;

fn thinning(folder: &Path) -> Settings {
    Settings { max_bytes: SMALL, when_full: WhenFull::Thin, ..settings(folder) }
}

/// Pushes and commits `count` samples of 5,000 bytes, one each 10 s.
fn fill(rig: &mut Rig, count: u64, each: usize, body_bytes: usize) {
    for n in 0..count {
        rig.push(body_bytes);
        rig.now = at(rig.now.boot_ms + 1);
        if n % each as u64 == each as u64 - 1 {
            rig.commit();
        }
    }
    rig.commit();
}

/// Drains, and holds every one of `0..count` to be either here or declared.
fn account(rig: &mut Rig, count: u64) -> Vec<u64> {
    account_from(rig, 0, count)
}

/// The same of `first..count`, where what came before was delivered.
fn account_from(rig: &mut Rig, first: u64, count: u64) -> Vec<u64> {
    let mut seqs: Vec<u64> = rig.drain(true).into_iter().map(|(_, seq)| seq).collect();
    let arrived: BTreeSet<u64> = seqs.iter().copied().collect();
    assert_eq!(arrived.len(), seqs.len(), "nothing comes twice");
    let mut told = arrived.clone();
    for gap in rig.gaps() {
        let there = arrived.range(gap.first_seq..=gap.last_seq).count() as u64;
        assert_eq!(there, gap.kept, "{gap:?}");
        told.extend(seqs_of(&gap));
    }
    assert_eq!(told, (first..count).collect());
    seqs.sort_unstable();
    seqs
}

fn steps(seqs: &[u64]) -> Vec<u64> {
    seqs.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

#[test]
fn a_long_outage_leaves_all_of_it_evenly_coarser() {
    for (count, each, body_bytes) in [(3000, 50, 5000), (6000, 60, 700)] {
        let folder = tempfile::tempdir().unwrap();
        let mut rig = Rig::open(&thinning(folder.path()));
        let mut most = 0;
        for _ in 0..20 {
            fill(&mut rig, count / 20, each, body_bytes);
            most = most.max(disk_bytes(folder.path()));
            assert!(most <= SMALL, "{most}");
        }
        let stats = rig.spool.stats();
        assert_eq!((stats.trouble, stats.holding.lost_chunks), (None, 0));
        let seqs = account(&mut rig, count);
        let holding = rig.spool.stats().holding;
        let steps = steps(&seqs);
        let alike: Vec<_> = steps.chunk_by(|a, b| a == b).map(|a| (a[0], a.len())).collect();
        println!(
            "{count} samples of {body_bytes} bytes: {} kept, {} thinned; steps {alike:?}; \
             {most} bytes on disk at most",
            seqs.len(),
            holding.thinned_samples,
        );
        let told = holding.thinned_samples + seqs.len() as u64;
        assert!((count..count + count / 50).contains(&told), "{told}");
        assert_eq!(holding.evicted_samples, 0);
        assert_eq!(seqs[0], 0, "from its beginning");
        assert_eq!(*seqs.last().unwrap() + 1, count, "to its end");
        // But for what is freshest, and for what memory had while the rest of its
        // generation was thinned: about a commit.
        let mut old = steps;
        old.truncate(old.len() - old.iter().rev().take_while(|&&n| n == 1).count());
        old.sort_unstable();
        let (usual, widest) = (old[old.len() / 2], old[old.len() - 1]);
        assert!(widest <= usual * 4, "{usual}, {widest}: {alike:?}");
        let finer = old.iter().filter(|&&n| n * 4 < widest).count();
        assert!(finer <= each + each / 2, "{finer}: {alike:?}");
        rig.close();
    }
}

fn generations(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    names.retain(|name| name.starts_with("gen-"));
    names.sort();
    names
}

/// Samples whose chunks have left numbers in the oldest generation that what is
/// made anew takes.
const DELIVERED: u64 = 20;

/// A spool before and after the commit that thinned it first, with how many
/// samples were durable, and the generations that were replaced.
struct Thinned {
    before: (tempfile::TempDir, u64),
    after: (tempfile::TempDir, u64),
    replaced: Vec<String>,
}

impl Thinned {
    fn new() -> Self {
        let (folder, [before, after]) =
            (tempfile::tempdir().unwrap(), [(); 2].map(|()| tempfile::tempdir().unwrap()));
        let mut rig = Rig::open(&thinning(folder.path()));
        fill(&mut rig, 40, 40, 5000);
        for _ in 0..DELIVERED {
            let (chunk, lease) = rig.spool.lease(true).unwrap();
            chunk.entries.iter().for_each(|entry| lease.ack(entry.seq));
        }
        while rig.spool.stats().holding.thinned_samples == 0 {
            fs::remove_dir_all(before.path()).unwrap();
            copy(folder.path(), before.path());
            fill(&mut rig, 40, 40, 5000);
        }
        let count = rig.next_seq;
        rig.crash();
        copy(folder.path(), after.path());
        let [old, new] = [&before, &after].map(|folder| generations(folder.path()));
        let db = |folder: &tempfile::TempDir, name: &str| {
            fs::read(folder.path().join(name).join("db")).unwrap()
        };
        // The newest of the old ones took the last commit.
        let kept = |name: &&String| new.contains(*name) && db(&before, name) == db(&after, name);
        let closed = old.iter().take(old.len() - 1);
        let replaced: Vec<String> = closed.filter(|name| !kept(name)).cloned().collect();
        assert!(!replaced.is_empty() && new.contains(&replaced[0]), "{old:?} {new:?}");
        assert!(replaced[1..].iter().all(|name| !new.contains(name)), "{old:?} {new:?}");
        Self { before: (before, count - 40), after: (after, count), replaced }
    }

    /// The name under which what replaces the others waits for it.
    fn staged(&self) -> String {
        let numbers: Vec<&str> =
            self.replaced.iter().map(|name| name.strip_prefix("gen-").unwrap()).collect();
        match numbers[..] {
            [one] => format!("rebuilt-{one}"),
            [first, .., last] => format!("rebuilt-{first}-{last}"),
            [] => panic!("nothing is replaced"),
        }
    }
}

#[test]
fn a_power_cut_between_any_two_steps_of_thinning_loses_and_doubles_nothing() {
    let thinned = Thinned::new();
    let (before, after) = (thinned.before.0.path(), thinned.after.0.path());
    let (first, staged) = (&thinned.replaced[0], thinned.staged());
    let whole = {
        let folder = tempfile::tempdir().unwrap();
        copy(after, folder.path());
        account_from(&mut Rig::open(&thinning(folder.path())), DELIVERED, thinned.after.1)
    };
    assert!(whole.len() < thinned.after.1 as usize);
    // Whether the ledger knows, and how many of the old ones have gone.
    let steps = [None, Some(0), Some(1), Some(thinned.replaced.len())];
    for gone in steps {
        let folder = tempfile::tempdir().unwrap();
        let (from, count) = match gone {
            None => (before, thinned.before.1),
            Some(_) => (after, thinned.after.1),
        };
        copy(from, folder.path());
        let made = folder.path().join(&staged);
        match gone {
            None => copy(&after.join(first), &made),
            Some(gone) => {
                fs::rename(folder.path().join(first), &made).unwrap();
                for old in thinned.replaced.iter().skip(gone) {
                    copy(&before.join(old), &folder.path().join(old));
                }
            }
        }
        let mut rig = Rig::open(&thinning(folder.path()));
        let lost = rig.spool.stats().holding.lost_chunks;
        let seqs = account_from(&mut rig, DELIVERED, count);
        let holding = rig.spool.stats().holding;
        assert_eq!((lost, holding.lost_chunks), (0, 0), "{gone:?}: {holding:?}");
        let expected = whole.iter().filter(|seq| **seq < count);
        assert!(seqs.iter().eq(expected), "{gone:?}: {seqs:?}");
        rig.close();
    }
}

#[test]
fn what_lies_beside_its_thinned_self_is_passed_over() {
    let thinned = Thinned::new();
    let (before, after) = (thinned.before.0.path(), thinned.after.0.path());
    let mut all = Vec::new();
    for leftovers in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        copy(after, folder.path());
        if leftovers {
            // A folder that should have gone, and a file of the old database.
            for old in &thinned.replaced[1..] {
                copy(&before.join(old), &folder.path().join(old));
            }
            let [from, to] =
                [before.join(&thinned.replaced[0]), folder.path().join(&thinned.replaced[0])];
            fs::copy(from.join("db"), to.join("old-db")).unwrap();
        }
        let mut rig = Rig::open(&thinning(folder.path()));
        all.push(account_from(&mut rig, DELIVERED, thinned.after.1));
        assert_eq!(rig.spool.stats().holding.lost_chunks, 0);
    }
    assert_eq!(all[0], all[1]);
}

#[test]
fn a_damaged_thinned_generation_is_declared_and_thinned_no_further() {
    let thinned = Thinned::new();
    let folder = tempfile::tempdir().unwrap();
    copy(thinned.after.0.path(), folder.path());
    let db = folder.path().join(&thinned.replaced[0]).join("db");
    let mut bytes = fs::read(&db).unwrap();
    let upto = bytes.len() / 2;
    bytes[upto / 2..upto].fill(0);
    fs::write(&db, bytes).unwrap();
    let mut rig = Rig::open(&thinning(folder.path()));
    // It goes as a whole once nothing else makes room.
    rig.next_seq = 0;
    let old_run = rig.run;
    fill(&mut rig, 300, 50, 5000);
    let drained = rig.drain(true);
    let mut told: BTreeSet<(Run, u64)> = drained.iter().copied().collect();
    assert_eq!(told.len(), drained.len(), "nothing comes twice");
    for gap in rig.gaps() {
        told.extend(seqs_of(&gap).map(|seq| (gap.run, seq)));
    }
    let of = |run: &dyn Fn(Run) -> bool| told.iter().filter(|(of, _)| run(*of)).count() as u64;
    assert_eq!(of(&|run| run == old_run), 300);
    assert_eq!(of(&|run| run != old_run), thinned.after.1 - DELIVERED);
    assert!(rig.spool.stats().holding.lost_chunks > 0);
}

#[test]
fn leases_outlast_thinning_and_what_is_half_delivered_does_not_come_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(&thinning(folder.path()));
    rig.push_many(60, 1000);
    rig.commit();
    let mut leases = rig.lease_all();
    let mut delivered = BTreeSet::new();
    let mut deliver = |seqs: &[u64], lease: &Lease| {
        for &seq in seqs {
            assert!(delivered.insert(seq), "{seq} comes twice");
            lease.ack(seq);
        }
    };
    fill(&mut rig, 4000, 60, 700);
    assert!(rig.spool.stats().holding.thinned_samples > 500);
    // What the drain had all the while is whole.
    let (whole, part) = (leases.remove(0), leases.remove(0));
    deliver(&whole.0, &whole.1);
    deliver(&part.0[..1], &part.1);
    drop((whole, part, leases));
    rig.pass(0);
    rig.commit();
    // A thinned chunk that is delivered in part, before a clean stop.
    rig.spool.prefetch();
    rig.pump();
    let (mut parts, mut held) = (0, Vec::new());
    while let Some((chunk, lease)) = rig.spool.lease(true) {
        if chunk.stride_log2 > 0 && chunk.entries.len() > 1 && parts < 3 {
            deliver(&[chunk.entries[0].seq], &lease);
            parts += 1;
        }
        held.push(lease);
    }
    assert_eq!(parts, 3);
    drop(held);
    let count = rig.next_seq;
    rig.close();
    let mut rig = Rig::open(&thinning(folder.path()));
    for (_, seq) in rig.drain(true) {
        assert!(delivered.insert(seq), "{seq} comes twice");
    }
    let mut told = delivered.clone();
    for gap in rig.gaps() {
        told.extend(seqs_of(&gap));
    }
    assert_eq!(told, (0..count).collect());
}

#[test]
fn where_there_is_no_space_to_thin_in_the_oldest_goes() {
    let folder = tempfile::tempdir().unwrap();
    let larger = Settings { max_bytes: 64 << 20, ..thinning(folder.path()) };
    let mut rig = Rig::open(&larger);
    fill(&mut rig, 1200, 50, 5000);
    rig.close();
    // Whatever is free, it is not this much.
    let short = Settings { keep_free: KeepFree::Bytes(1 << 60), ..larger };
    let mut rig = Rig::open(&short);
    let before = disk_bytes(folder.path());
    fill(&mut rig, 1200, 50, 5000);
    let holding = rig.spool.stats().holding;
    let after = disk_bytes(folder.path());
    assert!(after <= before, "{after} > {before}");
    println!("{holding:?}");
    assert!(holding.evicted_samples + holding.thinned_samples > 0 && holding.chunks > 50);
    assert_eq!(rig.spool.stats().trouble, None);
}

#[test]
fn many_devices_keep_their_hours_too() {
    const DEVICES: u64 = 40;
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(&thinning(folder.path()));
    let rounds = 600;
    for seq in 0..rounds {
        for device in 0..DEVICES {
            let sample = sample(&format!("sim-{device}"), rig.run, seq, rig.now, 700);
            rig.spool.push(sample, true, rig.now.boot_ms);
        }
        if seq % 10 == 9 {
            rig.commit();
        }
    }
    let holding = rig.spool.stats().holding;
    assert_eq!((holding.evicted_samples, holding.lost_chunks), (0, 0));
    let mut arrived: std::collections::BTreeMap<String, BTreeSet<u64>> = Default::default();
    while rig.spool.more_to_come() || rig.spool.stats().ram_bytes > 0 {
        rig.spool.prefetch();
        rig.pump();
        while let Some((chunk, lease)) = rig.spool.lease(true) {
            let seqs = arrived.entry(chunk.device.to_string()).or_default();
            for entry in &chunk.entries {
                assert!(seqs.insert(entry.seq), "{} comes twice", entry.seq);
                lease.ack(entry.seq);
            }
        }
    }
    let mut told = arrived.clone();
    for gap in rig.gaps() {
        let there = arrived[&gap.device].range(gap.first_seq..=gap.last_seq).count();
        assert_eq!(there as u64, gap.kept, "{gap:?}");
        told.entry(gap.device.clone()).or_default().extend(seqs_of(&gap));
    }
    assert_eq!(told.len() as u64, DEVICES);
    for (device, told) in told {
        assert_eq!(told, (0..rounds).collect(), "{device}");
        let seqs: Vec<u64> = arrived[&device].iter().copied().collect();
        assert!(seqs[0] == 0 && seqs.len() < 500, "{device}: {seqs:?}");
    }
}
