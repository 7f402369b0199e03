//! Mounts that never answer: FUSE file systems whose daemon is silent.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::lines_with;
use crate::machine::{Machine, Watch};

/// Between two records of [`Machine::watch`].
const INTERVAL: Duration = Duration::from_millis(200);

/// What a sample may take, however many mounts hang.
const MOST: Duration = Duration::from_millis(200);

/// Longer than it takes to give up on a read, and to ask again.
const LONG: Duration = Duration::from_secs(14);

/// Nobody answers on this device, which the agent itself holds open: the mount
/// hangs until the agent ends.
const SILENT_DAEMON: &str = r#"exec 3<>/dev/fuse
mkdir -p "$0/hung""#;

/// Watches for a while and asserts that no sample was late. Returns the last.
fn assert_never_late(watch: &Watch) -> Value {
    let (begun, mut last) = watch.next();
    let mut before = begun;
    while begun.elapsed() < LONG {
        let (at, record) = watch.next();
        let took = at.duration_since(before).saturating_sub(INTERVAL);
        assert!(took < MOST, "a sample took {took:?}");
        assert!(record["disks"].is_array(), "{record}");
        (before, last) = (at, record);
    }
    last
}

#[test]
fn a_dead_remote_mount_in_column_hd_delays_nothing() {
    let machine = Machine::new().command(SILENT_DAEMON).command(
        r#"mount -i -t fuse.sshfs -o fd=3,rootmode=40000,user_id=0,group_id=0 far: "$0/hung"
mount -t fusectl none /sys/fs/fuse/connections"#,
    );
    let hung = machine.path().join("hung");
    let begun = Instant::now();
    let disk = format!("sample.disk={}", hung.display());
    let (record, _) = machine.sample(&["--set", &disk]);
    assert!(begun.elapsed() < Duration::from_secs(2), "one record took {:?}", begun.elapsed());
    assert!(record["disks"].is_array(), "{record}");

    let watch = machine.watch(&["--set", &disk]);
    let last = assert_never_late(&watch);
    assert!(last.get("hd").is_none(), "{last}");
    // The main thread, the one that hangs and the one that goes on.
    assert_eq!(watch.threads(), 3);
    let has_it = |disk: &Value| disk["mount"] == json!(hung.to_str().unwrap());
    assert!(!last["disks"].as_array().unwrap().iter().any(has_it), "a remote mount is no disk");
    assert_eq!(lines_with(&watch.stderr(), "has not answered"), 1, "{}", watch.stderr());

    let aborted = r#"for c in /sys/fs/fuse/connections/*; do echo 1 > $c/abort; done"#;
    watch.command(aborted);
    watch.until("the thread that hung ends", |_| watch.threads() == 2);
    assert_eq!(lines_with(&watch.stderr(), "answers again"), 1, "{}", watch.stderr());
    watch.until("the mount is asked again", |_| lines_with(&watch.stderr(), "column hd") == 1);
}

#[test]
fn a_dead_local_mount_delays_nothing_and_costs_no_other_disk() {
    let machine = Machine::new().command(SILENT_DAEMON).command(
        r#"truncate -s 1M "$0/image"
device=$(losetup --find --show "$0/image")
mount -i -t fuseblk -o fd=3,rootmode=40000,user_id=0,group_id=0 "$device" "$0/hung"
losetup --detach "$device""#,
    );
    let watch = machine.watch(&[]);
    let last = assert_never_late(&watch);
    assert!(last["hd"].is_number(), "{last}");
    assert_eq!(watch.threads(), 3);
    assert_eq!(lines_with(&watch.stderr(), "has not answered"), 1, "{}", watch.stderr());
}

#[test]
fn a_disk_that_is_plugged_in_appears_and_goes_when_unmounted() {
    let machine = Machine::new();
    let [image, stick] = ["image", "a stick"].map(|name| machine.path().join(name));
    fs::create_dir(&stick).unwrap();
    let watch = machine.watch(&[]);
    let find = |record: &Value| {
        let is_stick = |disk: &&Value| disk["mount"] == json!(stick.to_str().unwrap());
        record["disks"].as_array().unwrap().iter().find(is_stick).cloned()
    };
    assert!(find(&watch.next().1).is_none());
    watch.command(&format!(
        "truncate -s 8M '{image}' && mkfs.ext4 -q '{image}' && mount -o loop '{image}' '{stick}'",
        image = image.display(),
        stick = stick.display()
    ));
    let record = watch.until("the stick appears", |record| find(record).is_some());
    assert_eq!(find(&record).unwrap()["fs"], json!("ext4"));
    assert!(find(&record).unwrap()["written_bytes"].is_number(), "{record}");
    watch.command(&format!("umount '{}'", stick.display()));
    watch.until("the stick is gone", |record| find(record).is_none());
}
