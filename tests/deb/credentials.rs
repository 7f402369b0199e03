//! Each documented way for AWS credentials to reach the service, one after the
//! other in one system; a way that is gone delivers nothing any more.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::thread;

use iot_agent_test_support::debian::{SOON, System};
use iot_agent_test_support::firehose::{FirehoseStandIn, Key, Options};
use iot_agent_test_support::netns::Netns;
use iot_agent_test_support::{eventually, repository};

use crate::{Boot, configure, installed};

const PROFILE: &str = "profile = \"telemetry\"\n";

struct Site {
    system: System,
    stand_in: FirehoseStandIn,
    netns: Netns,
}

impl Site {
    fn new() -> Self {
        let netns = Netns::new();
        let mut keys = Options::default().keys;
        keys.push(instance_key());
        let options = Options { keys, ..Options::default() };
        let stand_in = netns.inside(|| FirehoseStandIn::start(options));
        let boot = Boot::default().netns(&netns.path());
        let system = installed(boot, &config(&stand_in, ""));
        Self { system, stand_in, netns }
    }

    fn restart(&self, config_more: &str) {
        configure(&self.system, &config(&self.stand_in, config_more));
        self.system.must("systemctl daemon-reload; systemctl restart iot-agent");
    }

    /// The key as `~/.aws/credentials` has it.
    fn section(&self, name: &str) -> String {
        let key = self.stand_in.key();
        format!(
            "[{name}]\naws_access_key_id = {}\naws_secret_access_key = {}\n",
            key.access_key_id, key.secret_access_key
        )
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.system.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[track_caller]
    fn delivers(&self, way: &str) {
        let before = self.stand_in.stats().stored.samples;
        eventually(&format!("samples by {way}"), SOON, || {
            self.stand_in.stats().stored.samples > before
        });
        println!("{way}: delivers");
    }

    /// `check` warns of the file's mode, until it is as it should be.
    #[track_caller]
    fn is_guarded(&self, path: &str) {
        let warning = |mode: &str| {
            self.system.must(&format!("chmod {mode} {path}"));
            self.system.must("iot-agent check --offline").contains(&format!("chmod 600 {path}"))
        };
        assert!(warning("644") && !warning("600"), "{path}");
    }

    /// What `check` finds, asked as packaging/README.md says to.
    #[track_caller]
    fn asked(&self) -> String {
        let text = fs::read_to_string(repository("packaging/README.md")).unwrap();
        let (_, after) = text.split_once("    sudo systemd-run").unwrap();
        let (command, _) = after.split_once("\n\n").unwrap();
        let said = self.system.must(&format!("systemd-run{command}"));
        assert!(said.contains("the stream is active"), "{said}");
        said
    }

    /// After `remove`, nothing comes any more.
    #[track_caller]
    fn is_refused_without(&self, remove: &str) {
        self.system.must(remove);
        self.restart("");
        let before = self.stand_in.stats().stored.samples;
        self.system.wait_for(
            "journalctl -b -u iot-agent _PID=$(pidof iot-agent) -o cat | grep -q 'nothing is delivered'",
        );
        assert_eq!(self.stand_in.stats().stored.samples, before, "delivered after {remove}");
    }
}

/// With `more` in the sink's section.
fn config(stand_in: &FirehoseStandIn, more: &str) -> String {
    let url = stand_in.url();
    format!(
        "[sample]\ninterval = \"1s\"\n[send]\ninterval = \"1s\"\n[clock]\nwait = \"0s\"\n\
         [sink]\nkind = \"firehose\"\n[sink.firehose]\nstream = \"iot-telemetry\"\n\
         region = \"eu-west-1\"\nendpoint_url = \"{url}\"\n{more}"
    )
}

/// What the role of an instance is given.
fn instance_key() -> Key {
    let key = Key::new("ASIAINSTANCE0000", "instance/secret+key");
    Key { session_token: Some("instance/token".into()), ..key }
}

/// Answers as an EC2 instance's metadata service does, until the test ends.
fn instance_metadata(netns: &Netns) -> SocketAddr {
    let listener = netns.inside(|| TcpListener::bind("127.0.0.1:0").unwrap());
    let address = listener.local_addr().unwrap();
    let key = instance_key();
    let credentials = serde_json::json!({
        "Code": "Success", "Type": "AWS-HMAC", "LastUpdated": "2026-01-01T00:00:00Z",
        "AccessKeyId": key.access_key_id, "SecretAccessKey": key.secret_access_key,
        "Token": key.session_token, "Expiration": "2099-01-01T00:00:00Z",
    });
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
            let request = lines.next().unwrap_or_default();
            lines.take_while(|line| !line.is_empty()).for_each(drop);
            let answer = match request.split(' ').nth(1).unwrap_or_default() {
                "/latest/api/token" => "session".to_owned(),
                path if path.trim_end_matches('/').ends_with("security-credentials") => {
                    "device".to_owned()
                }
                _ => credentials.to_string(),
            };
            let head = "x-aws-ec2-metadata-token-ttl-seconds: 21600\r\nconnection: close";
            let length = answer.len();
            let _ = write!(
                &stream,
                "HTTP/1.1 200 OK\r\n{head}\r\ncontent-length: {length}\r\n\r\n{answer}"
            );
        }
    });
    address
}

#[test]
fn every_documented_way_delivers_and_no_secret_is_logged() {
    let site = Site::new();
    let key = site.stand_in.key().clone();

    let variables: String =
        key.environment().iter().map(|(name, value)| format!("{name}={value}\n")).collect();
    site.write("/etc/default/iot-agent", &variables);
    site.is_guarded("/etc/default/iot-agent");
    site.restart("");
    site.delivers("the environment file");
    site.is_refused_without("rm /etc/default/iot-agent");

    site.write("/etc/iot-agent.credentials", &site.section("default"));
    site.is_guarded("/etc/iot-agent.credentials");
    site.restart("");
    site.delivers("LoadCredential");
    site.is_refused_without("rm /etc/iot-agent.credentials");

    site.write("/root/aws", &site.section("default"));
    site.system.must(
        "mkdir -p /etc/credstore.encrypted /etc/systemd/system/iot-agent.service.d; \
         systemd-creds encrypt --name=aws /root/aws /etc/credstore.encrypted/aws; rm /root/aws",
    );
    let drop_in = "[Service]\nLoadCredential=\n\
                   LoadCredentialEncrypted=aws:/etc/credstore.encrypted/aws\n";
    site.write("/etc/systemd/system/iot-agent.service.d/credentials.conf", drop_in);
    site.restart("");
    site.delivers("systemd-creds");
    site.is_refused_without("rm -r /etc/systemd/system/iot-agent.service.d");

    let folder = "install -d -o iot-agent -m 700 /var/lib/iot-agent/.aws";
    site.system.must(folder);
    site.write("/var/lib/iot-agent/.aws/credentials", &site.section("telemetry"));
    site.system
        .must("chown iot-agent /var/lib/iot-agent/.aws/*; chmod 600 /var/lib/iot-agent/.aws/*");
    site.restart(PROFILE);
    site.delivers("a profile");
    site.is_refused_without("rm -r /var/lib/iot-agent/.aws");

    let answer = format!(
        "#!/bin/sh\necho '{{\"Version\": 1, \"AccessKeyId\": \"{}\", \"SecretAccessKey\": \"{}\"}}'\n",
        key.access_key_id, key.secret_access_key
    );
    site.write("/usr/local/bin/iot-key", &answer);
    site.system.must(&format!("chmod 755 /usr/local/bin/iot-key; {folder}"));
    let process = "[profile telemetry]\ncredential_process = /usr/local/bin/iot-key\n";
    site.write("/var/lib/iot-agent/.aws/config", process);
    site.restart(PROFILE);
    site.delivers("credential_process");
    site.is_refused_without("rm -r /var/lib/iot-agent/.aws");

    let metadata = instance_metadata(&site.netns);
    let variable = format!("AWS_EC2_METADATA_SERVICE_ENDPOINT=http://{metadata}\n");
    site.write("/etc/default/iot-agent", &variable);
    site.restart("");
    site.delivers("the instance's role");
    site.is_refused_without("rm /etc/default/iot-agent");

    site.write("/etc/iot-agent.credentials", &site.section("default"));
    site.write(
        "/etc/default/iot-agent",
        &format!("AWS_ENDPOINT_URL_STS={}\n", site.stand_in.url()),
    );
    site.restart("role_arn = \"arn:aws:iam::123456789012:role/iot-agent\"\n");
    site.delivers("role_arn");

    // Either file alone, and both.
    let both = site.asked();
    site.system.must("rm /etc/default/iot-agent");
    site.restart("");
    let credentials = site.asked();
    site.system.must("rm /etc/iot-agent.credentials");
    site.write("/etc/default/iot-agent", &variables);
    let check = both + &credentials + &site.asked();
    let journal =
        site.system.must("systemctl reload iot-agent; journalctl -b -o verbose --no-pager");
    assert!(journal.len() > 10_000);
    let said = journal + &check;
    assert!(!said.contains(&key.secret_access_key), "a secret is told");
    assert!(!said.contains(&instance_key().secret_access_key), "a secret is told");
}
