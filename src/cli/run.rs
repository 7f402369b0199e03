//! `run`: the agent, and one line about it where a person looks on.
//!
//! The first SIGTERM or SIGINT asks the agent to flush and stop, which it does
//! within 5 s. A second one ends the process inside the signal's own handler,
//! whatever hangs.

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indicatif::MultiProgress;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag::register_conditional_shutdown;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::agent::{self, Report};
use crate::cli::live::Live;
use crate::cli::reload::on_hangup;
use crate::cli::service::{Service, status};
use crate::config::{self, Request};
use crate::health::notify::Notifier;

/// timeout(1) and the like signal a process and then its group: what follows
/// the first signal so soon is the same one again.
const ECHO: Duration = Duration::from_millis(50);

pub fn run(request: Request, terminal: Option<MultiProgress>) -> anyhow::Result<ExitCode> {
    tame_malloc();
    let loaded = config::load(&request)?;
    for source in &loaded.sources {
        tracing::info!("configuration read from {}", source.display());
    }
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let service = Service::from_env();
    let mut live = Live::new(&loaded.config, terminal);
    let mut heart = service.heart();
    let observe = |report: &Report| {
        live.show(report);
        heart
            .as_mut()
            .and_then(|heart| heart.beat(report.boot_ms, report.stuck.is_none(), status(report)))
    };
    let runtime = super::runtime()?;
    let ended = runtime.block_on(async {
        let stop = first_signal()?;
        let reloads = on_hangup(request, service.clone())?;
        let stop = async {
            stop.await;
            service.tell(Notifier::stopping);
        };
        anyhow::Ok(agent::run(&loaded.config, reloads, observe, stop).await?)
    });
    // A thread that hangs in a disk must not hold the process.
    runtime.shutdown_background();
    live.end();
    ended.map(|_| ExitCode::SUCCESS)
}

/// Ends at the first SIGTERM or SIGINT, from which on the next one ends the
/// process.
fn first_signal() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stopping = Arc::new(AtomicBool::new(false));
    for number in [SIGTERM, SIGINT] {
        register_conditional_shutdown(number, 128 + number, Arc::clone(&stopping))?;
    }
    let (say, heard) = oneshot::channel();
    // A task, for the agent may not listen yet.
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping; a second signal leaves at once");
        // Nobody listens any more only when the agent has ended by itself.
        let _ = say.send(());
        tokio::time::sleep(ECHO).await;
        stopping.store(true, Ordering::SeqCst);
    });
    Ok(async { drop(heard.await) })
}

/// Above this size what is freed goes back to the system at once.
#[cfg(target_env = "gnu")]
const MMAP_THRESHOLD_BYTES: i32 = 64 * 1024;

/// glibc gives each thread an arena that never shrinks to nothing: one for all
/// is enough for threads that mostly wait. And it learns from the first large
/// block that is freed to keep such blocks: batches and sled's buffers come
/// once a minute, and had better not stay in between.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code)]
fn tame_malloc() {
    // SAFETY: mallopt takes two integers and reads no memory of ours; it is
    // called before a second thread exists.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, MMAP_THRESHOLD_BYTES);
    }
}

#[cfg(not(target_env = "gnu"))]
fn tame_malloc() {}
