//! The package in a whole Debian with systemd as process 1: install, run,
//! upgrade, remove, purge, and what may go wrong on the way.
//!
//! `IOT_TEST_DEBIAN=trixie` boots that instead of bookworm, and
//! `IOT_TEST_DEBS=FOLDER` takes packages that are built already.
//!
//! Needs: root, .venv

#![cfg(test)]

#[path = "deb/contents.rs"]
mod contents;
#[path = "deb/credentials.rs"]
mod credentials;
#[path = "deb/docs.rs"]
mod docs;
#[path = "deb/hangs.rs"]
mod hangs;
#[path = "deb/install.rs"]
mod install;
#[path = "deb/odd.rs"]
mod odd;
#[path = "deb/sandbox.rs"]
mod sandbox;
#[path = "deb/service.rs"]
mod service;
#[path = "deb/upgrade.rs"]
mod upgrade;

use std::fs;
use std::path::Path;
use std::process::Command;

use iot_agent_test_support::debian::{Boot, System};
use iot_agent_test_support::packages::package;
use tempfile::TempDir;

/// A second a sample, handed over at once.
const QUICK: &str = "[sample]\ninterval = \"1s\"\n[send]\ninterval = \"1s\"\n";

/// A stream that nobody can reach, so that the spool fills.
const UNREACHABLE: &str = "[sample]\ninterval = \"1s\"\n[send]\ninterval = \"1s\"\n\
    [spool]\nmax_loss = \"1s\"\n[sink]\nkind = \"firehose\"\n\
    [sink.firehose]\nstream = \"iot-telemetry\"\nregion = \"eu-west-1\"\n\
    endpoint_url = \"http://192.0.2.1:9\"\n";

/// As an administrator installs a file.
const INSTALL: &str = "apt-get install -y --no-install-recommends";

/// A system with the package at `/packages/v1.deb`, and with what `more` puts there.
#[track_caller]
fn booted_with(boot: Boot, more: impl FnOnce(&Path)) -> System {
    let folder = TempDir::new().unwrap();
    fs::copy(package("amd64"), folder.path().join("v1.deb")).unwrap();
    more(folder.path());
    let system = boot.start();
    system.must("mkdir /packages");
    for entry in fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        let inside = system.path("/packages").join(path.file_name().unwrap());
        fs::copy(&path, inside).unwrap();
    }
    system
}

fn booted() -> System {
    booted_with(Boot::default(), |_| ())
}

/// A system where the package runs with `config` as a drop-in.
#[track_caller]
fn installed(boot: Boot, config: &str) -> System {
    let system = booted_with(boot, |_| ());
    configure(&system, config);
    system.must(&format!("{INSTALL} /packages/v1.deb"));
    system.wait_for("systemctl is-active iot-agent");
    system
}

/// Writes the drop-in of the configuration.
fn configure(system: &System, config: &str) {
    let folder = system.path("/etc/iot-agent.d");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("test.toml"), config).unwrap();
}

/// A drop-in of the unit, and the service begun anew with it.
#[track_caller]
fn restart_with(system: &System, unit: &str) {
    let folder = system.path("/etc/systemd/system/iot-agent.service.d");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("test.conf"), format!("[Service]\n{unit}")).unwrap();
    system.must("systemctl daemon-reload && systemctl restart iot-agent");
}

/// The agent's process, as it is called inside.
#[track_caller]
fn main_pid(system: &System) -> u32 {
    property(system, "MainPID").parse().unwrap()
}

/// A property of the unit, as `systemctl show` has it.
#[track_caller]
fn property(system: &System, name: &str) -> String {
    system.must(&format!("systemctl show --value -p {name} iot-agent")).trim().to_owned()
}

/// That the lake is complete, as `iot-agent verify-lake` counts.
#[track_caller]
fn assert_complete(system: &System) {
    system.must("iot-agent verify-lake /var/lib/iot-agent/lake");
}

/// Waits until so many commits were made, each of a second's sample at least.
#[track_caller]
fn wait_for_commits(system: &System, count: usize) {
    for _ in 0..count {
        system.must("touch /run/before");
        system.wait_for("test /var/lib/iot-agent/spool/ledger -nt /run/before");
    }
}

/// How many records wait in the spool of an agent that is stopped.
#[track_caller]
fn waiting(system: &System) -> usize {
    let export = "setpriv --reuid=iot-agent --regid=iot-agent --clear-groups \
                  iot-agent spool export";
    system.must(export).lines().filter(|line| line.contains("\"seq\"")).count()
}

/// The package again under another version, with a file of it changed.
fn repacked(package: &Path, to: &Path, version: &str, change: impl FnOnce(&Path)) {
    let folder = TempDir::new().unwrap();
    let tree = folder.path().join("tree");
    let run = |command: &mut Command| assert!(command.status().unwrap().success(), "{command:?}");
    run(Command::new("dpkg-deb").arg("-R").arg(package).arg(&tree));
    let control = tree.join("DEBIAN/control");
    let text = fs::read_to_string(&control).unwrap();
    let old = text.lines().find(|line| line.starts_with("Version: ")).unwrap();
    fs::write(&control, text.replace(old, &format!("Version: {version}"))).unwrap();
    change(&tree);
    run(Command::new("dpkg-deb")
        .args(["--root-owner-group", "-Zgzip", "-z1", "-b"])
        .arg(&tree)
        .arg(to));
}
