//! Bad input has an answer: one message that names the thing, the place and the
//! remedy; the same from `check` and from `run`; and nothing half-written.

#![cfg(test)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use iot_agent_test_support::firehose::{Fault, Faults, FirehoseStandIn, Options};
use iot_agent_test_support::process::Launch;
use serde_json::Value;

const AGENT: &str = env!("CARGO_BIN_EXE_iot-agent");

/// Long enough for a busy machine; no test waits for it unless it fails.
const SOON: Duration = Duration::from_secs(60);

/// The exit codes of `iot-agent --help`.
const FAILURE: i32 = 1;
const UNAVAILABLE: i32 = 69;
const CONFIG: i32 = 78;

/// What `run` does about it.
enum Run {
    Ends(i32),
    /// Samples are kept and the message is in the log, once.
    GoesOn,
}

/// How the agent answers to what `launch` sets up. Returns the message.
#[track_caller]
fn answer(launch: impl Fn() -> Launch, check_code: i32, run: &Run, words: &[&str]) -> String {
    let launch = || launch().env("RUST_BACKTRACE", "1").env("AWS_EC2_METADATA_DISABLED", "true");
    let mut check = launch().args(["check", "--json"]).start();
    let code = check.finish(SOON).code();
    assert_eq!(code, Some(check_code), "{}{}", check.stdout(), check.stderr());
    assert!(check.stderr().is_empty(), "{}", check.stderr());
    let report: Value = serde_json::from_str(&check.stdout()).unwrap();
    let findings = report["findings"].as_array().unwrap();
    let errors: Vec<&Value> = findings.iter().filter(|f| f["status"] == "error").collect();
    let [error] = &errors[..] else { panic!("not one error: {report}") };
    let message = one_line(error["text"].as_str().unwrap());
    for words in words {
        assert!(message.contains(words), "no {words} in: {message}");
    }

    let mut agent = launch().arg("run").start();
    let said = |agent: &iot_agent_test_support::process::Agent| one_line(&agent.stderr());
    match run {
        Run::Ends(code) => {
            let ended = agent.finish(SOON).code();
            assert_eq!(ended, Some(*code), "{}", agent.stderr());
            let errors = agent.stderr().lines().filter(|l| l.starts_with("iot-agent: ")).count();
            assert_eq!(errors, 1, "{}", agent.stderr());
        }
        Run::GoesOn => {
            agent.wait_for("the message", SOON, |agent| said(agent).contains(&message));
            assert_eq!(agent.terminate(SOON).code(), Some(0), "{}", agent.stderr());
        }
    }
    let said = said(&agent);
    assert_eq!(said.matches(&message).count(), 1, "{message}\nis not once in\n{said}");
    for trace in ["panicked", "backtrace", "RUST_BACKTRACE", "src/"] {
        assert!(!said.contains(trace), "{said}");
    }
    message
}

/// Without line ends and columns.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What lies in `home`, by name.
fn entries(home: &Path) -> Vec<String> {
    let names = fs::read_dir(home).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

/// Refused before anything is touched.
#[track_caller]
fn assert_refused(home: &Path, launch: impl Fn() -> Launch, words: &[&str]) {
    answer(launch, CONFIG, &Run::Ends(CONFIG), words);
    let left = entries(home);
    assert!(left.iter().all(|name| name.ends_with(".toml") || name == "iot-agent"), "{left:?}");
}

#[test]
fn a_wrong_value_is_refused_with_its_place_and_what_is_allowed() {
    for (content, words) in [
        ("[sample]\ninterval = true\n", [":2:12:", "true is not a duration", "100ms to 1d"]),
        ("[sample]\ninterval = \"0s\"\n", [":2:12:", "\"0s\" is too short", "100ms to 1d"]),
        ("[send]\ninterval = 0\n", [":2:12:", "send.interval", "1s to 1h"]),
        ("[spool]\nmax_bytes = 0\n", [":2:13:", "0 is too small", "8 MiB to 16 TiB"]),
        ("[sink.lake]\nmax_bytes = \"0\"\n", [":2:13:", "too small", "16 MiB to 16 TiB"]),
        ("[device]\nid = \"a/b\"\n", [":2:6:", "contains the character '/'", "A-Z a-z 0-9"]),
        ("[send]\nintervall = \"1m\"\n", [":2:1:", "intervall", "Did you mean send.interval?"]),
        ("[sampel]\n", [":1:2:", "sampel", "Did you mean [sample]?"]),
        ("[sink]\nkind = \"firehose\"\n", [":2:8:", "sink.firehose.stream is missing", "Name the"]),
        ("[send]\ninterval = 10s\n", [":2:12:", "not TOML", "in \"quotes\""]),
    ] {
        let home = tempfile::tempdir().unwrap();
        let launch = || Launch::new(AGENT, home.path()).config(content);
        assert_refused(home.path(), launch, &["iot-agent.toml", words[0], words[1], words[2]]);
    }
}

#[test]
fn a_config_file_that_cannot_be_used_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let with =
        |name: &str| Launch::bare(AGENT, home.path()).arg("--config").arg(home.path().join(name));
    let words = ["missing.toml: does not exist", "--config"];
    assert_refused(home.path(), || with("missing.toml"), &words);

    fs::write(home.path().join("latin.toml"), b"[device]\nlabels = { site = \"K\xfcche\" }\n")
        .unwrap();
    let words = ["latin.toml:2:21: this is not UTF-8", "plain text in UTF-8"];
    assert_refused(home.path(), || with("latin.toml"), &words);

    let closed = home.path().join("closed.toml");
    fs::write(&closed, "").unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    let launch = || as_nobody(home.path()).arg("--config").arg(&closed);
    let words = ["closed.toml: may not be read by this user", "chmod a+r"];
    assert_refused(home.path(), launch, &words);
}

/// The agent as a user whom file modes hold back, which root is not.
fn as_nobody(home: &Path) -> Launch {
    if !rustix::process::geteuid().is_root() {
        return Launch::bare(AGENT, home);
    }
    // Nobody may not reach the build folder.
    let agent = home.join("iot-agent");
    if !agent.exists() {
        fs::copy(AGENT, &agent).unwrap();
        fs::set_permissions(home, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    Launch::bare(&agent.display().to_string(), home).wrapped_in(nobody)
}

#[test]
fn a_folder_that_may_not_be_written_is_named() {
    let home = tempfile::tempdir().unwrap();
    let config = home.path().join("iot-agent.toml");
    fs::write(&config, "").unwrap();
    let (closed, open) = (home.path().join("closed"), home.path().join("open"));
    for (folder, mode) in [(&closed, 0o555), (&open, 0o777)] {
        fs::create_dir(folder).unwrap();
        fs::set_permissions(folder, fs::Permissions::from_mode(mode)).unwrap();
    }
    let launch = |spool: &Path, lake: &Path| {
        let launch = as_nobody(home.path()).arg("--config").arg(&config).set("send.interval", "1s");
        launch
            .set("spool.path", spool.join("spool").display())
            .set("sink.lake.path", lake.join("lake").display())
    };
    let (spool, lake) = (closed.join("spool"), closed.join("lake"));
    let spool = spool.display().to_string();
    let words = [spool.as_str(), "cannot be created: Permission denied", "set spool.path"];
    answer(|| launch(&closed, &open), FAILURE, &Run::Ends(FAILURE), &words);
    assert_eq!(entries(&open), Vec::<String>::new());

    let lake = lake.display().to_string();
    let words = [lake.as_str(), "cannot be created: Permission denied", "give the folder to the"];
    answer(|| launch(&open, &closed), UNAVAILABLE, &Run::GoesOn, &words);
    assert_eq!(entries(&closed), Vec::<String>::new());
}

#[test]
fn a_file_where_a_folder_should_be_is_named() {
    let home = tempfile::tempdir().unwrap();
    let launch = || Launch::new(AGENT, home.path()).set("send.interval", "1s");
    fs::write(home.path().join("lake"), "mine").unwrap();
    let words = ["/lake", "sink.lake.path"];
    answer(launch, UNAVAILABLE, &Run::GoesOn, &words);
    assert_eq!(fs::read(home.path().join("lake")).unwrap(), b"mine");

    fs::remove_dir_all(home.path().join("spool")).unwrap();
    fs::write(home.path().join("spool"), "mine").unwrap();
    fs::remove_file(home.path().join("lake")).unwrap();
    answer(launch, FAILURE, &Run::Ends(FAILURE), &["/spool", "set spool.path"]);
    assert_eq!(fs::read(home.path().join("spool")).unwrap(), b"mine");
}

#[test]
fn a_spool_that_another_agent_holds_names_its_pid() {
    let home = tempfile::tempdir().unwrap();
    let launch = || Launch::new(AGENT, home.path());
    let mut first = launch().start();
    first.wait_for("its spool", SOON, |_| home.path().join("spool/ledger").exists());
    let pid = format!("pid {}", first.pid());
    let mut second = launch().start();
    assert_eq!(second.finish(SOON).code(), Some(FAILURE), "{}", second.stderr());
    let said = second.stderr();
    for words in ["held by another iot-agent", &pid, "stop that one", "set spool.path"] {
        assert!(said.contains(words), "{said}");
    }
    // The first one did not notice.
    assert_eq!(first.terminate(SOON).code(), Some(0), "{}", first.stderr());
}

/// A launch whose AWS set-up is only what a test adds.
fn to_firehose(home: &Path, stream: &str, endpoint: &str) -> Launch {
    Launch::new(AGENT, home).firehose(stream, endpoint).set("send.interval", "1s")
}

#[test]
fn an_aws_account_that_is_not_set_up_says_what_is_missing() {
    let home = tempfile::tempdir().unwrap();
    let keys = [("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")];
    let launch = || {
        let launch = Launch::new(AGENT, home.path()).set("sink.kind", "firehose");
        launch.set("sink.firehose.stream", "iot-telemetry").envs(keys)
    };
    let words = ["no AWS region", "AWS_REGION", "set `region`", "\"eu-west-1\""];
    answer(launch, UNAVAILABLE, &Run::Ends(FAILURE), &words);

    let launch = || to_firehose(home.path(), "iot-telemetry", "http://127.0.0.1:1");
    let words = ["firehose iot-telemetry (eu-west-1", "no AWS credentials", "`aws configure`"];
    answer(launch, UNAVAILABLE, &Run::GoesOn, &words);

    let missing = home.path().join("missing.pem").display().to_string();
    let launch = || launch().envs(keys).set("sink.firehose.ca_file", &missing);
    let words = [missing.as_str(), "cannot be read", "PEM file"];
    answer(launch, UNAVAILABLE, &Run::Ends(FAILURE), &words);
}

#[test]
fn a_service_that_does_not_take_the_data_is_quoted_with_what_to_do() {
    let stand_in = FirehoseStandIn::start(Options::default());
    let home = tempfile::tempdir().unwrap();
    let launch = |stream: &str, endpoint: &str| {
        let keys = stand_in.key().environment();
        let launch = to_firehose(home.path(), stream, endpoint);
        keys.iter().fold(launch, |launch, (name, value)| launch.env(name, value))
    };
    let words = ["there is no stream nonesuch in eu-west-1", "aws firehose list-delivery-streams"];
    answer(|| launch("nonesuch", &stand_in.url()), UNAVAILABLE, &Run::GoesOn, &words);

    stand_in.set_faults(Faults::Always(Fault::Html));
    let words = ["iot-telemetry", "a web page", "endpoint_url or a proxy"];
    answer(|| launch("iot-telemetry", &stand_in.url()), UNAVAILABLE, &Run::GoesOn, &words);

    let words = ["iot-telemetry", "http://127.0.0.1:1", "no answer", "refused"];
    answer(|| launch("iot-telemetry", "http://127.0.0.1:1"), UNAVAILABLE, &Run::GoesOn, &words);
    assert_eq!(stand_in.stored().totals().records, 0);
}
