//! The whole room against a model, through clean stops, crashes between and
//! within commits, evictions, and leases that end in any way.
//!
//! Of every sample that was pushed one of these holds in the end: it was
//! delivered, it is still there, it was declared, or a crash took it within
//! `max_loss`. Nothing is delivered twice, or delivered and declared, but what a
//! crash came after. And what a run's end says holds.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::record::{EndReason, RunEnd};

const MAX_LOSS_MS: u64 = 10_000;

#[derive(Debug, Clone)]
enum Step {
    Push {
        device: u8,
        count: u8,
        body_bytes: u16,
    },
    Pass {
        ms: u16,
    },
    /// Time passes, and nobody listens to the thread.
    PassDeaf {
        ms: u16,
    },
    Seal,
    Lease {
        oldest_first: bool,
    },
    /// Some entries of some lease are delivered, in some order.
    Ack {
        lease: prop::sample::Index,
        order: u64,
        share: u8,
    },
    Release {
        lease: prop::sample::Index,
    },
    Tell,
    Stop,
    Crash,
    CrashIn {
        write: u8,
    },
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..3u8, 1..60u8, 20..5000u16)
            .prop_map(|(device, count, body_bytes)| Step::Push { device, count, body_bytes }),
        6 => (0..15_000u16).prop_map(|ms| Step::Pass { ms }),
        2 => (0..15_000u16).prop_map(|ms| Step::PassDeaf { ms }),
        2 => Just(Step::Seal),
        8 => any::<bool>().prop_map(|oldest_first| Step::Lease { oldest_first }),
        8 => (any::<prop::sample::Index>(), any::<u64>(), any::<u8>())
            .prop_map(|(lease, order, share)| Step::Ack { lease, order, share }),
        4 => any::<prop::sample::Index>().prop_map(|lease| Step::Release { lease }),
        1 => Just(Step::Tell),
        1 => Just(Step::Stop),
        1 => Just(Step::Crash),
        2 => (0..60u8).prop_map(|write| Step::CrashIn { write }),
    ]
}

/// Device, run and seq.
type Key = (String, Run, u64);

struct Leased {
    keys: Vec<Key>,
    lease: Lease,
}

struct World {
    folder: tempfile::TempDir,
    images: u64,
    settings: Settings,
    faults: Arc<Faults>,
    rig: Option<Rig>,
    /// Of all devices: they take turns.
    next_seqs: BTreeMap<Run, u64>,
    /// With the time of the push.
    pushed: BTreeMap<Key, u64>,
    leases: Vec<Leased>,
    leased: BTreeSet<Key>,
    delivered: BTreeSet<Key>,
    /// Delivered before a crash.
    may_repeat: BTreeSet<Key>,
    declared: BTreeSet<Key>,
    ends: Vec<RunEnd>,
    /// Runs that were stopped.
    stopped: BTreeSet<Run>,
    /// When nothing was under way for the last time.
    quiet_ms: u64,
    may_be_lost: BTreeSet<Key>,
}

impl World {
    fn new(when_full: WhenFull) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings {
            max_loss: Some(Duration::from_millis(MAX_LOSS_MS)),
            max_bytes: 8 * 1024 * 1024,
            when_full,
            ..settings(&folder.path().join("spool"))
        };
        let mut world = Self {
            folder,
            images: 0,
            settings,
            faults: Arc::default(),
            rig: None,
            next_seqs: BTreeMap::new(),
            pushed: BTreeMap::new(),
            leases: Vec::new(),
            leased: BTreeSet::new(),
            delivered: BTreeSet::new(),
            may_repeat: BTreeSet::new(),
            declared: BTreeSet::new(),
            ends: Vec::new(),
            stopped: BTreeSet::new(),
            quiet_ms: 0,
            may_be_lost: BTreeSet::new(),
        };
        world.start(0);
        world
    }

    fn start(&mut self, now_ms: u64) {
        let mut rig =
            Rig::open_on(&self.settings, Box::new(FaultyOpener(Arc::clone(&self.faults))));
        rig.now = at(now_ms);
        rig.spool.tick(&rig.now);
        rig.pump();
        self.quiet_ms = now_ms;
        self.rig = Some(rig);
    }

    fn rig(&mut self) -> &mut Rig {
        self.rig.as_mut().unwrap()
    }

    fn push(&mut self, device: u8, count: u8, body_bytes: u16) {
        let rig = self.rig.as_mut().unwrap();
        let device = format!("sim-{device}");
        let next_seq = self.next_seqs.entry(rig.run).or_default();
        for _ in 0..count {
            let sample = sample(&device, rig.run, *next_seq, rig.now, body_bytes.into());
            rig.spool.push(sample, true, rig.now.boot_ms);
            rig.spool.all_have(*next_seq);
            self.pushed.insert((device.clone(), rig.run, *next_seq), rig.now.boot_ms);
            *next_seq += 1;
        }
    }

    fn pass(&mut self, ms: u64) {
        self.rig().pass(ms);
        self.quiet_ms = self.rig().now.boot_ms;
        let stats = self.rig().spool.stats();
        assert_eq!(stats.trouble, None);
        assert_eq!(stats.holding.lost_chunks, 0);
        assert!(stats.holding.disk_bytes <= self.settings.max_bytes, "{stats:?}");
    }

    fn lease(&mut self, oldest_first: bool) {
        let rig = self.rig.as_mut().unwrap();
        rig.spool.prefetch();
        let Some((chunk, lease)) = rig.spool.lease(oldest_first) else { return };
        let device = chunk.device.to_string();
        let keys: Vec<Key> =
            chunk.entries.iter().map(|e| (device.clone(), chunk.run, e.seq)).collect();
        assert!(!keys.is_empty());
        for key in &keys {
            assert!(self.pushed.contains_key(key), "{key:?} was never pushed");
            assert!(self.leased.insert(key.clone()), "{key:?} is leased twice");
            let again = self.delivered.contains(key) && !self.may_repeat.contains(key);
            assert!(!again, "{key:?} was delivered before");
        }
        self.leases.push(Leased { keys, lease });
    }

    fn ack(&mut self, lease: prop::sample::Index, order: u64, share: u8) {
        if self.leases.is_empty() {
            return;
        }
        let leased = lease.get(&self.leases);
        let mut keys = leased.keys.clone();
        keys.sort_by_key(|(_, _, seq)| (seq ^ order).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        // Most often all of it.
        let count = if share > 100 { keys.len() } else { keys.len() * usize::from(share) / 100 };
        for key in keys.into_iter().take(count) {
            leased.lease.ack(key.2);
            // From here on it may repeat only if another crash comes.
            self.may_repeat.remove(&key);
            self.delivered.insert(key);
        }
    }

    fn release(&mut self, lease: prop::sample::Index) {
        if !self.leases.is_empty() {
            let leased = self.leases.swap_remove(lease.index(self.leases.len()));
            leased.keys.iter().for_each(|key| assert!(self.leased.remove(key)));
        }
    }

    fn release_all(&mut self) {
        self.leases.clear();
        self.leased.clear();
    }

    fn tell(&mut self) {
        let rig = self.rig.as_mut().unwrap();
        for marker in rig.spool.declarations() {
            match &marker {
                Marker::Gap(gap) => {
                    let keys: Vec<Key> =
                        seqs_of(gap).map(|seq| (gap.device.clone(), gap.run, seq)).collect();
                    // What thinning left of them has arrived by now.
                    let arrived = keys.iter().filter(|key| self.delivered.contains(*key)).count();
                    assert!(arrived as u64 >= gap.kept, "{gap:?}, and {arrived} arrived");
                    let thinned = gap.reason == GapReason::Thinned;
                    let lost =
                        keys.into_iter().filter(|key| !thinned || !self.delivered.contains(key));
                    self.declared.extend(lost);
                }
                Marker::RunEnd(end) => self.ends.push(end.clone()),
            }
            rig.spool.declared(marker);
        }
    }

    fn stop(&mut self) {
        self.release_all();
        let rig = self.rig.take().unwrap();
        let now_ms = rig.now.boot_ms;
        self.stopped.insert(rig.run);
        rig.close();
        self.start(now_ms);
    }

    /// A crash after `quiet_ms`, and a start.
    fn crashed(&mut self, rig: Rig, quiet_ms: u64) {
        let now_ms = rig.now.boot_ms;
        self.release_all();
        rig.crash();
        self.may_repeat = self.delivered.clone();
        let young =
            self.pushed.iter().filter(|(_, pushed_ms)| **pushed_ms + MAX_LOSS_MS > quiet_ms);
        self.may_be_lost.extend(young.map(|(key, _)| key.clone()));
        self.start(now_ms);
    }

    fn crash(&mut self) {
        let rig = self.rig.take().unwrap();
        self.crashed(rig, self.quiet_ms);
    }

    /// A crash before the `write`th write of the commit that is due next.
    fn crash_in(&mut self, write: u8) {
        self.images += 1;
        let image = self.folder.path().join(format!("image-{}", self.images));
        let spool = self.settings.path.clone();
        let quiet_ms = self.quiet_ms;
        *self.faults.snapshot_in.lock().unwrap() = Some((write.into(), spool, image.clone()));
        self.pass(MAX_LOSS_MS);
        if self.faults.snapshot_in.lock().unwrap().take().is_none() {
            let rig = self.rig.take().unwrap();
            self.settings.path = image;
            self.crashed(rig, quiet_ms);
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Push { device, count, body_bytes } => self.push(device, count, body_bytes),
            Step::Pass { ms } => self.pass(ms.into()),
            Step::PassDeaf { ms } => {
                let rig = self.rig();
                rig.now = at(rig.now.boot_ms + u64::from(ms));
                rig.spool.tick(&rig.now);
            }
            Step::Seal => self.rig().spool.seal(),
            Step::Lease { oldest_first } => self.lease(oldest_first),
            Step::Ack { lease, order, share } => self.ack(lease, order, share),
            Step::Release { lease } => self.release(lease),
            Step::Tell => self.tell(),
            Step::Stop => self.stop(),
            Step::Crash => self.crash(),
            Step::CrashIn { write } => self.crash_in(write),
        }
    }

    /// Delivers what is left, after a stop or in the same life; nothing may be
    /// missing, and after a last stop nothing is left.
    fn end(mut self, stop: bool) {
        if stop {
            self.stop();
        }
        self.release_all();
        self.rig().spool.seal();
        let until = Instant::now() + PATIENCE;
        while self.rig().spool.more_to_come() || self.rig().spool.stats().ram_bytes > 0 {
            self.lease(true);
            for leased in std::mem::take(&mut self.leases) {
                for key in leased.keys {
                    leased.lease.ack(key.2);
                    self.delivered.insert(key);
                }
            }
            self.rig().pump();
            assert!(Instant::now() < until, "{:?}", self.rig().spool.stats());
        }
        while !self.rig().spool.declarations().is_empty() {
            self.tell();
        }
        for key in self.pushed.keys() {
            let told = self.delivered.contains(key) || self.declared.contains(key);
            assert!(told || self.may_be_lost.contains(key), "{key:?} is missing");
            let both = self.delivered.contains(key) && self.declared.contains(key);
            assert!(!both || self.may_repeat.contains(key), "{key:?} arrived and was declared");
        }
        self.stop();
        assert_eq!(self.rig().spool.backlog(), (0, None));
        let last = self.rig().spool.declarations();
        assert!(last.iter().all(|marker| matches!(marker, Marker::RunEnd(_))), "{last:?}");
        self.tell();
        self.hold_ends();
    }

    fn hold_ends(&self) {
        for end in &self.ends {
            for key in self.pushed.keys().filter(|key| key.1 == end.run && key.2 <= end.last_seq) {
                let told = self.delivered.contains(key) || self.declared.contains(key);
                assert!(told, "{key:?} is missing, {end:?}");
            }
        }
        for (run, next_seq) in &self.next_seqs {
            let clean = |end: &&RunEnd| end.run == *run && end.reason == EndReason::Clean;
            let said = self.ends.iter().find(clean).map(|end| end.last_seq + 1);
            assert_eq!(said, self.stopped.contains(run).then_some(*next_seq), "{run}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(12),
        max_shrink_iters: 200,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_sample_is_delivered_or_there_or_declared(
        steps in prop::collection::vec(steps(), 1..80),
        stop in any::<bool>(),
        when_full in prop_oneof![Just(WhenFull::Thin), Just(WhenFull::DropOldest)],
    ) {
        let mut world = World::new(when_full);
        steps.iter().for_each(|step| world.step(step));
        world.end(stop);
    }
}
