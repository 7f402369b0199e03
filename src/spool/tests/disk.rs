//! What happens on disk: order, bounds, space that comes back, and damage.

use std::fs;

use super::*;
use crate::spool::generation::disk_bytes;
use crate::spool::inspect::{InspectError, Inspection, Source};

/// Five generations of 1 MiB.
const SMALL: u64 = 8 * 1024 * 1024;

/// Eight of 2 MiB: 700 samples of 5,000 bytes fit.
const LARGER: u64 = 16 * 1024 * 1024;

fn generations(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> =
        entries.filter(|path| path.to_str().unwrap().contains("/gen-")).collect();
    paths.sort();
    paths
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Pushes and commits `count` samples of 5,000 bytes.
fn fill(rig: &mut Rig, count: usize) {
    for n in 0..count {
        rig.push(5000);
        if n % 50 == 49 {
            rig.commit();
        }
    }
    rig.commit();
}

#[test]
fn what_is_durable_survives_and_what_was_acknowledged_does_not_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(&settings(folder.path()));
    let run = rig.run;
    for _ in 0..10 {
        rig.push(10);
        rig.commit();
    }
    for (seqs, lease) in rig.lease_all() {
        if [2, 5, 6].contains(&seqs[0]) {
            lease.ack(seqs[0]);
        }
    }
    rig.pass(0);
    rig.commit();
    rig.crash();
    let mut rig = Rig::open(&settings(folder.path()));
    assert_eq!(rig.run, run.next());
    let seqs: Vec<u64> = rig.drain(true).into_iter().map(|(_, seq)| seq).collect();
    assert_eq!(seqs, [0, 1, 3, 4, 7, 8, 9]);
    // Not acknowledged durably: after a crash they come again.
    rig.crash();
    let mut rig = Rig::open(&settings(folder.path()));
    assert_eq!(rig.drain(true).len(), 7);
    rig.close();
    assert_eq!(names(folder.path()), ["ledger", "lock"].map(String::from).into());
}

#[test]
fn a_full_spool_drops_its_oldest_declares_them_and_stays_within_its_bound() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { max_bytes: SMALL, ..settings(folder.path()) };
    let mut rig = Rig::open(&settings);
    let run = rig.run;
    for _ in 0..60 {
        fill(&mut rig, 50);
        let bytes = disk_bytes(folder.path());
        assert!(bytes <= SMALL, "{bytes}");
        assert_eq!(rig.spool.stats().holding.disk_bytes, bytes);
    }
    let stats = rig.spool.stats();
    assert_eq!(stats.trouble, None);
    assert_eq!(stats.holding.full, Some("spool.max_bytes is reached"));
    assert!(stats.holding.evicted_samples > 1000);
    // sled takes twice what it holds, and two segments for each generation.
    assert!(stats.holding.bytes > SMALL / 8, "{stats:?}");
    // The gaps are durable, and one for all that is contiguous.
    rig.crash();
    let mut rig = Rig::open(&settings);
    let gaps = rig.spool.declarations();
    let [Marker::Gap(gap)] = &gaps[..] else { panic!("{gaps:?}") };
    assert_eq!((gap.run, gap.first_seq, gap.reason), (run, 0, GapReason::Evicted));
    assert_eq!(gap.last_seq + 1, stats.holding.evicted_samples);
    let drained: Vec<u64> = rig.drain(true).into_iter().map(|(_, seq)| seq).collect();
    assert_eq!(drained, (gap.last_seq + 1..3000).collect::<Vec<_>>());
    // Told and drained, all of it is given back.
    rig.spool.declared(gaps[0].clone());
    rig.pass(10_000);
    let stats = rig.spool.stats();
    assert!(stats.holding.disk_bytes < 2 << 20, "{stats:?}");
    rig.close();
    assert_eq!(names(folder.path()), ["ledger", "lock"].map(String::from).into());
    assert!(disk_bytes(folder.path()) < 64 * 1024);
}

#[test]
fn what_the_drain_has_is_delivered_or_kept_and_not_declared_when_the_disk_evicts_it() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { max_bytes: SMALL, ..settings(folder.path()) };
    let mut rig = Rig::open(&settings);
    rig.push_many(50, 1000);
    rig.commit();
    // Of the oldest, one is delivered, one is not, and one only in part.
    let mut leases = rig.lease_all();
    let (done, done_lease) = leases.remove(0);
    let (part, part_lease) = leases.remove(0);
    let (back, back_lease) = leases.remove(0);
    assert!(part.len() > 1, "{part:?}");
    part_lease.ack(part[0]);
    drop(leases);
    let evict = |rig: &mut Rig| {
        let evicted = |rig: &Rig| rig.spool.stats().holding.evicted_samples;
        let before = evicted(rig);
        while evicted(rig) < before + 500 {
            fill(rig, 50);
        }
    };
    evict(&mut rig);
    done.iter().for_each(|&seq| done_lease.ack(seq));
    drop((done_lease, part_lease, back_lease));
    let arrived: BTreeSet<u64> = done.iter().chain(&part[..1]).copied().collect();
    rig.close();

    let mut rig = Rig::open(&settings);
    let declared = rig.declared();
    let drained: BTreeSet<u64> = rig.drain(true).into_iter().map(|(_, seq)| seq).collect();
    assert!(back.iter().chain(&part[1..]).all(|seq| drained.contains(seq)));
    for (one, other) in [(&declared, &drained), (&declared, &arrived), (&drained, &arrived)] {
        assert_eq!(one.intersection(other).count(), 0);
    }
    let all = declared.len() + drained.len() + arrived.len();
    assert_eq!(all as u64, drained.last().unwrap() + 1);
    rig.close();
}

#[test]
fn a_file_system_short_of_space_acts_as_a_full_spool() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(&settings(folder.path()));
    fill(&mut rig, 1200);
    rig.close();
    // Whatever is free, it is not this much.
    let short = Settings { keep_free: KeepFree::Bytes(1 << 60), ..settings(folder.path()) };
    let mut rig = Rig::open(&short);
    let before = disk_bytes(folder.path());
    fill(&mut rig, 1200);
    let stats = rig.spool.stats();
    assert!(stats.holding.full.unwrap().contains("keep_free"), "{stats:?}");
    let after = disk_bytes(folder.path());
    assert!(after <= before, "{after} > {before}");
    // The oldest made room for the newest; not everything went for nothing.
    assert!(stats.holding.evicted_samples > 0 && stats.holding.chunks > 100, "{stats:?}");
    rig.crash();
    // Where there is nothing to drop either, nothing is taken, and it says so.
    let empty = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(&Settings { path: empty.path().to_owned(), ..short });
    rig.push(10);
    rig.pass(10_000);
    assert!(rig.spool.stats().trouble.unwrap().contains("keep_free"));
    assert_eq!(rig.drain(false).len(), 1);
}

#[test]
fn numbers_go_on_where_the_ledger_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(&Settings { max_bytes: LARGER, ..settings(folder.path()) });
    let run = rig.run;
    fill(&mut rig, 600);
    rig.crash();
    assert!(generations(folder.path()).len() > 1);
    fs::write(folder.path().join("ledger"), [0xff; 9000]).unwrap();
    let mut rig = Rig::open(&Settings { max_bytes: LARGER, ..settings(folder.path()) });
    assert_ne!(rig.run.0 >> 20, run.0 >> 20, "a new state draws a new run");
    rig.next_seq = 1000;
    fill(&mut rig, 100);
    rig.crash();
    let mut rig = Rig::open(&Settings { max_bytes: LARGER, ..settings(folder.path()) });
    let seqs: BTreeSet<u64> = rig.drain(true).into_iter().map(|(_, seq)| seq).collect();
    assert_eq!(seqs, (0..600).chain(1000..1100).collect());
}

#[test]
fn chunks_that_the_disk_lost_are_counted_and_the_rest_is_delivered() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { max_bytes: LARGER, ..settings(folder.path()) };
    let mut rig = Rig::open(&settings);
    fill(&mut rig, 700);
    assert_eq!(rig.spool.stats().holding.evicted_samples, 0);
    rig.close();
    let paths = generations(folder.path());
    assert!(paths.len() >= 4, "{paths:?}");
    // One gone, one that is noise, one cut short to nothing.
    fs::remove_dir_all(&paths[0]).unwrap();
    for file in fs::read_dir(&paths[1]).unwrap().flatten() {
        if file.file_type().unwrap().is_file() {
            fs::write(file.path(), [0x5a; 4096]).unwrap();
        }
    }
    fs::write(paths[2].join("db"), []).unwrap();
    let mut rig = Rig::open(&settings);
    let seqs: Vec<u64> = rig.drain(true).into_iter().map(|(_, seq)| seq).collect();
    let stats = rig.spool.stats();
    assert!(!seqs.is_empty() && seqs.len() < 500, "{stats:?}");
    assert_eq!(*seqs.last().unwrap(), 699);
    assert_eq!(stats.holding.lost_chunks + seqs.len() as u64, 700, "{stats:?}");
    assert_eq!(stats.holding.untold_chunks, 0, "{stats:?}");
    let declared = rig.declared();
    assert!((0..700).all(|seq| declared.contains(&seq) != seqs.contains(&seq)));
    // It goes on taking samples.
    fill(&mut rig, 50);
    rig.drain(true);
    rig.pass(10_000);
    assert!(names(folder.path()).contains("damaged"));
    rig.close();
}

#[test]
fn ranges_that_the_ledger_merged_are_not_mistaken_for_losses() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { max_bytes: LARGER, ..settings(folder.path()) };
    let mut rig = Rig::open(&settings);
    // Whole generations are acknowledged amid more holes than the ledger has
    // ranges for.
    fill(&mut rig, 700);
    assert_eq!(rig.spool.stats().holding.evicted_samples, 0);
    let mut delivered = BTreeSet::new();
    let mut kept = Vec::new();
    rig.spool.prefetch();
    rig.pump();
    while delivered.len() + kept.len() < 700 {
        while let Some((chunk, lease)) = rig.spool.lease(true) {
            let seq = chunk.entries[0].seq;
            if (200..400).contains(&seq) || seq % 2 == 0 {
                chunk.entries.iter().for_each(|entry| lease.ack(entry.seq));
                delivered.insert(seq);
            } else {
                kept.push(lease);
            }
        }
        rig.spool.prefetch();
        rig.pump();
    }
    rig.pass(0);
    rig.pass(10_000);
    drop(kept);
    rig.crash();
    let mut rig = Rig::open(&settings);
    let drained: BTreeSet<u64> = rig.drain(true).into_iter().map(|(_, seq)| seq).collect();
    let stats = rig.spool.stats();
    assert!((0..700).all(|seq| drained.contains(&seq) || delivered.contains(&seq)));
    assert_eq!(stats.holding.lost_chunks, 0);
    assert!(!names(folder.path()).contains("damaged"));
}

#[test]
fn a_newest_generation_that_is_noise_is_set_aside_at_start() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(&settings(folder.path()));
    fill(&mut rig, 20);
    rig.crash();
    let [newest] = &generations(folder.path())[..] else { panic!() };
    let db = fs::read(newest.join("db")).unwrap();
    fs::write(newest.join("db"), vec![0x5a; db.len()]).unwrap();
    let mut rig = Rig::open(&settings(folder.path()));
    fill(&mut rig, 20);
    rig.crash();
    let mut rig = Rig::open(&settings(folder.path()));
    let drained = rig.drain(true).len() as u64;
    assert_eq!(drained, 20);
    assert!(names(folder.path()).contains("damaged"));
}

#[test]
fn what_a_kill_leaves_half_done_is_in_nobodys_way() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(&settings(folder.path()));
    fill(&mut rig, 20);
    rig.crash();
    let [newest] = &generations(folder.path())[..] else { panic!() };
    // A snapshot that was being written, and one that is not what was written.
    fs::write(newest.join("snap.0000000000FFFFFF.generating"), []).unwrap();
    for file in fs::read_dir(newest).unwrap().flatten() {
        if file.file_name().to_str().unwrap().starts_with("snap.0") {
            fs::write(file.path(), []).unwrap();
        }
    }
    for name in ["making", "going"] {
        copy(newest, &folder.path().join(name));
    }
    let mut rig = Rig::open(&settings(folder.path()));
    let there = names(folder.path());
    assert!(!there.contains("making") && !there.contains("going"), "{there:?}");
    assert_eq!(rig.drain(true).len(), 20);
    assert_eq!(rig.spool.stats().holding.lost_chunks, 0);
}

#[test]
fn refused_records_are_buried_before_they_count_as_delivered() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(&settings(folder.path()));
    rig.push_many(3, 10);
    let (_, lease) = rig.lease_all().pop().unwrap();
    // The place of the letters is taken: they wait, and so does the entry.
    let letters = folder.path().join("dead-letters.ndjson");
    fs::create_dir(&letters).unwrap();
    rig.spool.bury("odd".into(), "{\"n\":1}\n".into(), Some((lease.clone(), 1)));
    [0, 2].iter().for_each(|&seq| lease.ack(seq));
    drop(lease);
    rig.pass(0);
    assert_eq!(rig.spool.stats().delivered, 0);
    fs::remove_dir(&letters).unwrap();
    rig.push(10);
    rig.commit();
    assert_eq!(rig.spool.stats().delivered, 3);
    rig.close();
    let inspection = Inspection::open(&settings(folder.path())).unwrap();
    let letters = inspection.dead_letters().unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0]["reason"], "odd");
}

#[test]
fn a_look_into_the_spool_changes_nothing_and_waits_for_no_agent() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { max_bytes: LARGER, ..settings(folder.path()) };
    let mut rig = Rig::open(&settings);
    rig.spool.set_offset(77);
    fill(&mut rig, 600);
    let held = Inspection::open(&settings).err().unwrap();
    assert!(held.to_string().contains(&format!("pid {}", std::process::id())), "{held}");
    for (seqs, lease) in rig.lease_all().into_iter().take(10) {
        seqs.iter().for_each(|&seq| lease.ack(seq));
    }
    rig.pass(0);
    rig.commit();
    rig.crash();
    let paths = generations(folder.path());
    fs::write(paths[0].join("db"), [0x5a; 4096]).unwrap();
    let image = |name: &str| {
        let mut files = Vec::new();
        let mut folders = vec![folder.path().to_owned()];
        while let Some(at) = folders.pop() {
            for entry in fs::read_dir(at).unwrap().flatten() {
                let path = entry.path();
                match path.is_dir() {
                    true => folders.push(path),
                    false => files.push((path.clone(), fs::read(path).unwrap())),
                }
            }
        }
        files.sort();
        assert!(!files.is_empty(), "{name}");
        files
    };
    let before = image("before");
    let mut inspection = Inspection::open(&settings).unwrap();
    let holding = inspection.holding();
    assert_eq!(holding.chunks, 590);
    assert_eq!(holding.disk_bytes, disk_bytes(folder.path()));
    let mut seqs = BTreeSet::new();
    loop {
        let chunks = inspection.chunks();
        if chunks.is_empty() {
            break;
        }
        assert!(chunks.iter().all(|chunk| inspection.offset_ms(chunk) == Some(77)));
        seqs.extend(chunks.iter().flat_map(|chunk| chunk.entries.iter().map(|e| e.seq)));
    }
    assert!(seqs.contains(&599) && seqs.len() > 300 && seqs.len() < 590, "{}", seqs.len());
    assert!(before == image("after"), "the spool is as it was");
    let absent = Settings { path: folder.path().join("no"), ..settings };
    assert!(matches!(Inspection::open(&absent), Err(InspectError::Absent(_))));
}
