//! The drain: leased chunks become parcels, parcels become batches.
//!
//! A [`Parcel`] is NDJSON bytes, and the one interface of every sink; the
//! leases of its lines stay with the drain. The sink answers with a
//! [`Verdict`]; the drain acknowledges what was delivered, gives back to the
//! spool what failed, bisects what was refused and sets aside the single line
//! that the service will never take. Memory is bounded by one batch, whatever
//! the backlog.
//!
//! What was sampled within the last two intervals is live, and goes first
//! whatever waits; the rest is backlog, which a [`pace`] and a [`budget`] may
//! hold back. While nothing gets through, the drain holds nothing but tries a
//! record's worth of the freshest; what it then takes grows from there, so that
//! a fleet that returns does not return all at once.

mod budget;
mod item;
mod pace;
mod parcel;
mod retry;
mod settle;
mod work;

pub use item::line_bytes;
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
    pub wire: Wire,
}

/// What becomes of a batch on its way to the sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wire {
    /// Bytes of a request beside its parcels, and of a parcel beside its lines.
    pub request_bytes: usize,
    pub parcel_bytes: usize,
    /// Lines are sent as base64 (RFC 4648).
    pub base64: bool,
}

impl Wire {
    /// Lines go as they are.
    pub const PLAIN: Self = Self { request_bytes: 0, parcel_bytes: 0, base64: false };

    /// Bytes of a parcel of so many bytes of NDJSON.
    pub fn parcel(&self, ndjson_bytes: usize) -> u64 {
        let lines = if self.base64 { ndjson_bytes.div_ceil(3) * 4 } else { ndjson_bytes };
        (self.parcel_bytes + lines) as u64
    }

    /// Bytes of NDJSON that a request of `bytes` holds, in one parcel.
    fn fits(&self, bytes: u64) -> usize {
        let beside = (self.request_bytes + self.parcel_bytes) as u64;
        let lines = bytes.saturating_sub(beside);
        usize::try_from(if self.base64 { lines / 4 * 3 } else { lines }).unwrap_or(usize::MAX)
    }
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
    /// How long the service wants to be left alone, if it says so.
    pub retry_after: Option<Duration>,
}

impl Trouble {
    pub fn new(kind: TroubleKind, text: String) -> Self {
        Self { kind, text, retry_after: None }
    }
}

/// The kind decides how soon the drain tries again and how the state is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TroubleKind {
    /// Nothing was sent: network, name resolution, TLS.
    Unreachable,
    /// Sent, and no answer came: it may have arrived.
    Unanswered,
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

impl TroubleKind {
    /// Whether going from one to the other is no news: a dead network is
    /// noticed before a request is sent, or after.
    fn is_the_same_to_people(self, other: Self) -> bool {
        let silent = |kind| matches!(kind, Self::Unreachable | Self::Unanswered);
        self == other || (silent(self) && silent(other))
    }
}

/// How the drain works.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// How often live samples are handed to the sink.
    pub interval: Duration,
    pub order: Order,
    /// Bytes a second of the backlog, as NDJSON; unlimited if absent.
    pub backlog_rate: Option<u64>,
    /// Bytes of requests in one UTC day; unlimited if absent.
    pub daily_bytes: Option<u64>,
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
