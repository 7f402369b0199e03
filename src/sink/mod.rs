//! Sinks: where batches go.
//!
//! A sink takes a [`Batch`] and says what became of each parcel. It never
//! retries: trying again is the drain's business, in one place.

pub mod firehose;
pub mod lake;
pub mod stdout;

use std::future::Future;
use std::pin::Pin;

use crate::drain::{Batch, Limits, Verdict};

/// The future of one delivery.
pub type Delivering<'a> = Pin<Box<dyn Future<Output = Verdict> + Send + 'a>>;

/// A place that takes batches.
pub trait Sink: Send {
    /// For people: `lake /var/lib/iot-agent/lake`, `firehose iot-telemetry (eu-west-1)`.
    fn name(&self) -> String;

    /// What it can take at once.
    fn limits(&self) -> Limits;

    /// Hands over one batch. When `Delivered` comes back, the parcel is as
    /// durable as this sink can make it.
    fn deliver<'a>(&'a mut self, batch: &'a Batch) -> Delivering<'a>;

    /// The time the service last told (its `Date`), in milliseconds since
    /// the Unix epoch, with the boot time in milliseconds when it was heard.
    fn server_time(&self) -> Option<(i64, u64)> {
        None
    }

    /// Ends cleanly, within a second.
    fn close(&mut self) -> Delivering<'_> {
        Box::pin(async { Verdict::Answered(Vec::new()) })
    }
}
