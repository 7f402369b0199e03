//! Upgrade and downgrade, with what is edited and what waits.

use std::fs;

use crate::{
    Boot, INSTALL, QUICK, UNREACHABLE, assert_complete, booted_with, configure, main_pid, package,
    repacked, wait_for_commits, waiting,
};
use iot_agent_test_support::debian::System;

/// The conffile as the package brings it, with a line more.
fn another_default(tree: &std::path::Path) {
    let path = tree.join("etc/iot-agent.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text + "\n# a new default\n").unwrap();
}

/// v2 has the same conffile, v3 another.
fn with_three_versions(config: &str) -> System {
    let deb = package("amd64");
    let system = booted_with(Boot::default(), |folder| {
        repacked(&deb, &folder.join("v2.deb"), "0.1.0-2", |_| ());
        repacked(&deb, &folder.join("v3.deb"), "0.1.0-3", another_default);
    });
    configure(&system, config);
    system.must(&format!("{INSTALL} /packages/v1.deb"));
    system.wait_for("systemctl is-active iot-agent");
    system
}

#[test]
fn an_upgrade_loses_no_sample_and_keeps_an_edited_conffile() {
    let system = with_three_versions(UNREACHABLE);
    system.must("echo '# mine' >>/etc/iot-agent.toml");
    wait_for_commits(&system, 4);
    let pid = main_pid(&system);
    // Nobody can answer a question here: dpkg would fail.
    system.must(&format!("{INSTALL} /packages/v2.deb </dev/null"));
    system.wait_for("systemctl is-active iot-agent");
    assert_ne!(main_pid(&system), pid, "the new version does not run");
    assert!(system.is("grep mine /etc/iot-agent.toml"));
    assert_eq!(system.must("dpkg-query -W -f '${Version}' iot-agent"), "0.1.0-2");
    // Both changed: dpkg asks, and keeps what is there unless told otherwise.
    let asked = system.run("dpkg -i /packages/v3.deb </dev/null 2>&1");
    assert!(!asked.status.success(), "a changed conffile was replaced without a question");
    system.must(&format!("{INSTALL} -o Dpkg::Options::=--force-confold /packages/v3.deb"));
    assert!(
        system.is("grep mine /etc/iot-agent.toml && ! grep 'a new default' /etc/iot-agent.toml")
    );
    // What was spooled by all three arrives.
    system.must("systemctl stop iot-agent");
    assert!(waiting(&system) >= 4);
    configure(&system, QUICK);
    system.must("systemctl start iot-agent");
    system.wait_for("ls /var/lib/iot-agent/lake/data/*/*.parquet");
    system.must("systemctl stop iot-agent");
    assert_complete(&system);
    assert_eq!(waiting(&system), 0);
}

#[test]
fn an_unedited_conffile_is_replaced_without_a_question() {
    let system = with_three_versions(QUICK);
    system.must(&format!("{INSTALL} /packages/v3.deb </dev/null"));
    system.wait_for("systemctl is-active iot-agent");
    assert!(system.is("grep 'a new default' /etc/iot-agent.toml"));
}

#[test]
fn a_downgrade_keeps_what_waits() {
    let system = with_three_versions(UNREACHABLE);
    system.must(&format!("{INSTALL} /packages/v2.deb"));
    wait_for_commits(&system, 3);
    system.must(&format!("{INSTALL} --allow-downgrades /packages/v1.deb"));
    system.wait_for("systemctl is-active iot-agent");
    system.must("systemctl stop iot-agent");
    assert!(waiting(&system) >= 3);
}

/// Makes both slots of the ledger those of a newer version (`ledger/mod.rs`).
fn make_newer(path: &std::path::Path) {
    const SLOT_BYTES: usize = 4 << 20;
    let mut bytes = fs::read(path).unwrap();
    for start in
        [0, SLOT_BYTES].into_iter().filter(|start| *start < bytes.len()).collect::<Vec<_>>()
    {
        let length = bytes[start + 4..start + 8].try_into().unwrap();
        let end = start + 16 + u32::from_le_bytes(length) as usize;
        bytes[start + 3] += 1;
        let sum = crc32c::crc32c(&bytes[start..end]);
        bytes[end..end + 4].copy_from_slice(&sum.to_le_bytes());
    }
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_spool_of_a_newer_version_is_refused_and_not_touched() {
    let system = with_three_versions(UNREACHABLE);
    wait_for_commits(&system, 3);
    system.must("systemctl stop iot-agent");
    let ledger = system.path("/var/lib/iot-agent/spool/ledger");
    make_newer(&ledger);
    let sums =
        "cd /var/lib/iot-agent/spool && find . -type f ! -name lock | sort | xargs sha256sum";
    let before = system.must(sums);
    system.run("systemctl start iot-agent");
    system.wait_for("journalctl -b -u iot-agent | grep 'newer than this agent'");
    system.must("systemctl stop iot-agent");
    assert_eq!(system.must(sums), before);
}
