//! The same commit gives the same package, in whatever folder it lies.
//!
//! Needs: the network
//! Tier: full

#![cfg(test)]

use std::fs;
use std::path::Path;
use std::process::Command;

use iot_agent_test_support::process::succeed;
use iot_agent_test_support::repository;
use tempfile::TempDir;

/// Puts a clone of this tree's last commit there.
fn clone_to(folder: &Path) {
    succeed(Command::new("git").args(["clone", "--quiet"]).arg(repository("")).arg(folder));
}

/// The package, built from what lies there.
fn built_in(folder: &Path) -> Vec<u8> {
    fs::create_dir_all(folder.join("target")).unwrap();
    let tools = fs::canonicalize(repository("target/tools")).unwrap();
    std::os::unix::fs::symlink(tools, folder.join("target/tools")).unwrap();
    let mut build = Command::new(folder.join("packaging/build"));
    succeed(build.args(["--profile", "thin", "amd64"]).env_remove("CARGO_TARGET_DIR"));
    let packages = fs::read_dir(folder.join("target/packages")).unwrap().flatten();
    let mut packages = packages.map(|entry| entry.path());
    let package = packages.find(|path| path.extension().is_some_and(|end| end == "deb"));
    fs::read(package.unwrap()).unwrap()
}

#[test]
fn two_folders_give_one_package() {
    let folder = TempDir::new().unwrap();
    let folders = ["one", "another/and/deeper"].map(|name| folder.path().join(name));
    folders.iter().for_each(|folder| clone_to(folder));
    let [one, two] = folders.map(|folder| built_in(&folder));
    assert!(one == two, "the packages differ: {} and {} bytes", one.len(), two.len());
}
