//! Sensors: what a device feels at one moment.
//!
//! A [`Sensor`] speaks for one or more devices and turns a moment into
//! [`Readings`]. It never fails: what cannot be read is absent from the
//! readings, and the reason is logged once by the sensor itself.

pub mod host;
pub mod simulated;

use std::time::Duration;

use serde::Serialize;

/// One device's readings at one moment. Absent values are left out of the JSON.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Readings {
    /// °C of the CPU or SoC sensor, −40..150.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// 0..1, busy share of all cores since the last reading; absent on the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<f64>,
    /// 0..1, (total − available) / total.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ram: Option<f64>,
    /// 0..1, used share of the file system of `sample.disk`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hd: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uptime_s: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load1: Option<f64>,
    /// 0..1; absent where there is no swap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap: Option<f64>,
    /// Bytes since boot over all interfaces but loopback.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rx_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tx_bytes: Option<u64>,
    /// Raspberry Pi firmware flags as in `vcgencmd get_throttled`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throttled: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<DiskReading>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sensors: Vec<ThermalReading>,
}

/// One local file system.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DiskReading {
    pub mount: String,
    pub fs: String,
    pub total_bytes: u64,
    /// 0..1, used / (used + available to users), as `df` rounds up from.
    pub used: f64,
    /// Bytes since boot of the block device; absent where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub written_bytes: Option<u64>,
}

/// One thermal sensor.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ThermalReading {
    pub label: String,
    pub celsius: f64,
}

/// Something that can be asked how its devices feel.
pub trait Sensor {
    /// True when no real sensor is behind the readings.
    fn simulated(&self) -> bool;

    /// The ids of the devices it speaks for; `None` for this host, whose name
    /// is the operator's to give.
    fn device_ids(&self) -> Option<Vec<String>>;

    /// Which of the thermal sensors column `temperature` takes its value from,
    /// where there are several.
    fn temperature_label(&self) -> Option<String> {
        None
    }

    /// The readings of device number `device` (0-based) at `at_ms`
    /// (milliseconds since the Unix epoch; a real sensor reads now and
    /// ignores it).
    fn read(&mut self, device: usize, at_ms: i64) -> Reading;
}

/// Readings, and how long before the asked moment they were felt.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reading {
    pub readings: Readings,
    /// Zero but for the late share of simulated data.
    pub late: Duration,
}
