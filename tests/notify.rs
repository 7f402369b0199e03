//! What the service manager is told: readiness, a status line, the watchdog's
//! pings, the stop; by a socket of its own in place of systemd's.

#![cfg(test)]

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use iot_agent_test_support::manager::Manager;
use iot_agent_test_support::process::Launch;
use iot_agent_test_support::rig::{Rig, SOON, STOP};
use tempfile::TempDir;

const AGENT: &str = env!("CARGO_BIN_EXE_iot-agent");

fn into_a_lake(home: &TempDir) -> Launch {
    Launch::new(AGENT, home.path()).set("clock.wait", "0s")
}

#[test]
fn it_is_ready_with_its_first_sample_then_says_what_it_does_and_that_it_stops() {
    let (manager, home) = (Manager::new(), TempDir::new().unwrap());
    let mut agent = manager.service(into_a_lake(&home), None).start();
    manager.wait_for(&mut agent, "READY", SOON, |value| value == "1");
    let first = manager.told().remove(0);
    assert_eq!(first.get("READY"), Some("1"), "{first:?}");
    let line = first.get("STATUS").unwrap().to_owned();
    assert!(line.starts_with("starting; "), "{line}");
    assert!(line.contains("; last sample 20"), "{line}");
    let delivers =
        |line: &str| line.starts_with("delivering to lake ") && line.contains("; last delivery 20");
    manager.wait_for(&mut agent, "STATUS", SOON, delivers);
    assert!(agent.terminate(STOP).success(), "{}", agent.stderr());
    assert_eq!(manager.values("STOPPING"), ["1"]);
    assert_eq!(manager.values("READY"), ["1"]);
    assert_eq!(manager.values("WATCHDOG"), Vec::<String>::new(), "nobody asked for pings");
}

#[test]
fn a_configuration_that_is_wrong_is_never_ready_and_ends_with_78() {
    let (manager, home) = (Manager::new(), TempDir::new().unwrap());
    let launch = into_a_lake(&home).set("sample.interval", "soon");
    let mut agent = manager.service(launch, None).start();
    assert_eq!(agent.finish(SOON).code(), Some(78), "{}", agent.stderr());
    assert!(manager.told().is_empty(), "{:?}", manager.told());
}

#[test]
fn a_sink_that_refuses_is_in_the_status_line() {
    let (manager, rig) = (Manager::new(), Rig::new(AGENT));
    let launch = rig.launch().set("sink.firehose.stream", "no-such-stream");
    let mut agent = manager.service(launch, None).start();
    let refused =
        |line: &str| line.starts_with("nothing is delivered: ") && line.contains("no-such-stream");
    manager.wait_for(&mut agent, "STATUS", SOON, refused);
    assert!(agent.terminate(STOP).success(), "{}", agent.stderr());
}

#[test]
fn the_status_line_changes_every_ten_seconds_at_most() {
    let (manager, rig) = (Manager::new(), Rig::new(AGENT));
    let mut agent = manager.service(rig.launch(), None).start();
    agent.wait_for("status lines", SOON * 2, |_| manager.values("STATUS").len() >= 3);
    let times = manager.times("STATUS");
    for pair in times.windows(2) {
        let between = pair[1] - pair[0];
        // A message may wait for its reader.
        assert!(between > Duration::from_secs(8), "{between:?}: {:?}", manager.values("STATUS"));
    }
}

#[test]
fn pings_come_in_time_though_nothing_else_wakes_it() {
    let (manager, home) = (Manager::new(), TempDir::new().unwrap());
    let period = Duration::from_secs(6);
    let launch = into_a_lake(&home).set("sample.interval", "1h").set("send.interval", "1h");
    let mut agent = manager.service(launch, Some(period)).start();
    agent.wait_for("pings", SOON * 2, |_| manager.times("WATCHDOG").len() >= 4);
    for pair in manager.times("WATCHDOG").windows(2) {
        assert!(pair[1] - pair[0] < period, "the manager would have killed it");
    }
}

#[test]
fn a_watchdog_of_another_process_is_not_fed() {
    let (manager, rig) = (Manager::new(), Rig::new(AGENT));
    let launch = manager.service(rig.launch(), Some(Duration::from_millis(200)));
    let mut agent = launch.env("WATCHDOG_PID", "1").start();
    agent.wait_for("deliveries", SOON, |_| rig.stand_in.stats().stored.samples > 20);
    assert_eq!(manager.values("READY"), ["1"]);
    assert_eq!(manager.values("WATCHDOG"), Vec::<String>::new());
}

#[test]
fn a_socket_without_a_file_will_do() {
    let name = format!("iot-agent-notify-{}", std::process::id());
    let (manager, home) = (Manager::abstractly(&name), TempDir::new().unwrap());
    let mut agent = into_a_lake(&home).env("NOTIFY_SOCKET", format!("@{name}")).start();
    manager.wait_for(&mut agent, "READY", SOON, |value| value == "1");
}

#[test]
fn a_manager_that_never_reads_delays_nothing() {
    let rig = Rig::new(AGENT);
    let path = rig.home().join("notify");
    let deaf = UnixDatagram::bind(&path).unwrap();
    let launch = rig.launch().env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "200000");
    let mut agent = launch.start();
    let queue: usize = std::fs::read_to_string("/proc/sys/net/unix/max_dgram_qlen")
        .map_or(10, |text| text.trim().parse().unwrap());
    // One ping goes along with every sample.
    let enough = queue as u64 + 50;
    agent.wait_for("deliveries", SOON * 3, |_| rig.stand_in.stats().stored.samples > enough);
    assert!(agent.terminate(STOP).success(), "{}", agent.stderr());
    deaf.set_nonblocking(true).unwrap();
    let held = std::iter::from_fn(|| deaf.recv(&mut [0; 4096]).ok()).count();
    assert!(held <= queue + 1, "{held} messages were held: it never had to do without");
}

#[test]
fn a_socket_that_is_not_there_is_said_once_and_does_no_harm() {
    let rig = Rig::new(AGENT);
    let mut agent = rig.launch().env("NOTIFY_SOCKET", rig.home().join("nobody")).start();
    agent.wait_for("deliveries", SOON, |_| rig.stand_in.stats().stored.samples > 20);
    let log = agent.stderr();
    assert_eq!(log.matches("the service manager is told nothing").count(), 1, "{log}");
}
