//! The disk: stores that fail as their seed has it, and keep at a power cut no
//! more than was flushed and the first part of what was not.
//!
//! A store is one file that grows by a real one's measure, so that the spool's
//! bounds have something to count.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rand::RngExt;
use rustix::fs::{FallocateFlags, fallocate};

use super::plan::{Broken, Phase};
use super::world::{access, with};
use crate::spool::driven::{Opener, SEGMENT_BYTES, Store, StoreError};

/// Number and length before each value.
const HEAD: usize = 12;

/// See the module.
pub struct Disk;

struct FileStore {
    folder: PathBuf,
    file: File,
    bytes: u64,
    values: BTreeMap<u64, Vec<u8>>,
    /// Put and not flushed.
    pending: Vec<u8>,
}

fn may_read() -> io::Result<()> {
    let broken = with(|world| {
        let phase = Phase::at(&world.plan.breaks, world.now_ms());
        phase.is_some_and(|phase| matches!(phase.kind, Broken::Read))
    });
    if !broken {
        return Ok(());
    }
    with(|world| world.figures.add("EIO reading", 1));
    Err(io::Error::from_raw_os_error(5))
}

impl Opener for Disk {
    fn open(&self, folder: &Path) -> Result<Box<dyn Store>, StoreError> {
        let fail = |source| StoreError::io(folder, source);
        may_read().map_err(fail)?;
        if !folder.exists() {
            access().map_err(fail)?;
            fs::create_dir(folder).map_err(fail)?;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(folder.join("db"))
            .map_err(fail)?;
        let (values, bytes) = read(folder).map_err(fail)?;
        let folder = folder.to_owned();
        Ok(Box::new(FileStore { folder, file, bytes, values, pending: Vec::new() }))
    }
}

/// What the file holds, and how much of it is whole.
fn read(folder: &Path) -> io::Result<(BTreeMap<u64, Vec<u8>>, u64)> {
    let (data, mut values, mut at) = (fs::read(folder.join("db"))?, BTreeMap::new(), 0);
    while let Some(head) = data.get(at..at + HEAD) {
        let number = u64::from_le_bytes(head[..8].try_into().unwrap());
        let length = u32::from_le_bytes(head[8..].try_into().unwrap()) as usize;
        let Some(value) = data.get(at + HEAD..at + HEAD + length).filter(|_| length > 0) else {
            break;
        };
        values.insert(number, value.to_vec());
        at += HEAD + length;
    }
    Ok((values, at as u64))
}

impl FileStore {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.set_len(self.bytes)?;
        self.file.write_all_at(bytes, self.bytes)?;
        self.bytes += bytes.len() as u64;
        let takes = (2 * self.bytes).next_multiple_of(SEGMENT_BYTES);
        Ok(fallocate(&self.file, FallocateFlags::KEEP_SIZE, 0, takes)?)
    }
}

impl Store for FileStore {
    fn put(&mut self, number: u64, value: &[u8]) -> Result<(), StoreError> {
        access().map_err(|source| StoreError::io(&self.folder, source))?;
        self.pending.extend(number.to_le_bytes());
        self.pending.extend((value.len() as u32).to_le_bytes());
        self.pending.extend(value);
        self.values.insert(number, value.to_vec());
        Ok(())
    }

    fn get(&mut self, number: u64) -> Result<Option<Vec<u8>>, StoreError> {
        may_read().map_err(|source| StoreError::io(&self.folder, source))?;
        Ok(self.values.get(&number).cloned())
    }

    fn scan(
        &mut self,
        from: u64,
        to: u64,
        max_bytes: usize,
    ) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        may_read().map_err(|source| StoreError::io(&self.folder, source))?;
        let (mut found, mut bytes) = (Vec::new(), 0);
        for (&number, value) in self.values.range(from..).take_while(|(number, _)| **number <= to) {
            bytes += value.len();
            if bytes > max_bytes && !found.is_empty() {
                break;
            }
            found.push((number, value.clone()));
        }
        Ok(found)
    }

    fn last(&mut self) -> Result<Option<u64>, StoreError> {
        may_read().map_err(|source| StoreError::io(&self.folder, source))?;
        Ok(self.values.keys().next_back().copied())
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        access().map_err(|source| StoreError::io(&self.folder, source))?;
        let pending = std::mem::take(&mut self.pending);
        self.write(&pending).map_err(|source| StoreError::io(&self.folder, source))
    }
}

impl Drop for FileStore {
    fn drop(&mut self) {
        // Of what was not flushed any first part may have reached the disk.
        let upto = with(|world| world.rng.random_range(0..=self.pending.len()));
        let landed: Vec<u8> = self.pending.drain(..upto).collect();
        let _ = self.write(&landed);
    }
}

/// A power cut in the middle of the ledger's next write: the slot that is not
/// the newest is torn.
pub fn tear_ledger(spool: &Path) -> io::Result<()> {
    const SLOT: u64 = 4 * 1024 * 1024;
    let file = OpenOptions::new().read(true).write(true).open(spool.join("ledger"))?;
    let edition = |slot: u64| {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, slot * SLOT + 8).map(|()| u64::from_le_bytes(bytes))
    };
    let older = u64::from(edition(0)? > edition(1)?);
    file.write_all_at(&[0xA5; 512], older * SLOT + 40)
}

/// Keys of the records that were set aside in `spool`.
pub fn dead_letters(spool: &Path) -> Vec<(u64, u64)> {
    #[derive(serde::Deserialize)]
    struct Letter {
        record: String,
    }
    let mut keys = Vec::new();
    for name in ["dead-letters.1.ndjson", "dead-letters.ndjson"] {
        let Ok(text) = fs::read_to_string(spool.join(name)) else { continue };
        for letter in text.lines().filter_map(|line| serde_json::from_str::<Letter>(line).ok()) {
            keys.extend(super::truth::Row::parse(&letter.record).key());
        }
    }
    keys
}
