//! A bad configuration has an answer: `iot-agent check` reports what is wrong and
//! where, and leaves with EX_CONFIG of sysexits.h.

#![cfg(test)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const EX_CONFIG: i32 = 78;
const AGENT: &str = env!("CARGO_BIN_EXE_iot-agent");

struct Home {
    dir: tempfile::TempDir,
}

impl Home {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn file(&self, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join("agent.toml");
        fs::write(&path, content).unwrap();
        path
    }

    /// `iot-agent check --config FILE`, with nothing of this process's environment.
    fn check(&self, file: &Path) -> Command {
        let mut command = Command::new(AGENT);
        command.args(["check", "--config"]).arg(file);
        command.env_clear().env("HOME", self.path()).current_dir(self.path());
        command
    }

    /// What is said of a file with this `content`.
    fn said(&self, content: impl AsRef<[u8]>) -> String {
        refusal(&mut self.check(&self.file(content)))
    }
}

/// What the command reports as it refuses its configuration.
fn refusal(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let said = String::from_utf8(stdout).unwrap();
    let seen = format!("{status}\n{said}\n{}", String::from_utf8_lossy(&stderr));
    assert_eq!(status.code(), Some(EX_CONFIG), "{seen}");
    assert!(stderr.is_empty(), "{seen}");
    said
}

#[test]
fn a_right_file_is_accepted() {
    let home = Home::new();
    let root = home.path().display();
    let file = home.file(format!(
        "[device]\nid = \"pi-attic\"\n[spool]\npath = \"{root}/spool\"\nkeep_free = \"0%\"\n\
         [sink.lake]\npath = \"{root}/lake\"\n"
    ));
    let Output { status, stderr, .. } = home.check(&file).output().unwrap();
    assert!(status.success(), "{status}\n{}", String::from_utf8_lossy(&stderr));
}

#[test]
fn a_wrong_value_is_shown_with_its_place_and_what_is_allowed() {
    let home = Home::new();
    for (content, wanted) in [
        ("[sample]\ninterval = \"0s\"\n", "agent.toml:2:12: sample.interval: \"0s\" is too short"),
        ("[sample]\ninterval = 0\n", "Write a duration from 100ms to 1d"),
        ("[sample]\ninterval = true\n", "agent.toml:2:12: sample.interval: true is not a duration"),
        ("[spool]\nmax_bytes = 0\n", "agent.toml:2:13: spool.max_bytes: 0 is too small"),
        (
            "[device]\nid = \"a/b\"\n",
            "agent.toml:2:6: device.id: \"a/b\" contains the character '/'",
        ),
        ("[device]\nid = \"sim-1\"\n", "the name of a simulated device"),
        ("[sink]\nkind = \"firehose\"\n", "agent.toml:2:8: sink.firehose.stream is missing"),
    ] {
        let said = home.said(content);
        assert!(said.contains(wanted), "{content}\n{said}");
        assert!(said.contains('^'), "{said}");
    }
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_known_one() {
    let home = Home::new();
    assert!(home.said("[send]\nintervall = \"1m\"\n").contains("Did you mean send.interval?"));
    assert!(home.said("[sampel]\n").contains("Did you mean [sample]?"));
}

#[test]
fn all_mistakes_are_said_at_once() {
    let home = Home::new();
    let file = home.file("[send]\ninterval = 10s\norder = \"up\"\n[nonsense]\n");
    let folder = home.path().join("agent.d");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("10-site.toml"), "[clock]\nwait = \"soon\"\n").unwrap();
    let mut check = home.check(&file);
    check.env("IOT_AGENT_SEND_INTERVALL", "1m").args(["--set", "spool.max_bytes=1MiB"]);
    let said = refusal(&mut check);
    for wanted in [
        "agent.toml:2:12: not TOML",
        "agent.toml:3:9: send.order: \"up\" is not known",
        "agent.toml:4:2: unknown section \"nonsense\"",
        "10-site.toml:2:8: clock.wait: \"soon\" is not a duration",
        "IOT_AGENT_SEND_INTERVALL: this variable is unknown",
        "--set: spool.max_bytes: \"1MiB\" is too small",
    ] {
        assert!(said.contains(wanted), "{wanted}\n{said}");
    }
}

#[test]
fn a_file_that_is_no_text_says_where() {
    let home = Home::new();
    assert!(
        home.said(b"[send]\norder = \"\xff\"\n").contains("agent.toml:2:10: this is not UTF-8")
    );
    assert!(home.said(b"\x7fELF\x02\x01\x01\0\0").contains("agent.toml:1:1: not TOML"));
    assert!(home.said(vec![b'\n'; 1 << 20]).contains("agent.toml: is larger than 64 KiB"));
}

#[test]
fn a_file_that_cannot_be_read_says_why() {
    let home = Home::new();
    let missing = home.path().join("missing.toml");
    assert!(refusal(&mut home.check(&missing)).contains("missing.toml: does not exist"));
    assert!(refusal(&mut home.check(home.path())).contains(": is a folder"));
}

#[test]
fn a_file_of_somebody_else_says_so() {
    const NOBODY: u32 = 65_534;
    let home = Home::new();
    let file = home.file("");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).unwrap();
    let mut check = home.check(&file);
    if rustix::process::geteuid().is_root() {
        // Root may read everything, and nobody may not reach the build folder.
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let agent = home.path().join("iot-agent");
        fs::copy(AGENT, &agent).unwrap();
        check = Command::new(agent);
        check.args(["check", "--config"]).arg(&file).env_clear().env("HOME", home.path());
        check.uid(NOBODY).gid(NOBODY).current_dir("/");
    }
    assert!(refusal(&mut check).contains("agent.toml: may not be read by this user"));
}
