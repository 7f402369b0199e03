//! What is in which file.

use arrow_array::types::Float64Type;
use parquet::file::reader::{FileReader, SerializedFileReader};

use super::*;
use crate::record::schema;

#[test]
fn every_member_comes_back_in_its_column() {
    let lake = tempfile::tempdir().unwrap();
    let full = "{\"id_device\":\"pi\",\"timestamp\":\"2026-11-24T14:00:00.000Z\",\
        \"timestamp_sent\":\"2026-11-24 14\",\"run\":7,\"seq\":0,\"clock\":\"synced\",\
        \"simulated\":true,\"temperature\":48.3,\"uptime_s\":9007199254740993,\
        \"disks\":[{\"mount\":\"/\",\"fs\":\"ext4\",\"total_bytes\":4,\"used\":0.5},\
        {\"mount\":\"/b\",\"fs\":\"vfat\",\"total_bytes\":5,\"used\":0.25,\"read_bytes\":6}],\
        \"labels\":{\"site\":\"at\\\"tic\",\"rack\":\"ä\"},\"no_column\":{\"of\":[\"ours\"]}}\n";
    put(&mut large(lake.path()), HOUR, [parcel([full.to_owned(), gap("pi", 7, 5, 9)])]);

    let names = files(lake.path());
    assert_eq!(names, ["timestamp_sent=2026-11-24 14/pi-7-000000000000.parquet"]);
    let batches = record_batches(&lake.path().join("data").join(&names[0]));
    let [batch] = &batches[..] else { panic!("{} batches", batches.len()) };
    assert_eq!(batch.num_rows(), 2);
    let column = |name: &str| batch.column_by_name(name).unwrap();
    let text = |array: &dyn Array, at: usize| array.as_string::<i32>().value(at).to_owned();
    assert_eq!(text(column("timestamp"), 0), "2026-11-24T14:00:00.000Z");
    assert!(column("simulated").as_boolean().value(0));
    assert_eq!(column("temperature").as_primitive::<Float64Type>().value(0), 48.3);
    assert!(column("temperature").is_null(1) && column("cpu").is_null(0));
    let uptime = column("uptime_s").as_primitive::<Int64Type>();
    assert_eq!(uptime.value(0), 9_007_199_254_740_993, "no number goes through a double");
    let disks = column("disks").as_list::<i32>().value(0);
    let disks = disks.as_struct();
    assert_eq!(text(disks.column_by_name("mount").unwrap(), 1), "/b");
    let read = disks.column_by_name("read_bytes").unwrap().as_primitive::<Int64Type>();
    assert!(read.is_null(0) && read.value(1) == 6);
    let labels = column("labels").as_map();
    let entries = labels.value(0);
    assert_eq!(text(entries.column(0), 1), "site");
    assert_eq!(text(entries.column(1), 1), "at\"tic");
    assert!(labels.is_null(1));
    let marker = column("marker").as_struct();
    assert!(marker.is_null(0) && marker.is_valid(1));
    assert_eq!(text(marker.column_by_name("reason").unwrap(), 1), "evicted");
}

#[test]
fn the_columns_are_the_schema_without_the_partition() {
    let lake = tempfile::tempdir().unwrap();
    put(&mut large(lake.path()), HOUR, [samples(0..1)]);
    let file = File::open(lake.path().join("data").join(&files(lake.path())[0])).unwrap();
    let metadata = SerializedFileReader::new(file).unwrap().metadata().file_metadata().clone();
    let found = metadata.schema().get_fields().iter().map(|field| field.name());
    let columns = schema::columns().iter().filter(|column| column.name != "timestamp_sent");
    assert!(found.eq(columns.map(|column| &column.name)));
    let leaves = metadata.schema_descr().columns().iter().map(|c| c.path().string());
    let leaves: BTreeSet<String> = leaves.collect();
    for nested in [
        "disks.list.element.mount",
        "labels.key_value.key",
        "labels.key_value.value",
        "marker.kept",
    ] {
        assert!(leaves.contains(nested), "{nested} is not in {leaves:?}");
    }
}

#[test]
fn an_hour_is_one_file_that_grows() {
    let lake = tempfile::tempdir().unwrap();
    let mut writer = large(lake.path());
    put(&mut writer, HOUR, [parcel([sample("pi", 7, 0), sample("other", 8, 0)])]);
    let first = files(lake.path());
    put(&mut writer, HOUR, [samples(1..3), samples(3..4)]);
    assert_eq!(files(lake.path()), first);
    assert_eq!(rows(lake.path()).len(), 5);
    put(&mut writer, NEXT_HOUR, [samples(4..5)]);
    assert_eq!(
        files(lake.path()),
        [&first[0], "timestamp_sent=2026-11-24 15/pi-7-000000000004.parquet"]
    );
}

#[test]
fn a_full_file_is_followed_by_another() {
    let lake = tempfile::tempdir().unwrap();
    let mut writer = large(lake.path());
    // Random labels do not compress: the worst there can be.
    let noisy = |seq| {
        let noise: String = (0..700).map(|_| format!("{:x}", rand::random::<u32>())).collect();
        let labels = format!("{{\"labels\":{{\"noise\":\"{noise}\"}},");
        sample("pi", 7, seq).replacen('{', &labels, 1)
    };
    for first in (0..1200).step_by(40) {
        put(&mut writer, HOUR, [parcel((first..first + 40).map(noisy))]);
    }
    let names = files(lake.path());
    assert!(names.len() > 3, "{names:?}");
    for name in &names {
        let bytes = fs::metadata(lake.path().join("data").join(name)).unwrap().len();
        assert!(bytes <= 1024 * 1024, "{name} has {bytes} bytes");
    }
    assert!(seqs(lake.path()).into_iter().eq(0..1200));
    let stats = writer.counters.stats();
    assert_eq!((stats.files, stats.written), (names.len() as u64, 1200));
}

#[test]
fn sealed_row_groups_stay_as_they_are() {
    let lake = tempfile::tempdir().unwrap();
    let mut writer = large(lake.path());
    for seq in 0..6 {
        put(&mut writer, HOUR, [parcel([padded("pi", 7, seq, 300_000)])]);
    }
    let names = files(lake.path());
    assert_eq!(names.len(), 1);
    let file = File::open(lake.path().join("data").join(&names[0])).unwrap();
    let reader = SerializedFileReader::new(file).unwrap();
    let groups = reader.metadata().row_groups().iter();
    let counts: Vec<i64> =
        groups.map(parquet::file::metadata::RowGroupMetaData::num_rows).collect();
    assert_eq!(counts, [2, 2, 2]);
    assert!(seqs(lake.path()).into_iter().eq(0..6));
}

#[test]
fn a_parcel_that_does_not_decode_is_refused_alone() {
    let lake = tempfile::tempdir().unwrap();
    let mut writer = large(lake.path());
    put(&mut writer, HOUR, [samples(0..2)]);
    let bad = [
        sample("pi", 7, 9).replace("0.5", "\"warm\""),
        sample("pi", 7, 9).replace("0.5", "0.5,\"disks\":{}"),
        sample("pi", 7, 9).replace("0.5", "0.5,\"uptime_s\":18446744073709551615"),
        sample("pi", 7, 9).replace("\"run\":7", "\"run\":\"7\""),
        "<html>\n".into(),
        "\u{0}\n".into(),
    ];
    for (number, bad) in bad.iter().enumerate() {
        let seq = 10 + 3 * number as u64;
        let parcels = [
            samples(seq..seq + 1),
            parcel([sample("pi", 7, seq + 1), bad.clone()]),
            samples(seq + 2..seq + 3),
        ];
        let Verdict::Answered(outcomes) = writer.deliver(&batch(HOUR, parcels)) else {
            panic!("{bad} is a matter of one parcel");
        };
        let [Outcome::Delivered, Outcome::Refused(trouble), Outcome::Delivered] = &outcomes[..]
        else {
            panic!("{bad}: {outcomes:?}");
        };
        assert_eq!(trouble.kind, TroubleKind::Data);
        assert!(trouble.text.contains("run 7"), "{}", trouble.text);
        let found = seqs(lake.path());
        assert!(found.contains(&(seq as i64 + 2)) && !found.contains(&(seq as i64 + 1)));
    }
}

#[test]
fn a_device_can_have_any_name() {
    let lake = tempfile::tempdir().unwrap();
    let mut writer = large(lake.path());
    let long = "x".repeat(300);
    for device in ["../../up", "._hidden", "a b", "a_b", "ä/ö", "", &long] {
        put(&mut writer, HOUR, [parcel([sample(device, 7, 0)])]);
        writer = large(lake.path());
    }
    assert_eq!(rows(lake.path()).len(), 7);
    let names = files(lake.path());
    assert_eq!(names.len(), 7, "{names:?}");
    for name in &names {
        let (folder, file) = name.split_once('/').unwrap();
        assert_eq!(folder, "timestamp_sent=2026-11-24 14");
        assert!(!file.contains('/') && !file.starts_with(['.', '_']), "{file}");
    }
}

#[test]
fn the_oldest_files_go_and_their_folders() {
    let lake = tempfile::tempdir().unwrap();
    let mut writer = large(lake.path());
    put(&mut writer, "2026-11-24 10", [samples(0..1)]);
    let bytes = writer.counters.stats().bytes;
    // Three files fit, a fourth does not.
    let mut writer = lake_writer(lake.path(), bytes * 7 / 2);
    for hour in 11..=14 {
        put(&mut writer, &format!("2026-11-24 {hour}"), [samples(hour..hour + 1)]);
    }
    let stats = writer.counters.stats();
    let names = files(lake.path());
    assert!(names.iter().all(|name| &**name > "timestamp_sent=2026-11-24 12"), "{names:?}");
    assert_eq!(fs::read_dir(lake.path().join("data")).unwrap().count(), names.len());
    assert_eq!((stats.expired_files, stats.expired_rows), (2, 2));
    assert_eq!((stats.files, stats.rows), (names.len() as u64, 3));
    let on_disk = names.iter().map(|n| fs::metadata(lake.path().join("data").join(n)).unwrap());
    assert_eq!(stats.bytes, on_disk.map(|m| m.len()).sum::<u64>());
    assert!(stats.bytes <= bytes * 7 / 2);
}

#[test]
fn what_was_removed_by_hand_leaves_room() {
    let lake = tempfile::tempdir().unwrap();
    let mut writer = large(lake.path());
    put(&mut writer, "2026-11-24 10", [samples(0..1)]);
    let bytes = writer.counters.stats().bytes;
    let mut writer = lake_writer(lake.path(), bytes * 5 / 2);
    put(&mut writer, "2026-11-24 11", [samples(1..2)]);
    fs::remove_file(lake.path().join("data").join(&files(lake.path())[0])).unwrap();
    put(&mut writer, "2026-11-24 12", [samples(2..3)]);
    let stats = writer.counters.stats();
    assert_eq!((stats.expired_files, stats.files), (0, 2));
}

#[test]
fn the_file_being_written_stays_whatever_its_size() {
    let lake = tempfile::tempdir().unwrap();
    let mut writer = lake_writer(lake.path(), 1);
    put(&mut writer, HOUR, [samples(0..1)]);
    put(&mut writer, HOUR, [samples(1..2)]);
    assert_eq!(seqs(lake.path()), [0, 1].into());
    put(&mut writer, NEXT_HOUR, [samples(2..3)]);
    assert_eq!(seqs(lake.path()), [2].into());
}

#[test]
fn a_path_with_every_special_character_can_be_queried() {
    let hint = query_hint(Path::new("/srv/o'neil [1]*?"));
    assert!(hint.contains("'/srv/o''neil [[]1][*][?]/data/*/*.parquet'"), "{hint}");
}
