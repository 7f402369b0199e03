//! Bytes over the network since boot.
//!
//! Read from `/proc/net/dev`, one file: sysinfo opens eleven files an
//! interface and asks netlink for every address on each refresh.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::Fault;

const PATH: &str = "/proc/net/dev";

/// Bytes received and sent over all interfaces but loopback.
pub(super) fn read() -> Result<(u64, u64), Fault> {
    // Files of /proc tell no size, and a growing buffer costs a call each time.
    let mut text = String::with_capacity(4096);
    let read = File::open(PATH).and_then(|mut file| file.read_to_string(&mut text));
    read.map_err(|e| Fault::unreadable(Path::new(PATH), e))?;
    Ok(sum(&text))
}

fn sum(text: &str) -> (u64, u64) {
    // Two lines of headings have no colon.
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(name, _)| name.trim() != "lo")
        .fold((0, 0), |(rx, tx), (_, counters)| {
            let mut counters = counters.split_whitespace().map(|c| c.parse().unwrap_or(0));
            let received: u64 = counters.next().unwrap_or(0);
            let sent: u64 = counters.nth(7).unwrap_or(0);
            (rx.saturating_add(received), tx.saturating_add(sent))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_interfaces_but_loopback_are_summed() {
        let text = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 99999 1 0 0 0 0 0 0 99999 1 0 0 0 0 0 0
  eth0: 1000 9 0 0 0 0 0 0 200 8 0 0 0 0 0 0
wlan0:30 1 0 0 0 0 0 0 7 1 0 0 0 0 0 0
";
        assert_eq!(sum(text), (1030, 207));
        assert_eq!(sum(""), (0, 0));
    }
}
