//! Busy share of all cores.

use std::time::Instant;

use sysinfo::{MINIMUM_CPU_UPDATE_INTERVAL, System};

use super::{Fault, share};

/// Remembers when sysinfo last read the counters.
#[derive(Debug, Default)]
pub(super) struct Cpu {
    read_at: Option<Instant>,
}

impl Cpu {
    /// 0..1 since the last reading, steal included and I/O wait not; `None` on
    /// the first, and when the last is less than 200 ms ago, for sysinfo then
    /// keeps its old answer.
    pub fn read(&mut self, system: &mut System) -> Result<Option<f64>, Fault> {
        let too_soon = |at: Instant| at.elapsed() < MINIMUM_CPU_UPDATE_INTERVAL;
        if self.read_at.is_some_and(too_soon) {
            return Ok(None);
        }
        // Usage only: sysinfo's frequencies cost up to a second on 64 cores.
        system.refresh_cpu_usage();
        if system.cpus().is_empty() {
            return Err(Fault::Hidden("/proc/stat"));
        }
        // Stamped after the refresh, so that an interval long enough by this
        // stamp is long enough by sysinfo's own.
        let first = self.read_at.replace(Instant::now()).is_none();
        let percent = f64::from(system.global_cpu_usage());
        Ok(if first { None } else { share(percent, 100.0) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_no_share_before_there_is_a_span() {
        let (mut cpu, mut system) = (Cpu::default(), System::new().unwrap());
        let begun = Instant::now();
        assert_eq!(cpu.read(&mut system).unwrap(), None);
        let share = loop {
            if let Some(share) = cpu.read(&mut system).unwrap() {
                break share;
            }
            assert!(begun.elapsed() < MINIMUM_CPU_UPDATE_INTERVAL * 20, "no share ever");
            std::thread::sleep(MINIMUM_CPU_UPDATE_INTERVAL / 10);
        };
        assert!(begun.elapsed() >= MINIMUM_CPU_UPDATE_INTERVAL);
        assert!((0.0..=1.0).contains(&share));
    }
}
