//! The running service: reload, restart, stop, journal.

use iot_agent_test_support::debian::System;
use serde_json::Value;

use crate::{
    Boot, INSTALL, QUICK, UNREACHABLE, assert_complete, booted, configure, installed, main_pid,
    property, wait_for_commits, waiting,
};

/// The journal's entries of the service since the boot.
#[track_caller]
fn entries(system: &System) -> Vec<Value> {
    let lines = system.must("journalctl -b -u iot-agent -o json --no-pager");
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_good_reload_takes_hold_and_a_bad_one_is_refused_in_the_same_process() {
    let system = installed(Boot::default(), QUICK);
    let pid = main_pid(&system);
    configure(&system, "[sample]\ninterval = \"nonsense\"\n");
    let refused = system.run("systemctl reload iot-agent");
    assert!(!refused.status.success(), "a wrong configuration was taken");
    assert_eq!(main_pid(&system), pid);
    system.wait_for("journalctl -b -u iot-agent | grep nonsense");

    configure(&system, &format!("{QUICK}[device]\nlabels = {{ reloaded = \"yes\" }}\n"));
    system.must("systemctl reload iot-agent");
    assert_eq!(main_pid(&system), pid);
    system.wait_for("grep -rqs reloaded /var/lib/iot-agent/lake/data");
    assert_eq!(property(&system, "NRestarts"), "0");
    system.must("systemctl stop iot-agent");
    assert_complete(&system);
}

#[test]
fn a_killed_agent_is_started_again_and_declares_what_it_lost() {
    let system = installed(Boot::default(), QUICK);
    system.wait_for("ls /var/lib/iot-agent/lake/data/*/*.parquet");
    let pid = main_pid(&system);
    system.must(&format!("kill -9 {pid}"));
    system.wait_for("systemctl is-active iot-agent && test $(systemctl show --value -p NRestarts iot-agent) -ge 1");
    assert_ne!(main_pid(&system), pid);
    system.must("systemctl stop iot-agent");
    assert_complete(&system);
}

#[test]
fn a_stop_flushes() {
    let system = installed(Boot::default(), UNREACHABLE);
    wait_for_commits(&system, 2);
    system.must("systemctl stop iot-agent");
    assert_eq!(property(&system, "Result"), "success");
    let ended = entries(&system);
    let ended = ended.iter().rfind(|entry| entry["MESSAGE"] == "stopped").unwrap();
    let samples: usize = ended["IOT_SAMPLES"].as_str().unwrap().parse().unwrap();
    assert_eq!(waiting(&system), samples, "all that was sampled, and no more: {ended}");
}

#[test]
fn the_status_line_and_the_journal_say_what_happens() {
    let system = installed(Boot::default(), UNREACHABLE);
    let status = "systemctl show --value -p StatusText iot-agent";
    let says = "^nothing is delivered: .*to deliver; last sample 20";
    system.wait_for(&format!("{status} | grep -q '{says}'"));
    println!("STATUS={}", property(&system, "StatusText"));
    // The journal has the fields by themselves, not only in the text.
    system.wait_for("journalctl -b -u iot-agent -o json | grep -q '\"IOT_'");
    let own: Vec<_> = entries(&system)
        .into_iter()
        .filter(|entry| entry["_COMM"] == "iot-agent" && entry["SYSLOG_IDENTIFIER"] == "iot-agent")
        .collect();
    assert!(
        !own.is_empty()
            && own.iter().all(|entry| entry["PRIORITY"].as_str().is_some_and(|p| p <= "6")),
        "{own:?}"
    );
    assert!(own.len() < 30, "an unreachable stream is said once: {own:?}");
}

#[test]
fn a_wrong_configuration_is_said_once_and_not_tried_for_ever() {
    let system = installed(Boot::default(), QUICK);
    configure(&system, "[sample]\nintervall = \"1s\"\n");
    system.run("systemctl restart iot-agent");
    system.wait_for("systemctl is-failed iot-agent");
    assert_eq!(property(&system, "ExecMainStatus"), "78");
    assert_eq!(property(&system, "NRestarts"), "0");
    assert!(system.is("journalctl -b -u iot-agent | grep -q intervall"));
    configure(&system, QUICK);
    system.must("systemctl start iot-agent");
}

#[test]
fn a_reboot_keeps_the_spool_and_starts_the_agent() {
    let mut system = installed(Boot::default(), UNREACHABLE);
    wait_for_commits(&system, 3);
    system.must("systemctl stop iot-agent");
    let before = waiting(&system);
    assert!(before > 2);
    system.must("systemctl start iot-agent");
    system.reboot();
    system.wait_for("systemctl is-active iot-agent");
    system.must("systemctl stop iot-agent");
    assert!(waiting(&system) >= before);
}

#[test]
fn a_full_disk_does_not_keep_it_from_starting() {
    let system = booted();
    configure(&system, QUICK);
    system.must(
        "mkdir /var/lib/iot-agent && mount -t tmpfs -o size=8m none /var/lib/iot-agent && \
         ! dd if=/dev/zero of=/var/lib/iot-agent/hog bs=64k",
    );
    system.must(&format!("{INSTALL} /packages/v1.deb"));
    let full = "journalctl -b -u iot-agent -o cat | grep -qi 'no space\\|full\\|keep_free'";
    system.wait_for(&format!("systemctl is-active iot-agent && {full}"));
    system.must("systemctl restart iot-agent");
    let pid = main_pid(&system);
    // With the space back it goes on by itself.
    system.must("rm /var/lib/iot-agent/hog");
    system.wait_for("ls /var/lib/iot-agent/lake/data/*/*.parquet");
    assert_eq!((main_pid(&system), property(&system, "NRestarts").as_str()), (pid, "0"));
}
