//! The command line, as a person, a pipe and a service manager meet it.

#![cfg(test)]

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use iot_agent_test_support::eventually;
use iot_agent_test_support::process::{Agent, Launch};
use rustix::fs::OFlags;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

const AGENT: &str = env!("CARGO_BIN_EXE_iot-agent");

/// Long enough for a busy machine; no test waits for it unless it fails.
const SOON: Duration = Duration::from_secs(30);

/// A folder of its own with a config whose sink cannot be reached, so that
/// what is sampled waits in the spool.
struct Home(tempfile::TempDir);

/// What a command that ended left behind.
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Home {
    fn new() -> Self {
        let home = Self(tempfile::tempdir().unwrap());
        let (spool, lake) = (home.path("spool"), home.path("lake"));
        let config = format!(
            "[device]\nid = \"test-host\"\n\
             [sample]\ninterval = \"100ms\"\n\
             [spool]\npath = {spool:?}\nmax_loss = \"1s\"\n\
             [send]\ninterval = \"1s\"\n\
             [sink]\nkind = \"firehose\"\n\
             [sink.firehose]\nstream = \"none\"\nregion = \"eu-west-1\"\n\
             endpoint_url = \"http://127.0.0.1:1\"\n\
             [sink.lake]\npath = {lake:?}\n"
        );
        fs::write(home.path("config.toml"), config).unwrap();
        home
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The command line of the agent with this home's config.
    fn line(&self, words: &str) -> String {
        format!("{AGENT} --config {} {words}", self.path("config.toml").display())
    }

    /// Starts `line` in a shell.
    fn shell(&self, line: &str) -> Agent {
        Launch::bare("/bin/sh", self.0.path())
            .args(["-c", line])
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .start()
    }

    fn start(&self, words: &str) -> Agent {
        self.shell(&format!("exec {}", self.line(words)))
    }

    /// Starts the agent; returns once samples are durable.
    fn sampling(&self, words: &str) -> Agent {
        let mut agent = self.start(words);
        agent.wait_for("the first commit", SOON, |_| self.committed());
        agent
    }

    /// Whether a generation lies beside lock and ledger.
    fn committed(&self) -> bool {
        fs::read_dir(self.path("spool")).map_or(0, Iterator::count) > 2
    }

    /// What comes of the agent with `words`, which ends by itself.
    #[track_caller]
    fn ended(&self, words: &str) -> Ended {
        let mut agent = self.start(words);
        let code = agent.finish(SOON).code();
        Ended { code, stdout: agent.stdout(), stderr: agent.stderr() }
    }

    /// The agent on a terminal of 100 columns. What that shows is in `stdout`,
    /// the agent's pid first.
    fn on_terminal(&self, words: &str, environment: &str) -> Agent {
        let agent = self.line(words);
        let line = format!("stty cols 100 rows 40; echo pid=$$; {environment} exec {agent}");
        Launch::bare("script", self.0.path())
            .args(["-qec", &line, "/dev/null"])
            .env("TERM", "xterm")
            .start()
    }

    /// A pipe for `> FIFO`, and the end of it to read from.
    fn fifo(&self) -> (PathBuf, File) {
        let path = self.path("fifo");
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        let nonblocking = OFlags::NONBLOCK.bits() as i32;
        let reader = OpenOptions::new().read(true).custom_flags(nonblocking).open(&path).unwrap();
        (path, reader)
    }
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn help_and_version_are_on_stdout() {
    let home = Home::new();
    let help = home.ended("--help");
    assert_eq!(help.code, Some(0));
    for words in ["Examples:", "Exit codes:", "--simulate", "check", "spool"] {
        assert!(help.stdout.contains(words), "no {words} in {}", help.stdout);
    }
    for command in ["run", "check", "sample", "spool", "spool ls", "spool export", "spool salvage"]
    {
        assert_eq!(home.ended(&format!("{command} --help")).code, Some(0), "{command}");
    }
    let version = concat!("iot-agent ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(home.ended("--version").stdout, version);
}

#[test]
fn a_wrong_command_line_is_2() {
    let home = Home::new();
    for (words, said) in [
        ("--nonsense", "--nonsense"),
        ("sampel", "sample"),
        ("--set sample.interval", "section.key=value"),
        ("run --devices 3", "--devices needs --simulate"),
    ] {
        let Ended { code, stderr, .. } = home.ended(words);
        assert_eq!(code, Some(2), "{words}");
        assert!(stderr.contains(said), "{stderr}");
    }
}

#[test]
fn a_wrong_configuration_is_78_whatever_the_command() {
    let home = Home::new();
    for command in ["", "run", "check", "sample", "spool ls"] {
        let Ended { code, stdout, stderr } =
            home.ended(&format!("{command} --set sample.intervall=1s"));
        assert_eq!(code, Some(78), "{command}");
        let said = stdout + &stderr;
        assert!(said.contains("intervall"), "{command}: {said}");
        assert!(!said.contains("panicked"), "{said}");
    }
}

#[test]
fn options_stand_on_either_side_of_the_command() {
    let home = Home::new();
    let Ended { stdout, .. } = home.ended("--set device.id=left sample --set sample.interval=2s");
    assert_eq!(lines(&stdout)[0]["id_device"], "left");
    let Ended { stdout, .. } = home.ended("--set device.id=left sample --set device.id=right");
    assert_eq!(lines(&stdout)[0]["id_device"], "right");
    let Ended { stdout, .. } = home.ended("--simulate sample --devices 3 --seed 7");
    let samples = lines(&stdout);
    assert_eq!(samples.len(), 3);
    for sample in samples {
        assert_eq!(sample["simulated"], true);
        assert!(sample["id_device"].as_str().unwrap().starts_with("sim-"));
    }
}

#[test]
fn sample_is_one_record_of_the_contract() {
    let schema: Value = serde_json::from_str(include_str!("../infra/schema/sample.json")).unwrap();
    let columns = schema["columns"].as_array().unwrap();
    let columns: Vec<&str> = columns.iter().map(|c| c["name"].as_str().unwrap()).collect();
    let Ended { code, stdout, stderr } = Home::new().ended("sample");
    assert_eq!(code, Some(0), "{stderr}");
    let samples = lines(&stdout);
    let [sample] = &samples[..] else { panic!("not one record: {samples:?}") };
    for name in sample.as_object().unwrap().keys() {
        assert!(columns.contains(&name.as_str()), "{name} is no column");
    }
    assert_eq!(sample["id_device"], "test-host");
    assert_eq!(sample["run"], 0);
    for share in ["cpu", "ram", "hd"] {
        let value = sample[share].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&value), "{share} is {value}");
    }
}

#[test]
fn a_reader_that_goes_away_ends_watching_quietly() {
    let home = Home::new();
    let watch = home.line("sample --watch");
    let mut shell = home.shell(&format!("{{ {watch}; echo code $? >&2; }} | head -n 2"));
    assert!(shell.finish(SOON).success());
    let seqs: Vec<u64> =
        lines(&shell.stdout()).iter().map(|line| line["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, [0, 1]);
    shell.wait_for("the agent's end", SOON, |shell| shell.stderr().contains("code"));
    assert!(shell.stderr().ends_with("code 0\n"), "{}", shell.stderr());
    assert!(!shell.stderr().contains("pipe"), "{}", shell.stderr());
}

#[test]
fn a_terminal_gets_a_table() {
    let home = Home::new();
    let mut session = home.on_terminal("sample", "");
    assert!(session.finish(SOON).success(), "{}", session.stdout());
    assert!(session.stdout().contains("temperature  "), "{}", session.stdout());
    assert!(!session.stdout().contains("{\""), "{}", session.stdout());
}

#[test]
fn no_color_is_honoured() {
    let home = Home::new();
    for (environment, coloured) in [("", true), ("NO_COLOR=1", false)] {
        let mut session = home.on_terminal("--set sink.kind=lake check", environment);
        assert!(session.finish(SOON).success(), "{}", session.stdout());
        assert_eq!(session.stdout().contains('\x1b'), coloured, "{environment}");
    }
}

#[test]
fn a_terminal_session_shows_the_live_line_and_the_query_and_stops() {
    let home = Home::new();
    let mut session = home.on_terminal("--set sink.kind=lake", "");
    for words in ["samples, ", "Rows are in the lake", "read_parquet"] {
        session.wait_for(words, SOON, |session| session.stdout().contains(words));
    }
    let text = session.stdout();
    let pid = text.strip_prefix("pid=").unwrap().lines().next().unwrap();
    kill_process(Pid::from_raw(pid.parse().unwrap()).unwrap(), Signal::INT).unwrap();
    assert!(session.finish(SOON).success(), "{}", session.stdout());
    assert!(session.stdout().contains("stopped"), "{}", session.stdout());
    assert_eq!(session.stdout().matches("Rows are in the lake").count(), 1);
}

#[test]
fn a_terminal_that_is_closed_stops_it_and_loses_nothing() {
    let home = Home::new();
    let mut session = home.on_terminal("run", "");
    session.wait_for("the first commit", SOON, |_| home.committed());
    // The terminal goes with the process that holds its other end.
    session.kill9();
    let mut export = None;
    eventually("the spool is free", SOON, || {
        let ended = home.ended("spool export");
        export = (ended.code == Some(0)).then_some(ended.stdout);
        export.is_some()
    });
    let last = lines(&export.unwrap()).pop().unwrap();
    assert_eq!(last["marker"]["reason"], "clean", "{last}");
}

#[test]
fn what_waits_can_be_listed_and_exported() {
    let home = Home::new();
    let mut agent = home.sampling("run");
    let start = Instant::now();
    assert_eq!(agent.terminate(SOON).code(), Some(0), "{}", agent.stderr());
    assert!(start.elapsed() < Duration::from_secs(5), "it took {:?}", start.elapsed());

    let listing = lines(&home.ended("spool ls").stdout).remove(0);
    let samples = listing["samples"].as_u64().unwrap();
    assert!(samples > 0, "{listing}");
    let [waiting] = &listing["waiting"].as_array().unwrap()[..] else { panic!("{listing}") };
    assert_eq!(waiting["device"], "test-host");
    assert_eq!(waiting["seqs"], json!([[0, samples - 1]]));

    let out = home.path("out.ndjson");
    let export = home.ended(&format!("spool export --out {}", out.display()));
    assert_eq!(export.code, Some(0), "{}", export.stderr);
    let mut records = lines(&fs::read_to_string(&out).unwrap());
    let end = records.pop().unwrap();
    assert_eq!(
        (&end["marker"]["kind"], &end["marker"]["run"]),
        (&json!("run_end"), &waiting["run"])
    );
    assert_eq!(
        (&end["marker"]["reason"], &end["marker"]["last_seq"]),
        (&json!("clean"), &json!(samples - 1))
    );
    assert_eq!(listing["declarations"][0]["kind"], "run_end");
    let seqs: Vec<u64> = records.iter().map(|record| record["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, (0..samples).collect::<Vec<_>>());
    assert!(records.iter().all(|record| record["run"] == waiting["run"]));
    assert_eq!(home.ended("spool export").stdout.lines().count() as u64, samples + 1);
    assert!(!home.path("out.ndjson.partial").exists());
}

#[test]
fn an_export_replaces_no_device() {
    let home = Home::new();
    fs::create_dir(home.path("spool")).unwrap();
    for out in [Path::new("/dev/null"), home.0.path()] {
        let Ended { code, stderr, .. } =
            home.ended(&format!("spool export --out {}", out.display()));
        assert_eq!(code, Some(1));
        assert!(stderr.contains("is no file"), "{stderr}");
    }
}

#[test]
fn a_spool_in_use_names_its_holder() {
    let home = Home::new();
    let agent = home.sampling("");
    let pid = format!("pid {}", agent.pid());
    for command in ["run", "spool ls", "spool export", "spool dead-letters"] {
        let Ended { code, stderr, .. } = home.ended(command);
        assert_eq!(code, Some(1), "{command}");
        assert!(stderr.contains(&pid), "{command}: {stderr}");
    }
    let Ended { code, stdout, .. } = home.ended("check --set sink.kind=lake");
    assert_eq!(code, Some(0), "{stdout}");
    assert!(stdout.contains(&pid), "{stdout}");
}

#[test]
fn check_says_what_is_unusable_and_leaves_nothing_behind() {
    let home = Home::new();
    let Ended { code, stdout, .. } = home.ended("check --json");
    assert_eq!(code, Some(69), "{stdout}");
    let report = &lines(&stdout)[0];
    assert_eq!(report["ok"], false);
    let findings = report["findings"].as_array().unwrap();
    let status = |part| findings.iter().find(|f| f["part"] == part).unwrap()["status"].clone();
    assert_eq!((status("spool"), status("sink")), (json!("ok"), json!("error")));
    assert_eq!(home.ended("check --offline").code, Some(0));
    assert!(!home.path("spool").exists());
    assert_eq!(home.ended("check --set sink.kind=lake").code, Some(0));
    assert!(!home.path("spool").exists() && !home.path("lake").exists());

    fs::write(home.path("spool"), "a file in the way").unwrap();
    let Ended { code, stdout, .. } = home.ended("check --set sink.kind=lake");
    assert_eq!(code, Some(1), "{stdout}");
}

#[test]
fn check_says_what_a_pace_and_a_budget_mean() {
    let home = Home::new();
    let words = "check --json --set sink.kind=lake --set send.daily_bytes=1MiB";
    let findings = |more: &str| {
        let Ended { code, stdout, .. } = home.ended(&format!("{words} {more}"));
        assert_eq!(code, Some(0), "{stdout}");
        let report = lines(&stdout).remove(0);
        let findings = report["findings"].as_array().unwrap().clone();
        findings.into_iter().filter(|finding| finding["part"] == "send").collect::<Vec<_>>()
    };
    let said = findings("--set send.backlog_rate=100KiB --set sample.interval=1d");
    println!("{said:?}");
    let text = |n: usize| said[n]["text"].as_str().unwrap().to_owned();
    assert_eq!((&said[0]["status"], &said[1]["status"]), (&json!("ok"), &json!("ok")));
    assert!(text(0).contains("a day's backlog") && text(0).contains("1s at"), "{}", text(0));
    assert!(text(1).contains("of the 1.00 MiB"), "{}", text(1));

    let slow = "--set send.backlog_rate=100B --set send.order=oldest-first";
    let said = findings(&format!("{slow} --set sample.interval=1s"));
    println!("{said:?}");
    assert_eq!((&said[0]["status"], &said[1]["status"]), (&json!("warning"), &json!("warning")));
    assert!(said[0]["text"].as_str().unwrap().contains("never catches up"));
    assert!(said[1]["text"].as_str().unwrap().contains("until 00:00 UTC"));
}

#[test]
fn a_second_signal_leaves_at_once() {
    let home = Home::new();
    // Nobody reads the pipe, so the sink hangs as soon as it is full.
    let (path, reader) = home.fifo();
    let words = "--set sink.kind=stdout --simulate --devices 2000";
    let line = home.line(words);
    let spool = home.path("spool");
    let line = format!("exec {line} --set spool.path={} >{}", spool.display(), path.display());
    let mut agent = home.shell(&line);
    agent.wait_for("a full pipe", SOON, |_| rustix::io::ioctl_fionread(&reader).unwrap() > 60_000);
    agent.signal(Signal::INT);
    agent.wait_for("the first to be heard", SOON, |agent| agent.stderr().contains("stopping"));
    // What comes within 50 ms is taken for an echo of the first.
    std::thread::sleep(Duration::from_millis(100));
    let start = Instant::now();
    agent.signal(Signal::INT);
    assert_eq!(agent.finish(SOON).code(), Some(130), "{}", agent.stderr());
    assert!(start.elapsed() < Duration::from_secs(1), "it took {:?}", start.elapsed());
}

#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let home = Home::new();
    let (path, reader) = home.fifo();
    let mut agent = home.shell(&format!("exec {} 2>{}", home.line("run"), path.display()));
    agent.wait_for("the first commit", SOON, |_| home.committed());
    drop(reader);
    assert_eq!(agent.terminate(SOON).code(), Some(0));
}

#[test]
fn a_journal_that_is_missing_leaves_the_log_on_stderr() {
    let home = Home::new();
    let stderr = home.path("stderr");
    let meta = File::create(&stderr).unwrap().metadata().unwrap();
    let stream = format!("JOURNAL_STREAM={}:{}", meta.dev(), meta.ino());
    let (sample, path) = (home.line("sample"), stderr.display());
    let mut agent = home.shell(&format!("{stream} IOT_AGENT_LOG=loud exec {sample} 2>{path}"));
    assert!(agent.finish(SOON).success());
    let journal = Path::new("/run/systemd/journal/socket").exists();
    let text = fs::read_to_string(&stderr).unwrap();
    assert_eq!(text.contains("IOT_AGENT_LOG=loud"), !journal, "{text}");
}
