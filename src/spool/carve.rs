//! Carving: frames found in raw files, whatever became of the database around
//! them.
//!
//! sled writes a value as it is, in one piece, so each frame lies somewhere in
//! its generation's files, often more than once. Every byte offset may begin
//! one; a frame's checksums say whether it is one. Files are read once, in
//! windows: memory grows with the number of frames (some 100 bytes each), not
//! with their size. What the disk cannot read is passed over, block by block.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::ledger::{Ranges, is_bad};
use crate::record::{Gap, GapReason};
use crate::spool::chunk::{Header, MAGIC, MAX_FRAME_BYTES};
use crate::spool::gaps::gap_of;
use crate::spool::known::Known;
use crate::spool::store::{Store, StoreError};

const WINDOW_BYTES: usize = 64 * 1024;

/// What a bad medium fails to read at once, at least.
const BLOCK_BYTES: usize = 4096;

/// No chunk has this number: a foreign file must not make numbers run out.
pub const NUMBERS_END: u64 = 1 << 62;

/// Something that begins as a frame does.
#[derive(Debug)]
pub enum Find<'a> {
    /// With its exact bytes.
    Whole(Header<'a>, &'a [u8]),
    /// The payload is damaged, or cut.
    Head(Header<'a>),
}

/// The regular files in `folder` and below, in order.
pub fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let (mut folders, mut files) = (vec![folder.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            match entry.file_type()? {
                kind if kind.is_dir() => folders.push(entry.path()),
                kind if kind.is_file() => files.push(entry.path()),
                _ => {}
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Hands every frame in the file at `path` to `take`, with its offset. With
/// `patient` a bad block is an error.
pub fn carve(path: &Path, patient: bool, mut take: impl FnMut(u64, Find<'_>)) -> io::Result<()> {
    let file = File::open(path)?;
    let mut window = vec![0; WINDOW_BYTES + MAX_FRAME_BYTES];
    let (mut begin, mut held) = (0, 0);
    loop {
        let free = window.get_mut(held..).unwrap_or_default();
        let offset = begin + held as u64;
        let read = match file.read_at(free, offset) {
            Err(error) if is_bad(&error) && !patient => read_past(&file, free, offset)?,
            read => read?,
        };
        held += read;
        let bytes = window.get(..held).unwrap_or_default();
        // What begins later may end in the next window.
        let until = if read == 0 { held } else { held.saturating_sub(MAX_FRAME_BYTES) };
        let mut at = 0;
        while let Some(found) = find_magic(bytes, at, until) {
            let here = bytes.get(found..).unwrap_or_default();
            at = found + 1;
            if let Ok((header, frame)) = Header::read(here) {
                at = found + frame.len();
                take(begin + found as u64, Find::Whole(header, frame));
            } else if let Ok(header) = Header::head(here) {
                take(begin + found as u64, Find::Head(header));
            }
        }
        if read == 0 {
            return Ok(());
        }
        let done = at.max(until).min(held);
        window.copy_within(done..held, 0);
        (begin, held) = (begin + done as u64, held - done);
    }
}

/// The first magic in `bytes` that begins within `from..until`.
fn find_magic(bytes: &[u8], mut from: usize, until: usize) -> Option<usize> {
    let [first, ..] = MAGIC;
    loop {
        let at = from + bytes.get(from..until)?.iter().position(|&byte| byte == first)?;
        if bytes.get(at..).is_some_and(|rest| rest.starts_with(&MAGIC)) {
            return Some(at);
        }
        from = at + 1;
    }
}

/// Reads one block; a bad one reads as zeros.
fn read_past(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    let block = BLOCK_BYTES - (offset % BLOCK_BYTES as u64) as usize;
    let bytes = bytes.split_at_mut(block.min(bytes.len())).0;
    match file.read_at(bytes, offset) {
        Err(error) if is_bad(&error) => {
            bytes.fill(0);
            Ok(bytes.len())
        }
        read => read,
    }
}

/// Which frame: its number, and of whom and from when it is, for a foreign
/// file has numbers of its own.
type Identity = (u64, u32);

fn identity(header: &Header<'_>) -> Identity {
    let crc = crc32c::crc32c(header.device.as_bytes());
    let crc = crc32c::crc32c_append(crc, &header.run.0.to_le_bytes());
    (header.number, crc32c::crc32c_append(crc, &header.first_seq.to_le_bytes()))
}

#[derive(Debug, Clone, Copy)]
struct Place {
    file: usize,
    offset: u64,
    bytes: usize,
    revision: u8,
}

/// Where the frames are, of the highest revision each.
#[derive(Debug, Default)]
pub struct Index {
    files: Vec<PathBuf>,
    frames: BTreeMap<Identity, Place>,
    heads: BTreeMap<Identity, Gap>,
    known: Known,
    reading: Option<(usize, File)>,
    /// A frame in a bad block is an error; without, it is not there.
    patient: bool,
    /// Whatever is found of these says nothing of the others.
    lost: Ranges,
}

impl Index {
    /// Of all files in `folder`.
    pub fn of(folder: &Path, patient: bool) -> Result<Self, StoreError> {
        let mut index = Self { patient, ..Self::default() };
        index.add_all(folder, patient, |_| true).map_err(|e| StoreError::io(folder, e))?;
        Ok(index)
    }

    /// To find out what became of `lost` chunks.
    pub fn about(lost: &Ranges) -> Self {
        Self { lost: lost.clone(), ..Self::default() }
    }

    /// Takes in the frames of all files in `folder` that `ours` accepts, up to
    /// the first that cannot be read.
    pub fn add_all(
        &mut self,
        folder: &Path,
        patient: bool,
        mut ours: impl FnMut(&Header<'_>) -> bool,
    ) -> io::Result<()> {
        files(folder)?.iter().try_for_each(|path| self.add(path, patient, &mut ours))
    }

    /// Takes in the frames of one file that `ours` accepts.
    pub fn add(
        &mut self,
        path: &Path,
        patient: bool,
        mut ours: impl FnMut(&Header<'_>) -> bool,
    ) -> io::Result<()> {
        let file = self.files.len();
        self.files.push(path.to_owned());
        let (frames, heads, known) = (&mut self.frames, &mut self.heads, &mut self.known);
        let lost = &self.lost;
        carve(path, patient, |offset, find| {
            let (Find::Whole(header, _) | Find::Head(header)) = &find;
            if header.number >= NUMBERS_END || !ours(header) {
                return;
            }
            let identity = identity(header);
            if let Find::Whole(header, frame) = &find {
                let place = Place { file, offset, bytes: frame.len(), revision: header.revision };
                let kept = frames.entry(identity).or_insert(place);
                if kept.revision < place.revision {
                    *kept = place;
                }
                if !lost.contains(header.number) {
                    known.learn(header);
                }
            } else if !frames.contains_key(&identity) {
                heads.insert(identity, gap_of(header, GapReason::Damaged));
            }
        })
    }

    fn read_only(&self) -> StoreError {
        let path = self.files.first().cloned().unwrap_or_default();
        StoreError::io(&path, io::ErrorKind::PermissionDenied.into())
    }

    /// The numbers of the whole frames, and of those alone.
    pub fn numbers(&self) -> Ranges {
        let mut numbers = Ranges::default();
        self.frames.keys().for_each(|&(number, _)| numbers.insert(number));
        numbers
    }

    fn of_number(&self, number: u64) -> impl Iterator<Item = Place> {
        self.frames.range((number, 0)..=(number, u32::MAX)).map(|(_, place)| *place)
    }

    /// The frames of `number`, read anew: more than one only where a foreign
    /// file was taken in.
    pub fn read(&mut self, number: u64) -> Result<Vec<Vec<u8>>, StoreError> {
        let places: Vec<Place> = self.of_number(number).collect();
        let mut frames = Vec::new();
        for place in places {
            match self.read_at(place) {
                Ok(frame) if Header::read(&frame).is_ok() => frames.push(frame),
                Err(error) if self.patient && is_bad(&error) => {
                    let path = self.files.get(place.file).cloned().unwrap_or_default();
                    return Err(StoreError::io(&path, error));
                }
                _ => {}
            }
        }
        Ok(frames)
    }

    /// The one of them that counts: the highest revision, and of those the first.
    fn newest(&mut self, number: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let revision = |frame: &Vec<u8>| Header::head(frame).map_or(0, |header| header.revision);
        Ok(self.read(number)?.into_iter().rev().max_by_key(revision))
    }

    fn read_at(&mut self, place: Place) -> io::Result<Vec<u8>> {
        let file = match self.reading.take() {
            Some((open, file)) if open == place.file => file,
            _ => File::open(self.files.get(place.file).ok_or(io::ErrorKind::NotFound)?)?,
        };
        let (_, file) = self.reading.insert((place.file, file));
        let mut frame = vec![0; place.bytes];
        file.read_exact_at(&mut frame, place.offset)?;
        Ok(frame)
    }

    /// What is known of frames of which only the head can be read, by number.
    pub fn heads(&self) -> impl Iterator<Item = (u64, &Gap)> {
        let lost = self.heads.iter().filter(|(identity, _)| !self.frames.contains_key(identity));
        lost.map(|((number, _), gap)| (*number, gap))
    }

    /// What the whole frames speak for.
    pub fn known(&self) -> &Known {
        &self.known
    }
}

/// A database that is only read.
impl Store for Index {
    fn put(&mut self, _: u64, _: &[u8]) -> Result<(), StoreError> {
        Err(self.read_only())
    }

    fn get(&mut self, number: u64) -> Result<Option<Vec<u8>>, StoreError> {
        self.newest(number)
    }

    fn scan(
        &mut self,
        from: u64,
        to: u64,
        max_bytes: usize,
    ) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        let (mut found, mut bytes, mut at) = (Vec::new(), 0, from);
        while at <= to
            && let Some((&(number, _), place)) = self.frames.range((at, 0)..=(to, u32::MAX)).next()
        {
            bytes += place.bytes;
            if bytes > max_bytes && !found.is_empty() {
                break;
            }
            found.extend(self.newest(number)?.map(|frame| (number, frame)));
            at = number + 1;
        }
        Ok(found)
    }

    fn last(&mut self) -> Result<Option<u64>, StoreError> {
        Ok(self.frames.last_key_value().map(|((number, _), _)| *number))
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        Err(self.read_only())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{BootId, Moment};
    use crate::record::Run;
    use crate::spool::chunk::{Chunk, Entry};

    fn frame(number: u64, body_bytes: usize, revision: u8) -> Vec<u8> {
        let letters = std::iter::repeat_with(|| char::from(rand::random_range(b'a'..=b'z')));
        let body = letters.take(body_bytes).collect::<String>().into();
        let at = Moment { wall_ms: 1, boot_ms: 1, synced: true };
        Chunk {
            number,
            device: "a".into(),
            run: Run(1),
            boot: BootId([0; 16]),
            simulated: false,
            foreign: false,
            stride_log2: 0,
            revision,
            first_seq: number,
            last_seq: number,
            entries: vec![Entry { seq: number, at, body }],
        }
        .encode()
    }

    #[test]
    fn every_frame_is_found_wherever_it_lies_and_what_is_left_of_others() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (mut bytes, mut expected) = (Vec::new(), Vec::new());
        for number in 0..200 {
            // Noise in which every other word begins as a frame does.
            for _ in 0..rand::random_range(0..500) {
                bytes.extend(if rand::random() { MAGIC } else { rand::random() });
            }
            let mut frame = frame(number, rand::random_range(1..6000), 0);
            let whole = number % 5 != 0;
            if !whole {
                // The payload is damaged, not the head.
                *frame.last_mut().unwrap() ^= 1;
            }
            expected.push((bytes.len() as u64, number, whole));
            bytes.extend(frame);
        }
        bytes.extend(&frame(200, 3000, 0)[..200]);
        expected.push((bytes.len() as u64 - 200, 200, false));
        fs::write(&file, &bytes).unwrap();
        let mut found = Vec::new();
        carve(file.path(), true, |offset, find| {
            found.push(match find {
                Find::Whole(header, _) => (offset, header.number, true),
                Find::Head(header) => (offset, header.number, false),
            });
        })
        .unwrap();
        assert_eq!(found, expected);
    }

    #[test]
    fn the_highest_revision_wins_and_a_head_counts_where_there_is_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let broken = [frame(1, 50, 0), frame(2, 50, 0)].map(|mut frame| {
            *frame.last_mut().unwrap() ^= 1;
            frame
        });
        let files = [frame(0, 50, 1), frame(0, 50, 3), frame(0, 50, 2), frame(1, 50, 0)];
        for (n, bytes) in files.iter().chain(&broken).enumerate() {
            fs::write(folder.path().join(n.to_string()), bytes).unwrap();
        }
        let mut index = Index::of(folder.path(), true).unwrap();
        assert_eq!(
            index.scan(0, u64::MAX, usize::MAX).unwrap(),
            [(0, files[1].clone()), (1, files[3].clone())]
        );
        assert_eq!(index.scan(0, 9, 1).unwrap().len(), 1);
        assert_eq!(index.scan(2, 1, 9).unwrap(), []);
        assert_eq!(index.last().unwrap(), Some(1));
        assert_eq!(index.heads().map(|(number, _)| number).collect::<Vec<_>>(), [2]);
        assert!(index.put(3, &files[0]).is_err() && index.flush().is_err());
    }
}
