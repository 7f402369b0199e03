//! The agent as a child process.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How an agent is to be started. Its environment is empty but for `PATH` and a
/// home: nothing of the machine's AWS set-up, proxies or `IOT_AGENT_…` gets in.
pub struct Launch {
    command: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    home: PathBuf,
}

impl Launch {
    /// With its config, spool and lake under `home`, where a later launch finds
    /// them again: `iot-agent.toml` (empty unless [`Launch::config`] fills it),
    /// `spool` and `lake`.
    pub fn new(binary: &str, home: &Path) -> Self {
        let config = home.join("iot-agent.toml");
        if !config.exists() {
            fs::write(&config, "").expect("the home is writable");
        }
        Self::bare(binary, home)
            .arg("--config")
            .arg(config)
            .set("spool.path", home.join("spool").display())
            .set("sink.lake.path", home.join("lake").display())
    }

    /// Without any argument. As root such an agent looks into `/etc` and
    /// `/var/lib`.
    pub fn bare(binary: &str, home: &Path) -> Self {
        let command = vec![binary.into()];
        let environment = vec![
            ("PATH".into(), std::env::var_os("PATH").unwrap_or_default()),
            ("HOME".into(), home.into()),
            ("XDG_STATE_HOME".into(), home.join("state").into()),
        ];
        Self { command, environment, home: home.to_owned() }
    }

    /// Writes the config file of [`Launch::new`].
    pub fn config(self, toml: &str) -> Self {
        fs::write(self.home.join("iot-agent.toml"), toml).expect("the home is writable");
        self
    }

    pub fn set(self, key: &str, value: impl std::fmt::Display) -> Self {
        self.arg("--set").arg(format!("{key}={value}"))
    }

    /// With a Firehose stream of `eu-west-1` as its sink.
    pub fn firehose(self, stream: &str, endpoint: &str) -> Self {
        self.set("sink.kind", "firehose")
            .set("sink.firehose.stream", stream)
            .set("sink.firehose.region", "eu-west-1")
            .set("sink.firehose.endpoint_url", endpoint)
    }

    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.command.push(argument.into());
        self
    }

    pub fn args<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.command.extend(arguments.into_iter().map(Into::into));
        self
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.into(), value.as_ref().into()));
        self
    }

    pub fn envs(self, pairs: impl IntoIterator<Item = (&'static str, &'static str)>) -> Self {
        pairs.into_iter().fold(self, |launch, (name, value)| launch.env(name, value))
    }

    /// Has another command start the agent, such as [`crate::netns::Netns::wrapper`].
    pub fn wrapped_in<'a>(mut self, wrapper: impl IntoIterator<Item = &'a str>) -> Self {
        self.command.splice(0..0, wrapper.into_iter().map(OsString::from));
        self
    }

    #[track_caller]
    pub fn start(self) -> Agent {
        let logs = TempDir::new().expect("a temporary folder");
        let (program, arguments) = self.command.split_first().expect("a binary at least");
        let child = Command::new(program)
            .args(arguments)
            .env_clear()
            .envs(self.environment)
            .stdin(std::process::Stdio::null())
            .stdout(log_file(&logs.path().join("stdout")))
            .stderr(log_file(&logs.path().join("stderr")))
            .spawn()
            .unwrap_or_else(|error| panic!("{} does not start: {error}", program.display()));
        Agent { child: Ended::new(child), logs }
    }
}

/// A running agent, killed when dropped.
pub struct Agent {
    child: Ended,
    logs: TempDir,
}

impl Agent {
    pub fn pid(&self) -> u32 {
        self.child.0.id()
    }

    /// What it has printed so far.
    pub fn stdout(&self) -> String {
        self.log("stdout")
    }

    pub fn stderr(&self) -> String {
        self.log("stderr")
    }

    /// Waits until `condition` holds; an agent that ends first fails the test.
    #[track_caller]
    pub fn wait_for(
        &mut self,
        what: &str,
        deadline: Duration,
        mut condition: impl FnMut(&Self) -> bool,
    ) {
        crate::eventually(what, deadline, || {
            let ended = self.child.ended();
            let holds = condition(self);
            if let (false, Some(status)) = (holds, ended) {
                panic!("the agent ended with {status} before: {what}\n{}", self.stderr());
            }
            holds
        });
    }

    /// Waits until it ends by itself.
    #[track_caller]
    pub fn finish(&mut self, deadline: Duration) -> ExitStatus {
        let mut status = None;
        crate::eventually("the agent ends", deadline, || {
            status = self.child.ended();
            status.is_some()
        });
        status.expect("it has ended")
    }

    /// Asks it to leave, and waits until it has.
    #[track_caller]
    pub fn terminate(&mut self, deadline: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        self.finish(deadline)
    }

    /// Ends it at once: it cannot flush or say goodbye.
    pub fn kill9(&mut self) {
        self.child.end();
    }

    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child.0), signal).expect("the agent runs");
    }

    /// A line of `/proc/<pid>/status`: `VmRSS` and `RssAnon` in KiB, `Threads`, …
    #[track_caller]
    pub fn status(&self, field: &str) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let status = fs::read_to_string(path).expect("the agent runs");
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let value = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        value.unwrap_or_else(|| panic!("no number {field} in:\n{status}"))
    }

    /// How many file descriptors it holds.
    pub fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("the agent runs").count()
    }

    fn log(&self, name: &str) -> String {
        let bytes = fs::read(self.logs.path().join(name)).expect("the log is there");
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// A child process that does not outlive its owner.
pub struct Ended(Child);

impl Ended {
    pub fn new(child: Child) -> Self {
        Self(child)
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().expect("the child is ours")
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn end(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.end();
    }
}

/// A port of loopback that nothing listens on.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
    listener.local_addr().expect("it is bound").port()
}

/// What became of `command`, whatever that is.
#[track_caller]
pub(crate) fn output(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; `tests/run` installs it"))
}

/// What `command` printed; its failure fails the test.
#[track_caller]
pub fn succeed(command: &mut Command) -> String {
    let output = output(command);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} (does it need root?): {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn log_file(path: &Path) -> File {
    File::options().create(true).append(true).open(path).expect("a log file")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    fn shell(home: &TempDir, script: &str) -> Agent {
        Launch::bare("/bin/sh", home.path()).args(["-c", script]).start()
    }

    #[test]
    fn what_it_prints_can_be_waited_for_and_its_exit_status_comes_back() {
        let home = TempDir::new().unwrap();
        let script = "trap 'echo bye >&2; exit 7' TERM; echo hello; while :; do sleep 0.05; done";
        let mut agent = shell(&home, script);
        agent.wait_for("a greeting", SOON, |agent| agent.stdout() == "hello\n");
        assert_eq!(agent.status("Threads"), 1);
        assert!(agent.status("VmRSS") > 0 && agent.open_files() >= 3);
        assert_eq!(agent.terminate(SOON).code(), Some(7));
        assert_eq!(agent.stderr(), "bye\n");
    }

    #[test]
    #[should_panic(expected = "before: a greeting\nno config")]
    fn an_agent_that_ends_fails_the_wait_with_what_it_said() {
        let home = TempDir::new().unwrap();
        shell(&home, "echo no config >&2").wait_for("a greeting", SOON, |_| false);
    }

    #[test]
    fn nothing_of_the_environment_gets_in() {
        let home = TempDir::new().unwrap();
        let mut agent =
            Launch::bare("/usr/bin/env", home.path()).env("AWS_REGION", "eu-west-1").start();
        assert!(agent.finish(SOON).success());
        let stdout = agent.stdout();
        let mut names: Vec<_> = stdout.lines().filter_map(|line| line.split('=').next()).collect();
        names.sort_unstable();
        assert_eq!(names, ["AWS_REGION", "HOME", "PATH", "XDG_STATE_HOME"]);
    }

    #[test]
    fn a_dropped_agent_is_gone() {
        let home = TempDir::new().unwrap();
        let agent = shell(&home, "exec sleep 600");
        let folder = PathBuf::from(format!("/proc/{}", agent.pid()));
        assert!(folder.exists());
        drop(agent);
        assert!(!folder.exists());
    }
}
