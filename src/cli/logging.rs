//! Logs go to the journal where stderr is the journal's, else to stderr.
//!
//! A log that cannot be written is dropped: sampling goes on. sled and the AWS
//! SDK speak at `trace` about each of their steps, so what is not ours is kept
//! to warnings unless `IOT_AGENT_LOG` names it; what aws-config warns of comes at
//! each try, and our own message says it once. A panic becomes one line
//! instead of a trace, for sled's are caught and mended.

use std::env;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::panic::PanicHookInfo;

use indicatif::MultiProgress;
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::cli::terminal;
use crate::clock::{self, Clock};
use crate::config::LOG_VARIABLE;

/// Sets the log up: what is ours at `level` unless the environment says
/// otherwise. `live` is what is drawn on the terminal that stderr is.
pub fn init(level: LevelFilter, live: Option<MultiProgress>) {
    let asked = env::var(LOG_VARIABLE).unwrap_or_default();
    let targets = targets(&asked, level);
    let misread = targets.is_none();
    let targets = targets.unwrap_or_else(|| ours_at(level));
    let journal = stderr_is_journal().then(journal).and_then(Result::ok);
    let registry = tracing_subscriber::registry().with(targets);
    // Set already only where a test drives two commands in one process.
    let _ = match journal {
        Some(journal) => registry.with(journal).try_init(),
        None => registry.with(stderr_layer(live)).try_init(),
    };
    if misread {
        tracing::warn!(
            "{LOG_VARIABLE}={asked} is not understood and ignored: \
             use error, warn, info, debug, trace or target=level pairs with commas"
        );
    }
    std::panic::set_hook(Box::new(report_panic));
}

fn ours_at(level: LevelFilter) -> Targets {
    Targets::new()
        .with_default(LevelFilter::WARN)
        .with_target("aws_config", LevelFilter::ERROR)
        .with_target("iot_agent", level)
}

/// What `asked` means: a level alone is ours; `None` if it means nothing.
fn targets(asked: &str, level: LevelFilter) -> Option<Targets> {
    let mut targets = ours_at(level);
    for part in asked.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (target, level) = part.split_once('=').unwrap_or(("iot_agent", part));
        targets = targets.with_target(target, level.parse::<LevelFilter>().ok()?);
    }
    Some(targets)
}

/// Whether stderr is the stream that systemd connected to the journal. A shell
/// in a desktop session inherits the variable, but its stderr is another file.
fn stderr_is_journal() -> bool {
    let Ok(stream) = env::var("JOURNAL_STREAM") else {
        return false;
    };
    let stat = rustix::fs::fstat(io::stderr().as_fd());
    stat.is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// Fails where no journal listens. Fields are `IOT_<NAME>`; info is syslog's 6,
/// as systemd's own is.
fn journal() -> io::Result<tracing_journald::Layer> {
    let priorities = PriorityMappings { info: Priority::Informational, ..PriorityMappings::new() };
    let layer = tracing_journald::layer()?
        .with_field_prefix(Some("IOT".into()))
        .with_priority_mappings(priorities)
        .with_syslog_identifier("iot-agent".into());
    Ok(layer)
}

fn stderr_layer<S>(live: Option<MultiProgress>) -> impl Layer<S>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    tracing_subscriber::fmt::layer()
        .with_target(false)
        .with_timer(WallClock(Clock::new()))
        .with_ansi(terminal::colours(&io::stderr()))
        .with_writer(move || Beside(live.clone()))
        // It would complain on stderr, and panic where stderr is gone.
        .log_internal_errors(false)
}

struct WallClock(Clock);

impl FormatTime for WallClock {
    fn format_time(&self, writer: &mut Writer<'_>) -> std::fmt::Result {
        writer.write_str(&clock::rfc3339(self.0.now().wall_ms))
    }
}

/// stderr, with the live line taken away while something else is written.
struct Beside(Option<MultiProgress>);

impl Write for Beside {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &self.0 {
            Some(live) => terminal::beside(live, || io::stderr().write(bytes)),
            None => io::stderr().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn report_panic(info: &PanicHookInfo<'_>) {
    let what = info.payload_as_str().unwrap_or("no message");
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    tracing::error!(place, "an internal error, please report it: {what}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Level;

    #[test]
    fn a_level_alone_is_ours_and_spares_the_others() {
        let targets = targets("debug", LevelFilter::INFO).unwrap();
        assert!(targets.would_enable("iot_agent::spool", &Level::DEBUG));
        assert!(!targets.would_enable("sled::pagecache", &Level::INFO));
    }

    #[test]
    fn a_target_can_be_named() {
        let targets = targets("warn, sled=trace", LevelFilter::INFO).unwrap();
        assert!(!targets.would_enable("iot_agent", &Level::INFO));
        assert!(targets.would_enable("sled::pagecache", &Level::TRACE));
    }

    #[test]
    fn nonsense_is_told_apart_from_nothing() {
        assert!(targets("loud", LevelFilter::INFO).is_none());
        assert_eq!(targets("", LevelFilter::INFO), Some(ours_at(LevelFilter::INFO)));
    }
}
