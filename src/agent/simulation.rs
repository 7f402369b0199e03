//! The whole line through weeks that never were.
//!
//! A seed makes a device, its clock, its disk and its service, and has them
//! fail; the line that samples, spools and delivers is the product's own, in
//! virtual time. What must hold whatever happens:
//!
//! - every sample is delivered, set aside because it was refused, or declared
//!   missing, but for what was younger than `max_loss` at a crash, or could not
//!   be made durable before it;
//! - only what was delivered before a crash, or without an answer, is delivered
//!   again, and only that may be both delivered and declared;
//! - memory and bytes on disk stay within their bounds;
//! - each hour of sending is one that this device or the service had just then,
//!   and each date is right once the time is known;
//! - once nothing fails any more, everything drains;
//! - nothing panics, and the line never spins.
//!
//! A seed repeats exactly: `IOT_SIMULATION_SEED=7 cargo test --lib simulation`
//! runs that one alone; a failing seed shows its last steps, one that runs alone all. Otherwise the
//! seeds follow `IOT_TEST_SEED`.
//!
//! Not simulated: sled itself (a store here is a plain file), damage to what
//! was durable, and a file system that is really full.

mod device;
mod disk;
mod driver;
mod plan;
mod service;
mod truth;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use iot_agent_test_support::by_tier;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::clock;
use crate::drain::{self, Order};
use crate::health::watchdog::Stuck;
use plan::{Broken, HOUR, Ill, MINUTE, Phase, Plan, Wall};
use world::{Boot, Figures, ONE_SEED, Wallclock, with};

/// Where files are memory, if there is such a place.
const SHM: &str = "/dev/shm";

/// Text that does not compress.
static NOISE: LazyLock<String> = LazyLock::new(|| {
    let mut rng = StdRng::seed_from_u64(0);
    (0..1 << 17).map(|_| char::from(rng.random_range(b'#'..=b'Z'))).collect()
});

/// Lives through `life` in the world of `plan`, with a folder for its spool;
/// the figures of it.
fn live(plan: Plan, life: impl AsyncFnOnce(&Path)) -> Figures {
    let shm = Path::new(SHM);
    let top = if shm.is_dir() { shm.to_owned() } else { std::env::temp_dir() };
    let folder = tempfile::tempdir_in(top).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let live = || {
        runtime.block_on(async {
            world::begin(plan);
            life(&folder.path().join("spool")).await;
        });
    };
    let ended = catch_unwind(AssertUnwindSafe(live));
    let world = world::end().unwrap();
    ended.unwrap_or_else(|cause| {
        println!("{}", world.trace());
        resume_unwind(cause)
    });
    world.figures
}

/// The week of `seed`; its figures.
fn simulate(seed: u64) -> Figures {
    let week = || live(Plan::new(seed), async |folder| device::week(folder).await);
    catch_unwind(week).unwrap_or_else(|cause| {
        println!("{ONE_SEED}={seed} repeats this");
        resume_unwind(cause)
    })
}

#[test]
fn every_sample_is_accounted_for_through_any_week() {
    let start = Instant::now();
    let mut all = Figures::default();
    let seeds = match std::env::var(ONE_SEED) {
        Ok(seed) => {
            let seed = seed.parse().expect("the seed is a whole number");
            seed..seed + 1
        }
        Err(_) => {
            let first = iot_agent_test_support::seed();
            first..first + by_tier(20, 150, 2000)
        }
    };
    let count = seeds.clone().count();
    for seed in seeds {
        all.take_in(&simulate(seed));
    }
    println!("{count} weeks in {:.1?}:\n{all}", start.elapsed());
}

#[test]
fn a_full_spool_is_thinned_through_crashes_at_any_step() {
    let (start, mut all) = (Instant::now(), Figures::default());
    let first = iot_agent_test_support::seed();
    for seed in first..first + by_tier(2, 5, 100) {
        let plan = Plan::new(seed).crowd();
        all.take_in(&live(plan, async |folder| device::week(folder).await));
    }
    println!("within {:.1?}:\n{all}", start.elapsed());
    assert!(all.of("samples thinned") > 1000 && all.of("crashes") > 20);
}

#[test]
fn a_stop_takes_in_the_time_that_became_known_since_the_last_turn() {
    let hours = Duration::from_secs(7200);
    let plan = Plan {
        interval: hours,
        max_loss: hours,
        send: drain::Settings {
            interval: hours,
            order: Order::FreshFirst,
            backlog_rate: None,
            daily_bytes: None,
        },
        clock: clock::Settings { wait: Duration::ZERO },
        wall: Wall::Unset,
        poison: 0,
        ills: Vec::new(),
        breaks: Vec::new(),
        ..Plan::new(0)
    };
    live(plan, async |folder| {
        with(|world| {
            let in_1970 = Wallclock { from: 0, off_ms: -world.true_wall_ms(0), synced: false };
            let set = Wallclock { from: 10 * MINUTE, off_ms: 0, synced: true };
            let boot = Boot { at: 0, walls: vec![in_1970, set], known_durably: false };
            world.boots.push(boot);
        });
        let Ok((mut line, mut driver)) = device::start(folder) else { panic!("no power") };
        assert!(device::run_until(&mut line, &mut driver, 11 * MINUTE).await.is_ok());
        let Ok(Ok(report)) = device::stop(line, &mut driver).await else { panic!("no stop") };
        // The service checks the date.
        assert_eq!((report.samples, report.delivered), (1, 1));
    });
}

/// A device whose service and disk work but for these times.
fn a_day_with(ills: Vec<Phase<Ill>>, breaks: Vec<Phase<Broken>>) -> Plan {
    let seconds = Duration::from_secs;
    Plan {
        interval: seconds(10),
        max_loss: seconds(10),
        send: drain::Settings {
            interval: seconds(60),
            order: Order::FreshFirst,
            backlog_rate: None,
            daily_bytes: None,
        },
        wall: Wall::Kept,
        poison: 0,
        body_bytes: 0,
        max_bytes: 8 << 20,
        ills,
        breaks,
        steps: Vec::new(),
        events: Vec::new(),
        ..Plan::new(0)
    }
}

/// What the line of `plan` says of itself at these world times (ms).
fn told_at(plan: Plan, times: &[u64]) -> Vec<crate::agent::Report> {
    let mut reports = Vec::new();
    live(plan, async |folder| {
        with(|world| world.start_boot(0));
        let Ok((mut line, mut driver)) = device::start(folder) else { panic!("no power") };
        for &at in times {
            assert!(device::run_until(&mut line, &mut driver, at).await.is_ok());
            reports.push(line.report.clone());
        }
    });
    reports
}

#[test]
fn a_disk_that_hangs_is_borne_for_five_minutes_and_deliveries_go_on() {
    let hangs = Phase { from: 10 * MINUTE, to: 30 * MINUTE, kind: Broken::Hangs };
    let times = [9, 14, 17, 29, 32].map(|minute| minute * MINUTE);
    let reports = told_at(a_day_with(Vec::new(), vec![hangs]), &times);
    let stuck: Vec<_> = reports.iter().map(|report| report.stuck).collect();
    assert_eq!(stuck, [None, None, Some(Stuck::Disk), Some(Stuck::Disk), None]);
    let degraded = reports.iter().map(|report| report.state().starts_with("degraded"));
    assert_eq!(degraded.collect::<Vec<_>>(), [false, true, true, true, false]);
    for pair in reports.windows(2) {
        assert!(pair[1].delivered > pair[0].delivered, "{pair:?}");
    }
}

#[test]
fn an_outage_is_no_hang_but_a_sink_that_never_answers_is() {
    let down = |wait_ms| vec![Phase { from: MINUTE, to: 5 * HOUR, kind: Ill::Down(wait_ms) }];
    let times: Vec<u64> = (1..240).map(|minute| minute * MINUTE).collect();
    for report in told_at(a_day_with(down(2 * MINUTE), Vec::new()), &times) {
        assert_eq!(report.stuck, None, "{report:?}");
    }
    let reports = told_at(a_day_with(down(HOUR), Vec::new()), &[6 * MINUTE, 8 * MINUTE, 2 * HOUR]);
    let stuck: Vec<_> = reports.iter().map(|report| report.stuck).collect();
    assert_eq!(stuck[..2], [None, Some(Stuck::Delivery)]);
}
