//! Nobody answers for a while.

use std::io::Read;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use iot_agent_test_support::by_tier;
use iot_agent_test_support::firehose::{Fault, Faults};
use iot_agent_test_support::process::Agent;
use iot_agent_test_support::relay::Relay;
use iot_agent_test_support::rig::{DEVICE, Rig, SOON, assert_complete, dates, run_of, stop};

use crate::AGENT;

/// Asserts that the agent samples through an outage, and delivers again within
/// `limit` of its end, with all of what was sampled meanwhile.
fn survives(
    rig: &Rig,
    mut agent: Agent,
    lasts: Duration,
    limit: Duration,
    (cut, mend): (impl FnOnce(), impl FnOnce()),
) {
    run_of(&mut agent);
    agent.wait_for("samples", SOON, |_| rig.stand_in.stats().stored.samples >= 10);
    cut();
    thread::sleep(lasts);
    let before = rig.stand_in.stats().stored.samples;
    mend();
    let back = Instant::now();
    agent.wait_for("deliveries", SOON, |_| rig.stand_in.stats().stored.samples > before);
    let after = back.elapsed();
    let ended = stop(&mut agent);
    let stored = rig.stand_in.stored();
    let dates = dates(&stored, DEVICE, ended.run);
    let steps = dates.values().zip(dates.values().skip(1)).map(|(from, to)| *to - *from);
    let longest = steps.max().unwrap();
    println!("offline {lasts:?}, again after {after:?}, {longest} at most between samples");
    assert_complete(&stored, ended, 1);
    // The cut may have hit the answer to one batch.
    assert!(stored.totals().duplicates <= 20, "{:?}", stored.totals());
    assert!(after <= limit, "{after:?}");
    assert!(longest.num_milliseconds() < 1500, "{longest}");
    let log = agent.stderr();
    assert_eq!(log.matches("nothing is delivered").count(), 1, "{log}");
    assert_eq!(log.matches("delivering again after").count(), 1, "{log}");
}

#[test]
fn a_refused_connection_delays_and_loses_nothing() {
    let rig = Rig::new(AGENT);
    let relay = Relay::to(rig.address());
    let agent = rig.launch().set("sink.firehose.endpoint_url", relay.url()).start();
    let ends = (|| relay.pull(), || relay.mend());
    let lasts = Duration::from_secs(by_tier(4, 10, 120));
    survives(&rig, agent, lasts, Duration::from_secs(20), ends);
}

#[test]
fn answers_that_never_come_delay_and_lose_nothing() {
    let rig = Rig::new(AGENT);
    let agent = rig.launch().start();
    let hang = || rig.stand_in.set_faults(Faults::Always(Fault::Hang));
    let ends = (hang, || rig.stand_in.set_faults(Faults::Never));
    // The request under way is given up after 10 s; then a first failure's wait.
    let limit = Duration::from_secs(20);
    survives(&rig, agent, Duration::from_secs(5), limit, ends);
}

/// What an agent took of the machine, and of the network, in one span.
#[derive(Debug, Clone, Copy)]
struct Cost {
    attempts: u64,
    bytes: u64,
    /// User and system time, 100 ticks a second (proc_pid_stat(5)).
    ticks: u64,
    /// Times that its main thread went to sleep.
    wakeups: u64,
    log_lines: u64,
}

/// A service that takes each request and closes without a word; counts
/// connections and bytes.
fn mute() -> (String, Arc<AtomicU64>, Arc<AtomicU64>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (attempts, bytes) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let counters = (attempts.clone(), bytes.clone());
    // Its thread ends with the process.
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            counters.0.fetch_add(1, Ordering::SeqCst);
            let mut buffer = [0; 64 << 10];
            // A request of one record is less.
            let read = client.read(&mut buffer).unwrap_or(0);
            counters.1.fetch_add(read as u64, Ordering::SeqCst);
        }
    });
    (url, attempts, bytes)
}

#[test]
fn a_long_outage_costs_no_more_than_a_short_one() {
    let rig = Rig::new(AGENT);
    let (url, attempts, bytes) = mute();
    let launch = rig.launch().set("sample.interval", "1s").set("send.interval", "5s");
    let mut agent = launch.set("sink.firehose.endpoint_url", url).start();
    run_of(&mut agent);
    let so_far = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", agent.pid())).unwrap();
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        let fields: Vec<u64> = fields.split(' ').skip(11).take(2).flat_map(str::parse).collect();
        Cost {
            attempts: attempts.load(Ordering::SeqCst),
            bytes: bytes.load(Ordering::SeqCst),
            ticks: fields.iter().sum(),
            wakeups: agent.status("voluntary_ctxt_switches"),
            log_lines: agent.stderr().lines().count() as u64,
        }
    };
    // The waits have grown to their bound.
    thread::sleep(Duration::from_secs(25));
    let span = Duration::from_secs(by_tier(20, 40, 600));
    let mut marks = vec![so_far()];
    for _ in 0..2 {
        thread::sleep(span);
        marks.push(so_far());
    }
    let cost = |from: Cost, to: Cost| Cost {
        attempts: to.attempts - from.attempts,
        bytes: to.bytes - from.bytes,
        ticks: to.ticks - from.ticks,
        wakeups: to.wakeups - from.wakeups,
        log_lines: to.log_lines - from.log_lines,
    };
    let (early, late) = (cost(marks[0], marks[1]), cost(marks[1], marks[2]));
    let seconds = span.as_secs();
    let an_hour = (early.attempts + late.attempts) * 1800 / seconds;
    println!("{span:?} offline: {early:?}\n{span:?} later:   {late:?}\n{an_hour} attempts an hour");
    // A wait of 0 to 10 s, 5 on average, lies between two.
    assert!(an_hour < 2 * 720, "{an_hour} attempts an hour");
    assert!(late.attempts <= 2 * early.attempts + 8, "{early:?} {late:?}");
    assert!(late.bytes <= (late.attempts + 1) * 16_384, "{late:?}");
    assert!(late.ticks <= 2 * early.ticks + 20, "{early:?} {late:?}");
    assert!(late.wakeups <= 2 * early.wakeups + 100, "{early:?} {late:?}");
    assert_eq!(late.log_lines, 0, "{}", agent.stderr());
    stop(&mut agent);
}
