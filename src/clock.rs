//! The only place that asks the time.
//!
//! A [`Moment`] carries the wall clock beside CLOCK_BOOTTIME: a device without
//! a battery clock wakes in the past and jumps when the network comes, and only
//! the boot time lets its early samples be dated afterwards.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// How long the drain waits for a synchronised clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub wait: Duration,
}

/// 2026-01-01T00:00:00Z: no agent of this kind ran before, so an earlier wall
/// clock is wrong whatever else the host says.
const EARLIEST_PLAUSIBLE_MS: i64 = 1_767_225_600_000;

/// `systemd-timesyncd` touches it at its first synchronisation of a boot.
const TIMESYNCD_MARK: &str = "/run/systemd/timesync/synchronized";

/// One instant, as this host knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Milliseconds since the Unix epoch.
    pub wall_ms: i64,
    /// Milliseconds since boot, suspend included (CLOCK_BOOTTIME).
    pub boot_ms: u64,
    /// Whether the kernel called the wall clock synchronised.
    pub synced: bool,
}

impl Moment {
    /// The same instant `by` earlier.
    pub fn earlier(self, by: Duration) -> Self {
        let ms = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        Self {
            wall_ms: self.wall_ms.saturating_sub(ms),
            boot_ms: self.boot_ms.saturating_sub(ms.unsigned_abs()),
            synced: self.synced,
        }
    }

    /// Wall minus boot time: what turns a boot time of this boot into a date.
    pub fn offset_ms(&self) -> i64 {
        let boot_ms = i64::try_from(self.boot_ms).unwrap_or(i64::MAX);
        self.wall_ms.saturating_sub(boot_ms)
    }
}

/// `/proc/sys/kernel/random/boot_id`: one per boot; zero where it is unreadable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BootId(pub [u8; 16]);

impl BootId {
    /// Reads a UUID's 32 hexadecimal digits; dashes are passed over.
    pub fn parse(text: &str) -> Option<Self> {
        let hex: String = text.trim().chars().filter(|c| *c != '-').collect();
        if hex.len() != 32 || !hex.is_ascii() {
            return None;
        }
        let mut bytes = [0; 16];
        for (byte, at) in bytes.iter_mut().zip((0..32).step_by(2)) {
            *byte = u8::from_str_radix(hex.get(at..at + 2)?, 16).ok()?;
        }
        Some(Self(bytes))
    }
}

impl std::fmt::Display for BootId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The host's clocks.
#[derive(Debug, Clone)]
pub struct Clock {
    boot: BootId,
    keeps_time_off: bool,
    now: fn() -> Moment,
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock {
    /// Reads the boot id and whether the machine has a clock that runs while
    /// it is off.
    pub fn new() -> Self {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .ok()
            .and_then(|text| BootId::parse(&text))
            .unwrap_or_default();
        // A PC's CMOS clock and a VM's host clock keep the time even where
        // they show no RTC device; boards that boot by device tree do not.
        let board = Path::new("/proc/device-tree").exists();
        let rtc = Path::new("/sys/class/rtc/rtc0").exists();
        Self { boot, keeps_time_off: rtc || !board, now: moment }
    }

    /// A clock that tells whatever `now` does.
    #[cfg(test)]
    pub fn telling(now: fn() -> Moment, boot: BootId, keeps_time_off: bool) -> Self {
        Self { boot, keeps_time_off, now }
    }

    pub fn boot(&self) -> BootId {
        self.boot
    }

    pub fn now(&self) -> Moment {
        (self.now)()
    }

    /// Whether `now` may date a partition: synchronised, or kept by a battery
    /// clock and not before this program existed.
    pub fn settled(&self, now: &Moment) -> bool {
        now.synced || (self.keeps_time_off && plausible(now.wall_ms))
    }
}

/// Whether a wall clock (ms since the Unix epoch) can be right at all.
pub fn plausible(wall_ms: i64) -> bool {
    wall_ms >= EARLIEST_PLAUSIBLE_MS
}

/// This instant, as the kernel tells it.
fn moment() -> Moment {
    Moment { wall_ms: wall_ms(), boot_ms: boot_ms(), synced: kernel_synced() }
}

/// Milliseconds since the Unix epoch; negative before 1970.
fn wall_ms() -> i64 {
    let ms = |d: Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => ms(since),
        Err(before) => -ms(before.duration()),
    }
}

/// Milliseconds since boot, suspend included.
pub fn boot_ms() -> u64 {
    let t = clock_gettime(ClockId::Boottime);
    let ms = t.tv_sec.saturating_mul(1000).saturating_add(t.tv_nsec / 1_000_000);
    u64::try_from(ms).unwrap_or(0)
}

/// Microseconds of CLOCK_MONOTONIC, suspend not included.
pub fn monotonic_us() -> u64 {
    let t = clock_gettime(ClockId::Monotonic);
    let us = t.tv_sec.saturating_mul(1_000_000).saturating_add(t.tv_nsec / 1000);
    u64::try_from(us).unwrap_or(0)
}

/// What the kernel says of its clock; under a sandbox that forbids asking,
/// what timesyncd left behind.
fn kernel_synced() -> bool {
    match adjtimex_state() {
        Some(state) => state != libc::TIME_ERROR,
        None => Path::new(TIMESYNCD_MARK).exists(),
    }
}

/// The clock state of `adjtimex(2)` with no mode set, which only reads; `None`
/// where the call is not permitted.
#[allow(unsafe_code)]
fn adjtimex_state() -> Option<i32> {
    // SAFETY: timex is plain integers, for which all zeroes is a valid value;
    // the kernel writes to nothing but the struct behind the valid pointer.
    let state = unsafe {
        let mut timex: libc::timex = std::mem::zeroed();
        libc::adjtimex(&raw mut timex)
    };
    (state >= 0).then_some(state)
}

/// The hour of a partition: UTC `yyyy-MM-dd HH`.
pub fn partition_hour(wall_ms: i64) -> String {
    date(wall_ms).format("%Y-%m-%d %H").to_string()
}

/// UTC RFC 3339 with milliseconds.
pub fn rfc3339(wall_ms: i64) -> String {
    date(wall_ms).to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}

fn date(wall_ms: i64) -> chrono::DateTime<chrono::Utc> {
    chrono::DateTime::from_timestamp_millis(wall_ms).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_utc_with_milliseconds() {
        assert_eq!(rfc3339(1_795_487_972_045), "2026-11-24T02:39:32.045Z");
        assert_eq!(partition_hour(1_795_487_972_045), "2026-11-24 02");
        assert_eq!(partition_hour(-1), "1969-12-31 23");
    }

    #[test]
    fn boot_id_reads_back() {
        let id = BootId::parse("4148b810-3939-4665-b9e1-2d49019536f7\n").unwrap();
        assert_eq!(id.to_string(), "4148b81039394665b9e12d49019536f7");
        assert_eq!(BootId::parse("nonsense"), None);
    }

    #[test]
    fn an_early_wall_clock_is_never_settled_by_itself() {
        let clock = Clock::telling(moment, BootId::default(), true);
        let in_1970 = Moment { wall_ms: 25_000, boot_ms: 25_000, synced: false };
        assert!(!clock.settled(&in_1970));
        assert!(clock.settled(&Moment { synced: true, ..in_1970 }));
        let later = Moment { wall_ms: EARLIEST_PLAUSIBLE_MS + 1, ..in_1970 };
        assert!(clock.settled(&later));
        assert!(!Clock { keeps_time_off: false, ..clock }.settled(&later));
    }
}
