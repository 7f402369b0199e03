//! The world of one seed: what time it is, and what has happened.
//!
//! It belongs to the thread of the seed. World time is tokio's, which stands
//! still while anything can go on and then jumps to what comes next.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;

use super::plan::{Broken, CALM, HOUR, MINUTE, Phase, Plan, SECOND, WEEK, Wall};
use super::truth::Truth;
use crate::clock::{BootId, Moment};

/// 2026-11-20T00:00:00Z, when the week begins.
const BEGIN_MS: i64 = 1_795_132_800_000;

/// Steps that a failing seed shows; all where it is the only one.
const TRACE: usize = 80;

/// The environment variable that names the one seed to run.
pub const ONE_SEED: &str = "IOT_SIMULATION_SEED";

/// What unwinds when the device loses its power.
pub struct PowerCut;

/// What the wall clock does from a world time (ms) on.
#[derive(Debug, Clone, Copy)]
pub struct Wallclock {
    pub from: u64,
    /// What it is off by.
    pub off_ms: i64,
    pub synced: bool,
}

/// One boot of the device.
pub struct Boot {
    /// World time.
    pub at: u64,
    pub walls: Vec<Wallclock>,
    /// A sample of it may no longer be `unsynced` in a later life.
    pub known_durably: bool,
}

/// What was counted. What begins with `most` is a highest value.
#[derive(Debug, Clone, Default)]
pub struct Figures(BTreeMap<&'static str, u64>);

impl Figures {
    pub fn add(&mut self, what: &'static str, count: u64) {
        let known = self.0.entry(what).or_default();
        *known = if what.starts_with("most") { count.max(*known) } else { *known + count };
    }

    pub fn of(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or_default()
    }

    pub fn take_in(&mut self, other: &Self) {
        other.0.iter().for_each(|(what, count)| self.add(what, *count));
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|(what, count)| writeln!(f, "  {count:>10} {what}"))
    }
}

pub struct World {
    pub plan: Plan,
    pub rng: StdRng,
    begin: Instant,
    pub boots: Vec<Boot>,
    pub truth: Truth,
    pub figures: Figures,
    trace: VecDeque<String>,
    /// Accesses to the disk, and turns of the line, until the power goes.
    pub accesses_left: Option<u32>,
    pub turns_left: Option<u32>,
    pub suspended: Vec<Phase<()>>,
    pub heard: super::service::Heard,
    turns: (u64, u32),
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// Begins the world of a plan. To be called within a runtime whose time stands
/// still.
pub fn begin(plan: Plan) {
    let world = World {
        rng: StdRng::seed_from_u64(plan.seed),
        plan,
        begin: Instant::now(),
        boots: Vec::new(),
        truth: Truth::default(),
        figures: Figures::default(),
        trace: VecDeque::new(),
        accesses_left: None,
        turns_left: None,
        suspended: Vec::new(),
        heard: None,
        turns: (0, 0),
    };
    WORLD.set(Some(world));
}

pub fn end() -> Option<World> {
    WORLD.take()
}

pub fn with<T>(look: impl FnOnce(&mut World) -> T) -> T {
    WORLD.with_borrow_mut(|world| look(world.as_mut().expect("a seed's world has begun")))
}

/// World time (ms).
pub fn now_ms() -> u64 {
    with(|world| world.now_ms())
}

/// What the device's clocks show.
pub fn moment() -> Moment {
    with(|world| world.moment())
}

pub fn random() -> f64 {
    with(|world| world.rng.random())
}

/// Says what happens, for whoever reads why a seed fails.
pub fn trace(step: impl FnOnce() -> String) {
    with(|world| world.note(step()));
}

/// Lets the disk fail, or the power, at an access that writes.
pub fn access() -> io::Result<()> {
    let errno = with(|world| {
        if let Some(left) = &mut world.accesses_left {
            if *left == 0 {
                return None;
            }
            *left -= 1;
        }
        Some(match Phase::at(&world.plan.breaks, world.now_ms()).map(|phase| phase.kind) {
            Some(Broken::Full) => 28,
            Some(Broken::Write(share)) if world.rng.random_range(0..100) < share => 5,
            _ => 0,
        })
    });
    match errno {
        None => std::panic::resume_unwind(Box::new(PowerCut)),
        Some(0) => Ok(()),
        Some(errno) => {
            with(|world| world.figures.add(if errno == 28 { "disk full" } else { "EIO" }, 1));
            Err(io::Error::from_raw_os_error(errno))
        }
    }
}

impl World {
    pub fn now_ms(&self) -> u64 {
        u64::try_from((Instant::now() - self.begin).as_millis()).unwrap()
    }

    pub fn boot(&self) -> &Boot {
        self.boots.last().unwrap()
    }

    pub fn boot_id(&self) -> BootId {
        BootId([self.boots.len() as u8; 16])
    }

    pub fn true_wall_ms(&self, world_ms: u64) -> i64 {
        BEGIN_MS + world_ms.cast_signed()
    }

    pub fn wallclock(&self) -> Wallclock {
        let now_ms = self.now_ms();
        *self.boot().walls.iter().rfind(|wall| wall.from <= now_ms).unwrap()
    }

    pub fn moment(&self) -> Moment {
        let (now_ms, wall) = (self.now_ms(), self.wallclock());
        let boot_ms = now_ms - self.boot().at + 15 * SECOND;
        Moment { wall_ms: self.true_wall_ms(now_ms) + wall.off_ms, boot_ms, synced: wall.synced }
    }

    /// Whether the seconds around `world_ms` had, or may soon after have had,
    /// trouble of a kind that `max_loss` does not hold in; since when.
    pub fn trouble_since(&self, world_ms: u64) -> u64 {
        let breaks = self.plan.breaks.iter().map(|phase| (phase.from, phase.to));
        let suspended = self.suspended.iter().map(|phase| (phase.from, phase.to));
        let spans: Vec<_> = breaks.chain(suspended).collect();
        let mut since = world_ms;
        // One may lead into another.
        for _ in 0..spans.len() {
            let within = spans.iter().filter(|(from, to)| *from < since && since < to + 5 * MINUTE);
            since = within.map(|(from, _)| *from).min().unwrap_or(since).min(since);
        }
        since
    }

    pub fn note(&mut self, step: String) {
        let s = self.now_ms() / SECOND;
        let (day, hour, minute) = (s / 86_400, s / 3600 % 24, s / 60 % 60);
        if self.trace.len() == TRACE && std::env::var_os(ONE_SEED).is_none() {
            self.trace.pop_front();
        }
        self.trace.push_back(format!("day {day} {hour:02}:{minute:02}:{:02} {step}", s % 60));
    }

    pub fn trace(&self) -> String {
        self.trace.iter().fold(String::new(), |all, step| all + step + "\n")
    }

    /// The device boots; `down_at` is when it went down.
    pub fn start_boot(&mut self, down_at: u64) {
        let now_ms = self.now_ms();
        let off_ms = match self.plan.wall {
            Wall::Kept => 0,
            Wall::Unset => -self.true_wall_ms(now_ms),
            Wall::Stopped => down_at.cast_signed() - now_ms.cast_signed(),
        };
        let mut walls = vec![Wallclock { from: now_ms, off_ms, synced: false }];
        let right = now_ms + self.rng.random_range(5 * SECOND..3 * HOUR);
        let never = self.rng.random_ratio(1, 8);
        let by_hand = self.plan.wall == Wall::Unset && self.rng.random_ratio(1, 8);
        if !never {
            walls.push(Wallclock { from: right, off_ms: 0, synced: !by_hand });
            for step in self.plan.steps.iter().filter(|step| step.from > right) {
                walls.push(Wallclock { from: step.from, off_ms: step.kind, synced: !by_hand });
                walls.push(Wallclock { from: step.to, off_ms: 0, synced: !by_hand });
            }
        }
        // In the end everybody knows the time.
        walls.push(Wallclock { from: right.max(WEEK - CALM), off_ms: 0, synced: true });
        walls.sort_by_key(|wall| wall.from);
        self.note(format!("boots; its wall clock: {walls:?}"));
        self.boots.push(Boot { at: now_ms, walls, known_durably: false });
        self.figures.add("boots", 1);
    }

    /// Counts the line's turns; a line that spins is a failure. Whether the
    /// power goes.
    pub fn turn(&mut self) -> bool {
        let now_ms = self.now_ms();
        self.turns = if self.turns.0 == now_ms { (now_ms, self.turns.1 + 1) } else { (now_ms, 0) };
        assert!(self.turns.1 < 20_000, "the line spins");
        match &mut self.turns_left {
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        }
    }
}
