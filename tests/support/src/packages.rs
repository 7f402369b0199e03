//! The Debian packages under test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::process::succeed;
use crate::{locked, repository};

/// The package for `arch` (`amd64`, `arm64`, `armhf`): of the folder that
/// `IOT_TEST_DEBS` names, or else built from this tree, with thin LTO.
#[track_caller]
pub fn package(arch: &str) -> PathBuf {
    static BUILT: [OnceLock<()>; 3] = [const { OnceLock::new() }; 3];
    let folder = match std::env::var_os("IOT_TEST_DEBS") {
        Some(folder) => repository("").join(folder),
        None => {
            let arches = ["amd64", "arm64", "armhf"];
            let place = arches.iter().position(|known| *known == arch).expect("one of the three");
            BUILT[place].get_or_init(|| build(arch));
            repository("target/packages")
        }
    };
    let end = format!("_{arch}.deb");
    let entries = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}: IOT_TEST_DEBS names it", folder.display()));
    let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    found.retain(|path| path.to_string_lossy().ends_with(&end));
    assert_eq!(found.len(), 1, "one package for {arch} in {}, not {found:?}", folder.display());
    found.remove(0)
}

fn build(arch: &str) {
    let _lock = locked(&repository("target/packages.lock"));
    let mut command = Command::new(repository("packaging/build"));
    succeed(command.args(["--profile", "thin", arch]));
}

/// Unpacks a package into `folder`, without installing it.
pub fn unpack(package: &Path, folder: &Path) {
    succeed(Command::new("dpkg-deb").arg("--extract").arg(package).arg(folder));
}
