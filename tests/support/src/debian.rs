//! A whole Debian with systemd as its process 1, booted in a container.
//!
//! Needs root, systemd-nspawn and mmdebstrap, and the network the first time:
//! the root file system is made once and stays in `target/debian`. What a
//! system writes lies over it and goes with its value.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::process::{Ended, output, succeed};
use crate::{eventually, locked, repository};

/// Making the root file system downloads and unpacks a hundred packages.
const BOOT: Duration = Duration::from_secs(180);

/// How long anything may take that the system does by itself.
pub const SOON: Duration = Duration::from_secs(120);

const PACKAGES: &str = "systemd,systemd-sysv,dbus,procps,iproute2,ca-certificates,\
                        libnss-systemd,util-linux,kmod";

/// Runs a command while programs of arm64 run here as well. Where this machine
/// cannot do so by itself, the kernel is told of the emulator for that long.
const WITH_ARM64: &str = "formats=/proc/sys/fs/binfmt_misc name=qemu-aarch64
    mount -t binfmt_misc none $formats || exit
    if [ -e $formats/$name ]; then exec \"$@\"; fi
    cat /usr/lib/binfmt.d/$name.conf >$formats/register || exit
    trap \"echo -1 >$formats/$name\" EXIT
    \"$@\"";

/// `bookworm`, or what `IOT_TEST_DEBIAN` names.
pub fn release() -> String {
    std::env::var("IOT_TEST_DEBIAN").unwrap_or_else(|_| "bookworm".into())
}

/// The folder of a root file system that nobody writes to, made where it is missing.
pub fn root() -> PathBuf {
    made(&mut Command::new("mmdebstrap"), &["--include", PACKAGES])
}

/// The same without systemd, as containers have it.
pub fn root_without_systemd() -> PathBuf {
    let packages = "ca-certificates,systemd-standalone-sysusers";
    made(&mut Command::new("mmdebstrap"), &["--include", packages])
}

/// The same with systemd for another processor. Needs arch-test and qemu-user-static.
pub fn root_arm64() -> PathBuf {
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", WITH_ARM64, "sh", "mmdebstrap"]);
    made(&mut command, &["--architectures=arm64", "--include", PACKAGES])
}

fn made(mmdebstrap: &mut Command, options: &[&str]) -> PathBuf {
    let (release, key) = (release(), crc(&options.join(" ")));
    let root = repository(&format!("target/debian/{release}-{key:08x}"));
    let _lock = locked(&root.with_extension("lock"));
    if !root.exists() {
        let partial = root.with_extension("partial");
        let _ = fs::remove_dir_all(&partial);
        mmdebstrap.args(["--quiet", "--variant=minbase"]).args(options);
        succeed(mmdebstrap.arg(&release).arg(&partial).arg(mirror()));
        fs::rename(&partial, &root).expect("beside it");
    }
    root
}

/// Where this machine's own packages come from.
pub(crate) fn mirror() -> String {
    let mirrors = succeed(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(REPO_URI)",
        "Created-By: Packages",
        "Component: main",
        "Origin: Debian",
    ]));
    mirrors.lines().find(|uri| !uri.contains("security")).expect("a mirror").into()
}

fn crc(text: &str) -> u32 {
    text.bytes().fold(0, |sum: u32, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)))
}

/// A writable view of a root file system.
pub struct Overlay {
    folder: TempDir,
}

impl Overlay {
    pub fn of(lower: &Path) -> Self {
        let folder = TempDir::with_prefix("iot-debian-").expect("a temporary folder");
        let path = |name: &str| folder.path().join(name);
        for name in ["root", "upper", "work"] {
            fs::create_dir(path(name)).expect("a folder");
        }
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            fs::canonicalize(lower).expect("it is there").display(),
            path("upper").display(),
            path("work").display()
        );
        let mut mount = Command::new("mount");
        succeed(mount.args(["-t", "overlay", "overlay", "-o", &options]).arg(path("root")));
        Self { folder }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// Runs `script` in a shell inside, without anything started there.
    pub fn chroot(&self, script: &str) -> Output {
        let mut command = Command::new("chroot");
        command.arg(self.path()).args(["/usr/bin/env", "-i"]).args(ENVIRONMENT);
        output(command.args(["/bin/sh", "-c", script]))
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

/// How a system is to be booted.
#[derive(Default)]
pub struct Boot {
    arguments: Vec<String>,
}

impl Boot {
    /// Shows `path` of this machine inside, at `inside`, for reading.
    pub fn bind(mut self, path: &Path, inside: &str) -> Self {
        let path = fs::canonicalize(path).expect("it is there");
        self.arguments.push(format!("--bind-ro={}:{inside}", path.display()));
        self
    }

    /// The same for writing.
    pub fn bind_writable(mut self, path: &Path, inside: &str) -> Self {
        self.arguments.push(format!("--bind={}:{inside}", path.display()));
        self
    }

    /// Puts the system into a network namespace instead of one of its own.
    pub fn netns(mut self, path: &str) -> Self {
        self.arguments.push(format!("--network-namespace-path={path}"));
        self
    }

    #[track_caller]
    pub fn start(self) -> System {
        let overlay = Overlay::of(&root());
        // mmdebstrap takes this machine's.
        fs::write(overlay.path().join("etc/hostname"), "iotbox\n").expect("the overlay is ours");
        System { running: Some(Running::boot(&overlay, &self)), overlay, boot: self }
    }
}

/// A booted system; powered off when dropped.
pub struct System {
    // Before the overlay, which cannot go while something runs on it.
    running: Option<Running>,
    overlay: Overlay,
    boot: Boot,
}

impl System {
    /// A path of the system, seen from here.
    pub fn path(&self, inside: &str) -> PathBuf {
        self.overlay.path().join(inside.trim_start_matches('/'))
    }

    /// Runs `script` in a shell inside.
    #[track_caller]
    pub fn run(&self, script: &str) -> Output {
        let running = self.running.as_ref().expect("it runs");
        let mut command = Command::new("nsenter");
        command.args(["-t", &running.leader.to_string(), "-a", "env", "-i"]).args(ENVIRONMENT);
        output(command.args(["sh", "-c", script]))
    }

    /// What `script` printed; its failure fails the test.
    #[track_caller]
    pub fn must(&self, script: &str) -> String {
        let output = self.run(script);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(
            output.status.success(),
            "{script}: {}\n{out}\n{err}\n{}",
            output.status,
            self.journal()
        );
        out
    }

    /// Whether `script` succeeds.
    pub fn is(&self, script: &str) -> bool {
        self.run(script).status.success()
    }

    /// Waits until `script` succeeds.
    #[track_caller]
    pub fn wait_for(&self, script: &str) {
        self.wait_within(SOON, script);
    }

    #[track_caller]
    pub fn wait_within(&self, deadline: Duration, script: &str) {
        let start = Instant::now();
        let mut holds = self.is(script);
        while !holds && start.elapsed() < deadline {
            std::thread::sleep(Duration::from_millis(100));
            holds = self.is(script);
        }
        assert!(holds, "not within {deadline:?}: {script}\n{}", self.journal());
    }

    /// The end of the journal, for the message of a failure.
    pub fn journal(&self) -> String {
        let command =
            "systemctl status iot-agent; journalctl -b -n 60 --no-pager -o short-monotonic";
        text(&self.run(command).stdout)
    }

    /// Powers the system off and boots it again, with its disk.
    #[track_caller]
    pub fn reboot(&mut self) {
        self.running = None;
        self.running = Some(Running::boot(&self.overlay, &self.boot));
    }
}

const ENVIRONMENT: [&str; 6] = [
    "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME=/root",
    "LANG=C.UTF-8",
    "TERM=dumb",
    "DEBIAN_FRONTEND=noninteractive",
    "SYSTEMD_PAGER=",
];

/// The processes of a booted system.
struct Running {
    nspawn: Ended,
    /// Its process 1, as it is called here.
    leader: u32,
    cgroups: Vec<PathBuf>,
}

impl Running {
    #[track_caller]
    fn boot(overlay: &Overlay, boot: &Boot) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("iot-{}-{number}", std::process::id());
        let cgroups = own_cgroups(&name);
        let console = overlay.folder.path().join("console");
        // Where process 1 of this machine is no systemd, nobody else makes the
        // cgroup that the container's systemd is to own.
        let enter = "for group in $CGROUPS; do echo $$ >\"$group/cgroup.procs\"; done; \
                     exec setsid systemd-nspawn \"$@\"";
        let mut command = Command::new("sh");
        let paths: Vec<_> = cgroups.iter().map(|path| path.display().to_string()).collect();
        command.env("CGROUPS", paths.join(" ")).env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1");
        command.args(["-c", enter, "sh", "--quiet", "--boot", "--register=no", "--keep-unit"]);
        command.args(["--resolv-conf=off", "--timezone=off", "--link-journal=no"]);
        command.args(["--console=pipe", "--capability=CAP_SYS_RESOURCE"]);
        command.arg(format!("--machine={name}")).arg("-D").arg(overlay.path());
        if !boot.arguments.iter().any(|argument| argument.starts_with("--network")) {
            command.arg("--private-network");
        }
        command.args(&boot.arguments).stdin(std::process::Stdio::null());
        command.stdout(crate::process::log_file(&console));
        command.stderr(crate::process::log_file(&console));
        let mut nspawn = Ended::new(command.spawn().expect("a shell"));
        let mut leader = None;
        eventually("the system boots", BOOT, || {
            let console = || fs::read_to_string(&console).unwrap_or_default();
            assert!(
                nspawn.ended().is_none(),
                "systemd-nspawn ended (it needs root): {}",
                console()
            );
            leader = leader.or_else(|| child_of(nspawn.id()));
            leader.is_some_and(is_up)
        });
        Self { nspawn, leader: leader.expect("it is up"), cgroups }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // systemd's own request to power off.
        let leader = self.leader.to_string();
        let _ = Command::new("kill").args(["-s", "RTMIN+4", &leader]).status();
        for _ in 0..600 {
            if self.nspawn.ended().is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        if self.nspawn.ended().is_none() {
            // With process 1 goes everything in its namespace.
            let _ = Command::new("kill").args(["-s", "KILL", &leader]).status();
        }
        self.nspawn.end();
        for group in &self.cgroups {
            remove_cgroup(group);
        }
    }
}

/// A cgroup in each hierarchy that a container's systemd takes over.
fn own_cgroups(name: &str) -> Vec<PathBuf> {
    let top = Path::new("/sys/fs/cgroup");
    let hierarchies = if top.join("cgroup.controllers").exists() {
        vec![top.to_owned()]
    } else {
        vec![top.join("systemd"), top.join("unified")]
    };
    let groups: Vec<_> = hierarchies.iter().map(|top| top.join(name)).collect();
    for group in &groups {
        fs::create_dir(group).expect("root may make a cgroup");
    }
    groups
}

/// Depth first: a cgroup that holds another cannot go.
fn remove_cgroup(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_cgroup(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}

/// The systemd that `parent` started, if it has yet.
fn child_of(parent: u32) -> Option<u32> {
    let output = Command::new("pgrep").args(["-x", "-P", &parent.to_string(), "systemd"]).output();
    let output = output.expect("pgrep of procps is there");
    text(&output.stdout).trim().parse().ok()
}

fn is_up(leader: u32) -> bool {
    let mut command = Command::new("nsenter");
    command.args(["-t", &leader.to_string(), "-a", "systemctl", "is-system-running"]);
    let state = text(&output(&mut command).stdout);
    ["running", "degraded"].contains(&state.trim())
}

/// What a process printed.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
