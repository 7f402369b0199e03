//! Local file systems: how full they are, and the bytes their devices moved.
//!
//! Read with `statvfs` along `/proc/self/mountinfo` and not by sysinfo's
//! `Disks`, which asks every mount it does not know to be remote, so that a
//! dead sshfs or 9p hangs it, and lists bind mounts as disks of their own.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{StatVfs, major, minor, statvfs};

use super::{Fault, share};
use crate::sensor::DiskReading;

const MOUNTINFO: &str = "/proc/self/mountinfo";

/// File systems that lie on this machine and can be written to. An image
/// (squashfs, iso9660) is always full, and a remote one may never answer.
const LOCAL: &[&str] = &[
    "ext2", "ext3", "ext4", "xfs", "btrfs", "bcachefs", "zfs", "f2fs", "jfs", "nilfs2", "reiserfs",
    "vfat", "msdos", "exfat", "ntfs", "ntfs3", "fuseblk", "hfsplus", "ubifs", "jffs2",
];

/// The unit of the kernel's block statistics, whatever the device's sectors
/// are (Documentation/block/stat.rst).
const SECTOR_BYTES: u64 = 512;

/// One line of mountinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mount {
    /// `major:minor`; the same for all mounts of one file system.
    device: String,
    /// What of the file system is mounted: `/` is all of it.
    root: PathBuf,
    point: PathBuf,
    fs: String,
    source: PathBuf,
}

/// A file system to be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Disk {
    pub point: PathBuf,
    fs: String,
    /// `/sys/dev/block/…/stat`; absent where no block device is behind it.
    stat: Option<PathBuf>,
}

impl Disk {
    /// Its reading; `None` for one without blocks. May hang as long as it likes.
    pub fn read(&self) -> Result<Option<DiskReading>, Fault> {
        let vfs = ask(&self.point)?;
        let Some(used) = used(&vfs) else { return Ok(None) };
        let text = self.stat.as_ref().and_then(|path| fs::read_to_string(path).ok());
        let (read_bytes, written_bytes) = text.as_deref().and_then(moved).unzip();
        Ok(Some(DiskReading {
            mount: self.point.to_string_lossy().into_owned(),
            fs: self.fs.clone(),
            total_bytes: vfs.f_blocks.saturating_mul(vfs.f_frsize),
            used,
            read_bytes,
            written_bytes,
        }))
    }
}

/// Used share of the file system of any path on it. May hang.
pub(super) fn used_at(path: &Path) -> Result<Option<f64>, Fault> {
    Ok(used(&ask(path)?))
}

fn ask(path: &Path) -> Result<StatVfs, Fault> {
    statvfs(path).map_err(|e| Fault::Unmeasured { path: path.to_owned(), source: e.into() })
}

/// 0..1, used / (used + available to users): the figure that `df` rounds up.
fn used(vfs: &StatVfs) -> Option<f64> {
    let used = vfs.f_blocks.saturating_sub(vfs.f_bfree);
    share(used as f64, used.saturating_add(vfs.f_bavail) as f64)
}

/// Bytes read and written, from a block device's `stat`.
fn moved(stat: &str) -> Option<(u64, u64)> {
    let mut fields = stat.split_whitespace().map(|field| field.parse::<u64>().ok());
    let (read, written) = (fields.nth(2)??, fields.nth(3)??);
    Some((read.saturating_mul(SECTOR_BYTES), written.saturating_mul(SECTOR_BYTES)))
}

/// The kernel's list of mounts, and whether it has changed.
#[derive(Debug)]
pub(super) struct Mounts {
    file: File,
    is_read: bool,
}

impl Mounts {
    pub fn open() -> Result<Self, Fault> {
        let file = File::open(MOUNTINFO).map_err(|_| Fault::Hidden(MOUNTINFO))?;
        Ok(Self { file, is_read: false })
    }

    /// The local file systems if they have not been listed yet or the mounts
    /// have changed since: the kernel flags it, so the list (thousands of
    /// lines where containers run) is parsed only then.
    pub fn changed(&mut self) -> Result<Option<Vec<Disk>>, Fault> {
        if self.is_read && !self.is_flagged() {
            return Ok(None);
        }
        self.is_read = true;
        let text = self.text().map_err(|e| Fault::unreadable(Path::new(MOUNTINFO), e))?;
        Ok(Some(local(text.split(|b| *b == b'\n').filter_map(parse).collect())))
    }

    fn text(&mut self) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        self.file.rewind()?;
        self.file.read_to_end(&mut text)?;
        Ok(text)
    }

    fn is_flagged(&self) -> bool {
        let mut polled = [PollFd::new(&self.file, PollFlags::PRI)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(poll(&mut polled, Some(&at_once)), Ok(1..))
    }
}

/// A line of mountinfo; see proc_pid_mountinfo(5).
fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|b| *b == b' ');
    let device = String::from_utf8_lossy(fields.nth(2)?).into_owned();
    let (root, point) = (path(fields.next()?), path(fields.next()?));
    let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
    let fs = String::from_utf8_lossy(fields.next()?).into_owned();
    Some(Mount { device, root, point, fs, source: path(fields.next()?) })
}

/// Undoes the kernel's `\ooo` for blanks and backslashes.
fn path(escaped: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some((byte, after)) = rest.split_first() {
        let octal = (*byte == b'\\').then(|| after.get(..3)).flatten();
        let code = octal
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(code.unwrap_or(*byte));
        rest = if code.is_some() { after.get(3..).unwrap_or_default() } else { after };
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// One mount for each local file system: `/` before any other, a whole file
/// system before a part of it (a bind mount), then the shortest path.
fn local(mounts: Vec<Mount>) -> Vec<Disk> {
    // Of several mounts at one point only the last is seen there.
    let seen: HashMap<PathBuf, Mount> =
        mounts.into_iter().map(|mount| (mount.point.clone(), mount)).collect();
    let mut seen: Vec<Mount> = seen.into_values().filter(is_local).collect();
    let whole = Path::new("/");
    seen.sort_by_cached_key(|m| {
        (m.point != whole, m.root != whole, m.point.as_os_str().len(), m.point.clone())
    });
    let mut devices = HashSet::new();
    seen.retain(|mount| devices.insert(mount.device.clone()));
    seen.into_iter().map(disk).collect()
}

fn is_local(mount: &Mount) -> bool {
    // A container's root; elsewhere an overlay is another container's.
    let container_root = mount.fs == "overlay" && mount.point == Path::new("/");
    // Container runtimes lay single files of the host's disk over these.
    let injected = mount.root != Path::new("/")
        && ["/dev", "/etc", "/proc", "/run", "/sys"].iter().any(|top| mount.point.starts_with(top));
    container_root || (LOCAL.contains(&mount.fs.as_str()) && !injected)
}

fn disk(mount: Mount) -> Disk {
    // Major 0 is no device: btrfs makes its numbers up, but names its device.
    let device = if mount.device.starts_with("0:") {
        let node = mount.source.starts_with("/dev").then(|| fs::metadata(&mount.source));
        node.and_then(Result::ok)
            .map(|node| format!("{}:{}", major(node.rdev()), minor(node.rdev())))
    } else {
        Some(mount.device)
    };
    let stat = device.map(|device| PathBuf::from(format!("/sys/dev/block/{device}/stat")));
    Disk { point: mount.point, fs: mount.fs, stat }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(mountinfo: &str) -> Vec<String> {
        let mounts = mountinfo.lines().filter_map(|line| parse(line.as_bytes())).collect();
        local(mounts).iter().map(|disk| disk.point.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_line_of_mountinfo_is_read_with_its_escapes() {
        let line = br"36 35 98:0 /a\134b /mnt/with\040blank rw shared:1 master:2 - ext3 /dev/x rw";
        let expected = Mount {
            device: "98:0".into(),
            root: r"/a\b".into(),
            point: "/mnt/with blank".into(),
            fs: "ext3".into(),
            source: "/dev/x".into(),
        };
        assert_eq!(parse(line), Some(expected));
        assert_eq!(parse(b"36 35 98:0"), None);
        assert_eq!(path(br"\04"), PathBuf::from(r"\04"));
    }

    #[test]
    fn a_pi_has_two_disks_and_no_remote_or_virtual_one() {
        let mountinfo = "\
22 1 179:2 / / rw - ext4 /dev/mmcblk0p2 rw
23 22 0:5 / /dev rw - devtmpfs udev rw
24 22 179:1 / /boot/firmware rw - vfat /dev/mmcblk0p1 rw
25 22 0:40 / /mnt/nas rw - nfs4 nas:/share rw
26 22 0:41 / /mnt/sshfs rw - fuse.sshfs host: rw
27 22 7:0 / /snap/core/1 ro - squashfs /dev/loop0 ro
28 22 0:42 / /tmp rw - tmpfs tmpfs rw
29 22 179:2 /var/lib/x /srv/x rw - ext4 /dev/mmcblk0p2 rw
";
        assert_eq!(points(mountinfo), ["/", "/boot/firmware"]);
    }

    #[test]
    fn btrfs_subvolumes_are_one_disk() {
        let mountinfo = "\
22 1 0:30 /@ / rw - btrfs /dev/sda2 rw
23 22 0:30 /@home /home rw - btrfs /dev/sda2 rw
24 22 0:30 / /mnt/all rw - btrfs /dev/sda2 rw
25 22 0:31 / /data rw - btrfs /dev/sdb rw
";
        assert_eq!(points(mountinfo), ["/", "/data"]);
    }

    #[test]
    fn a_container_has_its_root_and_its_volumes() {
        let mountinfo = "\
22 1 0:50 / / rw - overlay overlay rw,lowerdir=x
23 22 8:1 /docker/1/hosts /etc/hosts rw - ext4 /dev/sda1 rw
24 22 8:1 /docker/1/log /dev/termination-log rw - ext4 /dev/sda1 rw
25 22 8:1 /docker/volumes/v /var/lib/data/of/the/service rw - ext4 /dev/sda1 rw
26 22 0:51 / /var/lib/docker/overlay2/z/merged rw - overlay overlay rw
";
        assert_eq!(points(mountinfo), ["/", "/var/lib/data/of/the/service"]);
    }

    #[test]
    fn of_mounts_on_top_of_each_other_the_last_counts() {
        let mountinfo = "\
22 1 8:1 / / rw - ext4 /dev/sda1 rw
23 22 8:2 / /home rw - ext4 /dev/sda2 rw
24 23 0:60 / /home rw - tmpfs tmpfs rw
";
        assert_eq!(points(mountinfo), ["/"]);
    }

    #[test]
    fn bytes_moved_are_the_sectors_of_block_stat() {
        let stat = "   15906     3691  2569690    24566     7007    74767 20425800   116008 0 1 2";
        assert_eq!(moved(stat), Some((2_569_690 * 512, 20_425_800 * 512)));
        assert_eq!(moved("1 2 3"), None);
    }
}
