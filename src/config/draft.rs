//! What was set becomes the configuration: defaults are filled in, and what
//! only shows when the values are seen together is refused.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::model::{Config, Sample, Sink};
use crate::config::name;
use crate::config::problem::{Place, Problem};
use crate::drain::Order;
use crate::sensor::simulated::Profile;
use crate::spool::{KeepFree, WhenFull};
use crate::{clock, drain, record, sensor, sink, spool};

/// What the names of simulated devices, and of no others, begin with.
const SIMULATED: &str = "sim-";

/// Enough that a dashboard meets late data, few enough to leave trends alone.
const REALISTIC_LATE: f64 = 0.02;

const SECOND: Duration = Duration::from_secs(1);

/// Labels go into every sample, whose body is bounded
/// ([`record::MAX_BODY_BYTES`]).
const MAX_LABELS: usize = 16;
const MAX_LABEL_BYTES: usize = 2048;

/// Host names that say nothing about which host it is.
const COMMON_NAMES: [&str; 9] = [
    "raspberrypi",
    "raspberry",
    "localhost",
    "localhost.localdomain",
    "debian",
    "ubuntu",
    "linux",
    "dietpi",
    "unnamed",
];

/// What the machine says for itself.
#[derive(Debug, Clone)]
pub struct Surroundings {
    pub host_name: String,
    /// The folder that holds spool and lake unless they are put elsewhere.
    pub state: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    Lake,
    Firehose,
    Stdout,
}

/// Where a key was last set.
pub struct Setting {
    pub place: Place,
    /// On the command line, by someone who sees what it does.
    pub by_hand: bool,
}

/// What was set; absent is the default.
#[derive(Default)]
pub struct Draft {
    pub id: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub interval: Option<Duration>,
    pub disk: Option<PathBuf>,
    pub temperature_sensor: Option<String>,
    pub spool_path: Option<PathBuf>,
    pub max_loss: Option<Option<Duration>>,
    pub spool_max_bytes: Option<u64>,
    pub keep_free: Option<KeepFree>,
    pub when_full: Option<WhenFull>,
    pub send_interval: Option<Duration>,
    pub order: Option<Order>,
    pub backlog_rate: Option<u64>,
    pub daily_bytes: Option<u64>,
    pub clock_wait: Option<Duration>,
    pub kind: Option<Kind>,
    pub stream: Option<String>,
    pub region: Option<String>,
    pub endpoint_url: Option<String>,
    pub aws_profile: Option<String>,
    pub role_arn: Option<String>,
    pub ca_file: Option<PathBuf>,
    pub lake_path: Option<PathBuf>,
    pub lake_max_bytes: Option<u64>,
    pub profile: Option<Profile>,
    pub devices: Option<usize>,
    pub seed: Option<u64>,
    pub late: Option<f64>,
    pub speed: Option<f64>,
    pub backfill: Option<Duration>,
    /// Where each key was set, right or wrong.
    pub settings: BTreeMap<&'static str, Setting>,
}

/// A configuration, what is wrong with it, and what is merely odd.
pub struct Finished {
    pub config: Config,
    pub problems: Vec<Problem>,
    pub warnings: Vec<String>,
}

impl Draft {
    /// Fills in the defaults and looks at the values together.
    pub fn finish(mut self, simulate: bool, surroundings: &Surroundings) -> Finished {
        let (mut problems, mut warnings) = (Vec::new(), Vec::new());
        let id = self.device_id(&surroundings.host_name);
        if !simulate {
            problems.extend(self.refused_id());
            warnings.extend(self.odd_id(&id, &surroundings.host_name));
        }
        problems.extend(self.too_many_labels());
        problems.extend(self.missing_stream());
        warnings.extend(self.idle_stream());
        warnings.extend(self.clear_text());
        warnings.extend(self.local_budget());
        let uniform = simulate && self.profile == Some(Profile::Uniform);
        let folder = |draft: &Draft, path: Option<PathBuf>, key, name| {
            let path = path.unwrap_or_else(|| surroundings.state.join(name));
            let by_hand = draft.settings.get(key).is_some_and(|setting| setting.by_hand);
            if simulate && !by_hand { beside(&path) } else { path }
        };
        let spool_path = self.spool_path.take();
        let lake_path = self.lake_path.take();
        let config = Config {
            spool: spool::Settings {
                path: folder(&self, spool_path, "spool.path", "spool"),
                max_loss: self.max_loss.flatten(),
                max_bytes: self.spool_max_bytes.unwrap_or(256 * 1024 * 1024),
                keep_free: self.keep_free.unwrap_or(KeepFree::Share(0.05)),
                when_full: self.when_full.unwrap_or(WhenFull::Thin),
            },
            sink: match self.kind.unwrap_or(Kind::Lake) {
                Kind::Lake => Sink::Lake(sink::lake::Settings {
                    path: folder(&self, lake_path, "sink.lake.path", "lake"),
                    max_bytes: self.lake_max_bytes.unwrap_or(1024 * 1024 * 1024),
                }),
                Kind::Firehose => Sink::Firehose(self.firehose()),
                Kind::Stdout => Sink::Stdout,
            },
            device: record::Settings { id, labels: std::mem::take(&mut self.labels) },
            sample: Sample {
                interval: self.interval.unwrap_or(SECOND * if uniform { 1 } else { 10 }),
                host: sensor::host::Settings {
                    disk: self.disk.take().unwrap_or("/".into()),
                    temperature_sensor: self.temperature_sensor.take(),
                },
            },
            send: drain::Settings {
                interval: self.send_interval.unwrap_or(SECOND * 60),
                order: self.order.unwrap_or(Order::FreshFirst),
                backlog_rate: self.backlog_rate,
                daily_bytes: self.daily_bytes,
            },
            clock: clock::Settings { wait: self.clock_wait.unwrap_or(SECOND * 300) },
            simulate: simulate.then(|| sensor::simulated::Settings {
                profile: self.profile.unwrap_or(Profile::Realistic),
                devices: self.devices.unwrap_or(if uniform { 10 } else { 1 }),
                seed: self.seed.unwrap_or(0),
                late: self.late.unwrap_or(if uniform { 0.0 } else { REALISTIC_LATE }),
                speed: self.speed.unwrap_or(1.0),
                backfill: self.backfill.unwrap_or(Duration::ZERO),
            }),
        };
        problems.extend(self.nested_folders(&config));
        Finished { config, problems, warnings }
    }

    fn device_id(&self, host_name: &str) -> String {
        self.id.clone().unwrap_or_else(|| id_of_host(host_name))
    }

    fn firehose(&mut self) -> sink::firehose::Settings {
        sink::firehose::Settings {
            stream: self.stream.take().unwrap_or_default(),
            region: self.region.take(),
            endpoint_url: self.endpoint_url.take(),
            profile: self.aws_profile.take(),
            role_arn: self.role_arn.take(),
            ca_file: self.ca_file.take(),
        }
    }

    /// Where `key` was set; the key itself where nobody did.
    fn place(&self, key: &str) -> Place {
        let set = self.settings.get(key).map(|setting| setting.place.clone());
        set.unwrap_or_else(|| Place::whole(key.to_owned()))
    }

    fn refused_id(&self) -> Option<Problem> {
        let id = self.id.as_deref().filter(|id| id.starts_with(SIMULATED))?;
        Some(Problem {
            place: self.place("device.id"),
            what: format!("device.id: {id:?} is the name of a simulated device"),
            remedy: format!("Choose a name that does not begin with {SIMULATED}"),
        })
    }

    fn odd_id(&self, id: &str, host_name: &str) -> Option<String> {
        if COMMON_NAMES.contains(&id.to_ascii_lowercase().as_str()) {
            return Some(format!(
                "the device is called {id:?}, as many are: give it a name of its own by device.id"
            ));
        }
        (self.id.is_none() && id != host_name).then(|| {
            format!(
                "the host name {host_name:?} cannot be a device's name, {id:?} is used: \
                 set device.id"
            )
        })
    }

    fn too_many_labels(&self) -> Option<Problem> {
        let (count, bytes) =
            (self.labels.len(), self.labels.iter().map(|(k, v)| k.len() + v.len()));
        let bytes: usize = bytes.sum();
        (count > MAX_LABELS || bytes > MAX_LABEL_BYTES).then(|| Problem {
            place: self.place("device.labels.*"),
            what: format!("device.labels: {count} labels of {bytes} bytes are too much"),
            remedy: format!(
                "Keep at most {MAX_LABELS} labels of {MAX_LABEL_BYTES} bytes together: \
                 they go into every sample."
            ),
        })
    }

    fn missing_stream(&self) -> Option<Problem> {
        let set = self.settings.contains_key("sink.firehose.stream");
        (self.kind == Some(Kind::Firehose) && !set).then(|| Problem {
            place: self.place("sink.kind"),
            what: "sink.firehose.stream is missing".into(),
            remedy: "Name the stream under [sink.firehose], for example \
                     stream = \"iot-telemetry\"."
                .into(),
        })
    }

    fn idle_stream(&self) -> Option<String> {
        let setting = self.settings.get("sink.firehose.stream")?;
        (!self.settings.contains_key("sink.kind")).then(|| {
            format!(
                "{}: a stream is named, but the sink is the local lake: \
                 set sink.kind to \"firehose\" to use it",
                setting.place
            )
        })
    }

    fn clear_text(&self) -> Option<String> {
        let url = self.endpoint_url.as_deref().filter(|url| name::in_clear_text(url))?;
        (self.kind == Some(Kind::Firehose)).then(|| {
            format!(
                "{}: what is sent to {url} can be read on its way: use https",
                self.place("sink.firehose.endpoint_url")
            )
        })
    }

    fn local_budget(&self) -> Option<String> {
        self.daily_bytes.filter(|_| self.kind != Some(Kind::Firehose))?;
        Some(format!(
            "{}: the sink is on this machine, and what it takes counts all the same: \
             send.daily_bytes is for a sink behind a metered link",
            self.place("send.daily_bytes")
        ))
    }

    /// Spool and lake count and delete what lies below their folders.
    fn nested_folders(&self, config: &Config) -> Option<Problem> {
        let Sink::Lake(lake) = &config.sink else { return None };
        let (spool, lake) = (&config.spool.path, &lake.path);
        let set = ["sink.lake.path", "spool.path"]
            .into_iter()
            .find(|key| self.settings.contains_key(key));
        (spool.starts_with(lake) || lake.starts_with(spool)).then(|| Problem {
            place: self.place(set.unwrap_or("spool.path")),
            what: format!(
                "spool.path {} and sink.lake.path {} lie in one another",
                shown(spool),
                shown(lake)
            ),
            remedy: "Give each a folder of its own, side by side.".into(),
        })
    }
}

/// The folder of a simulation, which keeps its state to itself.
fn beside(path: &Path) -> PathBuf {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(last)) => parent.join("simulated").join(last),
        _ => path.to_owned(),
    }
}

fn shown(path: &Path) -> String {
    format!("{:?}", path.display().to_string())
}

/// A device's name made from the host's.
fn id_of_host(host: &str) -> String {
    let valid = |c| if name::is_name_char(c) { c } else { '-' };
    let id: String = host.chars().map(valid).collect();
    match id.as_str() {
        "" => "unnamed".into(),
        simulated if simulated.starts_with(SIMULATED) => format!("host-{simulated}"),
        _ => id,
    }
    .chars()
    .take(64)
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Override;
    use crate::config::problem::Errors;
    use crate::config::resolve::{File, resolve};

    fn set(key: &str, value: &str) -> Override {
        Override { key: key.into(), value: value.into(), origin: "--set".into() }
    }

    fn surroundings() -> Surroundings {
        Surroundings { host_name: "attic-7".into(), state: "/state".into() }
    }

    type Outcome = Result<(Config, Vec<String>), String>;

    fn all(file: &str, env: &[(&str, &str)], overrides: &[Override], simulate: bool) -> Outcome {
        let files = [File { path: "f".into(), content: Ok(file.into()) }];
        let env: Vec<_> = env.iter().map(|(name, value)| ((*name).into(), value.into())).collect();
        resolve(&files, &env, overrides, simulate, &surroundings())
            .map_err(|problems| Errors(problems).to_string())
    }

    fn paths(config: &Config) -> (&Path, &Path) {
        match &config.sink {
            Sink::Lake(lake) => (&config.spool.path, &lake.path),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_simulation_keeps_its_state_to_itself_unless_told_by_hand() {
        let file = "[spool]\npath = \"/data/spool\"\n[device]\nid = \"sim-x\"";
        let (config, _) = all(file, &[], &[], true).unwrap();
        let (spool, lake) = paths(&config);
        assert_eq!(spool, Path::new("/data/simulated/spool"));
        assert_eq!(lake, Path::new("/state/simulated/lake"));
        let by_hand = [set("spool.path", "/mine")];
        let env = [("IOT_AGENT_SINK_LAKE_PATH", "/env/lake")];
        let (config, _) = all(file, &env, &by_hand, true).unwrap();
        assert_eq!(paths(&config), (Path::new("/mine"), Path::new("/env/simulated/lake")));
        assert!(all(file, &[], &[], false).is_err());
    }

    #[test]
    fn the_uniform_profile_is_ten_devices_a_second_unless_told_otherwise() {
        let uniform = set("simulate.profile", "uniform");
        let (config, _) = all("", &[], std::slice::from_ref(&uniform), true).unwrap();
        let simulated = config.simulate.unwrap();
        assert_eq!((simulated.profile, simulated.devices), (Profile::Uniform, 10));
        assert_eq!(config.sample.interval, Duration::from_secs(1));
        let told = [uniform.clone(), set("simulate.devices", "3"), set("sample.interval", "5s")];
        let (config, _) = all("", &[], &told, true).unwrap();
        assert_eq!(config.simulate.unwrap().devices, 3);
        assert_eq!(config.sample.interval, Duration::from_secs(5));
        let (config, _) = all("", &[], &[uniform], false).unwrap();
        assert_eq!((config.simulate, config.sample.interval), (None, Duration::from_secs(10)));
    }

    #[test]
    fn a_simulation_may_go_to_firehose() {
        let firehose = [set("sink.kind", "firehose"), set("sink.firehose.stream", "s")];
        let (config, warnings) = all("", &[], &firehose, true).unwrap();
        assert!(matches!(config.sink, Sink::Firehose(settings) if settings.stream == "s"));
        assert_eq!(config.spool.path, Path::new("/state/simulated/spool"));
        assert!(warnings.is_empty(), "{warnings:?}");
    }

    #[test]
    fn labels_are_bounded_together() {
        let many: Vec<Override> =
            (0..17).map(|n| set(&format!("device.labels.l{n}"), "x")).collect();
        assert!(all("", &[], &many[..16], false).is_ok());
        let said = all("", &[], &many, false).unwrap_err();
        assert!(said.contains("17 labels of 58 bytes are too much"), "{said}");
        let long: Vec<Override> =
            (10..26).map(|n| set(&format!("device.labels.l{n}"), &"ü".repeat(63))).collect();
        let said = all("", &[], &long, false).unwrap_err();
        assert!(said.contains("16 labels of 2064 bytes are too much"), "{said}");
    }

    #[test]
    fn what_is_allowed_but_hardly_meant_is_warned_of() {
        let warnings = |overrides: &[Override], host: &str, simulate| {
            let surroundings = Surroundings { host_name: host.into(), ..surroundings() };
            resolve(&[], &[], overrides, simulate, &surroundings)
                .map(|(config, warnings)| (config.device.id, warnings))
        };
        let one = |overrides: &[Override], host: &str, word: &str| {
            let (id, warnings) = warnings(overrides, host, false).unwrap();
            assert!(warnings.len() == 1 && warnings[0].contains(word), "{warnings:?}");
            id
        };
        one(&[], "raspberrypi", "as many are");
        one(&[set("device.id", "localhost")], "attic", "as many are");
        assert_eq!(one(&[], "Küche 1", "cannot be"), "K-che-1");
        assert_eq!(one(&[], "sim-lab", "cannot be"), "host-sim-lab");
        assert_eq!(one(&[], &"x".repeat(70), "cannot be").len(), 64);
        assert_eq!(one(&[], "", "as many are"), "unnamed");
        one(&[set("sink.firehose.stream", "s")], "attic", "the sink is the local lake");
        one(&[set("send.daily_bytes", "20MiB")], "attic", "the sink is on this machine");
        let firehose = [set("sink.kind", "firehose"), set("sink.firehose.stream", "s")];
        let url = |url| [&firehose[..], &[set("sink.firehose.endpoint_url", url)]].concat();
        one(&url("http://10.0.0.1:4566"), "attic", "can be read on its way");
        for (overrides, host, simulate) in [
            (url("http://127.0.0.1:4566"), "attic", false),
            (vec![set("sink.kind", "lake"), set("sink.firehose.stream", "s")], "attic", false),
            ([&firehose[..], &[set("send.daily_bytes", "20MiB")]].concat(), "attic", false),
            (vec![], "raspberrypi", true),
        ] {
            let (_, warnings) = warnings(&overrides, host, simulate).unwrap();
            assert!(warnings.is_empty(), "{warnings:?}");
        }
    }
}
