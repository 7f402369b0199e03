//! Sets of numbers that come in runs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A set of u64 kept as disjoint, non-adjacent, inclusive ranges.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<(u64, u64)>", into = "Vec<(u64, u64)>")]
pub struct Ranges(BTreeMap<u64, u64>);

impl From<Vec<(u64, u64)>> for Ranges {
    fn from(pairs: Vec<(u64, u64)>) -> Self {
        let mut ranges = Self::default();
        pairs.into_iter().for_each(|(first, last)| ranges.insert_range(first, last));
        ranges
    }
}

impl From<Ranges> for Vec<(u64, u64)> {
    fn from(ranges: Ranges) -> Self {
        ranges.0.into_iter().collect()
    }
}

impl Ranges {
    pub fn insert(&mut self, n: u64) {
        self.insert_range(n, n);
    }

    /// Adds `first..=last`; nothing if `last < first`.
    pub fn insert_range(&mut self, mut first: u64, mut last: u64) {
        if last < first {
            return;
        }
        let reach = last.saturating_add(1);
        while let Some((&from, &to)) = self.0.range(..=reach).next_back() {
            if to.saturating_add(1) < first {
                break;
            }
            self.0.remove(&from);
            first = first.min(from);
            last = last.max(to);
        }
        self.0.insert(first, last);
    }

    pub fn remove(&mut self, n: u64) {
        self.remove_range(n, n);
    }

    /// Takes `first..=last` out.
    pub fn remove_range(&mut self, first: u64, last: u64) {
        while let Some((&from, &to)) = self.0.range(..=last).next_back() {
            if to < first {
                break;
            }
            self.0.remove(&from);
            if to > last {
                self.0.insert(last + 1, to);
            }
            if from < first {
                self.0.insert(from, first - 1);
            }
        }
    }

    pub fn contains(&self, n: u64) -> bool {
        self.around(n).is_some()
    }

    /// Whether any of `first..=last` is in the set.
    pub fn meets(&self, first: u64, last: u64) -> bool {
        self.0.range(..=last).next_back().is_some_and(|(_, &to)| to >= first)
    }

    /// The lowest member that is not below `n`.
    pub fn at_or_after(&self, n: u64) -> Option<u64> {
        if self.contains(n) { Some(n) } else { self.0.range(n..).next().map(|(&from, _)| from) }
    }

    /// The lowest number from `n` on that is not in the set.
    pub fn absent_from(&self, n: u64) -> u64 {
        self.around(n).map_or(n, |(_, last)| last.saturating_add(1))
    }

    /// The highest member that is not above `n`.
    pub fn at_or_before(&self, n: u64) -> Option<u64> {
        self.0.range(..=n).next_back().map(|(_, &to)| to.min(n))
    }

    /// The range that holds `n`.
    pub fn around(&self, n: u64) -> Option<(u64, u64)> {
        let (&from, &to) = self.0.range(..=n).next_back()?;
        (to >= n).then_some((from, to))
    }

    /// The lowest member.
    pub fn first(&self) -> Option<u64> {
        self.0.first_key_value().map(|(&from, _)| from)
    }

    /// The highest member.
    pub fn last(&self) -> Option<u64> {
        self.0.last_key_value().map(|(_, &to)| to)
    }

    /// The members of `first..=last`.
    pub fn within(&self, first: u64, last: u64) -> Self {
        let mut within = self.clone();
        if let Some(below) = first.checked_sub(1) {
            within.remove_range(0, below);
        }
        if let Some(above) = last.checked_add(1) {
            within.remove_range(above, u64::MAX);
        }
        within
    }

    /// The members that `other` has not.
    pub fn without(&self, other: &Self) -> Self {
        let mut rest = self.clone();
        other.iter().for_each(|(first, last)| rest.remove_range(first, last));
        rest
    }

    /// The `count` lowest members.
    pub fn lowest(&self, mut count: u64) -> Self {
        let mut lowest = Self::default();
        for (from, to) in self.iter() {
            if count == 0 {
                break;
            }
            let to = to.min(from.saturating_add(count - 1));
            lowest.insert_range(from, to);
            count -= to - from + 1;
        }
        lowest
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many numbers are in the set.
    pub fn count(&self) -> u64 {
        self.0.iter().fold(0, |sum, (from, to)| sum.saturating_add((to - from).saturating_add(1)))
    }

    /// How many ranges hold them.
    pub fn ranges(&self) -> usize {
        self.0.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().map(|(&from, &to)| (from, to))
    }

    /// Fills the smallest gaps until at most `max` ranges are left: the result
    /// holds all that was in the set, and as little else as that allows.
    pub fn merge_to(&mut self, max: usize) {
        let excess = self.0.len().saturating_sub(max.max(1));
        if excess == 0 {
            return;
        }
        let pairs = self.0.iter().zip(self.0.iter().skip(1));
        let mut gaps: Vec<(u64, u64, u64)> =
            pairs.map(|((_, &to), (&from, _))| (from - to, to, from)).collect();
        gaps.sort_unstable();
        for (_, to, from) in gaps.into_iter().take(excess) {
            self.insert_range(to, from);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn members(ranges: &Ranges) -> BTreeSet<u64> {
        ranges.iter().flat_map(|(first, last)| first..=last).collect()
    }

    proptest! {
        #[test]
        fn ranges_are_a_set(steps in prop::collection::vec((any::<bool>(), 0u64..60, 0u64..9), 0..60)) {
            let (mut ranges, mut set) = (Ranges::default(), BTreeSet::new());
            for (add, first, more) in steps {
                let last = first + more;
                if add {
                    ranges.insert_range(first, last);
                    set.extend(first..=last);
                } else {
                    ranges.remove_range(first, last);
                    set.retain(|n| !(first..=last).contains(n));
                }
                prop_assert_eq!((ranges.first(), ranges.last()), (set.first().copied(), set.last().copied()));
                let within = set.range(first..=last).copied().collect();
                prop_assert_eq!(members(&ranges.within(first, last)), within);
                prop_assert_eq!(ranges.count(), set.len() as u64);
                let apart = ranges.iter().zip(ranges.iter().skip(1)).all(|(a, b)| a.1 + 1 < b.0);
                prop_assert!(apart);
            }
            for n in 0..70 {
                prop_assert_eq!(ranges.contains(n), set.contains(&n));
                prop_assert_eq!(ranges.at_or_after(n), set.range(n..).next().copied());
                prop_assert_eq!(ranges.at_or_before(n), set.range(..=n).next_back().copied());
                prop_assert_eq!(Some(ranges.absent_from(n)), (n..).find(|n| !set.contains(n)));
                let lowest: BTreeSet<u64> = set.iter().take(n as usize).copied().collect();
                prop_assert_eq!(members(&ranges.lowest(n)), lowest);
            }
        }

        #[test]
        fn merging_loses_nothing(numbers in prop::collection::btree_set(0u64..1000, 0..200), max in 1usize..20) {
            let mut ranges = Ranges::default();
            numbers.iter().for_each(|&n| ranges.insert(n));
            ranges.merge_to(max);
            prop_assert!(ranges.ranges() <= max);
            prop_assert!(numbers.iter().all(|&n| ranges.contains(n)));
        }
    }
}
