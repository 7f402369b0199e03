//! Memory and swap of the host, from `/proc/meminfo`. In a container these are
//! the host's too, unless the runtime puts its own file in that place.

use sysinfo::System;

use super::{Fault, share};

/// Used shares, 0..1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Memory {
    pub ram: f64,
    /// Absent where there is no swap.
    pub swap: Option<f64>,
}

pub(super) fn read(system: &mut System) -> Result<Memory, Fault> {
    system.refresh_memory();
    let ram = used(system.total_memory(), system.available_memory());
    let swap = used(system.total_swap(), system.free_swap());
    ram.map(|ram| Memory { ram, swap }).ok_or(Fault::Hidden("/proc/meminfo"))
}

/// Containers have been seen to report more available than there is: then
/// nothing is used.
fn used(total: u64, available: u64) -> Option<f64> {
    share(total.saturating_sub(available) as f64, total as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_with_more_available_than_total_uses_nothing() {
        assert_eq!(used(1000, 2000), Some(0.0));
        assert_eq!(used(1000, 250), Some(0.75));
    }

    #[test]
    fn no_swap_is_absent() {
        assert_eq!(used(0, 0), None);
    }
}
