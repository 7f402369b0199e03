//! The validated configuration: a value that exists is right.

use std::time::Duration;

use crate::{clock, drain, record, sensor, sink, spool};

/// All that an agent needs to know.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub device: record::Settings,
    pub sample: Sample,
    pub spool: spool::Settings,
    pub send: drain::Settings,
    pub clock: clock::Settings,
    pub sink: Sink,
    /// Set where devices are simulated; then `spool.path` and
    /// `sink.lake.path` already are those of the simulation.
    pub simulate: Option<sensor::simulated::Settings>,
}

/// When to sample, and what of the host.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// 100 ms..=1 day.
    pub interval: Duration,
    pub host: sensor::host::Settings,
}

/// The one sink, with its settings.
#[derive(Debug, Clone, PartialEq)]
pub enum Sink {
    Firehose(sink::firehose::Settings),
    Lake(sink::lake::Settings),
    Stdout,
}
