//! Install, remove, purge.

use std::collections::BTreeSet;

use iot_agent_test_support::debian::{Boot, System};

use crate::{
    INSTALL, QUICK, UNREACHABLE, assert_complete, booted, configure, installed, main_pid, property,
    wait_for_commits, waiting,
};

/// Every path of the system that may be the package's, and every account.
fn traces(system: &System) -> BTreeSet<String> {
    let find = "find / /run /tmp -xdev -name '*iot-agent*'; \
                getent passwd | cut -d: -f1; getent group | cut -d: -f1";
    system.must(find).lines().map(str::to_owned).collect()
}

#[test]
fn a_fresh_install_shows_life_without_configuration_and_network() {
    let system = booted();
    assert_eq!(system.must("ip route"), "", "it has a way to somewhere");
    system.must(&format!("{INSTALL} /packages/v1.deb"));
    assert_eq!(system.must("systemctl is-enabled iot-agent").trim(), "enabled");
    system.wait_for("systemctl is-active iot-agent");
    assert_eq!(
        system.must("stat -c '%U %G %a' /var/lib/iot-agent").trim(),
        "iot-agent iot-agent 750"
    );
    assert_eq!(system.must("ps -o user= -p $(pidof iot-agent)").trim(), "iot-agent");
    // With the defaults the first rows come after a minute.
    system.wait_for("ls /var/lib/iot-agent/lake/data/*/*.parquet");
    assert_complete(&system);
    system.must("iot-agent check");
}

#[test]
fn it_is_active_within_two_seconds() {
    let system = installed(Boot::default(), QUICK);
    let us = |name| property(&system, name).parse::<u64>().unwrap();
    let took = us("ActiveEnterTimestampMonotonic") - us("InactiveExitTimestampMonotonic");
    println!("active (running) after {} ms", took / 1000);
    assert!(took < 2_000_000, "{took} µs");
}

#[test]
fn an_install_over_a_wrong_configuration_succeeds_and_says_that_it_did_not_start() {
    let system = booted();
    let install = format!("{INSTALL} /packages/v1.deb 2>&1");
    configure(&system, "[sample]\nintervall = \"1s\"\n");
    let said = system.must(&install);
    assert!(said.contains("it did not start; \"systemctl status iot-agent\" says why"), "{said}");
    assert!(system.is("systemctl status iot-agent | grep intervall"), "it does not say why");
    configure(&system, QUICK);
    system.must("systemctl start iot-agent && apt-get purge -y iot-agent");
    let said = system.must(&install);
    assert!(!said.contains("did not start"), "{said}");
}

#[test]
fn remove_keeps_the_data_and_a_later_install_goes_on_with_it() {
    let system = installed(Boot::default(), UNREACHABLE);
    system.must("echo '# mine' >>/etc/iot-agent.toml");
    wait_for_commits(&system, 5);
    system.must("apt-get remove -y iot-agent");
    assert!(!system.is("pidof iot-agent"));
    assert!(!system.is("systemctl is-active iot-agent"));
    assert!(system.is("test -s /var/lib/iot-agent/spool/ledger && grep mine /etc/iot-agent.toml"));
    system.must(&format!("{INSTALL} /packages/v1.deb"));
    system.wait_for("systemctl is-active iot-agent");
    assert!(main_pid(&system) > 1 && system.is("grep mine /etc/iot-agent.toml"));
    system.must("systemctl stop iot-agent");
    assert!(waiting(&system) >= 5, "what was spooled before the removal is there");
}

#[test]
fn purge_leaves_nothing() {
    let system = booted();
    let before = traces(&system);
    configure(&system, QUICK);
    system.must("echo secret >/etc/iot-agent.credentials");
    system.must("echo IOT_AGENT_LOG=info >/etc/default/iot-agent");
    system.must(&format!("{INSTALL} /packages/v1.deb"));
    system.wait_for("systemctl is-active iot-agent && test -e /var/lib/iot-agent/lake");
    assert!(traces(&system).len() > before.len() + 10);
    system.must("apt-get purge -y iot-agent");
    let left: Vec<_> = traces(&system).difference(&before).cloned().collect();
    assert!(left.is_empty(), "left after a purge: {left:?}");
    assert!(!system.is("pidof iot-agent"));
}
