//! Wires the line and owns the order of start and stop.
//!
//! One thread runs it all but the disk's own; nothing here blocks. It sleeps
//! until the earliest of: the next sample, commit, hand-over or retry.

mod alarm;
mod handover;
mod reload;
mod report;
mod sampler;
#[cfg(test)]
mod simulation;

pub use reload::{Refused, Reload};
pub use report::Report;

use std::future::Future;
use std::pin::{Pin, pin};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::clock::{self, Clock, Moment};
use crate::config::{Config, model};
use crate::drain::{Drain, Verdict};
use crate::health::watchdog::{Errand, Vitals, Watchdog};
use crate::sensor::Sensor;
use crate::sensor::host::HostSensor;
use crate::sensor::simulated::Simulated;
use crate::sink::firehose::Firehose;
use crate::sink::lake::Lake;
use crate::sink::stdout::Stdout;
use crate::sink::{self, Delivering, Probing, Sink};
use crate::spool::{self, Claim, Spool};
use alarm::{Alarm, Wake};
use handover::Gate;
use reload::Change;
use sampler::Sampler;

/// A newcomer sees the first rows of a local sink after this long.
const FIRST_LOCAL: Duration = Duration::from_secs(3);

/// What is on its way at a stop, and then what is in memory, may take this long
/// together to be delivered; what is not goes to the spool.
const STOP_DELIVERY: Duration = Duration::from_millis(3000);

/// How long the spool may take to make the rest durable. With [`STOP_DELIVERY`]
/// a stop stays within 5 s.
const STOP_SPOOL: Duration = Duration::from_millis(1900);

/// An offset that moved less is the same: clocks are slewed all the time.
const OFFSET_STEP_MS: u64 = 1000;

/// How often the observer is called at most.
const OBSERVE_EVERY_MS: u64 = 1000;

/// Why the line cannot start, or ended badly.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Spool(#[from] spool::Error),
    #[error(transparent)]
    Sink(#[from] sink::firehose::Error),
    #[error("the kernel gives no timer: {0}")]
    Timer(std::io::Error),
    #[error("the spool could not be closed in time: {0}; the last samples in memory may be lost")]
    Close(String),
}

/// The sink that `config` names. Nothing is sent yet.
pub async fn open_sink(config: &Config) -> Result<Box<dyn Sink>, Error> {
    Ok(match &config.sink {
        model::Sink::Firehose(settings) => Box::new(Firehose::new(settings).await?),
        model::Sink::Lake(settings) => Box::new(Lake::new(settings.clone())),
        model::Sink::Stdout => Box::new(Stdout::new()),
    })
}

/// The sensor that `config` names.
pub fn open_sensor(config: &Config) -> Box<dyn Sensor> {
    match &config.simulate {
        Some(settings) => Box::new(Simulated::new(settings)),
        None => Box::new(HostSensor::new(&config.sample.host)),
    }
}

/// Runs the line until `stop`, and has it change as `reloads` ask. `observe` hears of it from the first sample on,
/// about once a second, and says by which boot time (ms) at the latest it wants
/// to hear again.
pub async fn run(
    config: &Config,
    mut reloads: mpsc::Receiver<Reload>,
    mut observe: impl FnMut(&Report) -> Option<u64>,
    stop: impl Future<Output = ()>,
) -> Result<Report, Error> {
    let clock = Clock::new();
    let claim = Claim::new(&config.spool)?;
    let now = clock.now();
    let mut sampler = Sampler::new(config, open_sensor(config), claim.run(), &now);
    let mut spool = Spool::open(claim, clock.boot())?;
    sampler.step(&now, &mut spool);
    // A sink may take its time to find its credentials; the agent runs already.
    observe(&Report::of_a_start(&now, &sampler, &spool.stats()));
    let mut stop = pin!(stop);
    let sink = tokio::select! {
        biased;
        () = &mut stop => return stopped_early(spool, &now).await,
        sink = open_sink(config) => match sink {
            Ok(sink) => sink,
            Err(error) => {
                close(&mut spool, &now).await?;
                return Err(error);
            }
        },
    };
    tracing::info!(
        run = sampler.run().0,
        sink = sink.name(),
        spool = %config.spool.path.display(),
        interval = %humantime::format_duration(config.sample.interval),
        simulated = config.simulate.is_some(),
        "sampling"
    );
    let alarm = Alarm::new().map_err(Error::Timer)?;
    let mut line = Line::new(config, clock, alarm, sampler, spool, sink, observe);
    let mut config = config.clone();
    let went = loop {
        let mut next = None;
        let told = async {
            tokio::select! {
                biased;
                () = &mut stop => {}
                change = Change::next(&config, &mut reloads) => next = Some(change),
            }
        };
        let went = line.go_until(pin!(told)).await;
        match next {
            Some(change) if went.is_ok() => {
                config = change.config.clone();
                line.next = Some(change);
            }
            _ => break went,
        }
    };
    let ended = line.end().await;
    went.and(ended)
}

/// A stop before there was a sink: the credentials were still being looked for.
async fn stopped_early(mut spool: Spool, now: &Moment) -> Result<Report, Error> {
    close(&mut spool, now).await?;
    Ok(Report { samples: spool.stats().pushed, ..Report::default() })
}

async fn close(spool: &mut Spool, now: &Moment) -> Result<(), Error> {
    match timeout(STOP_SPOOL, spool.close(now)).await {
        Ok(result) => result.map_err(Error::Close),
        Err(_) => Err(Error::Close("the disk does not answer".into())),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

struct Line<O, A> {
    alarm: A,
    clock: Clock,
    /// 0..1, what spreads retries.
    random: fn() -> f64,
    sampler: Sampler,
    spool: Spool,
    drain: Drain,
    sink: Box<dyn Sink>,
    gate: Gate,
    /// Whether the wall clock has stood before this program existed.
    was_lost: bool,
    delivering: Option<Delivering>,
    /// Asks the service for the time, where nobody else knows it.
    asking: Option<Probing>,
    /// Boot time of the next hand-over.
    send_ms: u64,
    interval_ms: u64,
    /// What it is to change to.
    next: Option<Change>,
    observe: O,
    observed_ms: u64,
    /// Boot time by which the observer wants to be called.
    observe_by_ms: Option<u64>,
    watchdog: Watchdog,
    report: Report,
}

impl<O: FnMut(&Report) -> Option<u64>, A: Wake> Line<O, A> {
    fn new(
        config: &Config,
        clock: Clock,
        alarm: A,
        sampler: Sampler,
        spool: Spool,
        sink: Box<dyn Sink>,
        observe: O,
    ) -> Self {
        let now = clock.now();
        let first = match config.sink {
            model::Sink::Firehose(_) => config.send.interval.mul_f64(rand::random()),
            _ => config.send.interval.min(FIRST_LOCAL),
        };
        Self {
            drain: Drain::new(&config.send, sink.name(), sink.limits()),
            gate: Gate::new(&config.clock, &now),
            was_lost: false,
            send_ms: now.boot_ms + millis(first),
            interval_ms: millis(config.send.interval),
            delivering: None,
            asking: None,
            next: None,
            watchdog: Watchdog::default(),
            observed_ms: 0,
            observe_by_ms: None,
            report: Report { sink: sink.name(), ..Report::default() },
            random: rand::random,
            alarm,
            clock,
            sampler,
            spool,
            sink,
            observe,
        }
    }

    async fn go_until(
        &mut self,
        mut stop: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<(), Error> {
        loop {
            let now = self.clock.now();
            let wake_ms = self.work(&now);
            tokio::select! {
                biased;
                () = stop.as_mut() => return Ok(()),
                verdict = answer(&mut self.delivering) => self.settle(verdict),
                () = told(&mut self.asking) => self.asking = None,
                reply = self.spool.hear() => self.spool.heard(reply),
                rung = self.alarm.until(now.boot_ms, wake_ms) => rung.map_err(Error::Timer)?,
            }
        }
    }

    /// Does all that is due; returns the boot time (ms) of what comes next.
    fn work(&mut self, now: &Moment) -> u64 {
        self.change_between_deliveries(now);
        self.learn_offset(now);
        let sample_ms = self.sampler.step(now, &mut self.spool);
        self.spool.tick(now);
        if now.boot_ms >= self.send_ms || self.sampler.waits(&self.spool) {
            self.begin(now);
        }
        self.hand_over(now, false);
        self.tell(now);
        let (spool, drain) = (self.spool.due_ms(), self.drain.due_ms());
        let due = [spool, drain, self.gate.opens_ms(now), self.observe_by_ms];
        let later = due.into_iter().flatten().filter(|&ms| ms > now.boot_ms);
        later.chain([sample_ms, self.send_ms]).min().unwrap_or(sample_ms)
    }

    /// Learns what dates the samples from before the time was known. A clock that
    /// left 1970 without the kernel calling it synchronised was set by hand.
    fn learn_offset(&mut self, now: &Moment) {
        let plausible = clock::plausible(now.wall_ms);
        self.was_lost |= !plausible;
        let right = now.synced || (self.was_lost && plausible);
        let offset_ms = now.offset_ms();
        let known = self.spool.offset_ms(self.clock.boot());
        if right && known.is_none_or(|known| known.abs_diff(offset_ms) > OFFSET_STEP_MS) {
            self.spool.set_offset(offset_ms);
        }
    }

    fn begin(&mut self, now: &Moment) {
        while self.send_ms <= now.boot_ms {
            self.send_ms += self.interval_ms;
        }
        self.spool.seal();
        self.drain.begin(&mut self.spool);
        // Any answer of the service tells the time.
        if self.gate.wants_time(now) && self.sink.server_time().is_none() {
            self.asking = Some(self.sink.probe());
        }
    }

    fn hand_over(&mut self, now: &Moment, all: bool) {
        let server = self.sink.server_time();
        let Some(at) = self.gate.handover(&self.clock, now, server) else { return };
        self.asking = None;
        if let Some(batch) = self.drain.next(&mut self.spool, &at, all) {
            self.delivering = Some(self.sink.deliver(batch));
        }
    }

    fn settle(&mut self, verdict: Verdict) {
        self.delivering = None;
        let now = self.clock.now();
        let before = self.drain.stats().delivered;
        self.drain.settle(verdict, &mut self.spool, now.boot_ms, (self.random)());
        if self.drain.stats().delivered > before {
            self.report.last_delivery_ms = Some(now.wall_ms);
        }
    }

    fn tell(&mut self, now: &Moment) {
        let asked = self.observe_by_ms.is_some_and(|by_ms| by_ms <= now.boot_ms);
        if !asked && now.boot_ms.saturating_sub(self.observed_ms) < OBSERVE_EVERY_MS {
            return;
        }
        self.observed_ms = now.boot_ms;
        self.fill_report(now);
        self.observe_by_ms = (self.observe)(&self.report);
    }

    fn fill_report(&mut self, now: &Moment) {
        let backlog = sampler::backlog(&self.spool, now);
        self.report.fill(&self.spool.stats(), self.drain.stats(), (backlog.bytes, backlog.age_s));
        self.report.date(now, &self.sampler);
        self.report.live(self.watchdog.judge(&self.vitals(now)));
    }

    fn vitals(&self, now: &Moment) -> Vitals {
        let (waiting, answers) = self.spool.errand();
        Vitals {
            now_ms: now.boot_ms,
            interval_ms: self.sampler.interval_ms(),
            sampled_ms: self.sampler.last_turn_ms(),
            delivery: Errand {
                waiting: self.drain.in_flight(),
                answers: self.drain.stats().batches,
            },
            disk: Errand { waiting, answers },
        }
    }

    /// Hands over what is at hand, until there is no more or it is refused.
    async fn hand_over_all(&mut self) {
        while self.drain.retry_at_ms().is_none() {
            self.hand_over(&self.clock.now(), true);
            if self.delivering.is_none() {
                break;
            }
            let verdict = answer(&mut self.delivering).await;
            self.settle(verdict);
        }
    }

    async fn deliver_last(&mut self) {
        if self.delivering.is_some() {
            let verdict = answer(&mut self.delivering).await;
            self.settle(verdict);
        }
        self.spool.seal();
        self.drain.begin(&mut self.spool);
        self.hand_over_all().await;
        if self.spool.end_run() {
            self.drain.begin(&mut self.spool);
            self.hand_over_all().await;
        }
    }

    /// Delivers what can be delivered at once, and makes the rest durable. What
    /// may have arrived is not sent a second time: while there is no answer to
    /// it, nothing else goes.
    async fn end(mut self) -> Result<Report, Error> {
        let now = self.clock.now();
        // It may have become known since the last turn, and is what dates the
        // samples of this boot in the next one.
        self.learn_offset(&now);
        // What is left by then stays in the spool.
        let _ = timeout(STOP_DELIVERY, self.deliver_last()).await;
        self.fill_report(&now);
        let Self { mut spool, drain, mut report, .. } = self;
        // What the drain still holds goes back to the spool with its leases.
        drop(drain);
        close(&mut spool, &now).await?;
        report.spooled_bytes = spool.stats().holding.bytes;
        tracing::info!(
            samples = report.samples,
            delivered = report.delivered,
            spooled_bytes = report.spooled_bytes,
            "stopped"
        );
        Ok(report)
    }
}

/// Ends when a probe does, whatever it found; never, if there is none.
async fn told(asking: &mut Option<Probing>) {
    match asking {
        Some(asking) => drop(asking.await),
        None => std::future::pending().await,
    }
}

/// The verdict of what is on its way; never, if nothing is.
async fn answer(delivering: &mut Option<Delivering>) -> Verdict {
    match delivering {
        Some(delivering) => delivering.await,
        None => std::future::pending().await,
    }
}
