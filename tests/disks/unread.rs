//! A disk that fails to read what earlier starts left on it.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use iot_agent_test_support::eventually;
use iot_agent_test_support::process::Agent;
use iot_agent_test_support::relay::Relay;
use iot_agent_test_support::rig::{Rig, SOON, run_of, stop};
use rustix::process::{Pid, Signal, kill_process};

use crate::{AGENT, DEVICES, devices, launch, undeclared};

/// The databases' files.
fn databases(spool: &Path) -> Vec<String> {
    let names = fs::read_dir(spool).unwrap().flatten();
    let generations =
        names.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"gen"));
    generations.map(|entry| entry.path().join("db").to_str().unwrap().to_owned()).collect()
}

/// Lets the agent's disk be well again: its tracer goes, a process of this
/// test, and the agent lives on.
fn heal(agent: &Agent) {
    let tracer = agent.status("TracerPid");
    assert_ne!(tracer, 0, "strace does not hold the agent");
    kill_process(Pid::from_raw(tracer as i32).unwrap(), Signal::TERM).unwrap();
    eventually("strace lets go", SOON, || agent.status("TracerPid") == 0);
}

#[test]
fn a_start_while_the_disk_reads_nothing_loses_nothing_of_a_spool_of_many_parts() {
    for with_ledger in [true, false] {
        let rig = Rig::new(AGENT);
        let relay = Relay::to(rig.address());
        relay.pull();
        let mut agent = devices(launch(&rig, &relay)).args(["--speed", "20x"]).start();
        run_of(&mut agent);
        agent.wait_for("a backlog", SOON * 2, |_| databases(&rig.spool()).len() >= 4);
        let before = stop(&mut agent);
        if !with_ledger {
            // Then each part is asked at the start what it holds.
            fs::remove_file(rig.spool().join("ledger")).unwrap();
        }
        let bad = databases(&rig.spool());
        let mut strace: Vec<&str> =
            "strace -D -I2 -f -qq -o /dev/null -e trace=pread64".split(' ').collect();
        strace.extend(["-e", "inject=pread64:error=EIO"]);
        bad.iter().for_each(|path| strace.extend(["-P", path]));
        let mut agent = devices(launch(&rig, &relay)).wrapped_in(strace).start();
        let run = run_of(&mut agent);
        relay.mend();
        let stored = || rig.stand_in.stored();
        let lives = || stored().runs().filter(|(_, of)| *of == run).count() as u64 == DEVICES;
        agent.wait_for("deliveries", SOON, |_| lives());
        // More than a few tries.
        sleep(Duration::from_secs(12));
        let of_before = stored().runs().any(|(_, run)| *run == before.run);
        assert!(!of_before, "nothing could be read");
        heal(&agent);
        agent.wait_for("all of the backlog", SOON * 4, |_| {
            sleep(Duration::from_millis(500));
            undeclared(&stored(), before) == Some(0)
        });
        let ended = stop(&mut agent);
        println!("{before:?}, {} parts, ledger {with_ledger}; {ended:?}", bad.len());
        let log = agent.stderr();
        assert!(!rig.spool().join("damaged").exists(), "{log}");
        assert!(!log.contains("no longer has all"), "{log}");
        let stored = stored();
        let gaps = stored.markers().iter().filter(|line| line["marker"]["kind"] == "gap").count();
        assert_eq!(gaps, 0, "nothing is lost");
    }
}
