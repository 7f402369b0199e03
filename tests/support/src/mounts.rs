//! File systems of their own, so that a disk can fill up, turn read-only or hang.
//!
//! Needs root. Each goes with its value; files in it must be closed by then.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::process::succeed;

/// A mounted file system.
pub struct Mounted {
    folder: TempDir,
    /// Keeps the image of an ext4.
    _image: Option<TempDir>,
}

impl Mounted {
    pub fn tmpfs(bytes: u64) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let options = format!("size={bytes}");
        run(
            "mount",
            [
                OsStr::new("-t"),
                "tmpfs".as_ref(),
                "-o".as_ref(),
                options.as_ref(),
                "none".as_ref(),
                folder.path().as_ref(),
            ],
        );
        Self { folder, _image: None }
    }

    /// On a loop device.
    pub fn ext4(bytes: u64) -> Self {
        let (folder, image) = (TempDir::new(), TempDir::new());
        let (folder, image) = (folder.expect("a folder"), image.expect("a folder"));
        let path = image.path().join("image");
        File::create(&path).and_then(|file| file.set_len(bytes)).expect("an image");
        run("mkfs.ext4", [OsStr::new("-q"), path.as_ref()]);
        run("mount", [OsStr::new("-o"), "loop".as_ref(), path.as_ref(), folder.path().as_ref()]);
        Self { folder, _image: Some(image) }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// `ro`, `rw` or `size=…`. Read-only only while nothing is open for writing.
    pub fn remount(&self, how: &str) {
        let options = format!("remount,{how}");
        run("mount", [OsStr::new("-o"), options.as_ref(), self.path().as_ref()]);
    }

    /// Takes all space that is left, until the file is removed.
    pub fn fill(&self) -> Hog {
        let path = self.path().join("hog");
        let mut bytes = 1 << 20;
        let mut file = File::create(&path).expect("a file that takes the space");
        // A small file system has blocks of 1 KiB.
        while bytes >= 1024 {
            let full = std::io::Write::write_all(&mut file, &vec![1; bytes]).is_err();
            bytes /= if full { 2 } else { 1 };
        }
        Hog(path)
    }

    /// Whoever writes to it hangs, and cannot be killed, until this is dropped:
    /// before anybody waits for such a process to end.
    pub fn freeze(&self) -> Frozen<'_> {
        run("fsfreeze", [OsStr::new("-f"), self.path().as_ref()]);
        Frozen(self)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

/// What fills a disk.
pub struct Hog(std::path::PathBuf);

impl Drop for Hog {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// See [`Mounted::freeze`].
pub struct Frozen<'a>(&'a Mounted);

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let _ = Command::new("fsfreeze").arg("-u").arg(self.0.path()).status();
    }
}

#[track_caller]
fn run<'a>(program: &str, arguments: impl IntoIterator<Item = &'a OsStr>) {
    succeed(Command::new(program).args(arguments));
}
