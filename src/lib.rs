//! iot-agent: what a Linux host feels reaches a queryable lake.
//!
//! ```text
//! sensor ──▶ record ──▶ spool ──▶ drain ──▶ sink
//! ```

pub mod agent;
pub mod aws;
pub mod cli;
pub mod clock;
pub mod config;
pub mod drain;
pub mod health;
pub mod ledger;
pub mod record;
pub mod sensor;
pub mod sink;
pub mod spool;
