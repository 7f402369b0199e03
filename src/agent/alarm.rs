//! The line's one alarm clock.
//!
//! A timer of the kernel on CLOCK_BOOTTIME: it wakes the process once, where
//! the runtime's timer wheel wakes it again for each level of the wheel, and it
//! goes off at once after a suspend that slept through it.

use std::io;

use rustix::fd::OwnedFd;
use rustix::io::read;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Wakes the line when its clock says that it is time.
pub trait Wake {
    /// Ends at boot time `at_ms`; where that is `now_ms` already, once others
    /// had their turn.
    async fn until(&self, now_ms: u64, at_ms: u64) -> io::Result<()>;
}

pub struct Alarm(AsyncFd<OwnedFd>);

impl Wake for Alarm {
    async fn until(&self, now_ms: u64, at_ms: u64) -> io::Result<()> {
        if at_ms > now_ms {
            return self.at(at_ms).await;
        }
        // Without the kernel.
        tokio::task::yield_now().await;
        Ok(())
    }
}

impl Alarm {
    /// To be called within the runtime.
    #[allow(unsafe_code)]
    pub fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Boottime, flags)?;
        // SAFETY: an OwnedFd always gives its own descriptor, and keeps it open
        // until it is dropped.
        let timer = unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) };
        Ok(Self(timer?))
    }

    /// Ends at boot time `at_ms`.
    async fn at(&self, at_ms: u64) -> io::Result<()> {
        // All zeroes would turn it off.
        let at_ms = i64::try_from(at_ms.max(1)).unwrap_or(i64::MAX);
        let at = Timespec { tv_sec: at_ms / 1000, tv_nsec: at_ms % 1000 * 1_000_000 };
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        let once = Itimerspec { it_interval: never, it_value: at };
        timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::ABSTIME, &once)?;
        loop {
            let mut ready = self.0.readable().await?;
            // Setting it anew takes back what an earlier time has left to read.
            let read = ready.try_io(|timer| Ok(read(timer.get_ref(), &mut [0; 8])?));
            if let Ok(read) = read {
                return read.map(drop);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::boot_ms;

    #[test]
    fn it_goes_off_on_time_and_can_be_set_anew() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let alarm = Alarm::new().unwrap();
            let start = boot_ms();
            alarm.at(0).await.unwrap();
            let late = std::pin::pin!(alarm.at(start + 3_600_000));
            assert!(futures_poll_once(late).await.is_none());
            alarm.at(start + 50).await.unwrap();
            assert!(boot_ms() >= start + 50);
            assert!(boot_ms() < start + 3_600_000);
        });
    }

    /// Polls once: `None` if it is not ready.
    async fn futures_poll_once<F: Future>(mut future: std::pin::Pin<&mut F>) -> Option<F::Output> {
        std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
            std::task::Poll::Ready(output) => std::task::Poll::Ready(Some(output)),
            std::task::Poll::Pending => std::task::Poll::Ready(None),
        })
        .await
    }
}
