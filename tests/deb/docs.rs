//! What packaging/README.md and the examples tell people to type, typed.

use std::fs;
use std::process::Command;

use iot_agent_test_support::debian::{Boot, System};
use iot_agent_test_support::process::succeed;
use iot_agent_test_support::{duckdb, python, repository};

use crate::{
    INSTALL, QUICK, UNREACHABLE, booted, installed, package, repacked, wait_for_commits, waiting,
};

/// The block of code after `mark`.
#[track_caller]
fn block(mark: &str) -> String {
    let path = repository("packaging/README.md");
    let text = fs::read_to_string(path).unwrap();
    let (_, after) = text.split_once(mark).unwrap_or_else(|| panic!("no {mark}"));
    let (_, block) = after.split_once("```").unwrap();
    let (block, _) = block.split_once("\n```").unwrap();
    block.split_once('\n').unwrap().1.to_owned()
}

#[test]
fn a_signed_apt_repository_serves_the_packages_to_those_who_have_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let packages = folder.path().join("target/packages");
    fs::create_dir_all(&packages).unwrap();
    fs::copy(package("amd64"), packages.join("iot-agent.deb")).unwrap();
    let keys = folder.path().join("gnupg");
    let shell = |script: &str| {
        let mut command = Command::new("sh");
        command.args(["-ec", script]).current_dir(&folder).env("GNUPGHOME", &keys);
        succeed(&mut command)
    };
    shell(
        "install -d -m 700 gnupg; \
         gpg --batch --quiet --passphrase '' --quick-generate-key test@iot-agent.example; \
         gpg --armor --export >iot.asc",
    );
    let publish = || {
        shell(&block("**A repository for apt**"));
        shell("gpgconf --kill all");
    };
    publish();
    let system = Boot::default().bind(&folder.path().join("repository"), "/repository").start();
    let text = fs::read_to_string(repository("packaging/README.md")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("`deb [signed-by="));
    let line = line.expect("what goes into sources.list").trim_end_matches('`');
    let list = format!("deb [signed-by={line}\n")
        .replace("https://packages.example.net/", "file:/repository");
    fs::write(system.path("/etc/apt/sources.list"), list).unwrap();
    assert!(!system.is("apt-get update && apt-get install -y iot-agent"), "without its key");
    fs::create_dir_all(system.path("/etc/apt/keyrings")).unwrap();
    fs::copy(folder.path().join("iot.asc"), system.path("/etc/apt/keyrings/iot.asc")).unwrap();
    system.must(&format!("apt-get update && {INSTALL} iot-agent"));
    system.wait_for("systemctl is-active iot-agent");

    repacked(&package("amd64"), &packages.join("iot-agent-2.deb"), "0.1.0-2", |_| ());
    publish();
    system.must("apt-get update && apt-get upgrade -y");
    assert_eq!(system.must("dpkg-query -W -f '${Version}' iot-agent"), "0.1.0-2");
    system.wait_for("systemctl is-active iot-agent");
}

/// A system with a boot partition as the documentation has it prepared, on which
/// `script` is run.
#[track_caller]
fn first_boot(script: &str) -> System {
    let system = booted();
    let boot = system.path("/boot/firmware");
    fs::create_dir_all(&boot).unwrap();
    let put = |name: &str, text: &str| fs::write(boot.join(name), text).unwrap();
    put("iot-agent.toml", QUICK);
    put("credentials", "[default]\naws_access_key_id = x\naws_secret_access_key = y\n");
    for arch in ["amd64", "arm64"] {
        fs::copy(package(arch), boot.join(format!("iot-agent_0.1.0-1_{arch}.deb"))).unwrap();
    }
    system.must(script);
    system.wait_for("systemctl is-active iot-agent");
    system.must("iot-agent check --offline");
    assert!(system.is("test $(stat -c %a /etc/iot-agent.credentials) = 600"));
    assert!(!boot.join("credentials").exists(), "secrets stay on the boot partition");
    assert!(system.is("journalctl -b -u iot-agent -o cat | grep -q fleet.toml"));
    system
}

#[test]
fn the_first_boot_with_cloud_init_installs_and_configures() {
    let user_data = block("in `user-data`");
    assert_eq!(user_data.lines().next(), Some("#cloud-config"), "cloud-init takes nothing else");
    let print = "import sys, yaml; print(*yaml.safe_load(sys.argv[1])['runcmd'], sep='\\n')";
    first_boot(&succeed(Command::new(python()).args(["-c", print, &user_data])));
}

#[test]
fn the_first_boot_with_firstrun_installs_and_configures() {
    let system = first_boot(&block("`firstrun.sh`"));
    assert_eq!(system.must("cat /etc/hostname").trim(), "pi-attic");
    system.wait_for("ls /var/lib/iot-agent/lake/data/*/*.parquet");
    system.must("systemctl stop iot-agent");
    let lake = system.path("/var/lib/iot-agent/lake/data");
    let rows = duckdb::query(&lake, "select distinct id_device from lake");
    let ids: Vec<_> = rows.iter().map(|row| row["id_device"].as_str().unwrap()).collect();
    assert_eq!(ids, ["pi-attic"]);
}

#[test]
fn the_header_of_the_example_for_a_raspberry_pi_takes_it_on() {
    let system = installed(Boot::default(), QUICK);
    let text = fs::read_to_string(repository("config/examples/raspberry-pi.toml")).unwrap();
    let commands = text.lines().filter_map(|line| line.strip_prefix("#     sudo "));
    system.must(&commands.collect::<Vec<_>>().join(" && "));
    system.wait_for("systemctl is-active iot-agent");
    system.wait_for(
        "journalctl -b -u iot-agent _PID=$(pidof iot-agent) -o cat | grep -q 'nothing is delivered'",
    );
}

#[test]
fn data_bound_from_another_disk_is_there_after_a_boot_and_for_all_commands() {
    let mut system = installed(Boot::default(), UNREACHABLE);
    wait_for_commits(&system, 2);
    system.must("mkdir /data");
    system.must(&block("**A root that forgets**"));
    system.reboot();
    system.wait_for("systemctl is-active iot-agent");
    wait_for_commits(&system, 1);
    system.must("systemctl stop iot-agent");
    let own = system.must("stat -c %i /data/iot-agent/spool/ledger");
    assert_eq!(system.must("stat -c %i /var/lib/iot-agent/spool/ledger"), own);
    assert!(waiting(&system) >= 3);

    // Where the disk fails the machine comes up, and the root below takes nothing.
    system.must("echo '/proc/none /data none bind,nofail 0 0' >>/etc/fstab && mv /data /gone");
    system.reboot();
    assert!(!system.is("systemctl is-active iot-agent"));
    assert!(!system.is("test -e /var/lib/iot-agent/spool || test -e /data/iot-agent"));
}
