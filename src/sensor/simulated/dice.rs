//! Random numbers that are a function of where they are asked for.
//!
//! A draw depends on seed, device, topic and index alone, so any moment's
//! draws can be had in any order and without state. The mixing function and
//! its increment are those of splitmix64 (Steele, Lea and Flood, "Fast
//! splittable pseudorandom number generators", OOPSLA 2014; constants as in
//! Vigna's public-domain splitmix64.c): a draw is the `index`-th number of the
//! sequence that begins at the topic's own state. The generators of `rand` are
//! sequential, and its small ones may change from release to release.

/// The sequence's increment, 2^64 divided by the golden ratio.
const INCREMENT: u64 = 0x9e37_79b9_7f4a_7c15;

/// What a draw decides; each topic is a sequence of its own.
#[derive(Debug, Clone, Copy)]
#[repr(u64)]
pub(super) enum Topic {
    Character,
    Cpu,
    Disk,
    Heat,
    Late,
    Lateness,
    Load,
    LoadDrift,
    Ram,
    Read,
    Received,
    Room,
    Sent,
    Temperature,
    Written,
}

/// The draws of one device.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dice(u64);

impl Dice {
    pub fn new(seed: u64, device: usize) -> Self {
        Self(nth(mix(seed), device as u64))
    }

    /// Any 64 bits.
    pub fn bits(self, topic: Topic, index: i64) -> u64 {
        nth(mix(self.0 ^ topic as u64), index.cast_unsigned())
    }

    /// 0..1, one of 2^53 equally likely values.
    pub fn share(self, topic: Topic, index: i64) -> f64 {
        (self.bits(topic, index) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A whole number in 0..`count`.
    pub fn below(self, topic: Topic, index: i64, count: u64) -> u64 {
        let wide = u128::from(self.bits(topic, index)) * u128::from(count);
        (wide >> 64) as u64
    }

    /// A continuous curve within 0..1: a draw at each multiple of `every_ms`,
    /// straight lines between.
    pub fn curve(self, topic: Topic, at_ms: i64, every_ms: i64) -> f64 {
        let step = at_ms.div_euclid(every_ms);
        let within = at_ms.rem_euclid(every_ms) as f64 / every_ms as f64;
        lerp(self.share(topic, step), self.share(topic, step + 1), within)
    }
}

pub(super) fn lerp(from: f64, to: f64, within: f64) -> f64 {
    from + (to - from) * within
}

/// To the nearest 1/`per_unit`: only the digits that a real sensor gives, which
/// keep the JSON short.
pub(super) fn round(value: f64, per_unit: f64) -> f64 {
    (value * per_unit).round() / per_unit
}

fn nth(state: u64, index: u64) -> u64 {
    mix(state.wrapping_add(index.wrapping_add(1).wrapping_mul(INCREMENT)))
}

fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_splitmix64() {
        // The first five numbers of splitmix64.c from state 1234567.
        let known = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
            4_593_380_528_125_082_431,
            16_408_922_859_458_223_821,
        ];
        let ours: Vec<u64> = (0..5).map(|index| nth(1_234_567, index)).collect();
        assert_eq!(ours, known);
    }

    #[test]
    fn draws_of_other_seeds_devices_topics_and_indices_differ() {
        let draws = [
            Dice::new(0, 0).bits(Topic::Cpu, 0),
            Dice::new(1, 0).bits(Topic::Cpu, 0),
            Dice::new(0, 1).bits(Topic::Cpu, 0),
            Dice::new(0, 0).bits(Topic::Ram, 0),
            Dice::new(0, 0).bits(Topic::Cpu, 1),
            Dice::new(0, 0).bits(Topic::Cpu, -1),
        ];
        let distinct: std::collections::BTreeSet<u64> = draws.into();
        assert_eq!(distinct.len(), draws.len());
    }

    #[test]
    fn a_whole_number_takes_every_value_below_its_count() {
        let dice = Dice::new(0, 0);
        let seen: std::collections::BTreeSet<u64> =
            (0..200).map(|index| dice.below(Topic::Disk, index, 5)).collect();
        assert_eq!(seen, (0..5).collect());
    }
}
