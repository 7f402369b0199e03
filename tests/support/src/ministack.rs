//! The AWS stand-in: Firehose, Glue and S3 in one process on loopback.
//!
//! It delivers each part of a record as one object at once, and never fails or
//! throttles a record: for faults there is our own Firehose.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::process::{Ended, free_port, log_file};

const START: Duration = Duration::from_secs(60);

/// What the agent needs in its environment to speak to it.
pub const CREDENTIALS: [(&str, &str); 3] =
    [("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test"), ("AWS_REGION", "eu-west-1")];

/// A running stand-in; ends when dropped.
pub struct Ministack {
    _server: Ended,
    port: u16,
    folder: TempDir,
}

impl Ministack {
    /// Starts one on a free port, with a state of its own. Whoever signs may do
    /// everything.
    pub fn start() -> Self {
        Self::with([])
    }

    /// [`Ministack::start`], which lets users do only what their policies allow.
    pub fn strict() -> Self {
        Self::with([("AUTH", "true")])
    }

    fn with<const N: usize>(more: [(&str, &str); N]) -> Self {
        let (port, folder) = (free_port(), TempDir::new().expect("a temporary folder"));
        let log = folder.path().join("log");
        let server = Command::new(crate::python())
            .arg(crate::script("stand_in.py"))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", folder.path())
            .env("TMPDIR", folder.path())
            .env("STATE_DIR", folder.path())
            .env("GATEWAY_PORT", port.to_string())
            // Without these three it listens on every interface.
            .env("BIND_HOST", "127.0.0.1")
            .env("MINISTACK_HOST", "127.0.0.1")
            .env("IOT_MTLS_ENABLED", "0")
            .envs(more)
            .stdout(log_file(&log))
            .stderr(log_file(&log))
            .spawn()
            .expect("ministack starts");
        let mut server = Ended::new(server);
        crate::eventually("ministack answers", START, || {
            if let Some(status) = server.ended() {
                let log = std::fs::read_to_string(&log).unwrap_or_default();
                panic!("ministack ended with {status}:\n{log}");
            }
            ready(port)
        });
        Self { _server: server, port, folder }
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Makes the Firehose stream `stream` into the S3 bucket `bucket`, as
    /// `infra/` would, with the Glue table of `infra/schema/sample.json`. Once
    /// for each stand-in.
    pub fn create_stream(&self, stream: &str, bucket: &str) {
        let schema = crate::repository("infra/schema/sample.json");
        aws(["create", &self.endpoint(), &schema.to_string_lossy(), stream, bucket]);
    }

    /// Makes the bucket with its objects, the tables and the stream that the plan
    /// of an example has, as it has them; but for roles, which are known only after
    /// an apply.
    pub fn apply(&self, plan: &Value) {
        let path = self.folder.path().join("plan.json");
        std::fs::write(&path, plan.to_string()).expect("a file in a folder of ours");
        aws(["apply", &self.endpoint(), &path.to_string_lossy()]);
    }

    /// A user who may do what `policy` says: access key and secret.
    pub fn device(&self, policy: &str) -> (String, String) {
        let answer = aws(["device", &self.endpoint(), policy]);
        let answer: Value = serde_json::from_str(&answer).expect("aws.py prints JSON");
        let text = |key: &str| answer[key].as_str().unwrap_or_default().to_owned();
        (text("key"), text("secret"))
    }

    /// What of all that `aws.py` tries these credentials may do.
    pub fn allowed(
        &self,
        stream: &str,
        other: &str,
        bucket: &str,
        key: &(String, String),
    ) -> String {
        aws(["allowed", &self.endpoint(), stream, other, bucket, &key.0, &key.1])
    }

    /// Sends a record.
    pub fn put(&self, stream: &str, text: &str) {
        aws(["put", &self.endpoint(), stream, text]);
    }

    /// All that the bucket holds by this time, as files of the same names:
    /// `data/` is a lake, `errors/` is what Firehose could not deliver.
    pub fn fetch(&self, bucket: &str) -> PathBuf {
        let folder = self.folder.path().join(bucket);
        aws(["fetch", &self.endpoint(), bucket, &folder.to_string_lossy()]);
        folder
    }

    /// The rows of `sql` over the table `raw`, as Athena gives them: texts.
    #[track_caller]
    pub fn athena(&self, bucket: &str, sql: &str) -> Vec<Value> {
        self.athena_in("iot", bucket, sql)
    }

    /// [`Ministack::athena`], of another database.
    #[track_caller]
    pub fn athena_in(&self, database: &str, bucket: &str, sql: &str) -> Vec<Value> {
        let answer = aws(["athena", &self.endpoint(), bucket, sql, database]);
        answer.lines().map(|row| serde_json::from_str(row).expect("aws.py prints JSON")).collect()
    }
}

fn ready(port: u16) -> bool {
    let ask = || {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET /_ministack/ready HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        std::io::Result::Ok(answer)
    };
    ask().is_ok_and(|answer| answer.contains(" 200 "))
}

#[track_caller]
fn aws<const N: usize>(arguments: [&str; N]) -> String {
    let output = Command::new(crate::python())
        .arg(crate::script("aws.py"))
        .args(arguments)
        .output()
        .expect("python starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "aws.py {arguments:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
