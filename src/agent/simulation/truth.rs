//! What truly happened to each sample, and what must never.

use std::collections::BTreeMap;

use chrono::DateTime;
use rand::RngExt;
use serde::Deserialize;

use super::plan::{Broken, HOUR, MINUTE, Wall};
use super::world::World;
use crate::clock::{Moment, partition_hour, plausible};
use crate::spool::Stats;

/// Run and seq.
pub type Key = (u64, u64);

#[derive(Debug)]
pub struct Fate {
    /// World time.
    pub taken: u64,
    pub at: Moment,
    /// Which boot it is of.
    pub boot: usize,
    pub poison: bool,
    delivered: Option<u64>,
    declared: bool,
    buried: bool,
    may_repeat: bool,
    may_be_lost: bool,
}

impl Fate {
    fn is_settled(&self) -> bool {
        self.delivered.is_some() || self.declared || self.buried
    }
}

#[derive(Default)]
pub struct Truth {
    pub samples: BTreeMap<Key, Fate>,
    /// Stored by the service, which has not answered yet.
    unanswered: Vec<Key>,
    /// When this start of the agent began.
    pub life_began: u64,
    /// What its spool counted.
    pub stats: Stats,
    /// It is being stopped.
    pub stopping: bool,
    /// The disk has lost something, and the agent has said so.
    disk_lost: bool,
}

#[derive(Deserialize)]
pub struct Row {
    timestamp: String,
    timestamp_sent: String,
    run: Option<u64>,
    seq: Option<u64>,
    clock: Option<String>,
    marker: Option<Marker>,
}

#[derive(Deserialize)]
struct Marker {
    kind: String,
    run: u64,
    first_seq: Option<u64>,
    last_seq: Option<u64>,
    kept: Option<u64>,
    reason: String,
}

impl Row {
    pub fn parse(line: &str) -> Self {
        // Of a sample only the head matters, and reading the rest takes long.
        let head = line.split_once(",\"simulated\"").map(|(head, _)| format!("{head}}}"));
        let head = head.filter(|head| head.contains("\"seq\""));
        serde_json::from_str(head.as_deref().unwrap_or(line)).expect("each line is a row")
    }

    pub fn key(&self) -> Option<Key> {
        Some((self.run?, self.seq?))
    }
}

impl World {
    pub fn took(&mut self, key: Key) {
        let poison = self.rng.random_ratio(self.plan.poison, 1000);
        let (taken, at, boot) = (self.now_ms(), self.moment(), self.boots.len() - 1);
        let fate = Fate {
            taken,
            at,
            boot,
            poison,
            delivered: None,
            declared: false,
            buried: false,
            may_repeat: false,
            may_be_lost: false,
        };
        assert!(self.truth.samples.insert(key, fate).is_none(), "{key:?} is given twice");
        self.figures.add("samples", 1);
    }

    /// The service has stored `row`; `answers` if it will say so.
    pub fn arrived(&mut self, row: &Row, answers: bool) {
        let now_ms = self.now_ms();
        if let Some(marker) = row.marker.as_ref().filter(|marker| marker.kind == "gap") {
            let (first, last) = (marker.first_seq.unwrap(), marker.last_seq.unwrap());
            self.figures.add("gaps declared", 1);
            let (mut arrived, thinned) = (0, marker.reason == "thinned");
            for key in (first..=last).map(|seq| (marker.run, seq)) {
                let fate = self.truth.samples.get_mut(&key);
                let fate = fate.unwrap_or_else(|| panic!("{key:?} is declared and never was"));
                // What thinning left has arrived, or was refused, by now.
                let here = thinned && (fate.delivered.is_some() || fate.poison);
                arrived += u64::from(here);
                fate.declared |= !here || fate.delivered.is_none();
                self.figures.add("samples thinned", u64::from(thinned && !here));
            }
            assert!(arrived >= marker.kept.unwrap(), "{arrived} arrived of {first} to {last}");
        }
        let Some(key) = row.key() else { return };
        self.check_date(row, key);
        let fate = self.truth.samples.get_mut(&key);
        let fate = fate.unwrap_or_else(|| panic!("{key:?} was never sampled"));
        if let Some(first) = fate.delivered {
            assert!(fate.may_repeat, "{key:?} is delivered twice, and nothing excuses it");
            self.figures.add("duplicates", 1);
            self.figures.add("most hours to a duplicate", (now_ms - first) / HOUR);
        } else {
            fate.delivered = Some(now_ms);
            self.figures.add("delivered", 1);
        }
        match answers {
            true => self.truth.unanswered.push(key),
            false => fate.may_repeat = true,
        }
    }

    /// An answer that has not come by now comes no more.
    pub fn abandoned(&mut self) {
        for key in std::mem::take(&mut self.truth.unanswered) {
            self.truth.samples.get_mut(&key).unwrap().may_repeat = true;
        }
    }

    pub fn answered(&mut self) {
        self.truth.unanswered.clear();
    }

    /// The hour must be one that this device, or the service, had just then.
    pub fn check_hour(&self, hour: &str, patient: bool) {
        let (now, world_ms) = (self.moment(), self.now_ms());
        let right = partition_hour(self.true_wall_ms(world_ms));
        let trusted = now.synced || self.plan.wall == Wall::Kept || !patient;
        let own = plausible(now.wall_ms) && trusted && hour == partition_hour(now.wall_ms);
        assert!(own || hour == right, "the hour of sending is {hour}; it is {right}, {now:?}");
    }

    fn check_date(&self, row: &Row, key: Key) {
        let fate = &self.truth.samples[&key];
        let boot = &self.boots[fate.boot];
        let ms = |text: &str| DateTime::parse_from_rfc3339(text).unwrap().timestamp_millis();
        let (date_ms, now_ms) = (ms(&row.timestamp), self.now_ms());
        let clock = row.clock.as_deref().unwrap();
        let sound = match clock {
            "synced" => fate.at.synced && date_ms == fate.at.wall_ms,
            "corrected" => boot.walls.iter().filter(|wall| wall.from <= now_ms).any(|wall| {
                let due_ms = self.true_wall_ms(fate.taken) + wall.off_ms;
                let right = wall.synced || self.plan.wall == Wall::Unset;
                right && plausible(due_ms) && due_ms.abs_diff(date_ms) <= 1000
            }),
            _ => {
                let this_boot = fate.boot + 1 == self.boots.len();
                let known = this_boot && self.moment().synced
                    || boot.known_durably && fate.taken < self.truth.life_began;
                !known && date_ms == fate.at.wall_ms
            }
        };
        assert!(
            sound,
            "{key:?} is dated {} ({clock}), sent {}; it was taken at {}: {fate:?}",
            row.timestamp,
            row.timestamp_sent,
            self.true_wall_ms(fate.taken),
        );
        let name = ["synced", "corrected", "unsynced"].into_iter().find(|name| *name == clock);
        debug_assert!(name.is_some(), "{clock}");
    }

    /// A start of the agent has ended: by a clean stop, or not.
    pub fn life_ended(&mut self, clean: bool) {
        let now_ms = self.now_ms();
        let quiet_ms = self.trouble_since(now_ms);
        let slack = self.plan.max_loss.as_millis() as u64 + MINUTE;
        let stats = std::mem::take(&mut self.truth.stats);
        let may_lose = self.plan.breaks.iter().any(|phase| phase.kind == Broken::Read);
        assert!(may_lose || stats.holding.lost_chunks == 0, "chunks are lost: {stats:?}");
        self.truth.disk_lost |= stats.holding.lost_chunks > 0;
        self.figures.add("commits", stats.commits);
        self.figures.add("samples evicted", stats.holding.evicted_samples);
        self.figures.add("samples thinned on disk", stats.holding.thinned_samples);
        self.figures.add("samples dropped in memory", stats.ring_dropped);
        self.figures.add("chunks lost by the disk", stats.holding.lost_chunks);
        self.abandoned();
        if !clean {
            // What was being written anew may be there twice.
            let rewriting = self.truth.stopping || quiet_ms < now_ms;
            for fate in self.truth.samples.values_mut() {
                fate.may_repeat |= fate.delivered.is_some() || rewriting;
                fate.may_be_lost |= !fate.is_settled() && fate.taken + slack > quiet_ms;
            }
        }
        let told = self.boot().walls.iter().find(|wall| wall.synced).map_or(u64::MAX, |w| w.from);
        let learned =
            told.max(self.truth.life_began).saturating_add(self.plan.interval.as_millis() as u64);
        let known =
            if clean { learned <= now_ms } else { learned.saturating_add(slack) <= quiet_ms };
        self.boots.last_mut().unwrap().known_durably |= known;
    }

    pub fn bury(&mut self, key: Key) {
        let fate = self.truth.samples.get_mut(&key).unwrap();
        assert!(fate.poison, "{key:?} is set aside and was never refused");
        fate.buried = true;
        self.figures.add("set aside", 1);
    }

    /// Nothing is missing, and nothing arrived that was declared missing.
    pub fn check_all(&mut self) {
        let mut lost = 0;
        for (key, fate) in &self.truth.samples {
            let excused = fate.may_be_lost || self.truth.disk_lost;
            assert!(fate.is_settled() || excused, "{key:?} is missing: {fate:?}");
            let both = fate.delivered.is_some() && fate.declared;
            assert!(!both || fate.may_repeat, "{key:?} arrived and was declared: {fate:?}");
            lost += u64::from(!fate.is_settled());
        }
        self.figures.add("lost within max_loss", lost);
    }
}
