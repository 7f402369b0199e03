//! SIGHUP: the configuration is read anew, and taken on if it is right.

use std::io::{self, IsTerminal};

use rustix::process::{Signal, getpid, kill_process};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use crate::agent::Reload;
use crate::cli::service::Service;
use crate::config::{self, Loaded, Request};
use crate::health::notify::Notifier;

/// What a SIGHUP asks the agent for from now on; `service` hears of it.
pub fn on_hangup(request: Request, service: Service) -> io::Result<mpsc::Receiver<Reload>> {
    let mut hangup = signal(SignalKind::hangup())?;
    let attended = io::stderr().is_terminal();
    let (ask, asked) = mpsc::channel(1);
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            // The terminal was closed: whoever looked on has gone.
            if attended && !io::stderr().is_terminal() {
                let _ = kill_process(getpid(), Signal::TERM);
                return;
            }
            service.tell(Notifier::reloading);
            match reload(&request, &ask).await {
                Ok(loaded) => {
                    loaded.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
                    for source in &loaded.sources {
                        tracing::info!("configuration read again from {}", source.display());
                    }
                }
                Err(reason) => tracing::error!("the old configuration stays: {reason}"),
            }
            service.tell(Notifier::ready);
        }
    });
    Ok(asked)
}

/// Reads it, and has the agent take it on; or why not.
async fn reload(request: &Request, ask: &mpsc::Sender<Reload>) -> Result<Loaded, String> {
    let request = request.clone();
    // The file may lie on a disk that hangs.
    let read = tokio::task::spawn_blocking(move || config::load(&request));
    let loaded = read.await.map_err(|error| error.to_string())?;
    let loaded = loaded.map_err(|errors| errors.to_string())?;
    let (done, answer) = oneshot::channel();
    let asked = ask.send(Reload { config: loaded.config.clone(), done }).await;
    match (asked, answer.await) {
        (Ok(()), Ok(Ok(()))) => Ok(loaded),
        (Ok(()), Ok(Err(refused))) => Err(refused.to_string()),
        _ => Err("the agent is stopping".into()),
    }
}
