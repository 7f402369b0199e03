//! Faults before a ledger's write and before its sync, for tests.

use std::cell::Cell;
use std::io;

thread_local! {
    static FAULT: Cell<fn() -> io::Result<()>> = const { Cell::new(|| Ok(())) };
}

/// Has `fault` asked on this thread.
pub fn set(fault: fn() -> io::Result<()>) {
    FAULT.set(fault);
}

pub(super) fn strike() -> io::Result<()> {
    (FAULT.get())()
}
