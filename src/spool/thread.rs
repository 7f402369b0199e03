//! The owner thread: it alone touches the disk, on command.
//!
//! A spool that cannot be opened is tried again and again, ever more seldom;
//! until then every command is answered with why.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::ledger::Ranges;
use crate::spool::dead::DeadLetters;
use crate::spool::keeper::{Commit, Fetched, Keeper, Report};
use crate::spool::lease::Lease;

/// sled's recovery recurses little; the default of 2 MiB would only cost
/// address space and, once touched, memory.
const STACK_BYTES: usize = 512 * 1024;

/// Opening is tried again after this long, then after twice that, and so on.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// Times a bad medium may keep a part of the spool from being opened before
/// that part is set aside.
const PATIENCE: u32 = 3;

/// What the spool asks of its thread.
pub enum Command {
    Commit(Commit),
    Fetch { wanted: Ranges, max_bytes: usize },
    Bury(Letter),
    Close,
}

/// A refused record. Its entry is acknowledged once it is durable here.
pub struct Letter {
    pub reason: String,
    pub record: String,
    /// With the entry's seq.
    pub lease: Option<(Lease, u64)>,
}

/// What the thread answers.
#[derive(Debug)]
pub enum Reply {
    Opened {
        outstanding: Ranges,
        offsets: Vec<(String, i64)>,
        report: Report,
    },
    OpenFailed(String),
    Committed(Result<u64, String>, Report),
    Fetched(Fetched, Report),
    Closed(Result<(), String>),
    /// The thread is no more.
    Ended,
}

/// Both ends of the line to the thread.
pub struct Line {
    pub commands: Sender<Command>,
    pub replies: UnboundedReceiver<Reply>,
    pub thread: Option<JoinHandle<()>>,
}

/// Starts the thread. It opens the spool and says so; it holds `lock` as long
/// as it lives.
pub fn start(keeper: Keeper, dead: DeadLetters, lock: Option<File>) -> std::io::Result<Line> {
    let (commands, inbox) = channel();
    let (outbox, replies) = unbounded_channel();
    let thread = std::thread::Builder::new().name("spool".into()).stack_size(STACK_BYTES).spawn(
        move || {
            Owner { keeper, dead, letters: VecDeque::new(), failing: false, inbox, outbox }.run();
            drop(lock);
        },
    )?;
    Ok(Line { commands, replies, thread: Some(thread) })
}

struct Owner {
    keeper: Keeper,
    dead: DeadLetters,
    /// Not yet durable.
    letters: VecDeque<Letter>,
    failing: bool,
    inbox: Receiver<Command>,
    outbox: UnboundedSender<Reply>,
}

impl Owner {
    fn run(mut self) {
        if !self.open() {
            return;
        }
        while let Ok(command) = self.inbox.recv() {
            let reply = match command {
                Command::Commit(commit) => {
                    let result = self.keeper.commit(commit).map_err(|e| e.to_string());
                    Some(Reply::Committed(result, self.keeper.report()))
                }
                Command::Fetch { wanted, max_bytes } => {
                    let fetched = self.keeper.fetch(&wanted, max_bytes);
                    Some(Reply::Fetched(fetched, self.keeper.report()))
                }
                Command::Bury(letter) => {
                    self.letters.push_back(letter);
                    None
                }
                Command::Close => {
                    let result = self.keeper.close().map_err(|e| e.to_string());
                    let _ = self.outbox.send(Reply::Closed(result));
                    return;
                }
            };
            self.bury();
            reply.into_iter().for_each(|reply| self.say(reply));
        }
    }

    fn say(&self, reply: Reply) {
        // Nobody listens any more only when the agent ends.
        let _ = self.outbox.send(reply);
    }

    /// Whether it is open; false when it is no longer wanted.
    fn open(&mut self) -> bool {
        let mut attempts = 0;
        let mut wait = FIRST_RETRY;
        while let Err(error) = self.keeper.open(attempts < PATIENCE) {
            attempts += 1;
            let why = error.to_string();
            self.say(Reply::OpenFailed(why.clone()));
            if !self.refuse_for(wait, &why) {
                return false;
            }
            wait = (wait * 2).min(LAST_RETRY);
        }
        let outstanding = self.keeper.outstanding().clone();
        let (offsets, report) = (self.keeper.offsets(), self.keeper.report());
        self.say(Reply::Opened { outstanding, offsets, report });
        true
    }

    /// Answers commands with `why` they cannot be followed.
    fn refuse_for(&mut self, wait: Duration, why: &str) -> bool {
        let until = Instant::now() + wait;
        loop {
            match self.inbox.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Command::Commit(_)) => {
                    self.say(Reply::Committed(Err(why.to_owned()), Report::default()));
                }
                Ok(Command::Fetch { .. }) => {
                    self.say(Reply::Fetched(Fetched::default(), Report::default()));
                }
                Ok(Command::Bury(letter)) => {
                    self.letters.push_back(letter);
                    self.bury();
                }
                Ok(Command::Close) => {
                    self.say(Reply::Closed(Err(why.to_owned())));
                    return false;
                }
                Err(RecvTimeoutError::Timeout) => return true,
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
    }

    /// Sets aside what waits for it. What cannot be now waits, with its lease.
    fn bury(&mut self) {
        while let Some(letter) = self.letters.front() {
            if let Err(error) = self.dead.bury(&letter.reason, &letter.record) {
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::error!(%error, "a refused record cannot be set aside yet");
                }
                return;
            }
            self.failing = false;
            let lease = self.letters.pop_front().and_then(|letter| letter.lease);
            lease.into_iter().for_each(|(lease, seq)| lease.ack(seq));
        }
    }
}
