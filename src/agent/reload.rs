//! A new configuration for a line that runs.
//!
//! What takes time is made ready beside the line, which samples on; the rest
//! changes between two deliveries. The run and its seqs go on, and what the
//! drain holds goes back to the spool: no sample is lost, late or sent twice.

use tokio::sync::{mpsc, oneshot};

use crate::agent::alarm::Wake;
use crate::agent::handover::Gate;
use crate::agent::{self, Line, Report, millis};
use crate::clock::Moment;
use crate::config::{Config, model};
use crate::sensor::Sensor;
use crate::sink::Sink;

/// A configuration to change to, and where to say whether it was taken on.
pub struct Reload {
    pub config: Config,
    pub done: oneshot::Sender<Result<(), Refused>>,
}

/// Why a configuration is not taken on; the line goes on with the old one.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("{} can only change at a start: restart the agent", .0.join(", "))]
    OnlyAtStart(Vec<&'static str>),
    #[error(transparent)]
    Sink(Box<agent::Error>),
}

/// What a line changes to; `None` stays as it is.
pub(super) struct Change {
    pub config: Config,
    sensor: Option<Box<dyn Sensor>>,
    interval: bool,
    sends: bool,
    sink: Option<Box<dyn Sink>>,
    clock: bool,
    done: oneshot::Sender<Result<(), Refused>>,
}

impl Change {
    /// Waits for a configuration that the line of `old` can change to. Those
    /// that it cannot are refused.
    pub async fn next(old: &Config, reloads: &mut mpsc::Receiver<Reload>) -> Self {
        loop {
            let Some(Reload { config, done }) = reloads.recv().await else {
                return std::future::pending().await;
            };
            match Self::made_ready(old, &config).await {
                Ok((sensor, sink)) => {
                    return Self {
                        interval: old.sample.interval != config.sample.interval,
                        sends: old.send != config.send || sink.is_some(),
                        clock: old.clock != config.clock,
                        config,
                        sensor,
                        sink,
                        done,
                    };
                }
                // Who asked has gone only where the agent ends.
                Err(refused) => drop(done.send(Err(refused))),
            }
        }
    }

    #[allow(clippy::type_complexity)]
    async fn made_ready(
        old: &Config,
        new: &Config,
    ) -> Result<(Option<Box<dyn Sensor>>, Option<Box<dyn Sink>>), Refused> {
        let fixed = fixed(old, new);
        if !fixed.is_empty() {
            return Err(Refused::OnlyAtStart(fixed));
        }
        // Certificates and profiles are read again, too.
        let renew = old.sink != new.sink || matches!(new.sink, model::Sink::Firehose(_));
        let sink = match renew {
            true => Some(agent::open_sink(new).await.map_err(|e| Refused::Sink(Box::new(e)))?),
            false => None,
        };
        let sensor = (old.sample.host != new.sample.host).then(|| agent::open_sensor(new));
        Ok((sensor, sink))
    }
}

/// What differs and cannot change while the line runs.
fn fixed(old: &Config, new: &Config) -> Vec<&'static str> {
    let simulated_pace = old.simulate.is_some() && old.sample.interval != new.sample.interval;
    let all = [
        ("device.id", old.device.id != new.device.id),
        ("[spool]", old.spool != new.spool),
        ("[simulate]", old.simulate != new.simulate),
        ("sample.interval of a simulation", simulated_pace),
    ];
    all.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
}

impl<O: FnMut(&Report) -> Option<u64>, A: Wake> Line<O, A> {
    /// Changes to what is next, if anything is and no answer is waited for:
    /// what is on its way had better be known to have arrived.
    pub(super) fn change_between_deliveries(&mut self, now: &Moment) {
        if self.delivering.is_some() {
            return;
        }
        let Some(change) = self.next.take() else { return };
        let Change { config, sensor, interval, sends, sink, clock, done } = change;
        self.sampler.change(&config, sensor, interval.then_some(now));
        if let Some(sink) = sink {
            self.asking = None;
            self.report.sink = sink.name();
            self.sink = sink;
        }
        if sends {
            self.drain.renew(&config.send, self.sink.name(), self.sink.limits());
            self.interval_ms = millis(config.send.interval);
            self.send_ms = self.send_ms.min(now.boot_ms + self.interval_ms);
        }
        if clock {
            self.gate = Gate::new(&config.clock, now);
        }
        // Who asked has gone only where the agent ends.
        drop(done.send(Ok(())));
    }
}
