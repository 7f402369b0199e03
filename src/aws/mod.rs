//! The AWS SDK set up.
