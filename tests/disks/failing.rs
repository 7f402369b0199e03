//! Full, read-only and failing disks.

use std::process::{Child, Command};
use std::time::Duration;

use iot_agent_test_support::eventually;
use iot_agent_test_support::mounts::Mounted;
use iot_agent_test_support::process::Agent;
use iot_agent_test_support::relay::Relay;
use iot_agent_test_support::rig::{Rig, SOON, run_of, stop};
use rustix::process::{Pid, Signal, kill_process};

use crate::{AGENT, TROUBLE, WELL, assert_delivers, assert_nothing_missing, assert_said_once};
use crate::{assert_unbroken, launch, offline, rig_on};

#[test]
fn a_disk_that_others_fill_and_free_loses_nothing() {
    for disk in [Mounted::tmpfs(24 << 20), Mounted::ext4(32 << 20)] {
        let rig = rig_on(&disk);
        let relay = Relay::to(rig.address());
        relay.pull();
        let mut agent = launch(&rig, &relay).set("spool.keep_free", "0").start();
        run_of(&mut agent);
        let hog = disk.fill();
        agent.wait_for("a full disk", SOON, |agent| agent.stderr().contains(TROUBLE));
        relay.mend();
        assert_delivers(&rig, &mut agent);
        relay.pull();
        drop(hog);
        agent.wait_for("a disk with space", SOON * 2, |agent| agent.stderr().contains(WELL));
        assert_said_once(&agent);
        relay.mend();
        let ended = stop(&mut agent);
        assert_nothing_missing(&rig, ended);
    }
}

#[test]
fn a_start_on_a_read_only_disk_delivers_and_takes_to_it_once_it_can() {
    let disk = Mounted::ext4(32 << 20);
    let rig = rig_on(&disk);
    let (relay, mut agent) = offline(&rig);
    let before = stop(&mut agent);
    disk.remount("ro");
    relay.mend();
    let mut agent = launch(&rig, &relay).start();
    assert_ne!(run_of(&mut agent), before.run);
    assert_delivers(&rig, &mut agent);
    relay.pull();
    agent.wait_for("a read-only disk", SOON, |agent| agent.stderr().contains(TROUBLE));
    disk.remount("rw");
    agent.wait_for("a disk that takes it", SOON * 2, |agent| agent.stderr().contains(WELL));
    assert_said_once(&agent);
    relay.mend();
    let ended = stop(&mut agent);
    for ended in [before, ended] {
        assert_nothing_missing(&rig, ended);
    }
}

/// Answers in the kernel's place to whatever changes a file, until dropped.
struct Failing {
    strace: Child,
}

impl Failing {
    fn with(agent: &Agent, errno: &str) -> Self {
        let calls = "pwrite64,ftruncate,fallocate,fsync,fdatasync,sync_file_range,mkdir,rename,\
                     unlink,unlinkat,rmdir";
        let strace = Command::new("strace")
            .args(["-f", "-qq", "-o", "/dev/null", "-p", &agent.pid().to_string()])
            .args(["-e", &format!("trace={calls}")])
            .args(["-e", &format!("inject={calls}:error={errno}")])
            .spawn()
            .expect("`strace` is there: `tests/run` installs it");
        eventually("strace holds the agent", SOON, || agent.status("TracerPid") != 0);
        Self { strace }
    }
}

impl Drop for Failing {
    fn drop(&mut self) {
        // On a bare kill the agent's threads could stay stopped.
        let _ = kill_process(Pid::from_child(&self.strace), Signal::TERM);
        let _ = self.strace.wait();
    }
}

#[test]
fn a_disk_that_fails_every_write_for_a_while_loses_nothing() {
    for errno in ["EIO", "EROFS", "ENOSPC"] {
        let rig = Rig::new(AGENT);
        let (relay, mut agent) = offline(&rig);
        let failing = Failing::with(&agent, errno);
        agent.wait_for(errno, SOON, |agent| agent.stderr().contains(TROUBLE));
        relay.mend();
        assert_delivers(&rig, &mut agent);
        relay.pull();
        std::thread::sleep(Duration::from_secs(2));
        drop(failing);
        agent.wait_for("a disk that is well", SOON * 2, |agent| agent.stderr().contains(WELL));
        assert_said_once(&agent);
        // What the failed writes left behind must not harm what follows them.
        agent.kill9();
        relay.mend();
        let mut agent = launch(&rig, &relay).start();
        assert_delivers(&rig, &mut agent);
        let ended = stop(&mut agent);
        assert!(!agent.stderr().contains("ERROR"), "{}", agent.stderr());
        assert_nothing_missing(&rig, ended);
        assert_unbroken(&rig);
    }
}
