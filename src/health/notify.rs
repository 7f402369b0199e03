//! sd_notify(3): ready, the status line, reload, stop and the watchdog's pings.
//!
//! Nothing here ever waits: a manager that does not read its socket misses
//! messages, and the agent goes on. Where nobody listens, nothing is woken for.

use std::env;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use crate::clock;

/// How often the status line may change.
const STATUS_EVERY_MS: u64 = 10_000;

/// How old the status line may be where only its times have changed.
const STATUS_AGE_MS: u64 = 60_000;

/// The way to the service manager.
pub struct Notifier(UnixDatagram);

impl Notifier {
    /// The manager that `NOTIFY_SOCKET` names, if one does.
    ///
    /// # Errors
    /// The variable names no socket that can be used.
    pub fn from_env() -> io::Result<Option<Self>> {
        let Some(name) = env::var_os("NOTIFY_SOCKET") else { return Ok(None) };
        let address = match name.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(&name)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.connect_addr(&address)?;
        Ok(Some(Self(socket)))
    }

    /// The new configuration is being read; [`Notifier::ready`] ends it.
    pub fn reloading(&self) {
        self.say(&format!("RELOADING=1\nMONOTONIC_USEC={}\n", clock::monotonic_us()));
    }

    pub fn ready(&self) {
        self.say("READY=1\n");
    }

    pub fn stopping(&self) {
        self.say("STOPPING=1\nSTATUS=stopping\n");
    }

    /// Whether it was sent.
    fn say(&self, message: &str) -> bool {
        // A message that the manager has no room for is not worth waiting.
        self.0.send(message.as_bytes()).is_ok()
    }
}

/// One line for `systemctl status`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    pub text: String,
    /// The times in it: alone they are no news.
    pub times: String,
}

/// What the manager is told while the agent runs.
pub struct Heart<'a> {
    notifier: &'a Notifier,
    /// How often a ping is due, and when the last one was.
    watchdog: Option<(u64, u64)>,
    ready: bool,
    status: Status,
    status_ms: u64,
}

impl<'a> Heart<'a> {
    pub fn new(notifier: &'a Notifier) -> Self {
        let watchdog = watchdog_period().map(|period| {
            // Half of it is what sd_watchdog_enabled(3) recommends.
            let every_ms = u64::try_from(period.as_millis() / 2).unwrap_or(u64::MAX);
            (every_ms.max(1), 0)
        });
        Self { notifier, watchdog, ready: false, status: Status::default(), status_ms: 0 }
    }

    /// To be called as often as it suits, and at the boot time (ms) that it
    /// returns. The first call says that the agent is ready. The watchdog is
    /// only fed where the line is `alive`.
    pub fn beat(&mut self, now_ms: u64, alive: bool, status: Status) -> Option<u64> {
        let mut message = String::new();
        if !self.ready {
            message += "READY=1\n";
        }
        if self.is_news(now_ms, &status) {
            let line = format!("{}{}", status.text, status.times).replace(['\n', '\r'], " ");
            message += &format!("STATUS={line}\n");
        }
        let pings = alive && self.is_ping_due(now_ms);
        if pings {
            message += "WATCHDOG=1\n";
        }
        if !message.is_empty() && self.notifier.say(&message) {
            self.ready = true;
            if message.contains("STATUS=") {
                (self.status, self.status_ms) = (status, now_ms);
            }
            if let (true, Some((_, last_ms))) = (pings, &mut self.watchdog) {
                *last_ms = now_ms;
            }
        }
        // While the line is stuck there is nothing to wake for.
        let (every_ms, last_ms) = self.watchdog.filter(|_| alive)?;
        Some((last_ms + every_ms).max(now_ms + every_ms / 2))
    }

    fn is_news(&self, now_ms: u64, status: &Status) -> bool {
        let age_ms = now_ms.saturating_sub(self.status_ms);
        let changed = status.text != self.status.text;
        let aged = age_ms >= STATUS_AGE_MS && *status != self.status;
        !self.ready || (changed && age_ms >= STATUS_EVERY_MS) || aged
    }

    /// From half way on it goes along with whatever else woke the agent.
    fn is_ping_due(&self, now_ms: u64) -> bool {
        self.watchdog.is_some_and(|(every_ms, last_ms)| now_ms >= last_ms + every_ms / 2)
    }
}

/// How often the manager wants to hear from this process, if it does.
fn watchdog_period() -> Option<Duration> {
    let number = |name| env::var(name).ok()?.parse::<u64>().ok();
    let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
    number("WATCHDOG_USEC").filter(|&us| ours && us > 0).map(Duration::from_micros)
}
