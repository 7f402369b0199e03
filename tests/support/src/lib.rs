//! What the tests share.

pub mod firehose;
