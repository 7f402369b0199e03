//! Reads that may hang, in a thread of their own.
//!
//! Asking a dead NFS or FUSE mount how full it is can block for ever, and so
//! can some thermal drivers. So a sample asks neither: it takes what this
//! thread last learned, at most [`MAX_AGE`] ago, and waits [`PATIENCE`] for it
//! only where there is nothing yet. A read that does not come back within
//! [`DEADLINE`] is left to its thread, another thread goes on with the rest,
//! and nobody asks that mount or sensor again until the first thread is back.
//! At most [`MAX_STUCK`] threads are left behind so; past that nothing is asked
//! until one of them returns, and the values go absent.
//!
//! Thermal sensors that answer at once are handed back ([`Thermal::quick`]) to
//! be read with each sample. One that answered at once when it was listed and
//! hangs later does delay samples, until the next listing finds it slow.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::disk::{self, Disk, Mounts};
use super::thermal::{self, Probe};
use super::{Fault, Faults, Settings};
use crate::sensor::{DiskReading, ThermalReading};

/// Between two rounds: disks fill slowly, and a wake-up costs power.
const PERIOD: Duration = Duration::from_secs(10);

/// Rounds between two listings of the thermal sensors (drivers load late and
/// drives are plugged in): a minute.
const ROUNDS_PER_LISTING: u32 = 6;

/// What a healthy mount or sensor never needs.
const DEADLINE: Duration = Duration::from_secs(2);

/// A thermal sensor slower than this is read here, not with the sample.
const QUICK: Duration = Duration::from_millis(10);

/// How long a sample waits where nothing is known yet.
const PATIENCE: Duration = Duration::from_millis(20);

/// Values older than this are absent: two rounds may fail to come by.
const MAX_AGE: Duration = Duration::from_secs(30);

const MAX_STUCK: usize = 4;

/// Path walks and log lines; nothing here recurses.
const STACK_BYTES: usize = 128 * 1024;

/// The thermal sensors, as last listed.
#[derive(Debug, Default)]
pub(super) struct Thermal {
    /// Those to be read with each sample.
    pub quick: Vec<Probe>,
    /// The label of the one for column `temperature`.
    pub column: Option<String>,
}

/// What the thread last learned.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub thermal: Arc<Thermal>,
    pub slow_sensors: Vec<ThermalReading>,
    pub disks: Vec<DiskReading>,
    pub hd: Option<f64>,
}

/// The samples' end of the thread. Dropping it ends the thread, but does not
/// wait for reads that hang.
#[derive(Debug)]
pub(super) struct Poller(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    settings: Settings,
    /// `/sys/class`, or a test's.
    class: PathBuf,
    faults: Arc<Faults>,
    state: Mutex<State>,
    /// Told after each round, and when the thread is to end.
    turn: Condvar,
}

#[derive(Debug, Default)]
struct State {
    closed: bool,
    /// Whether a thread is in charge; one that was given up on is not.
    is_running: bool,
    /// What the thread in charge is reading, and since when.
    reading: Option<(PathBuf, Instant)>,
    stuck: BTreeSet<PathBuf>,
    last_round: Option<Instant>,
    thermal: Arc<Thermal>,
    slow_sensors: BTreeMap<String, Dated<f64>>,
    disks: BTreeMap<PathBuf, Dated<DiskReading>>,
    hd: Option<Dated<f64>>,
}

#[derive(Debug)]
struct Dated<T> {
    value: T,
    at: Instant,
}

impl<T> Dated<T> {
    fn new(value: T) -> Self {
        Self { value, at: Instant::now() }
    }

    fn fresh(&self) -> Option<&T> {
        (self.at.elapsed() < MAX_AGE).then_some(&self.value)
    }
}

impl Poller {
    pub fn start(settings: Settings, class: PathBuf, faults: Arc<Faults>) -> Self {
        let (state, turn) = (Mutex::default(), Condvar::new());
        let poller = Self(Arc::new(Shared { settings, class, faults, state, turn }));
        poller.keep_running(&mut poller.0.lock());
        poller
    }

    /// The fresh values; returns within [`PATIENCE`].
    pub fn known(&self) -> Known {
        let mut state = self.0.lock();
        self.give_up_on_stuck(&mut state);
        self.keep_running(&mut state);
        let before = state.last_round;
        if before.is_none_or(|at| at.elapsed() > MAX_AGE) {
            let waited = |state: &mut State| state.last_round == before;
            let woken = self.0.turn.wait_timeout_while(state, PATIENCE, waited);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        let slow = state.slow_sensors.iter().filter_map(|(label, dated)| {
            Some(ThermalReading { label: label.clone(), celsius: *dated.fresh()? })
        });
        Known {
            thermal: Arc::clone(&state.thermal),
            slow_sensors: slow.collect(),
            disks: state.disks.values().filter_map(Dated::fresh).cloned().collect(),
            hd: state.hd.as_ref().and_then(Dated::fresh).copied(),
        }
    }

    fn give_up_on_stuck(&self, state: &mut State) {
        let is_late = |(_, since): &mut (PathBuf, Instant)| since.elapsed() > DEADLINE;
        if let Some((path, _)) = state.reading.take_if(is_late) {
            tracing::warn!(
                "{path} has not answered for {DEADLINE:?} and is left out until it does; \
                 if it is a dead mount, `umount -l {path}` frees it",
                path = path.display()
            );
            state.stuck.insert(path);
            state.is_running = false;
        }
    }

    fn keep_running(&self, state: &mut State) {
        if state.is_running || state.stuck.len() >= MAX_STUCK {
            return;
        }
        let worker = Worker(Arc::clone(&self.0));
        let thread = thread::Builder::new().name("sensor-poller".into()).stack_size(STACK_BYTES);
        // A dismissed worker has nothing to say.
        let spawned = thread.spawn(move || drop(worker.rounds())).map_err(Fault::NoThread);
        state.is_running = self.0.faults.once("all of disks and heat", spawned).is_some();
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.turn.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The read was given up on while it hung, or nobody listens any more: the
/// thread is to end.
struct Dismissed;

struct Worker(Arc<Shared>);

impl Worker {
    fn rounds(&self) -> Result<(), Dismissed> {
        let faults = &self.0.faults;
        let mut mounts = faults.once("the list of disks", Mounts::open());
        let (mut disks, mut slow) = (Vec::new(), Vec::new());
        for round in (0..ROUNDS_PER_LISTING).cycle() {
            if round == 0 {
                slow = self.list_sensors()?;
            } else {
                for probe in &slow {
                    self.read_slow(probe)?;
                }
            }
            let changed = mounts.as_mut().map(Mounts::changed).transpose();
            if let Some(listed) = faults.once("a new list of disks", changed).flatten().flatten() {
                let is_listed = |path: &PathBuf| listed.iter().any(|disk| disk.point == *path);
                self.0.lock().disks.retain(|path, _| is_listed(path));
                disks = listed;
            }
            for disk in &disks {
                self.read_disk(disk)?;
            }
            self.read_hd()?;
            self.rest()?;
        }
        Ok(())
    }

    /// Tells which sensors there are, and returns those that are not quick.
    fn list_sensors(&self) -> Result<Vec<Probe>, Dismissed> {
        let mut probes = Vec::new();
        for folder in thermal::folders(&self.0.class) {
            probes.extend(self.ask(&folder, || thermal::probes(&folder))?.unwrap_or_default());
        }
        let (mut quick, mut slow) = (Vec::new(), Vec::new());
        let (mut labels, mut answering) = (Vec::new(), Vec::new());
        for probe in thermal::distinct(probes) {
            let asked_at = Instant::now();
            let answer = self.ask(&probe.path, || probe.read())?;
            let is_quick = answer.is_some() && asked_at.elapsed() < QUICK;
            let what = format_args!("thermal sensor {}", probe.label);
            if answer.and_then(|read| self.0.faults.once(what, read)).is_some() {
                answering.push(probe.label.clone());
            }
            labels.push(probe.label.clone());
            if is_quick { &mut quick } else { &mut slow }.push(probe);
        }
        let column = self.column(labels, &answering);
        let mut state = self.0.lock();
        state.thermal = Arc::new(Thermal { quick, column });
        state.slow_sensors.retain(|label, _| slow.iter().any(|probe| probe.label == *label));
        drop(state);
        for probe in &slow {
            self.read_slow(probe)?;
        }
        Ok(slow)
    }

    fn column(&self, labels: Vec<String>, answering: &[String]) -> Option<String> {
        const COLUMN: &str = "column temperature";
        if let Some(wanted) = &self.0.settings.temperature_sensor {
            let found = if labels.contains(wanted) {
                Ok(wanted.clone())
            } else {
                Err(Fault::NoSuchSensor { wanted: wanted.clone(), known: labels })
            };
            return self.0.faults.once(COLUMN, found);
        }
        let best = thermal::cpu_label(answering.iter().map(String::as_str));
        if best.is_none() && self.0.faults.is_first(COLUMN) {
            tracing::info!("{COLUMN} is left out: no CPU or SoC sensor among {labels:?}");
        }
        best.map(str::to_owned)
    }

    fn read_slow(&self, probe: &Probe) -> Result<(), Dismissed> {
        let answer = self.ask(&probe.path, || probe.read())?;
        let what = format_args!("thermal sensor {}", probe.label);
        if let Some(celsius) = answer.and_then(|read| self.0.faults.once(what, read)) {
            self.0.lock().slow_sensors.insert(probe.label.clone(), Dated::new(celsius));
        }
        Ok(())
    }

    fn read_disk(&self, disk: &Disk) -> Result<(), Dismissed> {
        let Some(answer) = self.ask(&disk.point, || disk.read())? else { return Ok(()) };
        let reading = self.0.faults.once(disk.point.display(), answer).flatten();
        let mut state = self.0.lock();
        match reading {
            Some(reading) => state.disks.insert(disk.point.clone(), Dated::new(reading)),
            None => state.disks.remove(&disk.point),
        };
        Ok(())
    }

    /// The last of a round, for `sample.disk` alone may lie on a remote file
    /// system.
    fn read_hd(&self) -> Result<(), Dismissed> {
        let path = &self.0.settings.disk;
        if let Some(answer) = self.ask(path, || disk::used_at(path))? {
            let used = self.0.faults.once("column hd", answer).flatten();
            self.0.lock().hd = used.map(Dated::new);
        }
        Ok(())
    }

    /// Asks `what` with the clock running; `None` if it is stuck.
    fn ask<T>(&self, what: &Path, read: impl FnOnce() -> T) -> Result<Option<T>, Dismissed> {
        let mut state = self.0.lock();
        if state.stuck.contains(what) {
            return Ok(None);
        }
        state.reading = Some((what.to_owned(), Instant::now()));
        drop(state);
        let value = read();
        let mut state = self.0.lock();
        if state.stuck.remove(what) {
            tracing::info!("{} answers again", what.display());
            return Err(Dismissed);
        }
        state.reading = None;
        if state.closed { Err(Dismissed) } else { Ok(Some(value)) }
    }

    fn rest(&self) -> Result<(), Dismissed> {
        let mut state = self.0.lock();
        state.last_round = Some(Instant::now());
        self.0.turn.notify_all();
        let woken = self.0.turn.wait_timeout_while(state, PERIOD, |state| !state.closed);
        let state = woken.unwrap_or_else(PoisonError::into_inner).0;
        if state.closed { Err(Dismissed) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    /// A chip with one sensor behind a named pipe: opening it hangs until
    /// somebody opens the other end.
    fn hanging_sensor(class: &Path) -> PathBuf {
        let chip = class.join("hwmon/hwmon1");
        fs::create_dir_all(&chip).unwrap();
        fs::write(chip.join("name"), "hanging\n").unwrap();
        let pipe = chip.join("temp1_input");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        pipe
    }

    fn good_sensor(class: &Path) {
        let chip = class.join("hwmon/hwmon0");
        fs::create_dir_all(&chip).unwrap();
        fs::write(chip.join("name"), "cpu_thermal\n").unwrap();
        fs::write(chip.join("temp1_input"), "51000\n").unwrap();
    }

    fn poller(class: &Path) -> Poller {
        let settings = Settings { disk: "/".into(), temperature_sensor: None };
        Poller::start(settings, class.to_owned(), Arc::default())
    }

    #[track_caller]
    fn known_when(poller: &Poller, condition: impl Fn(&Known) -> bool) -> Known {
        let begun = Instant::now();
        loop {
            let known = poller.known();
            if condition(&known) {
                return known;
            }
            assert!(begun.elapsed() < PERIOD * 2, "not in time: {known:?}");
            thread::sleep(PATIENCE);
        }
    }

    #[test]
    fn quick_sensors_and_disks_are_known_at_once() {
        let class = tempfile::tempdir().unwrap();
        good_sensor(class.path());
        let poller = poller(class.path());
        let known = known_when(&poller, |known| known.hd.is_some());
        assert_eq!(known.thermal.column.as_deref(), Some("cpu_thermal temp1"));
        assert_eq!(known.thermal.quick.len(), 1);
        assert!(known.slow_sensors.is_empty());
    }

    #[test]
    fn a_sensor_that_hangs_is_passed_over_and_taken_up_again() {
        let class = tempfile::tempdir().unwrap();
        good_sensor(class.path());
        let pipe = hanging_sensor(class.path());
        let poller = poller(class.path());
        let known = known_when(&poller, |known| known.hd.is_some());
        assert_eq!(known.thermal.quick.len(), 1);
        assert_eq!(poller.0.lock().stuck.iter().collect::<Vec<_>>(), [&pipe]);

        // Opening the other end lets the first read go, and the next round
        // finds the sensor answering.
        let feeder = thread::spawn(move || {
            while fs::write(&pipe, "42000\n").is_ok() {
                // One value for each opening, as a sensor's file gives.
                thread::sleep(PATIENCE);
            }
        });
        let answers = |known: &Known| {
            let slow = known.slow_sensors.iter().map(|sensor| sensor.celsius);
            let quick = known.thermal.quick.iter().skip(1).filter_map(|probe| probe.read().ok());
            slow.chain(quick).next()
        };
        let known = known_when(&poller, |known| answers(known).is_some());
        assert_eq!(answers(&known), Some(42.0));
        assert!(poller.0.lock().stuck.is_empty());
        drop(poller);
        drop(class);
        drop(feeder);
    }

    #[test]
    fn a_dropped_poller_ends_its_thread() {
        let class = tempfile::tempdir().unwrap();
        let poller = poller(class.path());
        known_when(&poller, |known| known.hd.is_some());
        let shared = Arc::downgrade(&poller.0);
        drop(poller);
        let begun = Instant::now();
        while shared.strong_count() > 0 {
            assert!(begun.elapsed() < PERIOD / 2, "the thread goes on");
            thread::sleep(PATIENCE);
        }
    }
}
