//! The owner thread: it alone touches the disk, on command.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::ledger::{Ledger, Ranges};
use crate::spool::keeper::{Commit, Holding, Keeper};
use crate::spool::lease::Lease;
use crate::spool::policy::Bounds;
use crate::spool::store::SledOpener;

/// sled's recovery recurses little; the default of 2 MiB would only cost
/// address space and, once touched, memory.
const STACK_BYTES: usize = 512 * 1024;

/// What the spool asks of its thread.
pub enum Command {
    Commit(Commit),
    Fetch {
        acked: Ranges,
        except: Ranges,
        max_bytes: usize,
    },
    /// A refused record; the lease is acknowledged once it is durable.
    Bury {
        reason: String,
        record: String,
        lease: Option<Lease>,
    },
    Close,
}

/// What the thread answers.
#[derive(Debug)]
pub enum Reply {
    Opened { next_chunk: u64, offsets: BTreeMap<String, i64>, holding: Holding },
    OpenFailed(String),
    Committed(Result<(), String>, Holding),
    Fetched { frames: Vec<(u64, Vec<u8>)>, holding: Holding },
    Closed(Result<(), String>),
}

/// Both ends of the line to the thread.
pub struct Line {
    pub commands: Sender<Command>,
    pub replies: UnboundedReceiver<Reply>,
    pub thread: Option<JoinHandle<()>>,
}

/// Starts the thread. It opens the spool and says so.
pub fn start(folder: PathBuf, bounds: Bounds, ledger: Ledger) -> std::io::Result<Line> {
    let (commands, inbox) = channel();
    let (outbox, replies) = unbounded_channel();
    let thread = std::thread::Builder::new()
        .name("spool".into())
        .stack_size(STACK_BYTES)
        .spawn(move || own(folder, bounds, ledger, &inbox, &outbox))?;
    Ok(Line { commands, replies, thread: Some(thread) })
}

fn own(
    folder: PathBuf,
    bounds: Bounds,
    ledger: Ledger,
    inbox: &Receiver<Command>,
    outbox: &UnboundedSender<Reply>,
) {
    // Nobody listens any more only when the agent ends.
    let say = |reply| drop(outbox.send(reply));
    let opened = Keeper::open(folder, bounds, ledger, Box::new(SledOpener), Box::new(SledOpener));
    let mut keeper = match opened {
        Ok(keeper) => keeper,
        Err(error) => return say(Reply::OpenFailed(error.to_string())),
    };
    say(Reply::Opened {
        next_chunk: keeper.next_chunk(),
        offsets: keeper.offsets(),
        holding: keeper.holding(),
    });
    while let Ok(command) = inbox.recv() {
        match command {
            Command::Commit(commit) => {
                let result = keeper.commit(&commit).map_err(|e| e.to_string());
                say(Reply::Committed(result, keeper.holding()));
            }
            Command::Fetch { acked, except, max_bytes } => {
                keeper.acknowledge(&acked);
                let frames = keeper.fetch(&except, max_bytes);
                say(Reply::Fetched { frames, holding: keeper.holding() });
            }
            Command::Bury { reason, record, lease } => match keeper.bury(&reason, &record) {
                Ok(()) => lease.iter().for_each(Lease::ack),
                Err(error) => tracing::error!(%error, "a refused record cannot be set aside yet"),
            },
            Command::Close => {
                return say(Reply::Closed(keeper.close().map_err(|e| e.to_string())));
            }
        }
    }
}
