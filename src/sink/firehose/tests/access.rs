//! Where credentials come from, and what is said where they don't.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use iot_agent_test_support::firehose::{Fault, Faults, FirehoseStandIn, Key, Options};

use super::{DELIVERED, Setup, line, says};

const ROLE: &str = "arn:aws:iam::123456789012:role/device";

fn stand_in() -> FirehoseStandIn {
    FirehoseStandIn::start(Options::default())
}

/// A folder, and the path of a profile file in it.
fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config");
    (folder, file)
}

fn with_profile(stand_in: &FirehoseStandIn, file: &Path) -> Setup {
    Setup::new(stand_in).env("AWS_CONFIG_FILE", &file.display().to_string())
}

fn keys_of(key: &Key) -> String {
    let (id, secret) = (&key.access_key_id, &key.secret_access_key);
    format!("aws_access_key_id = {id}\naws_secret_access_key = {secret}\n")
}

#[test]
fn without_credentials_the_places_that_were_tried_are_named() {
    let stand_in = stand_in();
    let mut agent = Setup::new(&stand_in).without_key().start();
    for _ in 0..2 {
        let verdict = agent.deliver(&[&line(0)]);
        println!("{verdict}");
        let words = ["Failed", "kind: Credentials", "AWS_ACCESS_KEY_ID", "~/.aws/credentials"];
        says(&verdict, &words);
    }
    says(&agent.probe(), &["Err", "kind: Credentials"]);
    assert_eq!(stand_in.stats().requests, 0);
}

#[test]
fn an_unknown_key_a_wrong_secret_and_an_expired_token_are_told_apart() {
    let mut token = Key::new("ASIAEXPIRING", "a secret");
    token.session_token = Some("a token".into());
    let mut options = Options::default();
    options.keys.push(token.clone());
    let stand_in = FirehoseStandIn::start(options);

    let unknown = Setup::new(&stand_in).env("AWS_ACCESS_KEY_ID", "AKIAUNKNOWN");
    let verdict = unknown.start().deliver(&[&line(0)]);
    says(&verdict, &["kind: Credentials", "AKIAUNKNOWN is not known to AWS"]);

    let wrong = Setup::new(&stand_in).env("AWS_SECRET_ACCESS_KEY", "another secret");
    let verdict = wrong.start().deliver(&[&line(0)]);
    says(&verdict, &["kind: Credentials", "the secret does not fit access key AKIASTANDIN00000"]);

    let mut session = Setup::new(&stand_in);
    session.environment.extend(token.environment());
    let mut agent = session.start();
    assert_eq!(agent.deliver(&[&line(0)]), DELIVERED);
    stand_in.expire_tokens();
    let verdict = agent.deliver(&[&line(1)]);
    says(
        &verdict,
        &["kind: Credentials", "the session token of access key ASIAEXPIRING has expired"],
    );
}

#[test]
fn a_region_that_is_not_the_endpoints_is_a_matter_of_configuration() {
    let stand_in = stand_in();
    let mut agent = Setup::new(&stand_in).set("region", "eu-north-1").start();
    let verdict = agent.deliver(&[&line(0)]);
    says(&verdict, &["Failed", "kind: Configuration", "the endpoint is not in eu-north-1"]);
}

#[test]
fn the_region_comes_from_the_settings_the_environment_or_the_profile() {
    let stand_in = stand_in();
    let (_folder, file) = folder();
    fs::write(&file, "[default]\nregion = eu-west-3\n").unwrap();
    let region = |setup: Setup| setup.made();
    says(&region(with_profile(&stand_in, &file)), &["(eu-west-1 at"]);
    says(&region(with_profile(&stand_in, &file).set("region", "eu-west-2")), &["(eu-west-2 at"]);
    says(&region(with_profile(&stand_in, &file).unset("AWS_REGION")), &["(eu-west-3 at"]);
    says(&region(Setup::new(&stand_in).unset("AWS_REGION")), &["no AWS region", "set `region`"]);
}

#[test]
fn a_named_profile_wins_over_the_environment_and_may_be_mended_while_it_fails() {
    let stand_in = stand_in();
    let (_folder, file) = folder();
    fs::write(&file, "[profile other]\nregion = eu-west-1\n").unwrap();
    let setup = with_profile(&stand_in, &file).set("profile", "devices");
    let mut agent = setup.start();
    for _ in 0..3 {
        let verdict = agent.deliver(&[&line(0)]);
        println!("{verdict}");
        says(&verdict, &["kind: Credentials", "profile devices", "was not defined"]);
    }
    fs::write(&file, format!("[profile devices]\n{}", keys_of(stand_in.key()))).unwrap();
    assert_eq!(agent.deliver(&[&line(0)]), DELIVERED);
}

#[test]
fn a_key_that_aws_no_longer_knows_is_read_again() {
    let stand_in = stand_in();
    let (_folder, file) = folder();
    let write = |key: &Key| fs::write(&file, format!("[default]\n{}", keys_of(key))).unwrap();
    write(&Key::new("AKIAOLD", "an old secret"));
    let mut agent = with_profile(&stand_in, &file).without_key().start();
    says(&agent.deliver(&[&line(0)]), &["kind: Credentials", "AKIAOLD is not known"]);
    write(stand_in.key());
    assert_eq!(agent.deliver(&[&line(0)]), DELIVERED);
}

#[test]
fn a_broken_profile_file_is_named_as_such() {
    let stand_in = stand_in();
    let (_folder, file) = folder();
    fs::write(&file, "[default\naws_access_key_id").unwrap();
    let mut agent = with_profile(&stand_in, &file).without_key().start();
    let verdict = agent.deliver(&[&line(0)]);
    println!("{verdict}");
    says(&verdict, &["kind: Credentials", "could not parse profile file"]);
}

#[test]
fn credential_process_is_asked_again_when_its_credentials_expire() {
    let stand_in = stand_in();
    let (folder, file) = folder();
    let (script, asked) = (folder.path().join("credentials.sh"), folder.path().join("asked"));
    let Key { access_key_id, secret_access_key, .. } = stand_in.key();
    let soon = chrono::Utc::now() + chrono::TimeDelta::seconds(2);
    let json = format!(
        "{{\"Version\":1,\"AccessKeyId\":\"{access_key_id}\",\
         \"SecretAccessKey\":\"{secret_access_key}\",\"Expiration\":\"{}\"}}",
        soon.to_rfc3339()
    );
    let body = format!("#!/bin/sh\necho x >> {}\necho '{json}'\n", asked.display());
    fs::write(&script, body).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o700)).unwrap();
    let process = format!("[profile p]\ncredential_process = {}\n", script.display());
    fs::write(&file, process).unwrap();

    let setup = with_profile(&stand_in, &file).without_key();
    let mut agent = setup.env("PATH", "/usr/bin:/bin").set("profile", "p").start();
    for seq in 0..3 {
        assert_eq!(agent.deliver(&[&line(seq)]), DELIVERED);
    }
    // They expire within the 10 s that the SDK leaves for renewal.
    assert_eq!(fs::read_to_string(&asked).unwrap().lines().count(), 3);
}

#[test]
fn a_credential_process_that_fails_is_a_matter_of_credentials() {
    let stand_in = stand_in();
    let (_folder, file) = folder();
    fs::write(&file, "[profile p]\ncredential_process = false\n").unwrap();
    let setup = with_profile(&stand_in, &file).without_key().env("PATH", "/usr/bin:/bin");
    let verdict = setup.set("profile", "p").start().deliver(&[&line(0)]);
    println!("{verdict}");
    says(&verdict, &["Failed", "kind: Credentials", "profile p"]);
}

#[test]
fn a_profile_that_needs_a_browser_is_told_apart() {
    let stand_in = stand_in();
    let (_folder, file) = folder();
    let profile = "[profile p]\nsso_start_url = https://example.com/start\nsso_region = eu-west-1\n\
                   sso_account_id = 123456789012\nsso_role_name = device\n";
    fs::write(&file, profile).unwrap();
    let setup = with_profile(&stand_in, &file).without_key();
    let verdict = setup.set("profile", "p").start().deliver(&[&line(0)]);
    says(&verdict, &["kind: Credentials", "needs a browser", "export-credentials"]);
}

#[test]
fn a_container_hands_out_its_credentials() {
    let key =
        Key { session_token: Some("a token".into()), ..Key::new("ASIACONTAINER", "a secret") };
    let keys = vec![key];
    let stand_in = FirehoseStandIn::start(Options { keys, ..Options::default() });
    let json = "{\"AccessKeyId\":\"ASIACONTAINER\",\"SecretAccessKey\":\"a secret\",\
                \"Token\":\"a token\",\"Expiration\":\"2100-01-01T00:00:00Z\"}";
    let container = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("http://{}/keys", container.local_addr().unwrap());
    let answering = thread::spawn(move || {
        let (mut client, _) = container.accept().unwrap();
        let mut request = [0; 4096];
        let length = client.read(&mut request).unwrap();
        let length_line = format!("Content-Length: {}", json.len());
        write!(client, "HTTP/1.1 200 OK\r\n{length_line}\r\n\r\n{json}").unwrap();
        String::from_utf8_lossy(&request[..length]).into_owned()
    });
    let setup = Setup::new(&stand_in).without_key().unset("AWS_SESSION_TOKEN");
    let mut agent = setup.env("AWS_CONTAINER_CREDENTIALS_FULL_URI", &url).start();
    assert_eq!(agent.deliver(&[&line(0)]), DELIVERED);
    says(&answering.join().unwrap(), &["GET /keys "]);
}

/// A setup that assumes a role at the stand-in.
fn with_role(stand_in: &FirehoseStandIn) -> Setup {
    Setup::new(stand_in).set("role_arn", ROLE).env("AWS_ENDPOINT_URL_STS", &stand_in.url())
}

#[test]
fn a_role_is_assumed_once_and_again_when_its_session_is_refused() {
    let stand_in = stand_in();
    let mut agent = with_role(&stand_in).start();
    for seq in 0..3 {
        assert_eq!(agent.deliver(&[&line(seq)]), DELIVERED);
    }
    assert_eq!(stand_in.stats().sessions, 1);
    stand_in.expire_tokens();
    let verdict = agent.deliver(&[&line(3)]);
    says(&verdict, &["kind: Credentials", "access key ASIASTANDIN00001 has expired"]);
    assert_eq!(agent.deliver(&[&line(3)]), DELIVERED);
    assert_eq!(stand_in.stats().sessions, 2);
}

#[test]
fn a_session_is_renewed_before_it_ends() {
    let options = Options { session: Duration::from_secs(5), ..Options::default() };
    let stand_in = FirehoseStandIn::start(options);
    let mut agent = with_role(&stand_in).start();
    for seq in 0..3 {
        assert_eq!(agent.deliver(&[&line(seq)]), DELIVERED);
    }
    assert_eq!(stand_in.stats().sessions, 3);
}

#[test]
fn a_role_that_cannot_be_assumed_says_why() {
    let stand_in = stand_in();
    let unknown = with_role(&stand_in).env("AWS_ACCESS_KEY_ID", "AKIAUNKNOWN");
    let verdict = unknown.start().deliver(&[&line(0)]);
    println!("{verdict}");
    says(&verdict, &["Failed", "kind: Credentials", "access key AKIAUNKNOWN is not known to AWS"]);

    let message = format!(
        "User: arn:aws:iam::123456789012:user/pi is not authorized to perform: sts:AssumeRole on \
         resource: {ROLE}"
    );
    stand_in.set_faults(Faults::Always(Fault::error(403, "AccessDenied", &message)));
    let verdict = with_role(&stand_in).start().deliver(&[&line(0)]);
    println!("{verdict}");
    says(&verdict, &["kind: Credentials", "access key AKIASTANDIN00000 may not do sts:AssumeRole"]);

    let nobody = with_role(&stand_in).env("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:9");
    let verdict = nobody.start().deliver(&[&line(0)]);
    println!("{verdict}");
    says(&verdict, &["Failed", "kind: Unreachable", "Connection refused"]);
}
