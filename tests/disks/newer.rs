//! A spool that a newer agent has left.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use iot_agent_test_support::rig::{Rig, SOON, run_of, stop};

use crate::{AGENT, wait_for_commit};

/// The exit code of `iot-agent --help` after which a restart is no help.
const CONFIG: i32 = 78;

/// Where the ledger's second slot begins, and bytes of a slot before its text.
const SLOT_BYTES: u64 = 4 << 20;
const HEADER_BYTES: usize = 16;

/// Makes both slots of a ledger of the next version, with checksums that hold.
fn age(ledger: &Path) {
    let file = fs::OpenOptions::new().read(true).write(true).open(ledger).unwrap();
    for slot in [0, SLOT_BYTES] {
        let mut bytes = vec![0; HEADER_BYTES];
        file.read_exact_at(&mut bytes, slot).unwrap();
        assert!(bytes.starts_with(b"iAL"), "both slots were written");
        let length = u32::from_le_bytes(*bytes[4..].first_chunk().unwrap());
        bytes.resize(HEADER_BYTES + length as usize, 0);
        file.read_exact_at(&mut bytes[HEADER_BYTES..], slot + HEADER_BYTES as u64).unwrap();
        bytes[3] += 1;
        bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
        file.write_all_at(&bytes, slot).unwrap();
    }
}

/// Every file below `folder`, and what it holds.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else {
            found.insert(path.clone(), fs::read(path).unwrap());
        }
    }
    found
}

#[test]
fn a_newer_spool_is_refused_with_a_code_of_its_own_and_not_touched() {
    let rig = Rig::new(AGENT);
    let cut_off = || rig.launch().set("sink.firehose.endpoint_url", "http://127.0.0.1:1");
    let mut agent = cut_off().start();
    run_of(&mut agent);
    wait_for_commit(&rig, &mut agent);
    stop(&mut agent);
    age(&rig.spool().join("ledger"));
    let before = contents(&rig.spool());
    for words in [vec!["run"], vec!["spool", "ls"], vec!["spool", "export"]] {
        let mut agent = cut_off().args(words.iter().copied()).start();
        let code = agent.finish(SOON).code();
        let said = agent.stderr();
        assert_eq!(code, Some(CONFIG), "{words:?}: {said}");
        assert!(said.contains("is of version 2, which is newer than this agent"), "{said}");
        assert!(said.contains("set spool.path to another folder"), "{said}");
        assert!(contents(&rig.spool()) == before, "{words:?} has changed something");
    }
}
