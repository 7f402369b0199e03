//! Every sample reaches Firehose, whatever the service answers: the agent
//! against a stand-in that can be told to fail.
//!
//! What must hold is read from what the stand-in stored and from what the agent
//! logged at its end: how many samples it had taken.

#![cfg(test)]

#[path = "firehose/access.rs"]
mod access;
#[path = "firehose/backlog.rs"]
mod backlog;
#[path = "firehose/disk.rs"]
mod disk;
#[path = "firehose/faults.rs"]
mod faults;
#[path = "firehose/fleet.rs"]
mod fleet;
#[path = "firehose/kills.rs"]
mod kills;
#[path = "firehose/moments.rs"]
mod moments;
#[path = "firehose/outages.rs"]
mod outages;
#[path = "firehose/plain.rs"]
mod plain;
#[path = "firehose/refusals.rs"]
mod refusals;
#[path = "firehose/stops.rs"]
mod stops;
#[path = "firehose/thin.rs"]
mod thin;
#[path = "firehose/wire.rs"]
mod wire;

const AGENT: &str = env!("CARGO_BIN_EXE_iot-agent");
