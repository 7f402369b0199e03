//! Whether, and under which hour, samples may be handed over.

use crate::clock::{self, Clock, Moment};
use crate::drain::Handover;

/// Waits for a clock that can date a partition.
pub struct Gate {
    /// Boot time (ms) until which a clock that is not set is waited for.
    patient_until_ms: u64,
    /// Whether the clock stands before this program existed, and that was said.
    lost: bool,
}

impl Gate {
    pub fn new(settings: &clock::Settings, start: &Moment) -> Self {
        let wait_ms = u64::try_from(settings.wait.as_millis()).unwrap_or(u64::MAX);
        Self { patient_until_ms: start.boot_ms.saturating_add(wait_ms), lost: false }
    }

    /// The hour to hand over under: this host's where its clock is settled,
    /// else the service's, heard as (wall ms, boot ms), else after some
    /// patience this host's all the same. An hour before this program existed
    /// is no hour: then samples stay where they are.
    pub fn handover(
        &mut self,
        clock: &Clock,
        now: &Moment,
        server: Option<(i64, u64)>,
    ) -> Option<Handover> {
        let heard = server.map(|(wall_ms, boot_ms)| {
            let since_ms = now.boot_ms.saturating_sub(boot_ms);
            wall_ms.saturating_add(i64::try_from(since_ms).unwrap_or(i64::MAX))
        });
        let patient = now.boot_ms < self.patient_until_ms;
        let wall_ms = match (clock.settled(now), heard) {
            (true, _) => now.wall_ms,
            (false, _) if patient => return None,
            (false, Some(heard_ms)) => heard_ms,
            (false, None) => now.wall_ms,
        };
        if !clock::plausible(wall_ms) {
            if !std::mem::replace(&mut self.lost, true) {
                tracing::warn!(
                    clock = clock::rfc3339(wall_ms),
                    "the clock is not set: samples are kept and dated once it is; \
                     set it, or let timedatectl set-ntp true do so"
                );
            }
            return None;
        }
        self.lost = false;
        Some(Handover { hour: clock::partition_hour(wall_ms), wall_ms, boot_ms: now.boot_ms })
    }

    /// Whether nobody on this host knows the time.
    pub fn wants_time(&self, now: &Moment) -> bool {
        self.lost && now.boot_ms >= self.patient_until_ms
    }

    /// When patience ends, if it has not yet.
    pub fn opens_ms(&self, now: &Moment) -> Option<u64> {
        (now.boot_ms < self.patient_until_ms).then_some(self.patient_until_ms)
    }
}
