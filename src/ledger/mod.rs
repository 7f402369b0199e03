//! The small file beside the spool.
