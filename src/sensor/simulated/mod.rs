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
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    Realistic,
    Uniform,
}
