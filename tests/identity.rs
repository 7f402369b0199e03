//! (`id_device`, `run`, `seq`) names one sample, whatever becomes of the state:
//! copied to another machine, lost, damaged, or nowhere to be kept.
//!
//! An old copy that is put back on the machine it came from is the one case
//! that nothing on the device can tell.
//!
//! Needs: root

#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use iot_agent_test_support::firehose::FirehoseStandIn;
use iot_agent_test_support::mounts::Mounted;
use iot_agent_test_support::process::{Agent, Launch};
use iot_agent_test_support::records::{number, text};
use iot_agent_test_support::rig::run_of;
use iot_agent_test_support::{by_tier, rng};
use rand::RngExt;
use serde_json::Value;

const AGENT: &str = env!("CARGO_BIN_EXE_iot-agent");

/// What happened to a machine's state before a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    Kept,
    Lost,
    LedgerLost,
    LedgerDamaged,
    ReadOnly,
    CopiedFromAnother,
}

const FATES: [Fate; 6] = [
    Fate::Kept,
    Fate::Lost,
    Fate::LedgerLost,
    Fate::LedgerDamaged,
    Fate::ReadOnly,
    Fate::CopiedFromAnother,
];

/// A machine, which shares its device id with its clones.
struct Machine {
    disk: Mounted,
    id: PathBuf,
    read_only: bool,
}

impl Machine {
    fn new(number: usize) -> Self {
        let disk = Mounted::tmpfs(32 << 20);
        let id = disk.path().join("machine-id");
        fs::write(&id, format!("{number:032x}\n")).unwrap();
        fs::write(disk.path().join("iot-agent.toml"), "").unwrap();
        Self { disk, id, read_only: false }
    }

    fn spool(&self) -> PathBuf {
        self.disk.path().join("spool")
    }

    fn ledger(&self) -> PathBuf {
        self.spool().join("ledger")
    }

    fn befall(&mut self, fate: Fate, other: &Path) {
        if std::mem::replace(&mut self.read_only, fate == Fate::ReadOnly) {
            self.disk.remount("rw");
        }
        match fate {
            Fate::Kept => {}
            Fate::Lost => drop(fs::remove_dir_all(self.spool())),
            Fate::LedgerLost => drop(fs::remove_file(self.ledger())),
            Fate::LedgerDamaged if self.ledger().exists() => {
                fs::write(self.ledger(), vec![0xa5; 5 << 20]).unwrap();
            }
            Fate::LedgerDamaged => {}
            Fate::ReadOnly => {
                // One that cannot even be made ends a start.
                fs::create_dir_all(self.spool()).unwrap();
                self.disk.remount("ro");
            }
            Fate::CopiedFromAnother => {
                let _ = fs::remove_dir_all(self.spool());
                if other.exists() {
                    let copied = Command::new("cp").arg("-r").args([other, &self.spool()]).status();
                    assert!(copied.unwrap().success());
                }
            }
        }
    }

    fn start(&self, stand_in: &FirehoseStandIn) -> Agent {
        let script = "mount --bind \"$0\" /etc/machine-id; exec \"$@\"";
        let wrapper = ["unshare", "--mount", "sh", "-ec", script, self.id.to_str().unwrap()];
        let launch = Launch::new(AGENT, self.disk.path())
            .set("device.id", "pi-attic")
            .set("sample.interval", "100ms")
            .set("spool.max_loss", "1s")
            .set("send.interval", "1s")
            .set("clock.wait", "0s")
            .firehose("iot-telemetry", &stand_in.url())
            .wrapped_in(wrapper);
        let keys = stand_in.key().environment();
        keys.iter().fold(launch, |launch, (name, value)| launch.env(name, value)).start()
    }
}

#[test]
fn no_two_samples_share_their_identity() {
    let mut random = rng();
    let stand_in = FirehoseStandIn::start(Default::default());
    let mut machines = [1, 2].map(Machine::new);
    let (mut runs, mut fates) = (BTreeSet::new(), BTreeMap::new());
    let starts = by_tier(12, 24, 400);
    for start in 0..starts {
        let [one, other] = {
            let which = random.random_range(0..2);
            [which, 1 - which]
        };
        let fate = FATES[random.random_range(0..FATES.len())];
        let from = machines[other].spool();
        machines[one].befall(fate, &from);
        *fates.entry(fate).or_insert(0) += 1;
        let mut agent = machines[one].start(&stand_in);
        let run = run_of(&mut agent);
        assert!(runs.insert(run), "start {start}, {fate:?}: run {run} again\n{}", agent.stderr());
        // Some get to deliver, some to commit, and some to neither.
        thread::sleep(Duration::from_millis(random.random_range(0..1600)));
        agent.kill9();
    }
    let stored = stand_in.stored();
    println!("{starts} starts, {fates:?}; {:?}", stored.totals());
    let mut samples: BTreeMap<(u64, u64), Value> = BTreeMap::new();
    for mut line in stored.lines().filter(|line| line["seq"].is_u64()) {
        assert_eq!(text(&line, "id_device"), "pi-attic");
        line.as_object_mut().unwrap().remove("timestamp_sent");
        let identity = (number(&line, "run"), number(&line, "seq"));
        // A copied spool delivers the very same sample once more.
        let first = samples.entry(identity).or_insert_with(|| line.clone());
        assert_eq!(*first, line, "two samples are {identity:?}");
    }
}
