//! What goes to the journal: fields to search by, and syslog's priorities. Its
//! socket is one of the test's own, in a mount namespace.
//!
//! Needs: root

#![cfg(test)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::net::UnixDatagram;

use iot_agent_test_support::process::Agent;
use iot_agent_test_support::rig::{Rig, SOON, STOP};
use rustix::process::Signal;

const AGENT: &str = env!("CARGO_BIN_EXE_iot-agent");

/// `$0` is the socket, `$@` the agent, whose stderr is called the journal's.
const UNDER_A_JOURNAL: &str = r#"set -e
mount -t tmpfs none /run
mkdir -p /run/systemd/journal
touch /run/systemd/journal/socket
mount --bind "$0" /run/systemd/journal/socket
export JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2)
exec "$@""#;

type Entry = BTreeMap<String, String>;

struct Journal {
    socket: UnixDatagram,
    entries: Vec<Entry>,
}

impl Journal {
    fn receive(&mut self) {
        let mut buffer = vec![0; 1 << 18];
        while let Ok(bytes) = self.socket.recv(&mut buffer) {
            // An empty one asks whether a journal is there.
            if bytes > 0 {
                self.entries.push(parse(&buffer[..bytes]));
            }
        }
    }

    /// The first entry whose message begins so.
    #[track_caller]
    fn wait_for(&mut self, agent: &mut Agent, message: &str) -> Entry {
        let mut found = None;
        agent.wait_for(message, SOON, |_| {
            self.receive();
            let mut entries = self.entries.iter();
            found = entries.find(|entry| entry["MESSAGE"].starts_with(message)).cloned();
            found.is_some()
        });
        found.unwrap()
    }
}

/// <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>: `NAME=value`, or the name
/// alone, the length in eight bytes and the value.
fn parse(mut bytes: &[u8]) -> Entry {
    let mut entry = Entry::new();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    while !bytes.is_empty() {
        let end = bytes.iter().position(|byte| *byte == b'\n').unwrap();
        let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
        if let Some(equals) = line.iter().position(|byte| *byte == b'=') {
            entry.insert(text(&line[..equals]), text(&line[equals + 1..]));
            bytes = rest;
        } else {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            entry.insert(text(line), text(&rest[8..8 + length]));
            bytes = &rest[8 + length + 1..];
        }
    }
    entry
}

#[test]
fn entries_have_fields_to_search_by_and_priorities_of_syslog() {
    let rig = Rig::new(AGENT);
    let path = rig.home().join("journal");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut journal = Journal { socket, entries: Vec::new() };
    let config = rig.home().join("iot-agent.toml");
    let wrapper = ["unshare", "-m", "sh", "-c", UNDER_A_JOURNAL, path.to_str().unwrap()];
    // Refused at once.
    let launch = rig.launch().set("sink.firehose.endpoint_url", "http://127.0.0.1:9");
    let mut agent = launch.wrapped_in(wrapper).start();

    let sampling = journal.wait_for(&mut agent, "sampling");
    assert_eq!(sampling["PRIORITY"], "6");
    assert_eq!(sampling["SYSLOG_IDENTIFIER"], "iot-agent");
    assert!(sampling["IOT_RUN"].parse::<u64>().unwrap() > 0);
    assert!(sampling["IOT_SINK"].starts_with("firehose iot-telemetry"), "{sampling:?}");
    assert_eq!(sampling["IOT_SPOOL"], rig.spool().to_str().unwrap());

    let outage = journal.wait_for(&mut agent, "nothing is delivered");
    assert_eq!(outage["PRIORITY"], "4");
    assert_eq!(
        (&outage["IOT_SINK"], &*outage["IOT_REASON"]),
        (&sampling["IOT_SINK"], "Unreachable")
    );
    assert!(outage["IOT_BACKLOG_BYTES"].parse::<u64>().unwrap() > 0);

    fs::write(&config, "device.id = 7\nspool = 8").unwrap();
    agent.signal(Signal::HUP);
    let refused = journal.wait_for(&mut agent, "the old configuration stays");
    assert_eq!(refused["PRIORITY"], "3");
    assert!(refused["MESSAGE"].contains("device.id = 7"), "the whole of it: {refused:?}");

    assert!(agent.terminate(STOP).success(), "{}", agent.stderr());
    journal.receive();
    let stopped = journal.entries.iter().find(|entry| entry["MESSAGE"] == "stopped").unwrap();
    assert!(stopped["IOT_SAMPLES"].parse::<u64>().unwrap() > 0, "{stopped:?}");
    assert_eq!(stopped["IOT_DELIVERED"], "0");
    assert_eq!(agent.stderr(), "", "all of it goes to the journal");
}
