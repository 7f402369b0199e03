//! The device: starts of the agent, and what ends them.

use std::iter::Peekable;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use rand::RngExt;
use tokio::time::{advance, sleep};

use super::disk::{Disk, dead_letters, tear_ledger};
use super::driver::{Driver, VirtualAlarm, powered};
use super::plan::{CALM, Event, MINUTE, Phase, SECOND, WEEK};
use super::service::Service;
use super::world::{PowerCut, moment, now_ms, random, trace, with};
use super::{NOISE, world};
use crate::agent::sampler::Sampler;
use crate::agent::{Error, Line, Report};
use crate::clock::Clock;
use crate::config::{Config, model};
use crate::ledger::Ledger;
use crate::record;
use crate::sensor::{Reading, Readings, Sensor, ThermalReading};
use crate::spool::{Claim, driven};
use crate::{ledger, sensor};

/// Memory that the spool may take: its ring, what is kept for the drain, and
/// what is gathered.
const RAM_BYTES: u64 = 6 * 1024 * 1024;

struct Feeler {
    run: u64,
    next_seq: u64,
}

impl Sensor for Feeler {
    fn simulated(&self) -> bool {
        false
    }

    fn device_ids(&self) -> Option<Vec<String>> {
        None
    }

    fn read(&mut self, _: usize, _: i64) -> Reading {
        let body_bytes = with(|world| {
            world.took((self.run, self.next_seq));
            world.plan.body_bytes
        });
        let from = (self.next_seq as usize).wrapping_mul(7919) % (NOISE.len() - body_bytes);
        self.next_seq += 1;
        let label = NOISE.get(from..from + body_bytes).unwrap().to_owned();
        let sensors = match body_bytes {
            0 => Vec::new(),
            _ => vec![ThermalReading { label, celsius: 40.0 }],
        };
        let readings = Readings { temperature: Some(40.0), sensors, ..Readings::default() };
        Reading { readings, late: Duration::ZERO }
    }
}

fn config(folder: &Path) -> Config {
    let mut config = planned(folder);
    if with(|world| world.plan.relaxes && world.now_ms() >= WEEK - CALM) {
        (config.send.backlog_rate, config.send.daily_bytes) = (None, None);
    }
    config
}

fn planned(folder: &Path) -> Config {
    with(|world| Config {
        device: record::Settings { id: "sim".into(), labels: [].into() },
        sample: model::Sample {
            interval: world.plan.interval,
            host: sensor::host::Settings { disk: "/".into(), temperature_sensor: None },
        },
        spool: world.plan.spool(folder),
        send: world.plan.send.clone(),
        clock: world.plan.clock.clone(),
        sink: model::Sink::Stdout,
        simulate: None,
    })
}

pub type SimulatedLine = Line<fn(&Report) -> Option<u64>, VirtualAlarm>;

/// What starting it brings, as `run` does it.
pub fn start(folder: &Path) -> Result<(SimulatedLine, Driver), PowerCut> {
    let config = config(folder);
    let (boot, keeps) = with(|world| (world.boot_id(), world.plan.wall == super::plan::Wall::Kept));
    let clock = Clock::telling(moment, boot, keeps);
    let now = clock.now();
    let claim = powered(|| Claim::new(&config.spool).expect("the folder can be claimed"))?;
    let run = claim.run();
    trace(|| format!("run {} starts", run.0));
    let sensor = Box::new(Feeler { run: run.0, next_seq: 0 });
    let mut sampler = Sampler::new(&config, sensor, run, &now);
    let (mut spool, owner) = driven::open(claim, boot, Box::new(Disk));
    sampler.step(&now, &mut spool);
    let patient_until = now_ms() + config.clock.wait.as_millis() as u64;
    with(|world| {
        world.truth.life_began = world.now_ms();
        world.truth.stopping = false;
        world.heard = None;
        world.figures.add("starts", 1);
    });
    let sink = Box::new(Service { patient_until });
    let observe: fn(&Report) -> Option<u64> = |_| None;
    let mut line = Line::new(&config, clock, VirtualAlarm, sampler, spool, sink, observe);
    line.random = random;
    Ok((line, Driver::new(owner)))
}

/// How a start ended.
enum End {
    Clean,
    Cut,
    /// The week is over, and nothing was left to deliver.
    Over,
}

/// A run that is drawn by chance would not repeat.
fn draw_run(folder: &Path) {
    drop(Claim::new(&config(folder).spool).unwrap());
    let mut ledger = Ledger::open(folder, false).unwrap();
    ledger.book_mut().run = 1 << 40;
    ledger.commit().unwrap();
}

/// A week of a device whose spool is in `folder`.
pub async fn week(folder: &Path) {
    draw_run(folder);
    with(|world| world.start_boot(0));
    let mut events = with(|world| std::mem::take(&mut world.plan.events)).into_iter().peekable();
    loop {
        let end = live(folder, &mut events).await;
        // Who cannot write its ledger at a start draws a run by chance.
        ledger::faults::set(|| Ok(()));
        let clean = matches!(end, Ok(End::Clean | End::Over));
        let down_at = now_ms();
        trace(|| if clean { "stopped".into() } else { "the power is cut, or it is killed".into() });
        let reboots = with(|world| {
            (world.accesses_left, world.turns_left) = (None, None);
            world.life_ended(clean);
            world.figures.add(if clean { "clean stops" } else { "crashes" }, 1);
            world.rng.random()
        });
        if matches!(end, Ok(End::Over)) {
            break;
        }
        if !clean && with(|world| world.rng.random_ratio(1, 4)) {
            // A ledger that is not there yet cannot be torn.
            let _ = tear_ledger(folder);
        }
        let down = with(|world| {
            let most = if world.rng.random_ratio(1, 4) { 120 * MINUTE } else { MINUTE };
            world.rng.random_range(SECOND..most)
        });
        sleep(Duration::from_millis(down)).await;
        if reboots {
            with(|world| world.start_boot(down_at));
        }
    }
    let buried = dead_letters(folder);
    with(|world| {
        buried.into_iter().for_each(|key| world.bury(key));
        world.check_all();
    });
}

/// One start of the agent, to its end.
async fn live(
    folder: &Path,
    events: &mut Peekable<impl Iterator<Item = (u64, Event)>>,
) -> Result<End, PowerCut> {
    let (mut line, mut driver) = start(folder)?;
    ledger::faults::set(world::access);
    while let Some((at, _)) = events.peek() {
        // What a crash comes before is still to come.
        run_until(&mut line, &mut driver, *at).await?;
        let Some((_, event)) = events.next() else { break };
        match event {
            Event::Look => look(&line, folder),
            Event::Crash => return Err(PowerCut),
            Event::CrashInAccesses(n) => with(|world| world.accesses_left = Some(n)),
            Event::CrashInTurns(n) => with(|world| world.turns_left = Some(n)),
            Event::Suspend(ms) => {
                trace(|| format!("sleeps for {} min", ms / MINUTE));
                let from = now_ms();
                advance(Duration::from_millis(ms)).await;
                with(|world| {
                    world.suspended.push(Phase { from, to: from + ms, kind: () });
                    world.figures.add("suspends", 1);
                });
            }
            Event::Stop => {
                return Ok(match stop(line, &mut driver).await? {
                    Ok(_) => End::Clean,
                    Err(_) => End::Cut,
                });
            }
        }
    }
    // Faults that did not come in time come no more.
    with(|world| (world.accesses_left, world.turns_left) = (None, None));
    run_until(&mut line, &mut driver, WEEK).await?;
    look(&line, folder);
    let report = stop(line, &mut driver).await?.expect("a quiet disk lets it stop");
    assert_eq!(report.spooled_bytes, 0, "all is delivered in the end: {report:?}");
    Ok(End::Over)
}

pub async fn run_until(
    line: &mut SimulatedLine,
    driver: &mut Driver,
    at: u64,
) -> Result<(), PowerCut> {
    let left = Duration::from_millis(at.saturating_sub(now_ms()));
    let ended = pin!(sleep(left));
    let went = driver.drive(line.go_until(ended)).await;
    with(|world| world.truth.stats = line.spool.stats());
    went?.expect("a virtual alarm never fails");
    Ok(())
}

pub async fn stop(
    line: SimulatedLine,
    driver: &mut Driver,
) -> Result<Result<Report, Error>, PowerCut> {
    trace(|| "stops".into());
    with(|world| world.truth.stopping = true);
    let ended = driver.drive(line.end()).await?;
    trace(|| format!("has stopped: {ended:?}"));
    Ok(ended)
}

/// Looks at its bounds.
fn look(line: &SimulatedLine, folder: &Path) {
    let (stats, plan_bytes) = (line.spool.stats(), with(|world| world.plan.max_bytes));
    assert!(stats.ram_bytes <= RAM_BYTES, "memory: {stats:?}");
    let bytes = driven::disk_bytes(folder);
    assert!(bytes <= plan_bytes, "{bytes} bytes on disk of {plan_bytes}: {stats:?}");
    with(|world| {
        world.figures.add("most bytes on disk", bytes);
        world.figures.add("most bytes in memory", stats.ram_bytes);
        world.figures.add("looks", 1);
        let spent = line.drain.stats().spent.is_some();
        world.figures.add("looks on a day whose bytes are spent", spent.into());
    });
}
