//! The programs of the arm64 and armhf packages, run by an emulated processor:
//! the disk spool, the lake and TLS on another word size and instruction set.
//!
//! Needs: qemu-user-static, the cross compilers

#![cfg(test)]

use std::fs;
use std::path::{Path, PathBuf};

use iot_agent_test_support::firehose::Options;
use iot_agent_test_support::packages::{package, unpack};
use iot_agent_test_support::process::{Agent, Launch};
use iot_agent_test_support::rig::{Ended, Rig, SOON, assert_complete, run_of};
use tempfile::TempDir;

const NATIVE: &str = env!("CARGO_BIN_EXE_iot-agent");

/// An architecture: its package, its processor, its C library.
struct Arch {
    name: &'static str,
    processor: &'static str,
    library: &'static str,
}

const ARM64: Arch =
    Arch { name: "arm64", processor: "qemu-aarch64-static", library: "/usr/aarch64-linux-gnu" };
const ARMHF: Arch =
    Arch { name: "armhf", processor: "qemu-arm-static", library: "/usr/arm-linux-gnueabihf" };

impl Arch {
    /// The package's program, unpacked.
    fn program(&self) -> (TempDir, String) {
        let folder = TempDir::new().unwrap();
        unpack(&package(self.name), folder.path());
        let path = folder.path().join("usr/bin/iot-agent").to_str().unwrap().to_owned();
        (folder, path)
    }

    fn emulated(&self, launch: Launch) -> Launch {
        launch.wrapped_in([self.processor, "-L", self.library])
    }

    /// Runs a command that ends by itself.
    #[track_caller]
    fn command(&self, program: &str, home: &Path, words: &[&str]) -> Agent {
        let mut agent = self.emulated(Launch::new(program, home).args(words)).start();
        let status = agent.finish(SOON * 2);
        assert!(status.success(), "{words:?}: {status}\n{}", agent.stderr());
        agent
    }
}

fn runs(arch: &Arch) {
    let (_folder, program) = arch.program();
    let home = TempDir::new().unwrap();
    let mut version = arch.emulated(Launch::bare(&program, home.path()).arg("--version")).start();
    assert!(version.finish(SOON).success());
    assert_eq!(version.stdout().trim(), concat!("iot-agent ", env!("CARGO_PKG_VERSION")));
    let check = arch.command(&program, home.path(), &["check"]).stdout();
    assert!(check.contains("sink"), "{check}");
    let sample = arch.command(&program, home.path(), &["sample", "--json"]).stdout();
    let sample: serde_json::Value = serde_json::from_str(sample.trim()).unwrap();
    assert!(sample["ram"].as_f64().is_some_and(|ram| ram > 0.0 && ram < 1.0), "{sample}");
}

/// Ends it, and gives it as long as an emulated one may take on a busy machine.
#[track_caller]
fn stop(agent: &mut Agent) {
    let status = agent.terminate(SOON);
    assert!(status.success(), "{status}\n{}", agent.stderr());
}

fn simulates_into_a_lake(arch: &Arch) {
    let (_folder, program) = arch.program();
    let home = TempDir::new().unwrap();
    let words = ["--simulate", "--devices", "2", "--backfill", "1h"];
    let launch = Launch::new(&program, home.path()).args(words).set("send.interval", "1s");
    let mut agent = arch.emulated(launch).start();
    agent.wait_for("the lake", SOON * 2, |_| parquet_below(home.path()).is_some());
    stop(&mut agent);
    // It lies in data/timestamp_sent=…/ of the lake; read back by the machine's own.
    let file = parquet_below(home.path()).unwrap();
    let lake = file.ancestors().nth(3).unwrap();
    let verify = Launch::bare(NATIVE, home.path()).arg("verify-lake").arg(lake);
    let mut verify = verify.arg("--json").start();
    assert!(verify.finish(SOON).success(), "{}{}", verify.stdout(), verify.stderr());
    println!("{}: {}", arch.name, verify.stdout());
}

fn parquet_below(folder: &Path) -> Option<PathBuf> {
    let mut paths = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    paths.find_map(|path| match path.extension().is_some_and(|end| end == "parquet") {
        true => Some(path),
        false => parquet_below(&path),
    })
}

fn spools_and_delivers_over_tls(arch: &Arch) {
    let (_folder, program) = arch.program();
    let rig = Rig::with(&program, Options { tls: true, ..Options::default() });
    let launch = || {
        let ca = rig.stand_in.ca_pem_path().unwrap();
        arch.emulated(rig.launch().set("sink.firehose.ca_file", ca.display()))
    };
    // To the disk first: nobody listens there.
    let away = || launch().set("sink.firehose.endpoint_url", "https://127.0.0.1:9");
    let mut agent = away().start();
    let first = run_of(&mut agent);
    // A commit writes the ledger.
    let (mut commits, mut last) = (0, None);
    agent.wait_for("commits", SOON * 2, |_| {
        let now = fs::metadata(rig.spool().join("ledger")).and_then(|meta| meta.modified()).ok();
        commits += usize::from(now != last);
        last = now;
        commits > 3
    });
    agent.kill9();
    let mut agent = launch().start();
    let second = run_of(&mut agent);
    assert_ne!(first, second);
    let stored = |run| rig.stand_in.stored().runs().any(|(_, of)| *of == run);
    agent.wait_for("both runs", SOON * 2, |_| stored(first) && stored(second));
    stop(&mut agent);
    // All that the second took is there, and of the first no hole.
    let samples = rig.stand_in.stored();
    let count =
        |run| samples.lines().filter(|l| l["run"] == run && l["seq"].is_u64()).count() as u64;
    let ended = |run| Ended { run, samples: count(run) };
    assert_complete(&samples, ended(first), 1);
    assert_complete(&samples, ended(second), 1);
    println!("{}: {} samples of a killed run, {} after it", arch.name, count(first), count(second));
}

#[test]
fn arm64_runs() {
    runs(&ARM64);
}

#[test]
fn armhf_runs() {
    runs(&ARMHF);
}

#[test]
fn arm64_simulates_into_a_lake() {
    simulates_into_a_lake(&ARM64);
}

#[test]
fn armhf_simulates_into_a_lake() {
    simulates_into_a_lake(&ARMHF);
}

#[test]
fn arm64_spools_and_delivers_over_tls() {
    spools_and_delivers_over_tls(&ARM64);
}

#[test]
fn armhf_spools_and_delivers_over_tls() {
    spools_and_delivers_over_tls(&ARMHF);
}
