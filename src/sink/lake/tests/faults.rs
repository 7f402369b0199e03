//! What the disk may do.

use std::sync::{Arc, Mutex};

use parquet::arrow::ArrowWriter;

use super::*;
use crate::sink::small_disk::SmallDisk;

#[test]
fn a_full_disk_fails_whole_and_the_retry_succeeds() {
    let disk = SmallDisk::new("1m");
    let mut writer = large(disk.path());
    put(&mut writer, HOUR, [samples(0..50)]);
    let before = files(disk.path());
    disk.fill();
    let next = batch(HOUR, [samples(50..300)]);
    for _ in 0..2 {
        let trouble = failure(writer.deliver(&next));
        assert_eq!(trouble.kind, TroubleKind::Disk);
        assert!(trouble.text.contains("No space left") && trouble.text.contains("max_bytes"));
        assert!(trouble.text.contains(&*disk.path().to_string_lossy()), "{}", trouble.text);
        assert_eq!(files(disk.path()), before);
        assert!(seqs(disk.path()).into_iter().eq(0..50));
    }
    disk.drain();
    put(&mut writer, NEXT_HOUR, [samples(40..300)]);
    assert!(seqs(disk.path()).into_iter().eq(0..300));
    let stats = writer.counters.stats();
    assert_eq!((stats.written, stats.duplicates, stats.files), (300, 10, 2));
}

#[test]
fn a_read_only_disk_says_so_and_comes_back() {
    let disk = SmallDisk::new("1m");
    let mut writer = large(disk.path());
    put(&mut writer, HOUR, [samples(0..1)]);
    disk.remount("ro");
    let trouble = failure(writer.deliver(&batch(HOUR, [samples(1..2)])));
    assert!(trouble.text.contains("mount the file system writable"), "{}", trouble.text);
    assert!(large(disk.path()).try_out().is_err());
    disk.remount("rw");
    put(&mut writer, HOUR, [samples(0..2)]);
    assert_eq!(seqs(disk.path()), [0, 1].into());
}

#[test]
fn a_folder_removed_under_the_writer_comes_back_whole() {
    let lake = tempfile::tempdir().unwrap();
    let path = lake.path().join("deep/lake");
    let mut writer = large(&path);
    put(&mut writer, HOUR, [samples(0..2)]);
    fs::remove_dir_all(lake.path().join("deep")).unwrap();
    put(&mut writer, HOUR, [samples(2..3)]);
    assert_eq!(seqs(&path), [0, 1, 2].into());
}

#[test]
fn a_file_in_the_place_of_a_folder_is_named() {
    let lake = tempfile::tempdir().unwrap();
    let blocked = lake.path().join("file");
    fs::write(&blocked, "").unwrap();
    let mut writer = large(&blocked);
    let trouble = failure(writer.deliver(&batch(HOUR, [samples(0..1)])));
    assert!(trouble.text.contains("a file stands where a folder should"), "{}", trouble.text);
    assert_eq!(large(&blocked).try_out().unwrap_err().trouble(), trouble);
    fs::remove_file(&blocked).unwrap();
    put(&mut writer, HOUR, [samples(0..1)]);
    assert_eq!(seqs(&blocked), [0].into());
}

/// What `act` logs.
fn logged(act: impl FnOnce()) -> String {
    #[derive(Clone)]
    struct Sink(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let sink = Sink(Arc::default());
    let writer = sink.clone();
    let subscriber =
        tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    tracing::subscriber::with_default(subscriber, act);
    let bytes = sink.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn damaged_and_foreign_files_are_passed_over_with_one_warning() {
    let lake = tempfile::tempdir().unwrap();
    put(&mut large(lake.path()), HOUR, [samples(0..2)]);
    let folder = lake.path().join("data").join(format!("timestamp_sent={HOUR}"));
    let good = fs::read(folder.join("pi-7-000000000000.parquet")).unwrap();
    fs::write(folder.join("cut.parquet"), &good[..good.len() / 2]).unwrap();
    fs::write(folder.join("empty.parquet"), "").unwrap();
    fs::create_dir(folder.join("folder.parquet")).unwrap();
    fs::write(lake.path().join("data/timestamp_sent=file"), "").unwrap();
    let mut foreign = ArrowWriter::try_new(
        File::create(folder.join("foreign.parquet")).unwrap(),
        Arc::new(arrow_schema::Schema::empty()),
        None,
    );
    foreign.as_mut().unwrap().finish().unwrap();

    let mut writer = large(lake.path());
    let log = logged(|| put(&mut writer, HOUR, [samples(0..3)]));
    assert_eq!(log.lines().count(), 1, "{log}");
    assert!(log.contains("files=4"), "{log}");
    assert_eq!(logged(|| put(&mut writer, HOUR, [samples(3..4)])), "");
    let stats = writer.counters.stats();
    assert_eq!((stats.duplicates, stats.written), (2, 2));
    assert!(folder.join("cut.parquet").exists(), "it is not ours to remove");
}

#[test]
fn no_damaged_byte_of_a_footer_stops_the_lake() {
    let lake = tempfile::tempdir().unwrap();
    put(&mut large(lake.path()), HOUR, [samples(0..2)]);
    let path = lake.path().join("data").join(&files(lake.path())[0]);
    let good = fs::read(&path).unwrap();
    let footer_bytes = u32::from_le_bytes(*good[good.len() - 8..].first_chunk().unwrap());
    let from = good.len() - 8 - footer_bytes as usize;
    let damaged = lake.path().join("damaged");
    let mut unreadable = 0;
    for at in from..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        fs::write(&damaged, &bad).unwrap();
        unreadable += usize::from(table::footer(&damaged).is_err());
    }
    assert!(unreadable > 0);
}

#[test]
fn a_reader_that_asserts_stops_nothing() {
    let bytes: &[u8] = &[];
    let read = table::guarded(|| Ok(bytes[rand::random_range(0..9)]));
    assert!(read.unwrap_err().to_string().contains("it is damaged"));
}

#[tokio::test(flavor = "current_thread")]
async fn a_probe_creates_the_folder_and_leaves_nothing() {
    let lake = tempfile::tempdir().unwrap();
    let path = lake.path().join("new");
    let probed = |lake: Lake| async move { lake.probe().await };
    let settings = Settings { path: path.clone(), max_bytes: 1 << 30 };
    let found = probed(Lake::new(settings.clone())).await.unwrap();
    assert!(found.contains("holds 0 rows in 0 files"), "{found}");
    assert!(path.join("data").is_dir());
    assert_eq!(files(&path), Vec::<String>::new());

    let sink = Lake::new(settings.clone());
    let delivered = sink.deliver(Arc::new(batch(HOUR, [samples(0..2)]))).await;
    assert_eq!(delivered, Verdict::Answered(vec![Outcome::Delivered]));
    assert_eq!(sink.counters().stats().written, 2);
    // Another process may be writing it.
    let unfinished = path.join("data").join(format!("timestamp_sent={HOUR}/.a.unfinished"));
    fs::write(&unfinished, "").unwrap();
    let found = probed(Lake::new(settings)).await.unwrap();
    assert!(found.contains("holds 2 rows in 1 files"), "{found}");
    assert!(unfinished.exists());
}
