//! For tests: a file system that fills up and turns read-only for real.

use std::path::Path;
use std::process::Command;

/// A tmpfs of its own, gone with the value. Needs root.
pub struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `size` as mount(8) takes it: `1m`.
    pub fn new(size: &str) -> Self {
        let disk = Self(tempfile::tempdir().unwrap());
        disk.mount(&["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]);
        disk
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all the space that is left.
    pub fn fill(&self) {
        let full = std::fs::write(self.ballast(), vec![0; 4 << 20]).unwrap_err();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    }

    /// Gives it back.
    pub fn drain(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }

    /// With another option: `ro`, `rw`, `size=2m`.
    pub fn remount(&self, how: &str) {
        self.mount(&["-o", &format!("remount,{how}")]);
    }

    fn ballast(&self) -> std::path::PathBuf {
        self.path().join("ballast")
    }

    fn mount(&self, arguments: &[&str]) {
        let done = Command::new("mount").args(arguments).arg(self.path()).output().unwrap();
        let why = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "this test needs root, to mount a small disk: {why}");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.path()).status();
    }
}
