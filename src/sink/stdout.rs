//! NDJSON on standard output.
