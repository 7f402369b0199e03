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
use crate::spool::trouble::{PATIENCE, wait_ms};

/// sled's recovery recurses little; the default of 2 MiB would only cost
/// address space and, once touched, memory.
const STACK_BYTES: usize = 512 * 1024;

/// What the spool asks of its thread.
pub enum Command {
    Commit(Box<Commit>),
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
    /// These could not be read when it was opened; with their frames' bytes.
    Found {
        chunks: Ranges,
        bytes: u64,
        report: Report,
    },
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

/// The line, and who is to serve it: the thread, once it runs.
pub fn line(keeper: Keeper, dead: DeadLetters) -> (Line, Owner) {
    let (commands, inbox) = channel();
    let (outbox, replies) = unbounded_channel();
    let owner = Owner {
        keeper,
        dead,
        letters: VecDeque::new(),
        failing: false,
        closed: Some("it is not open yet".into()),
        attempts: 0,
        inbox,
        outbox,
    };
    (Line { commands, replies, thread: None }, owner)
}

/// What the thread runs.
pub struct Owner {
    keeper: Keeper,
    dead: DeadLetters,
    /// Not yet durable.
    letters: VecDeque<Letter>,
    failing: bool,
    /// Why it is not open, as long as it is not.
    closed: Option<String>,
    attempts: u32,
    pub inbox: Receiver<Command>,
    outbox: UnboundedSender<Reply>,
}

impl Owner {
    /// Starts the thread. It opens the spool and says so; it holds `lock` as
    /// long as it lives.
    pub fn start(self, lock: Option<File>) -> std::io::Result<JoinHandle<()>> {
        let thread = std::thread::Builder::new().name("spool".into()).stack_size(STACK_BYTES);
        thread.spawn(move || {
            self.run();
            drop(lock);
        })
    }

    fn run(mut self) {
        let mut retry = self.open().map(|wait| Instant::now() + wait);
        loop {
            let command = match retry {
                Some(at) => self.inbox.recv_timeout(at.saturating_duration_since(Instant::now())),
                None => self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            let goes_on = match command {
                Ok(command) => self.follow(command),
                Err(RecvTimeoutError::Timeout) => {
                    retry = self.open().map(|wait| Instant::now() + wait);
                    true
                }
                Err(RecvTimeoutError::Disconnected) => false,
            };
            if !goes_on {
                return;
            }
        }
    }

    /// Opens the spool, or what of it could not be read so far; if that fails,
    /// it is to be tried again after the time returned.
    pub fn open(&mut self) -> Option<Duration> {
        if self.closed.is_none() {
            let (chunks, bytes) = self.keeper.adopt_rest();
            let report = self.keeper.report();
            self.say(Reply::Found { chunks, bytes, report });
        } else if let Err(error) = self.keeper.open(self.attempts < PATIENCE) {
            let why = self.closed.insert(error.to_string()).clone();
            self.say(Reply::OpenFailed(why));
        } else {
            (self.closed, self.attempts) = (None, 0);
            let outstanding = self.keeper.outstanding().clone();
            let (offsets, report) = (self.keeper.offsets(), self.keeper.report());
            self.say(Reply::Opened { outstanding, offsets, report });
        }
        let wait = Duration::from_millis(wait_ms(self.attempts));
        self.attempts += 1;
        (self.closed.is_some() || self.keeper.lacks_some()).then_some(wait)
    }

    /// Follows `command`, or says why it cannot; false after the last one.
    pub fn follow(&mut self, command: Command) -> bool {
        let reply = match (command, self.closed.clone()) {
            (Command::Commit(_), Some(why)) => Some(Reply::Committed(Err(why), Report::default())),
            (Command::Commit(commit), None) => {
                let result = self.keeper.commit(*commit).map_err(|e| e.to_string());
                Some(Reply::Committed(result, self.keeper.report()))
            }
            (Command::Fetch { .. }, Some(_)) => {
                Some(Reply::Fetched(Fetched::default(), Report::default()))
            }
            (Command::Fetch { wanted, max_bytes }, None) => {
                let fetched = self.keeper.fetch(&wanted, max_bytes);
                Some(Reply::Fetched(fetched, self.keeper.report()))
            }
            (Command::Bury(letter), _) => {
                self.letters.push_back(letter);
                None
            }
            (Command::Close, Some(why)) => {
                self.say(Reply::Closed(Err(why)));
                return false;
            }
            (Command::Close, None) => {
                let result = self.keeper.close().map_err(|e| e.to_string());
                self.say(Reply::Closed(result));
                return false;
            }
        };
        self.bury();
        reply.into_iter().for_each(|reply| self.say(reply));
        true
    }

    fn say(&self, reply: Reply) {
        // Nobody listens any more only when the agent ends.
        let _ = self.outbox.send(reply);
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
