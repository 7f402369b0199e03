//! What people do to machines.

use std::process::Command;

use iot_agent_test_support::debian::{Overlay, root_without_systemd, text};
use iot_agent_test_support::duckdb;

use crate::{
    Boot, INSTALL, QUICK, UNREACHABLE, booted, configure, installed, package, property,
    wait_for_commits,
};

#[test]
fn a_half_configured_package_is_finished_by_dpkg() {
    let system = booted();
    configure(&system, QUICK);
    system.must("dpkg --unpack /packages/v1.deb");
    assert!(!system.is("systemctl is-active iot-agent"));
    system.must("dpkg --configure -a");
    system.wait_for("systemctl is-active iot-agent");
}

#[test]
fn a_deleted_conffile_means_the_defaults() {
    let system = installed(Boot::default(), "");
    system.must("rm -r /etc/iot-agent.toml /etc/iot-agent.d && systemctl restart iot-agent");
    system.must("systemctl is-active iot-agent && iot-agent check");
    // dpkg brings it back only where it is asked to.
    system.must("dpkg -i /packages/v1.deb </dev/null && test ! -e /etc/iot-agent.toml");
    system.must(
        "dpkg -i --force-confmiss /packages/v1.deb </dev/null && test -e /etc/iot-agent.toml",
    );
}

#[test]
fn an_account_of_its_name_is_used_and_survives() {
    let system = booted();
    configure(&system, QUICK);
    system.must("useradd --create-home --home-dir /home/iot-agent iot-agent");
    system.must(&format!("{INSTALL} /packages/v1.deb"));
    system.wait_for("systemctl is-active iot-agent");
    system.must("apt-get purge -y iot-agent && getent passwd iot-agent && test -d /home/iot-agent");
}

#[test]
fn root_is_kept_from_the_folder_of_the_service_and_may_check_it() {
    let system = installed(Boot::default(), UNREACHABLE);
    wait_for_commits(&system, 2);
    system.must("systemctl stop iot-agent");
    let owners = "find /var/lib/iot-agent -printf '%u\\n' | sort -u";
    for prepare in ["true", "rm -r /var/lib/iot-agent/spool"] {
        system.must(prepare);
        let refused = system.run("timeout 20 iot-agent run");
        let said = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(78), "{said}");
        assert!(said.contains("setpriv --reuid="), "{said}");
        system.must("iot-agent check --offline");
        assert_eq!(system.must(owners), "iot-agent\n");
    }
    system.must("systemctl start iot-agent");
    wait_for_commits(&system, 2);
    system.must("systemctl stop iot-agent");
    assert_eq!(property(&system, "Result"), "success");
}

#[test]
fn a_container_without_systemd_is_told_how_to_start_it() {
    let overlay = Overlay::of(&root_without_systemd());
    std::fs::copy(package("amd64"), overlay.path().join("v1.deb")).unwrap();
    let output = Command::new("systemd-nspawn")
        .args(["--quiet", "--register=no", "--keep-unit", "--private-network", "--as-pid2"])
        .args(["--resolv-conf=off", "--timezone=off", "--pipe", "-D"])
        .arg(overlay.path())
        .args(["/bin/sh", "-c"])
        .arg(
            "set -e; apt-get install -y --no-install-recommends /v1.deb; \
             timeout 20 setpriv --reuid=iot-agent --regid=iot-agent --clear-groups iot-agent run \
             --set sample.interval=200ms --set send.interval=1s & \
             for i in $(seq 200); do ls /var/lib/iot-agent/lake/data/*/*.parquet && break; sleep 0.1; done \
             2>/dev/null; kill $!; wait; ls /var/lib/iot-agent/lake/data/*/*.parquet; \
             apt-get purge -y iot-agent; ! getent passwd iot-agent; test ! -e /var/lib/iot-agent",
        )
        .output()
        .expect("systemd-nspawn: `tests/run` installs it");
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    assert!(out.contains("nothing was started. By hand:"), "{out}");
    assert!(out.contains("    setpriv --reuid=iot-agent"), "{out}");
}

#[test]
fn a_golden_image_gives_each_card_its_own_run_and_id() {
    let mut system = installed(Boot::default(), QUICK);
    system.wait_for("ls /var/lib/iot-agent/lake/data/*/*.parquet");
    // As packaging/README.md prepares an image; its clone has a name of its own.
    let prepare = "systemctl stop iot-agent; truncate -s 0 /etc/machine-id";
    system.must(&format!("{prepare}; echo attic >/etc/hostname"));
    system.reboot();
    system.wait_for("grep -rqs attic /var/lib/iot-agent/lake/data");
    system.must("systemctl stop iot-agent");
    let sql = "select id_device, count(distinct run >> 20) as draws, min(run >> 20) as draw \
               from lake where seq is not null group by 1 order by 1";
    let rows = duckdb::query(&system.path("/var/lib/iot-agent/lake/data"), sql);
    let ids: Vec<_> = rows.iter().map(|row| row["id_device"].as_str().unwrap()).collect();
    assert_eq!(ids, ["attic", "iotbox"], "{rows:?}");
    assert_ne!(rows[0]["draw"], rows[1]["draw"], "a clone goes on with the run of the original");
}

#[test]
fn a_disk_of_its_own_for_the_data_may_come_and_be_purged() {
    let system = booted();
    system.must("mkdir -p /var/lib/iot-agent && mount -t tmpfs none /var/lib/iot-agent");
    configure(&system, QUICK);
    system.must(&format!("{INSTALL} /packages/v1.deb"));
    system.wait_for("ls /var/lib/iot-agent/lake/data/*/*.parquet");
    assert_eq!(property(&system, "NRestarts"), "0");
    system.must("apt-get purge -y iot-agent && test -z \"$(ls -A /var/lib/iot-agent)\"");
}

#[test]
fn a_link_in_place_of_the_data_is_said_not_to_start_and_its_target_survives_a_purge() {
    let system = booted();
    configure(&system, QUICK);
    system.must("mkdir /data && touch /data/mine && ln -s /data /var/lib/iot-agent");
    let said = system.must(&format!("{INSTALL} /packages/v1.deb"));
    assert!(said.contains("it did not start"), "{said}");
    let said = system.must("apt-get purge -y iot-agent");
    assert!(said.contains("what is in /data stays"), "{said}");
    assert!(system.is("test -e /data/mine && ! test -L /var/lib/iot-agent"));
}

#[test]
fn the_examples_do_what_they_say() {
    let system = installed(Boot::default(), QUICK);
    let examples = "/usr/share/doc/iot-agent/examples";
    let drop_ins = "/etc/systemd/system/iot-agent.service.d";
    system.must(&format!("mkdir {drop_ins} && cp {examples}/*.conf {drop_ins}"));
    system.must("systemctl daemon-reload && systemctl restart iot-agent");
    let said = system
        .must("journalctl -b -o cat | grep 'Unknown' | grep -v '/iot-agent.service:' || true");
    assert_eq!(said, "");
    // The configurations are whole.
    for name in ["firehose", "raspberry-pi", "simulate"] {
        let check = format!("iot-agent check --offline --config {examples}/{name}.toml");
        system.must(&format!("systemctl stop iot-agent; {check}"));
    }
}
