//! A first start where the disk takes nothing: there is no folder yet.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use iot_agent_test_support::mounts::{Hog, Mounted};
use iot_agent_test_support::process::Launch;
use iot_agent_test_support::relay::Relay;
use iot_agent_test_support::rig::{Rig, SOON, run_of, stop};

use crate::{AGENT, TROUBLE, WELL, assert_delivers, assert_nothing_missing, assert_said_once};
use crate::{assert_unbroken, launch, rig_on, wait_for_commit};

/// From here on the disk takes nothing.
fn refuse(disk: &Mounted, read_only: bool) -> Option<Hog> {
    if read_only {
        disk.remount("ro");
        return None;
    }
    Some(disk.fill())
}

#[test]
fn a_first_start_samples_and_delivers_and_makes_its_folder_once_it_can() {
    for read_only in [true, false] {
        let disk = Mounted::ext4(32 << 20);
        let rig = rig_on(&disk);
        let relay = Relay::to(rig.address());
        // The config file, too, lies on this disk.
        let agents = [(); 2].map(|()| launch(&rig, &relay).set("spool.keep_free", "0"));
        let hog = refuse(&disk, read_only);
        let [mut first, mut second] = agents.map(Launch::start);
        let runs = [run_of(&mut first), run_of(&mut second)];
        assert_ne!(runs[0] >> 20, runs[1] >> 20, "two starts, and none knows of the other");
        assert_delivers(&rig, &mut first);
        first.kill9();
        let trouble = "a disk that takes nothing";
        second.wait_for(trouble, SOON, |agent| agent.stderr().contains(TROUBLE));
        assert_delivers(&rig, &mut second);
        assert!(!rig.spool().exists());
        relay.pull();
        if read_only {
            disk.remount("rw");
        }
        drop(hog);
        second.wait_for("a disk that takes it", SOON * 2, |agent| agent.stderr().contains(WELL));
        assert_said_once(&second);
        wait_for_commit(&rig, &mut second);
        let mut third = launch(&rig, &relay).start();
        assert_eq!(third.finish(SOON).code(), Some(1));
        assert!(third.stderr().contains("is held by another iot-agent"), "{}", third.stderr());
        let ended = stop(&mut second);
        assert!(rig.waiting() > 0, "what was sampled meanwhile");
        relay.mend();
        assert_nothing_missing(&rig, ended);
        assert_unbroken(&rig);
        let stored = rig.stand_in.stored();
        assert!(stored.runs().any(|(_, run)| *run == ended.run + 1), "the next start counts on");
    }
}

/// Nobody but its owner can mend these, so they are told and not waited out.
#[test]
fn a_folder_that_cannot_be_had_at_all_ends_the_start_and_says_why() {
    let rig = Rig::new(AGENT);
    let file = rig.home().join("file");
    fs::write(&file, "").unwrap();
    for path in [file.clone(), file.join("spool")] {
        let mut agent = rig.launch().set("spool.path", path.display()).start();
        assert_eq!(agent.finish(SOON).code(), Some(1));
        let said = agent.stderr();
        assert!(said.contains("cannot be created") && said.contains("set spool.path"), "{said}");
    }
    let output = Command::new(AGENT)
        .args(["--set", "sink.kind=stdout", "--set", "spool.path=/var/lib/not-of-nobody"])
        .env_clear()
        .current_dir("/")
        .uid(65534)
        .gid(65534)
        .output()
        .expect("this test becomes another user: run it as root");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("Permission denied") && said.contains("set spool.path"), "{said}");
}
