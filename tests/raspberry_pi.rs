//! The packages on emulated Raspberry Pis: no clock, a thermal sensor and an SD
//! card of their own, with the configuration made for them.
//!
//! The Pi wakes in 1970 and is told the time later, as a time server would tell
//! it; then its power is cut, and the card goes into another Pi.
//!
//! Needs: qemu-system-arm, cpio, .deb packages of arm64 and armhf
//! Tier: full

#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use iot_agent_test_support::emulator::{Board, Machine, PI_2, PI_3, card};
use iot_agent_test_support::records::{self, number, text, timestamp_ms};
use serde_json::Value;
use tempfile::TempDir;

/// What a power cut may take, in seconds: shorter than on a real Pi, so that
/// many of them fit into a test.
const MAX_LOSS_S: u64 = 20;

/// 2027-01-15T08:00:00Z.
const LATER_S: i64 = 1_800_000_000;

/// A Raspberry Pi with the package and a card.
struct Pi {
    machine: Machine,
    /// Wall clock minus time since boot, in ms, once the clock is set.
    offset_ms: i64,
}

impl Pi {
    fn boot(board: &Board, card: &Path, machine_id: &str) -> Self {
        let mut machine = Machine::boot(board, card);
        machine.wait_for("test -b /dev/mmcblk0");
        let example = "/usr/share/doc/iot-agent/examples/raspberry-pi.toml";
        machine.must(&format!(
            "set -e; hostname pi-attic; echo {machine_id} >/etc/machine-id\n\
             mkdir -p /var/lib/iot-agent /etc/iot-agent.d; cp {example} /etc/iot-agent.d\n\
             mount -t ext4 /dev/mmcblk0 /var/lib/iot-agent"
        ));
        assert_eq!(machine.must("date +%Y").trim(), "1970");
        assert!(machine.must("ls /sys/class/rtc").is_empty(), "it has a clock");
        println!("{}", machine.must("tr -d '\\0' </proc/device-tree/model; echo; uname -srm"));
        Self { machine, offset_ms: 0 }
    }

    /// Starts the agent, and returns its run.
    fn start(&mut self) -> u64 {
        self.machine.must(&format!(
            "iot-agent run --set sink.kind=stdout --set sample.interval=1s \
             --set send.interval=2s --set spool.max_loss={MAX_LOSS_S}s \
             </dev/null >>/tmp/records 2>/tmp/log & echo $! >/tmp/pid"
        ));
        self.machine.wait_for("grep -q ' sampling ' /tmp/log || ! kill -0 $(cat /tmp/pid)");
        self.logged("sampling", "run")
    }

    /// Ends the agent, and returns how many samples it took.
    fn stop(&mut self) -> u64 {
        self.machine.must("kill $(cat /tmp/pid)");
        self.machine.wait_for("! kill -0 $(cat /tmp/pid)");
        self.logged("stopped", "samples")
    }

    /// The number `field` of the agent's line that says `what`.
    fn logged(&mut self, what: &str, field: &str) -> u64 {
        let log = self.machine.must("cat /tmp/log");
        let line = log.lines().find(|line| line.contains(&format!(" {what} ")));
        let mut words = line.unwrap_or_else(|| panic!("no {what} in:\n{log}")).split_whitespace();
        let value = words.find_map(|word| word.strip_prefix(field)?.strip_prefix('='));
        value.unwrap_or_else(|| panic!("no {field} in:\n{log}")).parse().unwrap()
    }

    /// Waits for so many seconds of its own time.
    fn wait_s(&mut self, seconds: u64) {
        let until = self.uptime_s() as u64 + seconds + 1;
        self.machine.wait_for(&format!("test $(cut -d. -f1 /proc/uptime) -ge {until}"));
    }

    fn uptime_s(&mut self) -> f64 {
        let text = self.machine.must("cut -d' ' -f1 /proc/uptime");
        text.trim().parse().unwrap()
    }

    /// Sets the clock as a time server's client does.
    fn set_clock(&mut self) {
        let set = "/sbin/adjtimex --status 0 --maxerror 1000 --esterror 1000";
        let uptime = self.machine.must(&format!(
            "date -u -s @{LATER_S} >/dev/null && {set} && cut -d' ' -f1 /proc/uptime"
        ));
        let uptime_s: f64 = uptime.trim().parse().unwrap();
        self.offset_ms = LATER_S * 1000 - (uptime_s * 1000.0) as i64;
    }

    fn samples(&mut self) -> Vec<Value> {
        records::samples(&self.machine.must("cat /tmp/records"))
    }

    fn wait_for_samples(&mut self, count: usize) {
        let all = "grep -c '\"seq\"' /tmp/records";
        self.machine.wait_for(&format!("test $({all}) -ge {count}"));
    }

    /// Sectors that were written to the card since boot.
    fn sectors_written(&mut self) -> u64 {
        // The seventh of Documentation/block/stat.rst.
        let text = self.machine.must("sync; awk '{print $7}' /sys/block/mmcblk0/stat");
        text.trim().parse().unwrap()
    }

    /// What the kernel says of the SoC, in degrees.
    fn celsius(&mut self) -> f64 {
        let zone = "/sys/class/thermal/thermal_zone0";
        assert_eq!(self.machine.must(&format!("cat {zone}/type")).trim(), "cpu-thermal");
        let text = self.machine.must(&format!("cat {zone}/temp"));
        text.trim().parse::<f64>().unwrap() / 1000.0
    }
}

/// Every sample of each run is there once, and all are dated by the clock that
/// was set later.
#[track_caller]
fn assert_whole(pi: &Pi, samples: &[Value], taken: &BTreeMap<u64, u64>) {
    let mut seqs: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for sample in samples {
        seqs.entry(number(sample, "run")).or_default().push(number(sample, "seq"));
        let uptime_ms = number(sample, "uptime_s") as i64 * 1000;
        let off_ms = timestamp_ms(sample) - pi.offset_ms - uptime_ms;
        // The uptime is in whole seconds, and a busy machine reads one clock
        // well after the other.
        assert!((-5000..6000).contains(&off_ms), "{off_ms} ms off: {sample}");
        assert!(text(sample, "timestamp_sent") > "2027", "{sample}");
        assert_eq!(text(sample, "id_device"), "pi-attic");
        assert_eq!(sample["labels"]["site"], "attic");
    }
    for of_run in seqs.values_mut() {
        of_run.sort_unstable();
    }
    let whole = taken.iter().map(|(run, count)| (*run, (0..*count).collect())).collect();
    assert_eq!(seqs, whole);
}

fn clocks(samples: &[Value], run: u64) -> BTreeSet<&str> {
    let of_run = samples.iter().filter(|sample| number(sample, "run") == run);
    of_run.map(|sample| text(sample, "clock")).collect()
}

fn lives(board: &Board) {
    let folder = TempDir::new().unwrap();
    let slot = folder.path().join("card");
    card(&slot);
    let mut pi = Pi::boot(board, &slot, "11111111111111111111111111111111");
    let mut taken = BTreeMap::new();

    // In 1970: one agent leaves its samples on the card, the next adds to them.
    let first = pi.start();
    pi.wait_s(5);
    taken.insert(first, pi.stop());
    let second = pi.start();
    pi.wait_s(5);
    assert_eq!(pi.machine.must("cat /tmp/records"), "", "nobody knew the time");

    // From now on nothing that is delivered in time touches the card.
    pi.set_clock();
    pi.wait_for_samples(taken[&first] as usize + 15);
    pi.wait_s(MAX_LOSS_S);
    let (written, delivered) = (pi.sectors_written(), pi.samples().len());
    assert!(written > 0, "the samples of the first agent are on the card");
    pi.wait_s(2 * MAX_LOSS_S);
    assert_eq!(pi.sectors_written(), written, "the card is spared");
    let meanwhile = pi.samples().len() - delivered;
    assert!(meanwhile as u64 > MAX_LOSS_S, "{meanwhile} samples");

    let celsius = pi.celsius();
    taken.insert(second, pi.stop());
    let samples = pi.samples();
    assert_whole(&pi, &samples, &taken);
    // The first of a run does not wait long for the sensors to be listed.
    let told = samples.iter().filter(|sample| number(sample, "seq") > 0);
    let told = told.map(|sample| sample["temperature"].to_string());
    assert_eq!(told.collect::<BTreeSet<_>>(), BTreeSet::from([celsius.to_string()]));
    assert_eq!(clocks(&samples, first), BTreeSet::from(["corrected"]));
    assert_eq!(clocks(&samples, second), BTreeSet::from(["corrected", "synced"]));
    println!(
        "{}: {celsius} °C; {taken:?} samples; {meanwhile} delivered and no sector written",
        board.arch
    );

    // Its power is cut, and another board gets the card.
    drop(pi);
    let mut pi = Pi::boot(board, &slot, "22222222222222222222222222222222");
    let third = pi.start();
    assert!(!taken.contains_key(&third), "run {third} again");
    pi.set_clock();
    pi.wait_for_samples(5);
    let taken = BTreeMap::from([(third, pi.stop())]);
    let samples = pi.samples();
    assert_whole(&pi, &samples, &taken);
}

#[test]
fn a_pi_3_tells_heat_and_time_and_spares_its_card() {
    lives(&PI_3);
}

#[test]
fn a_pi_2_tells_heat_and_time_and_spares_its_card() {
    lives(&PI_2);
}
