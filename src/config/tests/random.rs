//! Random configurations read back, random text is answered.

use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;

use crate::config::Override;
use crate::config::draft::Surroundings;
use crate::config::model::{Config, Sample, Sink};
use crate::config::resolve::resolve;
use crate::config::tests::{INSTALLED, read, read_bytes};
use crate::drain::Order;
use crate::sensor::simulated::Profile;
use crate::spool::{KeepFree, WhenFull};
use crate::{clock, drain, record, sensor, sink, spool};

fn write_send(send: &drain::Settings) -> Vec<String> {
    let order = match send.order {
        Order::FreshFirst => "fresh-first",
        Order::OldestFirst => "oldest-first",
    };
    let interval = humantime::format_duration(send.interval);
    let mut lines = vec![format!("[send]\ninterval = \"{interval}\"\norder = {order:?}")];
    lines.extend(send.backlog_rate.map(|bytes| format!("backlog_rate = {bytes}")));
    lines.extend(send.daily_bytes.map(|bytes| format!("daily_bytes = \"{bytes}B\"")));
    lines
}

/// The file that says `config`, defaults included. `config.simulate` is left
/// to the request, and the paths are those before the simulation's own.
fn write(config: &Config, spool: &str, lake: &str) -> String {
    let duration = humantime::format_duration;
    let mut lines = vec![format!("[device]\nid = {:?}", config.device.id)];
    let toml = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    lines.push("[device.labels]".into());
    for (name, text) in &config.device.labels {
        lines.push(format!("{} = {}", toml(name), toml(text)));
    }
    let Sample { interval, host } = &config.sample;
    lines.push(format!("[sample]\ninterval = \"{}\"", duration(*interval)));
    lines.push(format!("disk = {}", toml(host.disk.to_str().unwrap())));
    lines.extend(
        host.temperature_sensor.as_ref().map(|s| format!("temperature_sensor = {}", toml(s))),
    );
    let max_loss = config.spool.max_loss.map_or("auto".into(), |d| duration(d).to_string());
    let keep_free = match config.spool.keep_free {
        KeepFree::Share(share) => format!("{}%", (share * 100.0).round()),
        KeepFree::Bytes(bytes) => format!("{bytes}B"),
    };
    lines.push(format!(
        "[spool]\npath = {}\nmax_loss = \"{max_loss}\"\nmax_bytes = {}\nkeep_free = \"{keep_free}\"\n\
         when_full = \"drop-oldest\"",
        toml(spool), config.spool.max_bytes
    ));
    lines.extend(write_send(&config.send));
    lines.push(format!("[clock]\nwait = \"{}\"", duration(config.clock.wait)));
    match &config.sink {
        Sink::Stdout => lines.push("[sink]\nkind = \"stdout\"".into()),
        Sink::Lake(settings) => lines.push(format!(
            "[sink]\nkind = \"lake\"\n[sink.lake]\npath = {}\nmax_bytes = \"{}B\"",
            toml(lake),
            settings.max_bytes
        )),
        Sink::Firehose(settings) => {
            lines.push(format!(
                "[sink]\nkind = \"firehose\"\n[sink.firehose]\nstream = {:?}",
                settings.stream
            ));
            let ca_file = settings.ca_file.as_ref().map(|path| path.display().to_string());
            let settings = settings.clone();
            for (name, text) in [
                ("region", settings.region),
                ("endpoint_url", settings.endpoint_url),
                ("profile", settings.profile),
                ("role_arn", settings.role_arn),
                ("ca_file", ca_file),
            ] {
                lines.extend(text.map(|text| format!("{name} = {}", toml(&text))));
            }
        }
    }
    if let Some(simulated) = &config.simulate {
        let profile = if simulated.profile == Profile::Uniform { "uniform" } else { "realistic" };
        lines.push(format!(
            "[simulate]\nprofile = {profile:?}\ndevices = {}\nseed = {}\nlate = {:?}\n\
             speed = \"{}x\"\nbackfill = \"{}\"",
            simulated.devices,
            simulated.seed,
            simulated.late,
            simulated.speed,
            duration(simulated.backfill)
        ));
    }
    lines.join("\n")
}

fn ms(range: std::ops::RangeInclusive<u64>) -> impl Strategy<Value = Duration> {
    range.prop_map(Duration::from_millis)
}

fn printable(max: usize) -> impl Strategy<Value = String> {
    let printable = any::<char>().prop_map(|c| if c.is_control() { 'x' } else { c });
    proptest::collection::vec(printable, 1..=max).prop_map(String::from_iter)
}

fn any_sink() -> impl Strategy<Value = Sink> {
    let firehose = (
        "[a-zA-Z0-9_.-]{1,64}",
        proptest::option::of("[a-z]{2}-[a-z]{4,9}-[1-9]"),
        proptest::option::of("https?://[a-z]{1,9}(:[1-9][0-9]{0,3})?(/[a-z]{0,9})?"),
        proptest::option::of(printable(128)),
        proptest::option::of("arn:aws:iam::[0-9]{12}:role/[a-z/]{0,9}[a-z]"),
        proptest::option::of("(/[a-z \"'\\\\]{1,9}){1,3}"),
    );
    prop_oneof![
        Just(Sink::Stdout),
        (16 << 20..=16u64 << 40).prop_map(|max_bytes| {
            Sink::Lake(sink::lake::Settings { path: PathBuf::new(), max_bytes })
        }),
        firehose.prop_map(|(stream, region, endpoint_url, profile, role_arn, ca_file)| {
            let ca_file = ca_file.map(PathBuf::from);
            Sink::Firehose(sink::firehose::Settings {
                stream,
                region,
                endpoint_url,
                profile,
                role_arn,
                ca_file,
            })
        }),
    ]
}

fn any_simulated() -> impl Strategy<Value = sensor::simulated::Settings> {
    (
        prop_oneof![Just(Profile::Realistic), Just(Profile::Uniform)],
        (1..=10_000usize, 0..=i64::MAX as u64, 0.0..=1.0, 1.0..=3600.0),
        ms(0..=366 * 86_400_000),
    )
        .prop_map(|(profile, (devices, seed, late, speed), backfill)| {
            sensor::simulated::Settings { profile, devices, seed, late, speed, backfill }
        })
}

prop_compose! {
    fn any_config()(
        id in "[A-Za-rt-z0-9._-][A-Za-z0-9._-]{0,63}",
        labels in proptest::collection::btree_map(printable(15), printable(15), 0..=16),
        (sample, send, wait) in (ms(100..=86_400_000), ms(1000..=3_600_000), ms(0..=86_400_000)),
        disk in "/[a-z/ ]{0,20}",
        temperature_sensor in proptest::option::of(printable(128)),
        max_loss in proptest::option::of(ms(1000..=3_600_000)),
        max_bytes in 8u64 << 20..=16 << 40,
        keep_free in prop_oneof![
            (0..=90u32).prop_map(|percent| KeepFree::Share(f64::from(percent) / 100.0)),
            (0..=16u64 << 40).prop_map(KeepFree::Bytes),
        ],
        order in prop_oneof![Just(Order::FreshFirst), Just(Order::OldestFirst)],
        backlog_rate in proptest::option::of(100u64..=1 << 30),
        daily_bytes in proptest::option::of(1u64 << 20..=16 << 40),
        sink in any_sink(),
        simulate in proptest::option::of(any_simulated()),
    ) -> Config {
        let path = PathBuf::new();
        Config {
            device: record::Settings { id, labels },
            sample: Sample {
                interval: sample,
                host: sensor::host::Settings { disk: disk.into(), temperature_sensor },
            },
            spool: spool::Settings {
                path, max_loss, max_bytes, keep_free, when_full: WhenFull::DropOldest,
            },
            send: drain::Settings { interval: send, order, backlog_rate, daily_bytes },
            clock: clock::Settings { wait },
            sink,
            simulate,
        }
    }
}

/// The installed file in use, bent out of shape.
fn bent() -> impl Strategy<Value = Vec<u8>> {
    let text = INSTALLED.replace("\n#", "\n").into_bytes();
    let byte = prop_oneof![any::<u8>(), proptest::sample::select(b"\"'[]{}=.#\n 0\xff".to_vec())];
    let edit =
        (any::<proptest::sample::Index>(), 0..40usize, proptest::collection::vec(byte, 0..4));
    let uncommented: Vec<u8> = text;
    proptest::collection::vec(edit, 1..12).prop_map(move |edits| {
        let mut text = uncommented.clone();
        for (at, gone, new) in edits {
            let at = at.index(text.len().max(1)).min(text.len());
            let end = (at + gone).min(text.len());
            text.splice(at..end, new);
        }
        text
    })
}

/// It loads, or each problem lies inside the file.
fn loads_or_points_inside(bytes: &[u8]) -> Result<(), TestCaseError> {
    let Err(problems) = read_bytes(bytes, false) else { return Ok(()) };
    prop_assert!(!problems.is_empty());
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text.strip_prefix('\u{feff}').unwrap_or(&text).split('\n').collect();
    for problem in problems {
        let (line, column) = problem.place.position().unwrap_or_default();
        prop_assert!((1..=lines.len()).contains(&line), "{problem}");
        prop_assert!((1..=lines[line - 1].chars().count() + 1).contains(&column), "{problem}");
        prop_assert!(!problem.remedy.is_empty());
    }
    Ok(())
}

/// As deep as a file of the largest size can go.
#[test]
fn deep_nesting_is_refused_without_a_crash() {
    for (begin, again) in [("a = ", "["), ("a = ", "{a="), ("", "a."), ("[", "a."), ("", "[")] {
        let text = format!("{begin}{}", again.repeat(64 * 1024 / again.len() - 4));
        assert!(read_bytes(text.as_bytes(), false).is_err());
        let text = format!("{text}a]=1\n");
        assert!(read_bytes(text.as_bytes(), false).is_err());
        let text = text.replace(']', "");
        assert!(read_bytes(text.as_bytes(), false).is_err());
    }
}

proptest! {
    #[test]
    fn what_is_written_reads_back_equal(mut config in any_config()) {
        let simulate = config.simulate.is_some();
        let text = write(&config, "/s/spool", "/s/lake");
        let folder = if simulate { "/s/simulated" } else { "/s" };
        config.spool.path = format!("{folder}/spool").into();
        if let Sink::Lake(lake) = &mut config.sink {
            lake.path = format!("{folder}/lake").into();
        }
        prop_assert_eq!(read(&text, simulate), config);
    }

    #[test]
    fn a_bent_file_loads_or_says_where_it_is_bent(bytes in bent()) {
        loads_or_points_inside(&bytes)?;
    }

    #[test]
    fn garbage_loads_or_says_where(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        loads_or_points_inside(&bytes)?;
    }

    #[test]
    fn any_text_loads_or_says_where(text in "(\\PC|[\"'=.\\[\\]{}#\n\r\t]){0,200}") {
        loads_or_points_inside(text.as_bytes())?;
    }

    #[test]
    fn any_override_is_right_or_wrong(key in "[a-z._]{0,20}|sample.disk|device.id|device.labels.x", value in "\\PC{0,20}") {
        let over = Override { key, value, origin: "--set".into() };
        let surroundings = Surroundings { host_name: "h".into(), state: "/s".into() };
        let _ = resolve(&[], &[], &[over], false, &surroundings);
    }
}
