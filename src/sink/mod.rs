//! Sinks: where batches go.
//!
//! A sink takes a [`Batch`] and says what became of each parcel. It never
//! retries: trying again is the drain's business, in one place.

pub mod firehose;
pub mod lake;
#[cfg(test)]
mod small_disk;
pub mod stdout;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::drain::{Batch, Limits, Trouble, Verdict};

/// The future of one delivery.
pub type Delivering = Pin<Box<dyn Future<Output = Verdict> + Send>>;

/// The future of a trial: what was found, for people, or what stands in the way.
pub type Probing = Pin<Box<dyn Future<Output = Result<String, Trouble>> + Send>>;

/// A place that takes batches.
pub trait Sink: Send {
    /// For people: `lake /var/lib/iot-agent/lake`, `firehose iot-telemetry (eu-west-1)`.
    fn name(&self) -> String;

    /// What it can take at once.
    fn limits(&self) -> Limits;

    /// Hands over one batch; at most one is under way at a time. When
    /// `Delivered` comes back, the parcel is as durable as this sink can make
    /// it. Never blocks: what may, happens on another thread.
    fn deliver(&self, batch: Arc<Batch>) -> Delivering;

    /// Tries whether a delivery would work, without delivering anything.
    fn probe(&self) -> Probing;

    /// The time the service last told (its `Date`), in milliseconds since
    /// the Unix epoch, with the boot time in milliseconds when it was heard.
    fn server_time(&self) -> Option<(i64, u64)> {
        None
    }
}
