//! The drain: leased chunks become parcels, parcels become batches.
//!
//! A [`Parcel`] is NDJSON bytes, and the one interface of every sink; the
//! leases of its lines stay with the drain. The sink answers with a
//! [`Verdict`]; the drain acknowledges what was delivered, keeps what failed
//! for the next try, bisects what was refused and sets aside the single line
//! that the service will never take. Memory is bounded by one batch, whatever
//! the backlog.

mod item;
mod parcel;
mod retry;
mod work;

pub use parcel::Parcel;
pub use work::{Drain, Handover, Stats};

use std::time::Duration;

/// What a sink can take at once. The drain cuts parcels and batches to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Samples in one parcel at most.
    pub parcel_samples: usize,
    /// Bytes of one parcel at most.
    pub parcel_bytes: usize,
    /// Parcels in one batch at most.
    pub batch_parcels: usize,
    /// Bytes of one batch at most.
    pub batch_bytes: usize,
    /// The sink bills each parcel rounded up to a multiple of this; 1 where
    /// it bills nothing.
    pub billing_quantum_bytes: usize,
}

/// What became of one parcel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Delivered,
    /// The service could not take this one now; it will be sent again.
    Retry(Trouble),
    /// The service will never take this one as it is.
    Refused(Trouble),
}

/// What a sink says about a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// One outcome a parcel, in the batch's order.
    Answered(Vec<Outcome>),
    /// Nothing is known to have been delivered: send all of it again.
    Failed(Trouble),
    /// The batch as a whole is refused for what it contains: bisect.
    Refused(Trouble),
}

/// Why something was not delivered, in words for the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    pub kind: TroubleKind,
    /// What happened, where, and what to do about it.
    pub text: String,
}

/// The kind decides how soon the drain tries again and how the state is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TroubleKind {
    /// No answer: network, name resolution, TLS, time-out.
    Unreachable,
    /// The service asks for less, or is ill (5xx).
    Throttled,
    /// Credentials missing, expired, wrong, or not permitted.
    Credentials,
    /// The configuration names something that does not exist or cannot work.
    Configuration,
    /// The service answered what it never should (HTML, garbage).
    BadAnswer,
    /// The local disk under the sink cannot take it.
    Disk,
    /// The data itself is refused.
    Data,
}

/// How the drain works.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// How often live samples are handed to the sink.
    pub interval: Duration,
    pub order: Order,
}

/// What goes first after an outage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    FreshFirst,
    OldestFirst,
}

/// What is handed to the sink at once.
#[derive(Debug)]
pub struct Batch {
    /// The partition of every line in it: UTC `yyyy-MM-dd HH`.
    pub timestamp_sent: String,
    pub parcels: Vec<Parcel>,
}
