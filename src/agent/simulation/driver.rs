//! Time and turns: the line and the disk's owner in one thread, one after the
//! other, so that a seed repeats exactly.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use rand::RngExt;
use tokio::time::{Sleep, sleep};

use super::plan::{Broken, Phase};
use super::world::{PowerCut, World, trace, with};
use crate::agent::alarm::Wake;
use crate::spool::driven::{Command, Owner};

/// The alarm in tokio's time.
pub struct VirtualAlarm;

impl Wake for VirtualAlarm {
    async fn until(&self, now_ms: u64, at_ms: u64) -> std::io::Result<()> {
        match at_ms.checked_sub(now_ms) {
            None | Some(0) => tokio::task::yield_now().await,
            Some(wait_ms) => sleep(Duration::from_millis(wait_ms)).await,
        }
        Ok(())
    }
}

enum Work {
    Open,
    Follow(Box<Command>),
}

/// The spool's owner, who works at the disk's pace.
pub struct Driver {
    owner: Option<Owner>,
    work: Option<(Work, Pin<Box<Sleep>>)>,
    retry: Option<Pin<Box<Sleep>>>,
}

/// How long (ms) the disk takes for something now.
fn disk_ms() -> u64 {
    with(|world| {
        let now_ms = world.now_ms();
        match Phase::at(&world.plan.breaks, now_ms) {
            Some(Phase { kind: Broken::Slow(most_ms), .. }) => {
                world.figures.add("slow accesses", 1);
                world.rng.random_range(0..most_ms)
            }
            Some(Phase { kind: Broken::Hangs, to, .. }) => {
                world.figures.add("hung accesses", 1);
                to - now_ms
            }
            _ => 0,
        }
    })
}

/// Runs `work` until the power goes.
pub fn powered<T>(work: impl FnOnce() -> T) -> Result<T, PowerCut> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|cause| match cause.downcast::<PowerCut>() {
        Ok(power_cut) => *power_cut,
        Err(cause) => resume_unwind(cause),
    })
}

impl Driver {
    pub fn new(owner: Owner) -> Self {
        let opening = (Work::Open, Box::pin(sleep(Duration::from_millis(disk_ms()))));
        Self { owner: Some(owner), work: Some(opening), retry: None }
    }

    /// Runs `line` and the owner until the line is done or the power goes.
    pub async fn drive<T>(&mut self, line: impl Future<Output = T>) -> Result<T, PowerCut> {
        let mut line = pin!(line);
        poll_fn(|cx| {
            loop {
                if with(World::turn) {
                    return Poll::Ready(Err(PowerCut));
                }
                if let Poll::Ready(done) = line.as_mut().poll(cx) {
                    return Poll::Ready(Ok(done));
                }
                match self.step(cx) {
                    Ok(true) => {}
                    Ok(false) => return Poll::Pending,
                    Err(power_cut) => return Poll::Ready(Err(power_cut)),
                }
            }
        })
        .await
    }

    /// Whether the owner has done something.
    fn step(&mut self, cx: &mut Context<'_>) -> Result<bool, PowerCut> {
        let Some(owner) = &mut self.owner else { return Ok(false) };
        if self.work.is_none() {
            let due = self.retry.as_mut().is_some_and(|retry| retry.as_mut().poll(cx).is_ready());
            let work = match owner.inbox.try_recv() {
                Ok(command) => Work::Follow(Box::new(command)),
                Err(_) if due => Work::Open,
                Err(_) => return Ok(false),
            };
            self.work = Some((work, Box::pin(sleep(Duration::from_millis(disk_ms())))));
        }
        let Some((work, mut sleep_before)) = self.work.take() else { return Ok(false) };
        let deadline = sleep_before.deadline();
        if deadline > tokio::time::Instant::now() && sleep_before.as_mut().poll(cx).is_pending() {
            self.work = Some((work, sleep_before));
            return Ok(false);
        }
        match work {
            Work::Open => {
                let wait = powered(|| owner.open())?;
                trace(|| format!("opens the spool; tries again in {wait:?}"));
                self.retry = wait.map(|wait| Box::pin(sleep(wait)));
            }
            Work::Follow(command) => {
                let what = brief(&command);
                let goes_on = powered(|| owner.follow(*command))?;
                trace(|| format!("disk: {what}"));
                if !goes_on {
                    self.owner = None;
                }
            }
        }
        Ok(true)
    }
}

fn brief(command: &Command) -> String {
    match command {
        Command::Commit(commit) => format!(
            "commit of {} frames, acknowledged {:?}, {} new gaps, {} told, {} offsets",
            commit.frames.len(),
            commit.acked.0,
            commit.news.declare.iter().count(),
            commit.news.delivered.len(),
            commit.offsets.len()
        ),
        Command::Fetch { wanted, .. } => format!("fetch of {wanted:?}"),
        Command::Bury(_) => "a record is set aside".into(),
        Command::Close => "close".into(),
    }
}
