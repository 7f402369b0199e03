//! Whole machines of other processors: QEMU runs Debian's kernel for them, with
//! a root file system in RAM or on their disk, and a shell on the serial console.
//!
//! Needs root, qemu-system-arm, cpio and depmod, and the network the first time:
//! what is Debian's stays in `target/emulator` and `target/debian`.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::debian::{self, Overlay, mirror};
use crate::process::{Ended, log_file, succeed};
use crate::{eventually, locked, packages, repository};

/// How long anything may take in a machine that a busy one emulates.
pub const SOON: Duration = Duration::from_secs(300);

/// A kind of machine.
pub struct Board {
    pub arch: &'static str,
    emulator: &'static str,
    arguments: &'static str,
    /// The package that depends on the kernel's.
    kernel: &'static str,
    /// Below the kernel package's device trees; none where QEMU makes one.
    device_tree: Option<&'static str>,
    /// What else the kernel is told.
    append: &'static str,
    /// How its disk is attached.
    disk: &'static str,
    modules: &'static [&'static str],
}

const PI_MODULES: &[&str] = &["bcm2835_thermal", "bcm2835", "crc32c_generic", "ext4"];

/// A Raspberry Pi 3 Model B.
pub const PI_3: Board = Board {
    arch: "arm64",
    emulator: "qemu-system-aarch64",
    // Its second port is the one on the header.
    arguments: "-M raspi3b -serial null -serial stdio",
    kernel: "linux-image-arm64",
    device_tree: Some("broadcom/bcm2837-rpi-3-b.dtb"),
    append: "console=ttyS1,115200",
    disk: "if=sd",
    modules: PI_MODULES,
};

/// A Raspberry Pi 2 Model B.
pub const PI_2: Board = Board {
    arch: "armhf",
    emulator: "qemu-system-arm",
    arguments: "-M raspi2b -serial stdio",
    kernel: "linux-image-armmp",
    device_tree: Some("bcm2836-rpi-2-b.dtb"),
    append: "console=ttyAMA0,115200",
    disk: "if=sd",
    modules: PI_MODULES,
};

/// A server with two processors and 1 GiB, which boots the Debian of its disk.
pub const SERVER: Board = Board {
    arch: "arm64",
    emulator: "qemu-system-aarch64",
    arguments: "-M virt -cpu cortex-a53 -smp 2 -m 1024 -nic none -serial stdio",
    kernel: "linux-image-arm64",
    device_tree: None,
    append: "console=ttyAMA0 root=/dev/vda systemd.show_status=no systemd.getty_auto=no",
    disk: "if=virtio",
    modules: &["virtio_pci", "virtio_blk", "crc32c_generic", "ext4"],
};

impl Board {
    /// The folder with what Debian has for it, fetched where it is missing.
    fn debian(&self) -> PathBuf {
        let folder = repository("target/emulator").join(self.arch);
        let _lock = locked(&folder.with_extension("lock"));
        if !folder.exists() {
            let partial = folder.with_extension("partial");
            let _ = fs::remove_dir_all(&partial);
            fs::create_dir(&partial).expect("target can be written");
            self.fetch(&partial);
            fs::rename(&partial, &folder).expect("beside it");
        }
        folder
    }

    /// Unpacks into `folder`; apt keeps its books in a folder of their own, for
    /// this machine has other packages and another architecture.
    fn fetch(&self, folder: &Path) {
        let apt = TempDir::new().expect("a temporary folder");
        let path = |name: &str| apt.path().join(name);
        for name in ["lists/partial", "cache/archives/partial", "packages"] {
            fs::create_dir_all(path(name)).expect("a folder");
        }
        let (top, arch) = (apt.path().display(), self.arch);
        let keys = "signed-by=/usr/share/keyrings/debian-archive-keyring.gpg";
        let config = format!(
            "APT::Architecture \"{arch}\"; APT::Architectures {{ \"{arch}\"; }};\n\
             APT::Sandbox::User \"root\"; Acquire::Retries \"3\";\n\
             Dir::State \"{top}\"; Dir::State::status \"{top}/status\"; Dir::Cache \"{top}/cache\";\n\
             Dir::Etc::sourcelist \"{top}/sources.list\"; Dir::Etc::sourceparts \"/dev/null\";\n"
        );
        for (name, text) in [
            ("status", String::new()),
            ("sources.list", format!("deb [{keys}] {} bookworm main\n", mirror())),
            ("apt.conf", config),
        ] {
            fs::write(path(name), text).expect("the folder is ours");
        }
        let apt_command = |program: &str, arguments: &[&str]| {
            let mut command = Command::new(program);
            command.env("APT_CONFIG", path("apt.conf")).current_dir(path("packages"));
            succeed(command.args(["-qq"]).args(arguments))
        };
        apt_command("apt-get", &["update"]);
        let depends = apt_command("apt-cache", &["depends", self.kernel]);
        let kernel = depends.split_whitespace().find(|word| word.starts_with("linux-image-6"));
        let kernel = kernel.unwrap_or_else(|| panic!("no kernel in:\n{depends}"));
        let wanted = [kernel, "busybox-static", "adjtimex", "libc6", "libgcc-s1"];
        apt_command("apt-get", &[["download"].as_slice(), &wanted].concat());
        for package in fs::read_dir(path("packages")).expect("it is ours").flatten() {
            packages::unpack(&package.path(), folder);
        }
        let release = only(&folder.join("lib/modules"));
        let release = release.file_name().expect("it has one");
        succeed(Command::new("depmod").arg("--basedir").arg(folder).arg(release));
    }

    /// The files of the modules, each after those that it depends on.
    fn modules(&self, debian: &Path) -> Vec<PathBuf> {
        let folder = only(&debian.join("lib/modules"));
        let list = fs::read_to_string(folder.join("modules.dep")).expect("depmod made it");
        let mut files = Vec::new();
        for module in self.modules {
            let line = list.lines().find_map(|line| {
                let (path, needed) = line.split_once(':')?;
                path.ends_with(&format!("/{module}.ko")).then_some((path, needed))
            });
            let (path, needed) = line.unwrap_or_else(|| panic!("the kernel has no {module}"));
            // The last of them is needed by the others.
            for file in needed.split_whitespace().rev().chain([path]) {
                let file = folder.join(file);
                if !files.contains(&file) {
                    files.push(file);
                }
            }
        }
        files
    }

    /// The root file system: busybox, the C library, modules, and our package.
    fn initrd(&self, debian: &Path, to: &Path) {
        let root = TempDir::new().expect("a temporary folder");
        let path = |name: &str| root.path().join(name);
        packages::unpack(&packages::package(self.arch), root.path());
        for folder in ["bin", "sbin", "lib", "dev", "proc", "sys", "tmp", "modules"] {
            fs::create_dir_all(path(folder)).expect("a folder");
        }
        let copy = |from: &Path, name: &str| {
            fs::copy(from, path(name)).unwrap_or_else(|e| panic!("{}: {e}", from.display()));
        };
        copy(&debian.join("bin/busybox"), "bin/busybox");
        copy(&debian.join("sbin/adjtimex"), "sbin/adjtimex");
        for name in ["libc.so.6", "libm.so.6", "libgcc_s.so.1", "ld-linux"] {
            let library = starting_with(&debian.join("lib"), name);
            let own = library.file_name().and_then(|name| name.to_str()).expect("a name");
            copy(&library, &format!("lib/{own}"));
        }
        for (number, module) in self.modules(debian).iter().enumerate() {
            copy(module, &format!("modules/{number:02}.ko"));
        }
        for name in ["init", "console"] {
            copy(&repository("tests/emulator").join(name), name);
        }
        let pack = "find . | cpio --quiet -o -H newc";
        let mut command = Command::new("sh");
        command.args(["-c", pack]).current_dir(root.path());
        let status = command.stdout(File::create(to).expect("the folder is ours")).status();
        assert!(status.is_ok_and(|status| status.success()), "`tests/setup` installs cpio");
    }
}

/// The only entry of a folder.
fn only(folder: &Path) -> PathBuf {
    starting_with(folder, "")
}

/// A file or folder at `folder` or one below, by the beginning of its name.
fn starting_with(folder: &Path, start: &str) -> PathBuf {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let entries: Vec<_> = entries.collect();
    let below = entries.iter().filter_map(|path| fs::read_dir(path).ok());
    let below = below.flat_map(|entries| entries.flatten().map(|entry| entry.path()));
    let named = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(start))
    };
    let found = entries.iter().cloned().chain(below).find(named);
    found.unwrap_or_else(|| panic!("no {start}… in {}", folder.display()))
}

/// An SD card with an ext4 on all of it.
pub fn card(path: &Path) {
    // QEMU takes powers of two.
    File::create(path).and_then(|file| file.set_len(256 << 20)).expect("room for a card");
    succeed(Command::new("mkfs.ext4").arg("-q").arg(path));
}

/// A disk with a whole Debian for [`SERVER`], and what `more` puts below its root.
pub fn debian_disk(path: &Path, more: impl FnOnce(&Path)) {
    let system = Overlay::of(&debian::root_arm64());
    let inside = |name: &str| system.path().join(name);
    let units = "etc/systemd/system";
    for (name, folder) in [("console", ""), ("console.service", units)] {
        let from = repository("tests/emulator").join(name);
        fs::copy(from, inside(folder).join(name)).expect("the overlay is ours");
    }
    let wanted = inside(units).join("multi-user.target.wants/console.service");
    symlink("../console.service", wanted).expect("the overlay is ours");
    // mmdebstrap takes this machine's.
    fs::write(inside("etc/hostname"), "iotbox\n").expect("the overlay is ours");
    more(&system.path());
    File::create(path).and_then(|file| file.set_len(2 << 30)).expect("room for a disk");
    succeed(Command::new("mkfs.ext4").arg("-q").arg("-d").arg(system.path()).arg(path));
}

/// A running machine; its power is cut when it is dropped.
pub struct Machine {
    qemu: Ended,
    keyboard: ChildStdin,
    folder: TempDir,
    /// One machine at a time: each takes all the processors that there are.
    _alone: File,
    /// How much of what the console said was an answer.
    read: usize,
    asked: usize,
}

impl Machine {
    /// With `disk` in its slot.
    #[track_caller]
    pub fn boot(board: &Board, disk: &Path) -> Self {
        let debian = board.debian();
        let alone = locked(&repository("target/emulator/lock"));
        let folder = TempDir::new().expect("a temporary folder");
        board.initrd(&debian, &folder.path().join("initrd"));
        let mut command = Command::new(board.emulator);
        command.args(board.arguments.split(' '));
        command.args("-display none -monitor none -no-reboot".split(' '));
        command.arg("-kernel").arg(starting_with(&debian.join("boot"), "vmlinuz"));
        if let Some(tree) = board.device_tree {
            let trees = starting_with(&debian.join("usr/lib"), "linux-image");
            command.arg("-dtb").arg(trees.join(tree));
        }
        command.arg("-initrd").arg(folder.path().join("initrd"));
        command.arg("-append").arg(format!("{} panic=-1 loglevel=1", board.append));
        command.arg("-drive").arg(format!("file={},format=raw,{}", disk.display(), board.disk));
        let console = folder.path().join("console");
        command.stdin(Stdio::piped()).stdout(log_file(&console)).stderr(log_file(&console));
        let start = Instant::now();
        let child = command.spawn();
        let mut child = child.expect("`tests/setup` installs QEMU, in the full tier");
        let keyboard = child.stdin.take().expect("it was asked for");
        let qemu = Ended::new(child);
        let mut machine = Self { qemu, keyboard, folder, _alone: alone, read: 0, asked: 0 };
        machine.read = machine.said("the shell is ready\n");
        println!("{} is up after {:.1} s", board.arch, start.elapsed().as_secs_f64());
        machine
    }

    /// What `script` printed, and its exit status.
    #[track_caller]
    pub fn run(&mut self, script: &str) -> (String, i32) {
        self.asked += 1;
        let end = format!("-- {} --", self.asked);
        writeln!(self.keyboard, "( {script}\n) </dev/null 2>&1; echo \"{end}$?\"")
            .expect("it runs");
        let answered = self.said(&end);
        let whole = self.said_after(answered, "\n");
        let console = self.console();
        let answer = console[self.read..answered - end.len()].to_owned();
        let status = console[answered..whole].trim().parse().expect("a number");
        self.read = whole;
        (answer, status)
    }

    /// What `script` printed; its failure fails the test.
    #[track_caller]
    pub fn must(&mut self, script: &str) -> String {
        let (answer, status) = self.run(script);
        assert_eq!(status, 0, "{script}: {answer}");
        answer
    }

    /// Waits until `script` succeeds.
    #[track_caller]
    pub fn wait_for(&mut self, script: &str) {
        let start = Instant::now();
        while self.run(script).1 != 0 {
            assert!(start.elapsed() < SOON, "not within {SOON:?}: {script}\n{}", self.console());
        }
    }

    #[track_caller]
    fn said(&mut self, what: &str) -> usize {
        self.said_after(self.read, what)
    }

    /// Where `what` ends on the console, once it was said after `from`.
    #[track_caller]
    fn said_after(&mut self, from: usize, what: &str) -> usize {
        let mut end = None;
        eventually(what, SOON, || {
            let ended = self.qemu.ended();
            let console = self.console();
            end = console[from..].find(what).map(|at| from + at + what.len());
            if let (None, Some(status)) = (end, ended) {
                panic!("the emulator ended with {status}:\n{console}");
            }
            end.is_some()
        });
        end.expect("it was said")
    }

    fn console(&self) -> String {
        // Each byte is a letter, so that places stay what they are.
        let bytes = fs::read(self.folder.path().join("console")).expect("the log is there");
        bytes.iter().map(|byte| if byte.is_ascii() { char::from(*byte) } else { '?' }).collect()
    }
}
