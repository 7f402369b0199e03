//! Wires the line and owns the order of start and stop.
