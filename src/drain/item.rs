//! Lines on their way, each with the lease it came with.

use std::sync::Arc;

use crate::clock::BootId;
use crate::drain::{Handover, Parcel};
use crate::record::{Line, Marker, Run, dated};
use crate::spool::chunk::Entry;
use crate::spool::{Lease, Spool};

/// One line to deliver.
#[derive(Debug, Clone)]
pub struct Item {
    pub what: What,
    /// It was left over at an earlier interval, and waits no longer.
    pub waited: bool,
}

#[derive(Debug, Clone)]
pub enum What {
    Sample { device: Arc<str>, run: Run, boot: BootId, entry: Entry, lease: Lease },
    Marker(Marker),
}

impl Item {
    /// Bytes of its line, to the byte for a sample, closely for a marker.
    pub fn line_bytes(&self) -> usize {
        /// A marker with numbers of common length.
        const MARKER_BYTES: usize = 320;
        match &self.what {
            What::Sample { device, run, entry, .. } => {
                line_bytes(device, run.0, entry.seq, &entry.body)
            }
            What::Marker(_) => MARKER_BYTES,
        }
    }

    pub fn render(&self, spool: &Spool, at: &Handover, out: &mut Vec<u8>) {
        match &self.what {
            What::Sample { device, run, boot, entry, .. } => {
                let (timestamp_ms, clock) = dated(&entry.at, spool.offset_ms(*boot));
                Line {
                    device,
                    run: *run,
                    seq: entry.seq,
                    timestamp_ms,
                    clock,
                    timestamp_sent: &at.hour,
                    body: &entry.body,
                }
                .render(out);
            }
            What::Marker(marker) => marker.render(at.wall_ms, &at.hour, out),
        }
    }

    /// The line for a dead letter, which has no hour of sending.
    pub fn plain_line(&self, spool: &Spool) -> String {
        let at = Handover { hour: String::new(), wall_ms: 0, boot_ms: 0 };
        let mut line = Vec::new();
        self.render(spool, &at, &mut line);
        String::from_utf8_lossy(&line).into_owned()
    }
}

/// Bytes of the line of a sample.
pub fn line_bytes(device: &str, run: u64, seq: u64, body: &str) -> usize {
    /// The members around the body with empty device and numbers; a test holds
    /// it to [`Line::render`].
    const FRAME_BYTES: usize = 124;
    FRAME_BYTES + device.len() + digits(run) + digits(seq) + body.len()
}

fn digits(n: u64) -> usize {
    n.checked_ilog10().unwrap_or(0) as usize + 1
}

/// `items` as one record of the sink.
pub fn parcel(spool: &Spool, items: &[Item], at: &Handover) -> Parcel {
    let mut ndjson = Vec::with_capacity(items.iter().map(Item::line_bytes).sum());
    items.iter().for_each(|item| item.render(spool, at, &mut ndjson));
    let (device, run, first_seq) = match items.first().map(|item| &item.what) {
        Some(What::Sample { device, run, entry, .. }) => (device.to_string(), run.0, entry.seq),
        Some(What::Marker(marker)) => (marker.device().to_owned(), marker.run().0, 0),
        None => Default::default(),
    };
    Parcel::new(ndjson, items.len(), device, run, first_seq)
}
