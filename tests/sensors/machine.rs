//! Made machines: `/sys` trees laid over the real one in a mount namespace,
//! and the agent run in it. The rest of the system sees nothing of it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// Lays the made folders over the real ones, does what the test asks for and
/// becomes the agent. `$0` is the machine's folder, `$1` the test's commands.
const ENTER: &str = r#"
mount --rbind "$0/class" /sys/class
mount --rbind "$0/platform" /sys/devices/platform
mount --rbind "$0/drivers" /sys/bus/platform/drivers
eval "$1"
shift
exec "$@"
"#;

pub struct Machine {
    folder: TempDir,
    chips: usize,
    zones: usize,
    commands: String,
}

impl Machine {
    /// One without sensors.
    pub fn new() -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "this test mounts made /sys trees: run it as root"
        );
        let folder = tempfile::tempdir().unwrap();
        for name in ["class/hwmon", "class/thermal", "platform", "drivers"] {
            fs::create_dir_all(folder.path().join(name)).unwrap();
        }
        fs::write(folder.path().join("iot-agent.toml"), "").unwrap();
        Self { folder, chips: 0, zones: 0, commands: "set -e".into() }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A hwmon chip with temperatures, as (label or "", what the file says).
    pub fn chip(mut self, name: &str, temperatures: &[(&str, &str)]) -> Self {
        let chip = format!("class/hwmon/hwmon{}", self.chips);
        self.chips += 1;
        self.write(&format!("{chip}/name"), &format!("{name}\n"));
        for (n, (label, text)) in temperatures.iter().enumerate() {
            let sensor = format!("{chip}/temp{}", n + 1);
            self.write(&format!("{sensor}_input"), &format!("{text}\n"));
            self.write(&format!("{sensor}_crit"), "100000\n");
            if !label.is_empty() {
                self.write(&format!("{sensor}_label"), &format!("{label}\n"));
            }
        }
        self
    }

    /// Puts a device behind the last chip.
    pub fn device(self, device: &str) -> Self {
        let chip = self.path().join(format!("class/hwmon/hwmon{}", self.chips - 1));
        fs::create_dir_all(self.path().join("platform").join(device)).unwrap();
        symlink(format!("/sys/devices/platform/{device}"), chip.join("device")).unwrap();
        self
    }

    /// A drive's chip, with the drive behind it.
    pub fn drive(self, device: &str, model: &str, text: &str) -> Self {
        self.write(&format!("platform/{device}/model"), &format!("{model}\n"));
        self.chip("nvme", &[("Composite", text)]).device(device)
    }

    /// A thermal zone.
    pub fn zone(mut self, kind: &str, text: &str) -> Self {
        let zone = format!("class/thermal/thermal_zone{}", self.zones);
        self.zones += 1;
        self.write(&format!("{zone}/type"), &format!("{kind}\n"));
        self.write(&format!("{zone}/temp"), &format!("{text}\n"));
        self
    }

    /// The Raspberry Pi firmware's device below `/sys/devices/platform`.
    pub fn firmware(self, device: &str, throttled: &str) -> Self {
        self.write(&format!("platform/{device}/get_throttled"), &format!("{throttled}\n"));
        let driver = self.path().join("drivers/raspberrypi-firmware");
        fs::create_dir_all(&driver).unwrap();
        let target = format!("/sys/devices/platform/{device}");
        symlink(target, driver.join(device.replace('/', "-"))).unwrap();
        self
    }

    /// Shell commands to be run in the namespace; `$0` is the machine's folder.
    pub fn command(mut self, command: &str) -> Self {
        self.commands += "\n";
        self.commands += command;
        self
    }

    /// The agent's command line, in the namespace.
    fn agent(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "private", "sh", "-c", ENTER])
            .args([self.path().as_os_str(), self.commands.as_ref()])
            .args([env!("CARGO_BIN_EXE_iot-agent"), "sample", "--json", "--config"])
            .arg(self.path().join("iot-agent.toml"))
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path());
        command
    }

    /// One record, and what was said on stderr.
    pub fn sample(&self, arguments: &[&str]) -> (Value, String) {
        record(&self.agent(arguments).output().expect("util-linux is there"))
    }

    /// A record every 200 ms.
    pub fn watch(&self, arguments: &[&str]) -> Watch {
        let mut command = self.agent(arguments);
        command.args(["--watch", "--set", "sample.interval=200ms"]);
        let stderr = self.path().join("stderr");
        let log = fs::File::create(&stderr).unwrap();
        command.env("IOT_AGENT_LOG", "info");
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let (lines, stdout) = (channel(), child.stdout.take().unwrap());
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if lines.0.send((Instant::now(), line)).is_err() {
                    break;
                }
            }
        });
        Watch { child, lines: lines.1, stderr }
    }
}

/// The record on stdout, and stderr.
pub fn record(output: &Output) -> (Value, String) {
    let [stdout, stderr] = [&output.stdout, &output.stderr].map(|o| String::from_utf8_lossy(o));
    assert!(output.status.success(), "{}\n{stderr}", output.status);
    let record =
        serde_json::from_str(&stdout).unwrap_or_else(|e| panic!("{e}: {stdout}\n{stderr}"));
    (record, stderr.into_owned())
}

/// A running `sample --watch`, ended when dropped.
pub struct Watch {
    child: Child,
    lines: Receiver<(Instant, String)>,
    stderr: PathBuf,
}

impl Watch {
    /// The next record, and when it came.
    #[track_caller]
    pub fn next(&self) -> (Instant, Value) {
        let (at, line) = self.lines.recv_timeout(Duration::from_secs(10)).unwrap_or_else(|e| {
            panic!("no record: {e}\n{}", self.stderr());
        });
        (at, serde_json::from_str(&line).unwrap())
    }

    /// The next record that `is_it`, within 20 s.
    #[track_caller]
    pub fn until(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let (_, record) = self.next();
            if is_it(&record) {
                return record;
            }
            assert!(begun.elapsed().as_secs() < 20, "{what}: {record}\n{}", self.stderr());
        }
    }

    pub fn stderr(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap()
    }

    pub fn threads(&self) -> usize {
        fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap().count()
    }

    /// Runs a shell command in the agent's mount namespace.
    pub fn command(&self, command: &str) {
        let namespace = format!("--mount=/proc/{}/ns/mnt", self.child.id());
        let status = Command::new("nsenter").arg(namespace).args(["sh", "-ec", command]).status();
        assert!(status.unwrap().success(), "{command}");
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
