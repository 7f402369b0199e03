//! What hangs under the running service, and a clock that is set after its start.

use std::fs;
use std::path::Path;

use iot_agent_test_support::debian::Boot;
use iot_agent_test_support::duckdb;
use iot_agent_test_support::mounts::Mounted;
use iot_agent_test_support::records::number;

use crate::{QUICK, UNREACHABLE, installed, main_pid, property, restart_with};

#[test]
fn a_disk_that_hangs_is_said_in_the_status_and_does_not_end_the_service() {
    let disk = Mounted::ext4(64 << 20);
    let system =
        installed(Boot::default().bind_writable(disk.path(), "/var/lib/iot-agent"), UNREACHABLE);
    restart_with(&system, "WatchdogSec=4s\n");
    let pid = main_pid(&system);
    let status = "systemctl show --value -p StatusText iot-agent";
    system.wait_for("test -s /var/lib/iot-agent/spool/ledger");
    let frozen = disk.freeze();
    system.wait_for(&format!("{status} | grep -q ^degraded"));
    println!("STATUS={}", property(&system, "StatusText"));
    // Several times the watchdog's time.
    system.must("sleep 12");
    let same = (main_pid(&system), property(&system, "NRestarts"));
    drop(frozen);
    assert_eq!(same, (pid, "0".to_owned()));
    system.wait_for(&format!("! {status} | grep -q ^degraded"));
}

/// The clock is that of the agent alone: a container shares its machine's, which
/// stays as it is. With ProtectClock the kernel tells nothing, and timesyncd's mark
/// tells all.
#[test]
fn a_clock_that_is_set_after_the_start_dates_what_came_before() {
    let library = "/usr/lib/x86_64-linux-gnu/faketime";
    assert!(Path::new(library).exists(), "libfaketime is missing: `tests/run` installs it");
    let config = format!("{QUICK}[spool]\nmax_loss = \"1s\"\n[clock]\nwait = \"1s\"\n");
    let system = installed(Boot::default().bind(Path::new(library), "/opt"), &config);
    system.must("systemctl stop iot-agent; rm -r /var/lib/iot-agent/* /run/systemd/timesync; true");
    let clock = system.path("/etc/agent-clock");
    fs::write(&clock, "@1970-01-01 00:00:25").unwrap();
    restart_with(
        &system,
        "ProtectClock=yes\n\
         Environment=TZ=UTC LD_PRELOAD=/opt/libfaketime.so.1 FAKETIME_NO_CACHE=1 \
         FAKETIME_DONT_FAKE_MONOTONIC=1 FAKETIME_TIMESTAMP_FILE=/etc/agent-clock\n",
    );
    system.wait_for("test -s /var/lib/iot-agent/spool/ledger");
    system.wait_for("journalctl -b -u iot-agent -o cat | grep -q 'the clock is not set'");
    fs::write(&clock, "+0").unwrap();
    system.must("mkdir -p /run/systemd/timesync; touch /run/systemd/timesync/synchronized");
    system.wait_for("ls /var/lib/iot-agent/lake/data/*/*.parquet");
    system.must("systemctl stop iot-agent");
    system.must("iot-agent verify-lake /var/lib/iot-agent/lake");
    let folders = system.must("ls /var/lib/iot-agent/lake/data");
    assert!(!folders.contains("1970"), "{folders}");
    let lake = system.path("/var/lib/iot-agent/lake");
    let sql = "select count(*) filter (clock = 'corrected') as corrected, \
               count(*) filter (timestamp < '2026') as early from lake where marker is null";
    let rows = duckdb::query(&lake, sql);
    println!("{rows:?}");
    assert!(number(&rows[0], "corrected") >= 1 && number(&rows[0], "early") == 0, "{rows:?}");
}
