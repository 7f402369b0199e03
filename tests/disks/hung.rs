//! A disk that does not answer.

use std::fs;
use std::time::{Duration, Instant};

use iot_agent_test_support::mounts::{Frozen, Mounted};
use iot_agent_test_support::process::Agent;
use iot_agent_test_support::relay::Relay;
use iot_agent_test_support::rig::{Rig, SOON, STOP, stop};
use rustix::process::Signal;

use crate::{TROUBLE, WELL, assert_delivers, assert_nothing_missing, assert_said_once};
use crate::{assert_unbroken, offline, rig_on};

/// An agent that delivers while a commit of it hangs.
fn hung<'a>(disk: &'a Mounted, rig: &Rig) -> (Relay, Agent, Frozen<'a>) {
    let (relay, mut agent) = offline(rig);
    let frozen = disk.freeze();
    // A commit is under way from here on.
    std::thread::sleep(Duration::from_secs(2));
    relay.mend();
    assert_delivers(rig, &mut agent);
    (relay, agent, frozen)
}

#[test]
fn while_the_disk_hangs_it_samples_and_delivers_and_says_so_once() {
    let disk = Mounted::ext4(32 << 20);
    let rig = rig_on(&disk);
    let (_relay, mut agent, frozen) = hung(&disk, &rig);
    agent.wait_for("a word about it", SOON * 2, |agent| agent.stderr().contains(TROUBLE));
    assert_delivers(&rig, &mut agent);
    drop(frozen);
    agent.wait_for("a disk that answers", SOON, |agent| agent.stderr().contains(WELL));
    assert_said_once(&agent);
    let ended = stop(&mut agent);
    assert_nothing_missing(&rig, ended);
}

/// The process itself stays until the kernel lets go of the thread that hangs.
#[test]
fn a_stop_while_the_disk_hangs_takes_no_longer_than_any() {
    let disk = Mounted::ext4(32 << 20);
    let rig = rig_on(&disk);
    let (_relay, mut agent, frozen) = hung(&disk, &rig);
    let start = Instant::now();
    agent.signal(Signal::TERM);
    while !is_zombie(&agent) {
        assert!(start.elapsed() < STOP + Duration::from_secs(1), "{}", agent.stderr());
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("stopped within {:?}", start.elapsed());
    drop(frozen);
    agent.finish(SOON);
    // Whoever looks at the exit status and the log learns that it was no clean stop.
    assert!(agent.stderr().contains("the disk does not answer"), "{}", agent.stderr());
    rig.drain(|| rig.launch());
    assert_unbroken(&rig);
}

/// Whether its first thread has ended.
fn is_zombie(agent: &Agent) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", agent.pid())).unwrap();
    stat.rsplit(") ").next().unwrap().starts_with('Z')
}
