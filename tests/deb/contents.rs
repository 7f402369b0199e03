//! What is in the packages, and what Debian's own tools say of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use iot_agent_test_support::debian::{Boot, text};
use iot_agent_test_support::packages::{package, unpack};
use tempfile::TempDir;

use crate::{QUICK, installed};

const ARCHES: [&str; 3] = ["amd64", "arm64", "armhf"];

/// The promises of the packages' sizes.
const DEB_BYTES: u64 = 5 << 20;
const INSTALLED_BYTES: u64 = 12 << 20;

/// `systemd-analyze security` tells tenths.
const EXPOSURE_TENTHS: u32 = 15;

fn tree(package: &Path) -> TempDir {
    let folder = TempDir::new().unwrap();
    unpack(package, folder.path());
    folder
}

fn files(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => files(&entry.path(), into),
            false => into.push(entry.path()),
        }
    }
}

#[test]
fn each_is_small_and_complete() {
    for arch in ARCHES {
        is_small_and_complete(&package(arch));
    }
}

#[track_caller]
fn is_small_and_complete(deb: &Path) {
    let tree = tree(deb);
    let (mut all, bytes) = (Vec::new(), fs::metadata(deb).unwrap().len());
    files(tree.path(), &mut all);
    let installed: u64 = all.iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    println!("{}: {bytes} bytes, {installed} installed", deb.display());
    assert!(bytes <= DEB_BYTES && installed <= INSTALLED_BYTES);
    for path in [
        "etc/iot-agent.toml",
        "usr/bin/iot-agent",
        "usr/lib/systemd/system/iot-agent.service",
        "usr/lib/systemd/system-preset/90-iot-agent.preset",
        "usr/lib/sysusers.d/iot-agent.conf",
        "usr/share/bash-completion/completions/iot-agent",
        "usr/share/doc/iot-agent/changelog.Debian.gz",
        "usr/share/doc/iot-agent/copyright",
        "usr/share/doc/iot-agent/examples/raspberry-pi.toml",
        "usr/share/man/man1/iot-agent.1.gz",
        "usr/share/man/man1/iot-agent-spool-ls.1.gz",
    ] {
        assert!(tree.path().join(path).is_file(), "no {path}");
    }
}

#[test]
fn what_is_linked_in_can_be_audited() {
    for arch in ARCHES {
        let tree = tree(&package(arch));
        let binary = tree.path().join("usr/bin/iot-agent");
        let sections = Command::new("readelf").arg("-SW").arg(binary).output().unwrap();
        let listed = text(&sections.stdout).contains(".dep-v0");
        assert!(listed, "cargo-auditable left no list in that of {arch}");
    }
}

#[test]
fn lintian_has_nothing_to_say() {
    let mut command = Command::new("lintian");
    command.args(["--allow-root", "--fail-on", "error,warning"]).args(ARCHES.map(package));
    let output = command.output().expect("lintian: `tests/run` installs it");
    let said = text(&output.stdout);
    println!("{said}");
    assert!(output.status.success(), "{said}");
    assert!(!said.lines().any(|line| line.starts_with("E:") || line.starts_with("W:")), "{said}");
}

#[test]
fn the_manual_shows_examples_and_exit_codes_in_columns() {
    let tree = tree(&package("amd64"));
    let mut command = Command::new("man");
    command
        .env("MANWIDTH", "100")
        .arg("-l")
        .arg(tree.path().join("usr/share/man/man1/iot-agent.1.gz"));
    let page = text(&command.output().expect("man: lintian brings it").stdout);
    let line = |begin: &str| page.lines().any(|line| line.trim_end() == begin);
    assert!(line("EXIT STATUS") && line("       iot-agent spool ls"), "{page}");
    assert!(page.contains("\n       2      the command line is wrong\n"), "{page}");
}

#[test]
fn systemd_has_nothing_to_say_and_finds_it_closed() {
    let system = installed(Boot::default(), QUICK);
    let version = system.must("systemctl --version | head -1");
    let unit = "/usr/lib/systemd/system/iot-agent.service";
    let verify = system.run(&format!("systemd-analyze verify --man=no {unit} 2>&1"));
    let said = text(&verify.stdout);
    // Two keys of the unit are for systemd 254 and newer.
    let known = |line: &&str| line.contains("RestartSteps") || line.contains("RestartMaxDelaySec");
    let other: Vec<_> = said.lines().filter(|line| !known(line)).collect();
    assert!(verify.status.success() && other.is_empty(), "{said}");
    let security = format!("systemd-analyze security --threshold={EXPOSURE_TENTHS} iot-agent");
    let table = system.must(&security);
    println!("{version}{}", table.lines().last().unwrap());
}

#[test]
fn armv6_is_refused_with_a_sentence() {
    let folder = TempDir::new().unwrap();
    let status =
        Command::new("dpkg-deb").arg("-e").arg(package("amd64")).arg(folder.path()).status();
    assert!(status.unwrap().success());
    // The machine that the script asks about.
    let uname = folder.path().join("uname");
    for (machine, fits) in [("armv6l", false), ("armv7l", true), ("aarch64", true)] {
        fs::write(&uname, format!("#!/bin/sh\necho {machine}\n")).unwrap();
        Command::new("chmod").arg("+x").arg(&uname).status().unwrap();
        let path = format!("{}:/usr/bin:/bin", folder.path().display());
        let script = folder.path().join("preinst");
        let output = Command::new(script).arg("install").env("PATH", path).output().unwrap();
        assert_eq!(output.status.success(), fits, "{machine}");
        assert_eq!(text(&output.stderr).contains("needs ARMv7"), !fits, "{machine}");
    }
}
