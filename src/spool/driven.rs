//! A spool whose owner is driven by a test, in the test's own thread and time.

pub use crate::spool::generation::disk_bytes;
pub use crate::spool::store::{Opener, SEGMENT_BYTES, Store, StoreError};
pub use crate::spool::thread::{Command, Owner};

use crate::clock::BootId;
use crate::spool::{Claim, Spool};

/// The spool and the owner that is to be driven.
pub fn open(claim: Claim, boot: BootId, opener: Box<dyn Opener>) -> (Spool, Owner) {
    let (mut spool, owner) = Spool::with_owner(claim, boot, opener);
    // What a stop waits for.
    spool.line.thread = Some(std::thread::spawn(|| ()));
    (spool, owner)
}
