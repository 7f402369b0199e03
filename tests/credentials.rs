//! Where credentials come from in a service, who may read them, and that no
//! secret is ever in a log or in the data.

#![cfg(test)]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use iot_agent_test_support::firehose::{Key, Options};
use iot_agent_test_support::process::{Agent, Launch};
use iot_agent_test_support::rig::{Rig, SOON, STOP};

const AGENT: &str = env!("CARGO_BIN_EXE_iot-agent");

/// All that speaks about credentials or requests, at its loudest.
const LOUDEST: &str = "trace,aws_config=trace,aws_credential_types=trace,aws_runtime=trace,\
    aws_sdk_firehose=trace,aws_sdk_sts=trace,aws_sigv4=trace,aws_smithy_http=trace,\
    aws_smithy_http_client=trace,aws_smithy_runtime=trace,aws_smithy_runtime_api=trace,\
    h2=trace,hyper=trace,hyper_util=trace,rustls=trace,sled=trace";

fn key() -> Key {
    Key {
        session_token: Some("TOKEN+of/this=session".into()),
        ..Key::new("ASIAOURS00000000", "SECRET+of/this/session")
    }
}

fn rig() -> Rig {
    Rig::with(AGENT, Options { keys: vec![key()], ..Options::default() })
}

/// `key` as a profile of a credentials file.
fn profile(name: &str, key: &Key) -> String {
    let Key { access_key_id, secret_access_key, session_token } = key;
    format!(
        "[{name}]\naws_access_key_id = {access_key_id}\n\
         aws_secret_access_key = {secret_access_key}\naws_session_token = {}\n",
        session_token.as_deref().unwrap()
    )
}

fn launch(rig: &Rig) -> Launch {
    let launch = rig.command().set("sink.firehose.endpoint_url", rig.stand_in.url());
    launch.env("AWS_EC2_METADATA_DISABLED", "true")
}

/// `text` as the credential `aws` of a service.
fn service(rig: &Rig, text: &str) -> PathBuf {
    let folder = rig.home().join("credentials");
    fs::create_dir(&folder).unwrap();
    write(&folder.join("aws"), text, 0o440);
    folder
}

fn write(path: &Path, text: &str, mode: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[track_caller]
fn assert_delivers(rig: &Rig, launch: Launch) -> Agent {
    let mut agent = launch.start();
    agent.wait_for("deliveries", SOON, |agent| {
        assert!(!agent.stderr().contains("nothing is delivered"), "{}", agent.stderr());
        rig.stand_in.stats().stored.samples > 10
    });
    assert!(agent.terminate(STOP).success(), "{}", agent.stderr());
    agent
}

#[test]
fn a_credential_of_the_service_will_do_by_itself() {
    let rig = rig();
    let folder = service(&rig, &profile("default", &key()));
    assert_delivers(&rig, launch(&rig).env("CREDENTIALS_DIRECTORY", folder));
}

#[test]
fn a_profile_is_found_in_it() {
    let rig = rig();
    let folder = service(&rig, &profile("telemetry", &key()));
    let launch = launch(&rig).env("CREDENTIALS_DIRECTORY", folder);
    assert_delivers(&rig, launch.set("sink.firehose.profile", "telemetry"));
}

#[test]
fn an_empty_one_is_none() {
    let rig = rig();
    let folder = service(&rig, "");
    write(&rig.home().join(".aws/credentials"), &profile("default", &key()), 0o600);
    assert_delivers(&rig, launch(&rig).env("CREDENTIALS_DIRECTORY", folder));
}

#[test]
fn a_file_that_is_named_wins() {
    let rig = rig();
    let folder =
        service(&rig, &profile("default", &Key { secret_access_key: "no".into(), ..key() }));
    let named = rig.home().join("named");
    write(&named, &profile("default", &key()), 0o600);
    let launch = launch(&rig).env("CREDENTIALS_DIRECTORY", folder);
    assert_delivers(&rig, launch.env("AWS_SHARED_CREDENTIALS_FILE", named));
}

#[track_caller]
fn check(rig: &Rig, launch: Launch) -> String {
    let mut check = launch.arg("check").start();
    assert!(check.finish(SOON).success(), "{}{}", check.stdout(), check.stderr());
    assert!(check.stdout().contains(&key().access_key_id), "{}", check.stdout());
    assert_eq!(rig.stand_in.stats().stored.records, 0);
    check.stdout()
}

#[test]
fn check_warns_of_secrets_that_others_may_read() {
    let rig = rig();
    let file = rig.home().join(".aws/credentials");
    write(&file, &profile("default", &key()), 0o640);
    let said = check(&rig, launch(&rig));
    let warning = format!("{}: mode 0640 lets others read it: chmod 600", file.display());
    assert!(said.contains(&warning), "{said}");
    write(&file, &profile("default", &key()), 0o600);
    let said = check(&rig, launch(&rig));
    assert!(!said.contains("chmod"), "{said}");
}

/// As in ExecReload; systemd guards it by an access control list, which shows
/// in the mode.
#[test]
fn check_sees_what_the_service_sees() {
    let rig = rig();
    let folder = service(&rig, &profile("default", &key()));
    let said = check(&rig, launch(&rig).env("CREDENTIALS_DIRECTORY", folder));
    assert!(!said.contains("chmod"), "{said}");
}

/// Asserts that neither log nor data hold a secret, whatever is logged.
#[track_caller]
fn assert_keeps_secrets(rig: &Rig, launch: Launch) {
    let agent = assert_delivers(rig, launch.env("IOT_AGENT_LOG", LOUDEST));
    let said = agent.stderr() + &agent.stdout();
    assert!(said.contains("canonical_request"), "this is not all that can be logged: {said}");
    assert_no_secret(&said);
}

#[track_caller]
fn assert_no_secret(said: &str) {
    let Key { secret_access_key, session_token, .. } = key();
    // Those that the stand-in makes for a role begin like the last two.
    let secrets = [
        secret_access_key,
        session_token.unwrap(),
        "session-secret".into(),
        "session-token".into(),
    ];
    for secret in secrets {
        let line = said.lines().find(|line| line.contains(&secret));
        assert!(line.is_none(), "{secret} is said: {}", line.unwrap());
    }
}

#[test]
fn no_secret_of_the_environment_is_said() {
    let rig = rig();
    let launch =
        key().environment().iter().fold(launch(&rig), |l, (name, value)| l.env(name, value));
    assert_keeps_secrets(&rig, launch);
}

#[test]
fn no_secret_of_a_file_is_said() {
    let rig = rig();
    let folder = service(&rig, &profile("default", &key()));
    assert_keeps_secrets(&rig, launch(&rig).env("CREDENTIALS_DIRECTORY", folder));
}

#[test]
fn no_secret_of_a_process_is_said() {
    let rig = rig();
    let Key { access_key_id, secret_access_key, session_token } = key();
    let answer = serde_json::json!({
        "Version": 1, "AccessKeyId": access_key_id, "SecretAccessKey": secret_access_key,
        "SessionToken": session_token, "Expiration": "2099-01-01T00:00:00Z",
    });
    let (script, config) = (rig.home().join("process"), rig.home().join(".aws/config"));
    write(&script, &format!("#!/bin/sh\necho '{answer}'\n"), 0o700);
    write(&config, &format!("[default]\ncredential_process = {}\n", script.display()), 0o600);
    assert_keeps_secrets(&rig, launch(&rig));
}

#[test]
fn no_secret_of_a_role_is_said() {
    let rig = rig();
    let folder = service(&rig, &profile("default", &key()));
    let launch = launch(&rig).env("CREDENTIALS_DIRECTORY", folder);
    let launch = launch.set("sink.firehose.role_arn", "arn:aws:iam::123456789012:role/iot-agent");
    assert_keeps_secrets(&rig, launch.env("AWS_ENDPOINT_URL_STS", rig.stand_in.url()));
}
