//! The service is shut in, and yet reads all that there is to read.

use std::fs;
use std::path::Path;

use iot_agent_test_support::debian::{Boot, SOON, System};
use iot_agent_test_support::{duckdb, eventually};
use serde_json::Value;
use tempfile::TempDir;

use crate::{INSTALL, QUICK, booted_with, configure, installed};

/// A Raspberry Pi's sensors, which this machine has not.
fn sensors(folder: &Path) {
    for (path, text) in [
        ("class/thermal/thermal_zone0/type", "cpu-thermal\n"),
        ("class/thermal/thermal_zone0/temp", "48312\n"),
        ("class/hwmon/hwmon0/name", "cpu_thermal\n"),
        ("class/hwmon/hwmon0/temp1_input", "48312\n"),
        ("drivers/raspberrypi-firmware/soc:firmware/get_throttled", "50005\n"),
    ] {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

/// The last sample of the lake.
#[track_caller]
fn last(system: &System) -> Value {
    let folder = system.path("/var/lib/iot-agent/lake/data");
    // The first sample has no CPU share yet.
    let sql = "select * from lake where seq > 1 order by timestamp desc limit 1";
    let mut rows = Vec::new();
    eventually("samples in the lake", SOON, || {
        rows = if folder.exists() { duckdb::query(&folder, sql) } else { Vec::new() };
        !rows.is_empty()
    });
    rows.remove(0)
}

#[test]
fn every_sensor_reads_inside() {
    let fake = TempDir::new().unwrap();
    sensors(fake.path());
    let home = TempDir::new().unwrap();
    let boot = Boot::default().bind(fake.path(), "/fake").bind_writable(home.path(), "/home");
    let system = booted_with(boot, |_| ());
    // Over the container's own sysfs, which is mounted after all binds.
    system.must(
        "mount --bind /fake/class /sys/class && \
         mount --bind /fake/drivers /sys/bus/platform/drivers",
    );
    configure(&system, QUICK);
    system.must(&format!("{INSTALL} /packages/v1.deb"));
    let sample = last(&system);
    println!("{sample}");
    assert_eq!(sample["temperature"], 48.312);
    assert_eq!(sample["throttled"], 0x50005);
    for field in ["cpu", "ram", "hd", "load1", "uptime_s", "rx_bytes"] {
        assert!(sample[field].is_number(), "{field}: {sample}");
    }
    let status = "systemctl show --value -p StatusText iot-agent";
    let told = "; last delivery 20.* to deliver; 48 °C; last sample 20";
    system.wait_for(&format!("{status} | grep -q '{told}'"));
    let state = system.must("journalctl -b -u iot-agent -o cat");
    assert!(!state.contains("cannot be read") && !state.contains("restricted"), "{state}");
}

#[test]
fn its_disks_are_those_that_df_sees() {
    let system = installed(Boot::default(), QUICK);
    system.must("mkdir -p /home/data; systemctl restart iot-agent");
    let sample = last(&system);
    for disk in sample["disks"].as_array().unwrap() {
        let mount = disk["mount"].as_str().unwrap();
        let df = system.must(&format!("df -B1 --output=size {mount} | tail -1"));
        assert_eq!(disk["total_bytes"], df.trim().parse::<u64>().unwrap(), "{mount}");
    }
    assert_eq!(sample["disks"][0]["mount"], "/");
    // The same agent outside of the unit sees no more and no less.
    let outside = system.must("iot-agent sample --json");
    let outside: Value = serde_json::from_str(&outside).unwrap();
    let mounts = |sample: &Value| -> Vec<String> {
        let disks = sample["disks"].as_array().unwrap().iter();
        disks.map(|disk| disk["mount"].to_string()).collect()
    };
    assert_eq!(mounts(&sample), mounts(&outside));
}

#[test]
fn the_clock_is_known_inside_as_it_is_outside() {
    let system = installed(Boot::default(), QUICK);
    let sample = last(&system);
    let outside: Value = serde_json::from_str(&system.must("iot-agent sample --json")).unwrap();
    assert_eq!(sample["clock"], outside["clock"]);
}

#[test]
fn it_has_no_rights_that_it_does_not_need() {
    let system = installed(Boot::default(), QUICK);
    let status = system.must("cat /proc/$(pidof iot-agent)/status");
    for line in
        ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"]
    {
        assert!(status.contains(line), "{line}: {status}");
    }
    // Into its root, as its user.
    let enter = "nsenter -t $(pidof iot-agent) -m -- setpriv --reuid=iot-agent --regid=iot-agent --clear-groups";
    for place in ["/etc/x", "/usr/x", "/var/tmp/../x", "/home/x", "/boot/x"] {
        assert!(!system.is(&format!("{enter} touch {place}")), "{place} can be written");
    }
    system.must(&format!("{enter} touch /var/lib/iot-agent/x"));
}
