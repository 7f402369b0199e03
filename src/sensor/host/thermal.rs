//! Thermal sensors: every hwmon temperature, and every thermal zone that hwmon
//! does not mirror.
//!
//! Read from sysfs here and not by sysinfo's `Components`, which keeps one of
//! several sensors with the same label (two drives of one model, the cores of
//! two sockets), looks at no thermal zone as soon as any hwmon chip has a
//! temperature (a board's SoC beside an NVMe drive), and does not say why a
//! sensor is silent. Labels are made as sysinfo makes them.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use super::Fault;

/// Below and above lie the answers of broken and unconnected sensors.
const PLAUSIBLE_CELSIUS: RangeInclusive<f64> = -40.0..=150.0;

/// Beginnings of the labels that mean the CPU or the SoC, the best first;
/// compared in lower case and with `_` for `-`. What is not here (drives,
/// batteries, Wi-Fi) never fills column `temperature`.
const CPU_LABELS: &[&str] = &[
    "cpu_thermal", // Raspberry Pi and most boards
    "soc_thermal",
    "package_thermal",       // Rockchip's whole chip
    "bcm2835_thermal",       // Raspberry Pi, older kernels
    "coretemp package id 0", // Intel
    "coretemp package",
    "k10temp tctl", // AMD: what the cooling follows, offset included
    "k10temp tdie",
    "zenpower tctl",
    "zenpower tdie",
    "k10temp",
    "zenpower",
    "x86_pkg_temp", // Intel, by thermal zone
    "cpu",          // cpu0-thermal, CPU-therm: one cluster of several
    "soc",
    "coretemp", // a core, where the package has no sensor
    "k8temp",
    "via_cputemp",
    "acpitz", // the mainboard's idea: often constant, sometimes elsewhere
];

/// One file with a temperature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Probe {
    pub label: String,
    pub path: PathBuf,
    /// The chip's name or the zone's type.
    chip: String,
    /// The device behind it, which tells two of a kind apart.
    device: String,
}

impl Probe {
    /// °C within −40..150.
    pub fn read(&self) -> Result<f64, Fault> {
        // One read: a server has hundreds of sensors, and `fs::read` takes four calls.
        let mut buffer = [0; 32];
        let read = File::open(&self.path).and_then(|mut file| file.read(&mut buffer));
        let bytes = read.map_err(|e| Fault::unreadable(&self.path, e))?;
        let text = buffer.get(..bytes).unwrap_or_default();
        let number = std::str::from_utf8(text).ok().and_then(|text| text.trim().parse().ok());
        let millicelsius: i32 = number.ok_or_else(|| Fault::garbage(&self.path, text))?;
        let celsius = f64::from(millicelsius) / 1000.0;
        if PLAUSIBLE_CELSIUS.contains(&celsius) {
            Ok(celsius)
        } else {
            Err(Fault::OutOfRange { path: self.path.clone(), celsius })
        }
    }
}

/// The folders of chips and zones below `/sys/class`, chips first.
pub(super) fn folders(class: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for (kind, prefix) in [("hwmon", "hwmon"), ("thermal", "thermal_zone")] {
        let entries = fs::read_dir(class.join(kind)).into_iter().flatten().flatten();
        let named = entries.filter(|e| e.file_name().to_string_lossy().starts_with(prefix));
        let mut found: Vec<PathBuf> = named.map(|e| e.path()).collect();
        found.sort();
        all.extend(found);
    }
    all
}

/// The temperatures of one chip or zone.
pub(super) fn probes(folder: &Path) -> Vec<Probe> {
    let text =
        |name: &str| fs::read_to_string(folder.join(name)).ok().map(|text| text.trim().to_owned());
    let last = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if let Some(chip) = text("type") {
        let (path, device) = (folder.join("temp"), last(folder));
        return vec![Probe { label: chip.clone(), path, chip, device }];
    }
    let chip = text("name").unwrap_or_default();
    let model = text("device/model");
    let device = folder.join("device").canonicalize().unwrap_or_else(|_| folder.to_owned());
    let mut found: Vec<Probe> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let file = entry.file_name().into_string().ok()?;
            let number = file.strip_prefix("temp")?.strip_suffix("_input")?;
            let own = text(&format!("temp{number}_label")).filter(|own| !own.is_empty());
            let label = match (own, &model) {
                (Some(own), Some(model)) => format!("{chip} {own} {model}"),
                (Some(own), None) => format!("{chip} {own}"),
                (None, Some(model)) => format!("{chip} {model}"),
                (None, None) => format!("{chip} temp{number}"),
            };
            Some(Probe { label, path: entry.path(), chip: chip.clone(), device: last(&device) })
        })
        .collect();
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// Leaves out the zones that a chip mirrors, and gives the device's name to
/// those whose labels are the same.
pub(super) fn distinct(probes: Vec<Probe>) -> Vec<Probe> {
    let is_zone = |probe: &Probe| probe.path.ends_with("temp");
    // hwmon allows no dashes in names: the kernel mirrors `cpu-thermal` as `cpu_thermal`.
    let mirrored =
        |zone: &Probe| probes.iter().any(|p| !is_zone(p) && p.chip == zone.chip.replace('-', "_"));
    let mut kept: Vec<Probe> =
        probes.iter().filter(|p| !is_zone(p) || !mirrored(p)).cloned().collect();
    let mut bearers: HashMap<String, usize> = HashMap::new();
    for probe in &kept {
        *bearers.entry(probe.label.clone()).or_default() += 1;
    }
    for probe in &mut kept {
        if bearers.get(&probe.label).is_some_and(|n| *n > 1) {
            probe.label = format!("{} {}", probe.label, probe.device);
        }
    }
    kept
}

/// The label among `labels` that best means the CPU or the SoC.
pub(super) fn cpu_label<'a>(labels: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let rank = |label: &str| {
        let label = label.to_lowercase().replace('-', "_");
        CPU_LABELS.iter().position(|beginning| label.starts_with(beginning))
    };
    let ranked = labels.into_iter().filter_map(|label| Some((rank(label)?, label)));
    ranked.min_by_key(|(rank, _)| *rank).map(|(_, label)| label)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Writes files below a made `/sys/class`.
    fn class(files: &[(&str, &str)]) -> tempfile::TempDir {
        let class = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = class.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        class
    }

    fn list(class: &Path) -> Vec<Probe> {
        distinct(folders(class).iter().flat_map(|folder| probes(folder)).collect())
    }

    fn labels(class: &Path) -> Vec<String> {
        list(class).into_iter().map(|probe| probe.label).collect()
    }

    #[test]
    fn a_zone_is_listed_unless_a_chip_mirrors_it() {
        let class = class(&[
            ("hwmon/hwmon0/name", "cpu_thermal\n"),
            ("hwmon/hwmon0/temp1_input", "51000\n"),
            ("hwmon/hwmon1/name", "rpi_volt\n"),
            ("hwmon/hwmon1/in0_lcrit_alarm", "0\n"),
            ("thermal/thermal_zone0/type", "cpu-thermal\n"),
            ("thermal/thermal_zone0/temp", "51000\n"),
            ("thermal/thermal_zone1/type", "gpu-thermal\n"),
            ("thermal/thermal_zone1/temp", "40000\n"),
            ("thermal/cooling_device0/type", "Processor\n"),
        ]);
        assert_eq!(labels(class.path()), ["cpu_thermal temp1", "gpu-thermal"]);
        assert_eq!(list(class.path())[0].read().unwrap(), 51.0);
    }

    #[test]
    fn two_drives_of_one_model_are_two_sensors() {
        let class = class(&[
            ("nvme0/model", "Disk 980\n"),
            ("nvme1/model", "Disk 980\n"),
            ("hwmon/hwmon0/name", "nvme\n"),
            ("hwmon/hwmon0/temp1_label", "Composite\n"),
            ("hwmon/hwmon0/temp1_input", "31000\n"),
            ("hwmon/hwmon1/name", "nvme\n"),
            ("hwmon/hwmon1/temp1_label", "Composite\n"),
            ("hwmon/hwmon1/temp1_input", "32000\n"),
        ]);
        symlink("../../nvme1", class.path().join("hwmon/hwmon0/device")).unwrap();
        symlink("../../nvme0", class.path().join("hwmon/hwmon1/device")).unwrap();
        let expected = ["nvme Composite Disk 980 nvme1", "nvme Composite Disk 980 nvme0"];
        assert_eq!(labels(class.path()), expected);
    }

    #[test]
    fn the_temperature_is_the_cpus_and_never_a_drives() {
        let best = |labels: &[&'static str]| cpu_label(labels.iter().copied());
        assert_eq!(best(&["rp1_adc temp1", "cpu_thermal temp1"]), Some("cpu_thermal temp1"));
        assert_eq!(
            best(&["acpitz temp1", "coretemp Core 0", "coretemp Package id 0", "x86_pkg_temp"]),
            Some("coretemp Package id 0")
        );
        assert_eq!(best(&["k10temp Tdie", "k10temp Tctl"]), Some("k10temp Tctl"));
        assert_eq!(best(&["acpitz", "x86_pkg_temp"]), Some("x86_pkg_temp"));
        assert_eq!(best(&["gpu-thermal", "soc-thermal"]), Some("soc-thermal"));
        assert_eq!(best(&["nvme Composite Disk 980", "iwlwifi_1 temp1"]), None);
    }

    #[test]
    fn an_implausible_temperature_is_a_fault() {
        let class = class(&[
            ("hwmon/hwmon0/name", "x\n"),
            ("hwmon/hwmon0/temp1_input", "-40000\n"),
            ("hwmon/hwmon0/temp2_input", "999000\n"),
            ("hwmon/hwmon0/temp3_input", "N/A\n"),
            ("hwmon/hwmon0/temp4_input", ""),
        ]);
        fs::create_dir(class.path().join("hwmon/hwmon0/temp5_input")).unwrap();
        let read: Vec<_> = list(class.path()).iter().map(Probe::read).collect();
        assert_eq!(*read[0].as_ref().unwrap(), -40.0);
        assert!(matches!(read[1], Err(Fault::OutOfRange { .. })));
        assert!(matches!(read[2], Err(Fault::Garbage { .. })));
        assert!(matches!(read[3], Err(Fault::Garbage { .. })));
        assert!(matches!(read[4], Err(Fault::Unreadable { .. })));
    }
}
