//! The host's own sensors.
//!
//! A reading never fails: what cannot be read is absent, and the reason is
//! logged once. It never waits for a mount, nor for a thermal sensor that was
//! slow when it was listed: `poller` asks those in a thread of its own, each
//! 10 s, so their values may be that old; all others are of this moment.
//!
//! CPU, memory and load come through sysinfo. Why disks, thermal sensors and
//! network bytes do not is said in `disk`, `thermal` and `network`.

mod cpu;
mod disk;
mod fault;
mod memory;
mod network;
mod poller;
mod thermal;
mod throttled;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sysinfo::System;

use self::cpu::Cpu;
use self::fault::{Fault, Faults};
use self::poller::{Known, Poller};
use super::{Reading, Readings, Sensor, ThermalReading};
use crate::clock;

/// What the operator may choose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The file system of column `hd`: any path on it.
    pub disk: PathBuf,
    /// The label of the sensor of column `temperature`; chosen by us if absent.
    pub temperature_sensor: Option<String>,
}

/// This host.
#[derive(Debug)]
pub struct HostSensor {
    system: Option<System>,
    cpu: Cpu,
    throttled: Option<PathBuf>,
    poller: Poller,
    faults: Arc<Faults>,
}

impl HostSensor {
    /// Starts looking for disks and thermal sensors. The first reading has no
    /// `cpu`, and neither has one less than 200 ms after the last that had it.
    pub fn new(settings: &Settings) -> Self {
        let faults = Arc::new(Faults::default());
        let poller = Poller::start(settings.clone(), "/sys/class".into(), Arc::clone(&faults));
        let system = System::new().map_err(|_| Fault::Hidden("/proc"));
        Self {
            system: faults.once("all of cpu and memory", system),
            cpu: Cpu::default(),
            throttled: throttled::find(Path::new("/sys")),
            poller,
            faults,
        }
    }

    fn readings(&mut self) -> Readings {
        let faults = &self.faults;
        let mut readings =
            Readings { uptime_s: Some(clock::boot_ms() / 1000), ..Readings::default() };
        if let Some(system) = &mut self.system {
            readings.cpu = faults.once("column cpu", self.cpu.read(system)).flatten();
            if let Some(memory) = faults.once("columns ram and swap", memory::read(system)) {
                (readings.ram, readings.swap) = (Some(memory.ram), memory.swap);
            }
        }
        let load = System::load_average().map_err(|_| Fault::Hidden("/proc/loadavg"));
        readings.load1 = faults.once("column load1", load).map(|load| load.one);
        let network = faults.once("columns rx_bytes and tx_bytes", network::read());
        (readings.rx_bytes, readings.tx_bytes) = network.unzip();
        if let Some(path) = &self.throttled {
            readings.throttled = faults.once("column throttled", throttled::read(path));
        }
        self.add_polled(&mut readings);
        readings
    }

    fn add_polled(&self, readings: &mut Readings) {
        let Known { thermal, slow_sensors, disks, hd } = self.poller.known();
        let quick = thermal.quick.iter().filter_map(|probe| {
            let what = format_args!("thermal sensor {}", probe.label);
            let celsius = self.faults.once(what, probe.read())?;
            Some(ThermalReading { label: probe.label.clone(), celsius })
        });
        readings.sensors = quick.chain(slow_sensors).collect();
        let column = readings.sensors.iter().find(|s| Some(&s.label) == thermal.column.as_ref());
        readings.temperature = column.map(|sensor| sensor.celsius);
        (readings.disks, readings.hd) = (disks, hd);
    }
}

impl Sensor for HostSensor {
    fn simulated(&self) -> bool {
        false
    }

    fn device_ids(&self) -> Option<Vec<String>> {
        None
    }

    fn temperature_label(&self) -> Option<String> {
        self.poller.known().thermal.column.clone()
    }

    fn read(&mut self, _device: usize, _at_ms: i64) -> Reading {
        Reading { readings: self.readings(), ..Reading::default() }
    }
}

/// `part` of `whole` within 0..1; `None` of nothing.
fn share(part: f64, whole: f64) -> Option<f64> {
    // Digits past the sixth are noise that no compressor shortens.
    let share = (part / whole * 1e6).round() / 1e6;
    (whole > 0.0 && share.is_finite()).then(|| share.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_stay_within_one_and_nothing_has_none() {
        assert_eq!(share(1.0, 4.0), Some(0.25));
        assert_eq!(share(1.0, 3.0), Some(0.333333));
        assert_eq!(share(5.0, 4.0), Some(1.0));
        assert_eq!(share(0.0, 0.0), None);
        assert_eq!(share(f64::NAN, 1.0), None);
    }
}
