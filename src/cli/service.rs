//! What `run` tells the service manager that started it, if one did.

use std::env;
use std::sync::Arc;

use indicatif::HumanBytes;

use crate::agent::Report;
use crate::clock;
use crate::health::notify::{Heart, Notifier, Status};

/// The service manager; nobody, where the agent was started by hand.
#[derive(Clone)]
pub struct Service(Arc<Option<Notifier>>);

impl Service {
    pub fn from_env() -> Self {
        let notifier = Notifier::from_env().unwrap_or_else(|error| {
            let socket = env::var_os("NOTIFY_SOCKET").unwrap_or_default();
            let socket = socket.display();
            tracing::warn!(%error, "the service manager is told nothing: NOTIFY_SOCKET={socket}");
            None
        });
        Self(Arc::new(notifier))
    }

    pub fn heart(&self) -> Option<Heart<'_>> {
        self.0.as_ref().as_ref().map(Heart::new)
    }

    pub fn tell(&self, what: fn(&Notifier)) {
        self.0.as_ref().iter().for_each(what);
    }
}

/// The line in `systemctl status`; its times are UTC, as those of the samples.
pub fn status(report: &Report) -> Status {
    let mut text = report.state();
    if let Some(wall_ms) = report.last_delivery_ms {
        text += &format!("; last delivery {}", time(wall_ms));
    }
    text += &format!("; {} to deliver", HumanBytes(report.backlog_bytes));
    if let Some(celsius) = report.temperature {
        text += &format!("; {celsius:.0} °C");
    }
    let times = report.last_sample_ms.map(|wall_ms| format!("; last sample {}", time(wall_ms)));
    Status { text, times: times.unwrap_or_default() }
}

/// RFC 3339 in whole seconds.
fn time(wall_ms: i64) -> String {
    let text = clock::rfc3339(wall_ms);
    text.split_once('.').map_or(text.clone(), |(seconds, _)| format!("{seconds}Z"))
}
