//! Simulated devices.

/// What the operator may choose.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub profile: Profile,
    /// 1..=10,000.
    pub devices: usize,
    /// The same seed gives the same readings for the same moments.
    pub seed: u64,
    /// Share of samples whose timestamp is up to 180 minutes old, 0..1.
    pub late: f64,
    /// How many times faster than the wall clock simulated time runs, 1..=3600.
    pub speed: f64,
    /// How far in the past simulated time begins; it is caught up with as fast
    /// as the line takes it.
    pub backfill: std::time::Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    Realistic,
    Uniform,
}
