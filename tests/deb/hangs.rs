//! What hangs under the running service, and a clock that is set after its start.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use iot_agent_test_support::debian::{Boot, SOON, System};
use iot_agent_test_support::mounts::Mounted;
use iot_agent_test_support::process::succeed;
use iot_agent_test_support::records::number;
use iot_agent_test_support::{by_tier, duckdb, repository};
use tempfile::TempDir;

use crate::{
    QUICK, UNREACHABLE, assert_complete, installed, main_pid, property, restart_with,
    wait_for_commits,
};

/// What the watchdog bears of a sink that does not answer.
const PATIENCE: Duration = Duration::from_secs(300);

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

/// The main thread: it samples, and feeds the watchdog while all else goes on.
#[test]
fn a_sampler_that_hangs_is_ended_by_the_watchdog() {
    let system = with_hangs();
    let pid = main_pid(&system);
    // It is fed: it outlives its time several times over.
    for _ in 0..12 {
        wait_for_rows(&system);
    }
    assert_eq!((main_pid(&system), property(&system, "NRestarts").as_str()), (pid, "0"));
    system.must("touch /run/hang-sampler");
    system.wait_for(ENDED_BY_THE_WATCHDOG);
    system.must("rm /run/hang-sampler");
    assert_goes_on(&system, pid);
}

/// It is borne for five minutes, which are waited for at the full tier.
#[test]
fn a_drain_that_hangs_is_borne_before_the_watchdog_ends_it() {
    let system = with_hangs();
    let pid = main_pid(&system);
    system.must("touch /run/hang-drain");
    let begun = Instant::now();
    // Samples are committed all the while, and the watchdog is fed.
    wait_for_commits(&system, 12);
    assert_eq!((main_pid(&system), property(&system, "NRestarts").as_str()), (pid, "0"));
    if by_tier(false, false, true) {
        let said = "journalctl -b -u iot-agent | grep -q 'stuck.*the sink has neither answered'";
        system.wait_within(PATIENCE + SOON, said);
        assert!(begun.elapsed() > PATIENCE, "{:?}", begun.elapsed());
        system.wait_for(ENDED_BY_THE_WATCHDOG);
        system.must("rm /run/hang-drain");
        assert_goes_on(&system, pid);
        let lake = system.path("/var/lib/iot-agent/lake");
        let rows = duckdb::query(&lake, "select count(*) as rows from lake where marker is null");
        // What waited in the spool is there.
        assert!(number(&rows[0], "rows") > PATIENCE.as_secs(), "{rows:?}");
    }
}

/// A service whose parts can be made to hang, with a short watchdog.
fn with_hangs() -> System {
    let folder = TempDir::new().unwrap();
    let library = folder.path().join("hang.so");
    let mut compile = Command::new("cc");
    compile.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library);
    succeed(compile.arg(repository("tests/deb/hang.c")));
    let config = format!("{QUICK}[spool]\nmax_loss = \"1s\"\n");
    let system = installed(Boot::default(), &config);
    fs::copy(&library, system.path("/opt/hang.so")).unwrap();
    restart_with(
        &system,
        "WatchdogSec=4s\nTimeoutStopSec=2s\nEnvironment=LD_PRELOAD=/opt/hang.so\n",
    );
    system.wait_for("ls /var/lib/iot-agent/lake/data/*/*.parquet");
    system
}

const ENDED_BY_THE_WATCHDOG: &str =
    "journalctl -b -u iot-agent | grep -q \"Failed with result 'watchdog'\"";

/// Waits for a new process and its rows; with those of the old one the lake is whole.
#[track_caller]
fn assert_goes_on(system: &System, old_pid: u32) {
    system.wait_for("systemctl is-active iot-agent");
    assert_ne!(main_pid(system), old_pid);
    wait_for_rows(system);
    system.must("systemctl stop iot-agent");
    assert_complete(system);
}

/// Waits for rows in the lake that are newer than the call.
#[track_caller]
fn wait_for_rows(system: &System) {
    system.must("touch /run/before");
    let newer = "find /var/lib/iot-agent/lake/data -name '*.parquet' -newer /run/before";
    system.wait_for(&format!("{newer} | grep -q ."));
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
    assert_complete(&system);
    let folders = system.must("ls /var/lib/iot-agent/lake/data");
    assert!(!folders.contains("1970"), "{folders}");
    let lake = system.path("/var/lib/iot-agent/lake");
    let sql = "select count(*) filter (clock = 'corrected') as corrected, \
               count(*) filter (timestamp < '2026') as early from lake where marker is null";
    let rows = duckdb::query(&lake, sql);
    println!("{rows:?}");
    assert!(number(&rows[0], "corrected") >= 1 && number(&rows[0], "early") == 0, "{rows:?}");
}
