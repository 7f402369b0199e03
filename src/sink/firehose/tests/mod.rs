//! The sink against the stand-in.
//!
//! Environment variables belong to a process, so every sink under test lives
//! in a child: this test binary again, running [`child`], which takes one order
//! a line on standard input and answers each on standard output.

mod access;
mod network;
mod verdicts;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use iot_agent_test_support::firehose::FirehoseStandIn;
use serde::{Deserialize, Serialize};

use super::{Firehose, Settings};
use crate::drain::{Batch, Parcel};
use crate::sink::Sink;

/// Set where this binary runs as a child.
const SETTINGS: &str = "IOT_AGENT_TEST_FIREHOSE";

/// What marks an answer among the lines of the test harness.
const ANSWER: &str = "ANSWER ";

#[derive(Debug, Serialize, Deserialize)]
enum Order {
    /// One parcel each.
    Deliver(Vec<String>),
    Probe,
    /// Answers the threads that were added since before the sink was made.
    Threads,
    ServerTime,
    /// How long to wait for an answer from here on, in milliseconds.
    Impatience,
}

/// The other half of [`Agent`].
#[test]
#[ignore = "a part of the other tests, which start it in a process of its own"]
fn child() {
    let settings = std::env::var(SETTINGS).expect("only the other tests start this one");
    let settings: BTreeMap<String, String> = serde_json::from_str(&settings).unwrap();
    let setting = |name: &str| settings.get(name).cloned();
    let settings = Settings {
        stream: setting("stream").unwrap(),
        region: setting("region"),
        endpoint_url: setting("endpoint_url"),
        profile: setting("profile"),
        role_arn: setting("role_arn"),
        ca_file: setting("ca_file").map(PathBuf::from),
    };
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    let before = threads();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut sink = match runtime.block_on(Firehose::new(&settings)) {
        Ok(sink) => sink,
        Err(error) => return println!("{ANSWER}{error}"),
    };
    println!("{ANSWER}{}", sink.name());
    for order in std::io::stdin().lines() {
        let answer = match serde_json::from_str(&order.unwrap()).unwrap() {
            Order::Deliver(parcels) => {
                let parcel = |ndjson: String| Parcel::new(ndjson.into(), 1, "pi".into(), 7, 0);
                let parcels = parcels.into_iter().map(parcel).collect();
                let batch = Batch { timestamp_sent: "2026-11-24 02".into(), parcels };
                format!("{:?}", runtime.block_on(sink.deliver(Arc::new(batch))))
            }
            Order::Probe => format!("{:?}", runtime.block_on(sink.probe())),
            Order::Threads => (threads() - before).to_string(),
            Order::ServerTime => format!("{:?}", sink.server_time().map(|(wall_ms, _)| wall_ms)),
            Order::Impatience => {
                let link = Arc::get_mut(&mut sink.link).expect("nothing is under way");
                link.patience = |_| Duration::from_secs(3);
                String::new()
            }
        };
        println!("{ANSWER}{answer}");
    }
}

/// A sink in a process of its own.
struct Agent {
    child: Child,
    orders: Option<ChildStdin>,
    answers: std::io::Lines<BufReader<ChildStdout>>,
    secrets: Vec<String>,
    /// Its name, or why it could not be made.
    made: String,
}

/// How a child is started.
struct Setup {
    settings: BTreeMap<String, String>,
    environment: BTreeMap<String, String>,
}

impl Setup {
    /// Stream, endpoint and authority of the stand-in, its key in the
    /// environment, and no home and no instance metadata to look at.
    fn new(stand_in: &FirehoseStandIn) -> Self {
        let mut setup = Self::elsewhere(&stand_in.url());
        setup.environment.extend(stand_in.key().environment());
        match stand_in.ca_pem_path() {
            Some(ca) => setup.set("ca_file", &ca.display().to_string()),
            None => setup,
        }
    }

    fn elsewhere(url: &str) -> Self {
        let environment = [
            ("HOME", "/nonexistent"),
            ("AWS_REGION", "eu-west-1"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ];
        let settings = [("stream", "iot-telemetry"), ("endpoint_url", url)];
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        Self { settings: settings.map(owned).into(), environment: environment.map(owned).into() }
    }

    fn set(mut self, setting: &str, value: &str) -> Self {
        self.settings.insert(setting.into(), value.into());
        self
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.into(), value.into());
        self
    }

    fn unset(mut self, name: &str) -> Self {
        self.environment.remove(name);
        self
    }

    /// No key in the environment.
    fn without_key(self) -> Self {
        self.unset("AWS_ACCESS_KEY_ID").unset("AWS_SECRET_ACCESS_KEY")
    }

    /// The sink's name, or why it cannot be made.
    fn made(self) -> String {
        self.start().made.clone()
    }

    fn start(self) -> Agent {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "sink::firehose::tests::child", "--ignored"])
            .args(["--nocapture", "--test-threads=1"])
            .env_clear()
            .env(SETTINGS, serde_json::to_string(&self.settings).unwrap())
            .envs(&self.environment)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let orders = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().unwrap()).lines();
        let secret = |(name, value): (&String, &String)| {
            (name.contains("SECRET") || name.contains("TOKEN")).then(|| value.clone())
        };
        let secrets = self.environment.iter().filter_map(secret).collect();
        let mut agent = Agent { child, orders, answers, secrets, made: String::new() };
        agent.made = agent.answer();
        agent
    }
}

impl Agent {
    fn answer(&mut self) -> String {
        let answer = loop {
            let line = self.answers.next().expect("the child ended").unwrap();
            if let Some((_, answer)) = line.split_once(ANSWER) {
                break answer.to_owned();
            }
        };
        for secret in &self.secrets {
            assert!(!answer.contains(secret.as_str()), "a secret shows: {answer}");
        }
        answer
    }

    fn order(&mut self, order: &Order) -> String {
        let mut orders = self.orders.as_ref().unwrap();
        writeln!(orders, "{}", serde_json::to_string(order).unwrap()).unwrap();
        self.answer()
    }

    /// The verdict as Rust's `Debug` shows it.
    fn deliver(&mut self, parcels: &[&str]) -> String {
        self.order(&Order::Deliver(parcels.iter().map(|parcel| (*parcel).to_owned()).collect()))
    }

    fn probe(&mut self) -> String {
        self.order(&Order::Probe)
    }
}

impl Drop for Agent {
    /// The end of its input ends the child.
    fn drop(&mut self) {
        self.orders = None;
        let _ = self.child.wait();
    }
}

/// One sample, as a line.
fn line(seq: u64) -> String {
    format!("{{\"id_device\":\"pi\",\"run\":7,\"seq\":{seq},\"cpu\":0.5}}\n")
}

const DELIVERED: &str = "Answered([Delivered])";

/// Asserts that `answer` holds each of the words.
#[track_caller]
fn says(answer: &str, words: &[&str]) {
    for word in words {
        assert!(answer.contains(word), "{word:?} is missing in: {answer}");
    }
}
