//! What a seed has in store for its device.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use crate::drain::{self, Limits, Order, Wire};
use crate::spool::WhenFull;
use crate::{clock, spool};

pub const SECOND: u64 = 1000;
pub const MINUTE: u64 = 60 * SECOND;
pub const HOUR: u64 = 60 * MINUTE;
pub const WEEK: u64 = 7 * 24 * HOUR;

/// Nothing goes wrong in the last hours: all must drain by then.
pub const CALM: u64 = 8 * HOUR;

/// What goes wrong for a while, from one world time (ms) to another.
#[derive(Debug, Clone, Copy)]
pub struct Phase<K> {
    pub from: u64,
    pub to: u64,
    pub kind: K,
}

impl<K: Copy> Phase<K> {
    pub fn at(phases: &[Self], world_ms: u64) -> Option<Self> {
        phases.iter().copied().find(|phase| (phase.from..phase.to).contains(&world_ms))
    }
}

/// How the network and the service misbehave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ill {
    /// No answer, for this long (ms).
    Down(u64),
    /// Taken, and the answer lost.
    Lost,
    Throttled,
    /// Each parcel is taken or not.
    Partial,
    Denied,
    /// Taken or not, and answered with nonsense.
    Garbage,
}

/// How the disk misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Broken {
    Full,
    /// Writes fail, this often of 100 times.
    Write(u32),
    /// Reads and opening fail.
    Read,
    /// Each command takes up to this long (ms).
    Slow(u64),
    Hangs,
}

/// What happens to the device.
#[derive(Debug, Clone, Copy)]
pub enum Event {
    /// A crash at once, or before the n-th next access to the disk, or turn of
    /// the line.
    Crash,
    CrashInAccesses(u32),
    CrashInTurns(u32),
    Stop,
    Suspend(u64),
    /// Its bounds are looked at.
    Look,
}

/// What the wall clock shows at a boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wall {
    /// The right time, of a battery clock.
    Kept,
    /// 1970.
    Unset,
    /// What it showed when the device went down.
    Stopped,
}

/// A seed's settings and its week.
pub struct Plan {
    /// What happens by chance follows from it.
    pub seed: u64,
    pub interval: Duration,
    pub send: drain::Settings,
    pub clock: clock::Settings,
    pub max_loss: Duration,
    pub max_bytes: u64,
    pub when_full: WhenFull,
    pub limits: Limits,
    pub wall: Wall,
    /// The service tells the time.
    pub tells_time: bool,
    /// Of 1000 samples so many are refused for good; whole batches, or parcels.
    pub poison: u32,
    pub refuses_batches: bool,
    /// Bytes of a sample that do not compress.
    pub body_bytes: usize,
    pub ills: Vec<Phase<Ill>>,
    pub breaks: Vec<Phase<Broken>>,
    /// The wall clock is off by so much (ms) for a while.
    pub steps: Vec<Phase<i64>>,
    pub events: Vec<(u64, Event)>,
    /// Starts in the last hours are without the pace and the budget.
    pub relaxes: bool,
}

impl Plan {
    pub fn new(seed: u64) -> Self {
        let rng = &mut StdRng::seed_from_u64(seed);
        // One in four has bodies that fill its spool.
        let body_bytes = if rng.random_ratio(1, 4) { rng.random_range(1500..5000) } else { 0 };
        let wall =
            *[Wall::Kept, Wall::Kept, Wall::Unset, Wall::Unset, Wall::Stopped].choose(rng).unwrap();
        let wire = Wire { request_bytes: 1000, parcel_bytes: 12, base64: true };
        let mut plan = Self {
            seed: rng.random(),
            interval: secs(rng.random_range(300..900)),
            send: drain::Settings {
                interval: secs(*[60, 300, 900, 3600].choose(rng).unwrap()),
                order: *[Order::FreshFirst, Order::OldestFirst].choose(rng).unwrap(),
                backlog_rate: None,
                daily_bytes: None,
            },
            clock: clock::Settings { wait: secs(*[0, 60, 600, 86_400].choose(rng).unwrap()) },
            max_loss: secs(*[10, 120, 900, 7200].choose(rng).unwrap()),
            max_bytes: rng.random_range(5..12) * 1024 * 1024,
            when_full: WhenFull::DropOldest,
            limits: Limits {
                parcel_samples: rng.random_range(1..200),
                parcel_bytes: rng.random_range(8_000..200_000),
                batch_parcels: rng.random_range(1..50),
                batch_bytes: rng.random_range(8_000..1_000_000),
                billing_quantum_bytes: *[1, 5120].choose(rng).unwrap(),
                wire,
            },
            wall,
            tells_time: rng.random(),
            poison: *[0, 0, 3, 15].choose(rng).unwrap(),
            refuses_batches: rng.random(),
            body_bytes,
            ills: ills(rng),
            breaks: breaks(rng),
            steps: steps(rng),
            events: events(rng),
            relaxes: false,
        };
        if rng.random_ratio(1, 16) {
            plan.besiege();
        }
        if rng.random_ratio(1, 3) {
            plan.meter(rng);
        }
        if rng.random() {
            plan.when_full = WhenFull::Thin;
        }
        plan
    }

    /// Holds its backlog back by a pace, a daily budget, or both. Either they
    /// are wide enough that all is delivered once nothing fails any more, or
    /// somebody takes them away by then.
    fn meter(&mut self, rng: &mut StdRng) {
        let sample_bytes = self.body_bytes as u64 + 500;
        let week_bytes = WEEK / self.interval.as_millis() as u64 * sample_bytes;
        let (paced, metered) = *[(true, false), (false, true), (true, true)].choose(rng).unwrap();
        let wide = rng.random();
        let rate = if wide { week_bytes / (CALM / 2 / SECOND) } else { week_bytes * SECOND / WEEK };
        // A third of the day is left in the end; base64 takes a third more; and
        // each sample may have a request of its own.
        let sent_bytes = week_bytes * 2 + week_bytes / sample_bytes * 1000;
        let daily = if wide { sent_bytes * 3 + (1 << 20) } else { sent_bytes / 28 + (1 << 14) };
        if paced {
            self.send.backlog_rate = Some(rate * rng.random_range(1..4) + 100);
        }
        if metered {
            self.send.daily_bytes = Some(daily * rng.random_range(1..4));
        }
        if !wide {
            self.relaxes = true;
            let last = self.events.partition_point(|(at, _)| *at < WEEK - CALM);
            self.events.insert(last, (WEEK - CALM, Event::Stop));
        }
    }

    /// Has neither a disk nor a network for so long that memory overflows.
    fn besiege(&mut self) {
        (self.interval, self.body_bytes) = (secs(300), 4990);
        let (from, to) = (HOUR, WEEK - 2 * CALM);
        self.ills = vec![Phase { from, to: WEEK - CALM, kind: Ill::Down(10 * MINUTE) }];
        // One that fails is tried each minute, which takes a test long.
        self.breaks = vec![Phase { from, to, kind: Broken::Hangs }];
        self.events.retain(|(at, event)| matches!(event, Event::Look) || !(from..to).contains(at));
    }

    /// Fills its spool many times over while nobody listens, and crashes again
    /// and again at some access to the disk.
    pub fn crowd(mut self) -> Self {
        let rng = &mut StdRng::seed_from_u64(self.seed);
        (self.interval, self.body_bytes, self.poison) = (secs(180), 4500, 0);
        (self.max_bytes, self.when_full) = (8 * 1024 * 1024, WhenFull::Thin);
        self.max_loss = secs(900);
        (self.send.backlog_rate, self.send.daily_bytes, self.relaxes) = (None, None, false);
        self.ills = vec![Phase { from: HOUR, to: WEEK - CALM, kind: Ill::Down(10 * MINUTE) }];
        self.breaks = Vec::new();
        let crash = |rng: &mut StdRng| {
            let crash = Event::CrashInAccesses(rng.random_range(0..600));
            (rng.random_range(0..WEEK - CALM), crash)
        };
        self.events = (0..30).map(|_| crash(rng)).collect();
        self.events.extend((1..28).map(|n| (n * 6 * HOUR, Event::Look)));
        self.events.sort_by_key(|(at, _)| *at);
        self
    }

    pub fn spool(&self, path: &std::path::Path) -> spool::Settings {
        spool::Settings {
            path: path.to_owned(),
            max_loss: Some(self.max_loss),
            max_bytes: self.max_bytes,
            keep_free: spool::KeepFree::Bytes(0),
            when_full: self.when_full,
        }
    }
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// Up to `most` phases, each at most `longest` ms.
fn phases<K>(
    rng: &mut StdRng,
    most: usize,
    longest: u64,
    kind: impl Fn(&mut StdRng) -> K,
) -> Vec<Phase<K>> {
    let count = rng.random_range(0..=most);
    let one = |rng: &mut StdRng| {
        let length = MINUTE + (longest as f64 * rng.random::<f64>().powi(2)) as u64;
        let from = rng.random_range(0..WEEK - CALM - length.min(WEEK - CALM - 1));
        Phase { from, to: (from + length).min(WEEK - CALM), kind: kind(rng) }
    };
    (0..count).map(|_| one(rng)).collect()
}

fn ills(rng: &mut StdRng) -> Vec<Phase<Ill>> {
    let mut ills = phases(rng, 10, 2 * HOUR, |rng| match rng.random_range(0..6) {
        0 => Ill::Down(20),
        1 => Ill::Lost,
        2 => Ill::Throttled,
        3 => Ill::Partial,
        4 => Ill::Denied,
        _ => Ill::Garbage,
    });
    // A dead network is asked ever so often: long ones are slow to say so.
    ills.extend(phases(rng, 3, 60 * HOUR, |_| Ill::Down(5 * MINUTE)));
    ills
}

fn breaks(rng: &mut StdRng) -> Vec<Phase<Broken>> {
    let mut breaks = phases(rng, 4, 6 * HOUR, |rng| match rng.random_range(0..4) {
        0 => Broken::Full,
        1 => Broken::Write(rng.random_range(10..=100)),
        2 => Broken::Slow(rng.random_range(100..20 * SECOND)),
        _ => Broken::Hangs,
    });
    if rng.random_ratio(1, 8) {
        breaks.extend(phases(rng, 2, 5 * MINUTE, |_| Broken::Read));
    }
    breaks
}

fn steps(rng: &mut StdRng) -> Vec<Phase<i64>> {
    if rng.random() {
        return Vec::new();
    }
    phases(rng, 3, 5 * HOUR, |rng| {
        let off_ms = *[HOUR, 20 * SECOND, 26 * HOUR].choose(rng).unwrap();
        if rng.random() { off_ms.cast_signed() } else { -off_ms.cast_signed() }
    })
}

fn events(rng: &mut StdRng) -> Vec<(u64, Event)> {
    let harsh = rng.random_range(0..25);
    let one = |rng: &mut StdRng| {
        let event = match rng.random_range(0..9) {
            0 | 1 => Event::Crash,
            2 | 3 => Event::CrashInAccesses(rng.random_range(0..60)),
            4 => Event::CrashInTurns(rng.random_range(0..200)),
            5..=7 => Event::Stop,
            _ => Event::Suspend(rng.random_range(MINUTE..6 * HOUR)),
        };
        (rng.random_range(0..WEEK - CALM), event)
    };
    let mut events: Vec<_> = (0..harsh).map(|_| one(rng)).collect();
    events.extend((1..28).map(|n| (n * 6 * HOUR, Event::Look)));
    events.sort_by_key(|(at, _)| *at);
    events
}
