//! The package in a whole Debian of arm64, with its own kernel and systemd: what a
//! container cannot show, for it shares its machine's kernel and cgroups. Memory
//! and tasks are limited, and the power is cut.
//!
//! Needs: root, qemu-system-arm, a .deb package of arm64
//! Tier: full

#![cfg(test)]

use std::fs;
use std::path::Path;

use iot_agent_test_support::emulator::{Machine, SERVER, debian_disk};
use iot_agent_test_support::packages::package;
use tempfile::TempDir;

const QUICK: &str = "[sample]\ninterval = \"1s\"\n[send]\ninterval = \"1s\"\n\
    [spool]\nmax_loss = \"1s\"\n";

const GROUP: &str = "/sys/fs/cgroup/system.slice/iot-agent.service";

/// Runs `script` in a shell that counts as the service's.
fn within(script: &str) -> String {
    format!("sh -c 'echo $$ >{GROUP}/cgroup.procs && {script}'")
}

/// What a file of the service's cgroup says.
fn of_group(machine: &mut Machine, file: &str) -> u64 {
    let text = machine.must(&format!("cat {GROUP}/{file}"));
    text.trim().parse().unwrap_or_else(|_| panic!("{file}: {text}"))
}

fn property(machine: &mut Machine, name: &str) -> String {
    machine.must(&format!("systemctl show --value -p {name} iot-agent")).trim().to_owned()
}

fn boot(disk: &Path) -> Machine {
    let mut machine = Machine::boot(&SERVER, disk);
    machine.wait_for("systemctl is-system-running | grep -qx 'running\\|degraded'");
    machine
}

/// Waits for rows in the lake that are newer than the call.
fn wait_for_rows(machine: &mut Machine) {
    machine.must("touch /run/before");
    let newer = "find /var/lib/iot-agent/lake/data -name '*.parquet' -newer /run/before";
    machine.wait_for(&format!("{newer} | grep -q ."));
}

#[test]
fn it_is_installed_held_to_its_limits_and_outlives_a_power_cut() {
    let folder = TempDir::new().unwrap();
    let disk = folder.path().join("disk");
    debian_disk(&disk, |root| {
        fs::copy(package("arm64"), root.join("root/iot-agent.deb")).unwrap();
        fs::create_dir(root.join("etc/iot-agent.d")).unwrap();
        fs::write(root.join("etc/iot-agent.d/test.toml"), QUICK).unwrap();
    });
    let mut machine = boot(&disk);
    println!("{}", machine.must("uname -srm; systemctl --version | head -1"));
    machine.must("apt-get install -y --no-install-recommends /root/iot-agent.deb");
    machine.must("systemctl is-enabled iot-agent && systemctl is-active iot-agent");
    wait_for_rows(&mut machine);
    println!("STATUS={}", property(&mut machine, "StatusText"));
    let security = "systemd-analyze security --threshold=15 iot-agent | tail -1";
    println!("{}", machine.must(security));
    let used = of_group(&mut machine, "memory.current");
    let limit = of_group(&mut machine, "memory.max");
    println!("{used} bytes of memory and file pages, of {limit}");
    assert!(used < limit / 2);

    // No more tasks than the unit says: the shell's own children fail.
    let tasks = of_group(&mut machine, "pids.max");
    let many = within("for n in $(seq 300); do sleep 1000 & done");
    let (said, _) = machine.run(&many);
    assert!(said.to_lowercase().contains("fork"), "{said}");
    let there = of_group(&mut machine, "pids.current");
    assert!((tasks - 10..=tasks).contains(&there), "{there} of {tasks}");
    let pid = property(&mut machine, "MainPID");
    machine.must("pkill -x sleep");
    wait_for_rows(&mut machine);
    assert_eq!(property(&mut machine, "MainPID"), pid);

    // Memory beyond the limit ends what takes it, and the service starts anew.
    machine.run(&within("exec tail /dev/zero"));
    machine.wait_for("journalctl -b -u iot-agent | grep -q oom-kill");
    machine.wait_for("systemctl is-active iot-agent");
    assert_ne!(property(&mut machine, "MainPID"), pid);
    wait_for_rows(&mut machine);

    // The power goes.
    drop(machine);
    let mut machine = boot(&disk);
    machine.wait_for("systemctl is-active iot-agent");
    wait_for_rows(&mut machine);
    machine.must("systemctl stop iot-agent");
    let verdict = machine.must("iot-agent verify-lake /var/lib/iot-agent/lake");
    assert!(verdict.contains(" crash "), "{verdict}");
    println!("{verdict}");
}
