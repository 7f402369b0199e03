//! Chunks and their frames.
//!
//! A chunk is the unit of durability and acknowledgement: consecutive samples
//! of one device and run. A frame is a chunk's bytes; it verifies by itself,
//! wherever it is found, and what it says never changes: its number is given
//! when it goes to disk. Where the payload is damaged, the head still says
//! what is missing. Little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 4 | magic `iAF1` |
//! | 1 | version |
//! | 1 | flags: 1 = foreign (opaque records), 2 = simulated |
//! | 1 | stride, log2: only every 2^n-th seq was kept |
//! | 1 | revision: of frames with one number the highest wins |
//! | 4 | length of the whole frame |
//! | 8 | chunk number |
//! | 8 | run |
//! | 8 + 8 | first and last seq that the chunk speaks for |
//! | 4 | entries |
//! | 4 | length of the payload before compression |
//! | 16 | boot id |
//! | 1 + n | device id |
//! | 4 | CRC32C of all before it |
//! | … | payload, LZ4 block: per entry seq, wall ms, boot ms (8 each), flags (1), body length (4), body |
//! | 4 | CRC32C of all before it |
//!
//! Magic, version, length and the last CRC stay where they are in later
//! versions, so that a newer frame is told from a damaged one.

use std::sync::Arc;

use crate::clock::{BootId, Moment};
use crate::record::Run;

pub const MAGIC: [u8; 4] = *b"iAF1";
const VERSION: u8 = 1;

/// Sixteen larger values in one sled leaf make a blob file, which sled never
/// fsyncs (measured: 17 × 7.5 KiB).
pub const MAX_FRAME_BYTES: usize = 7 * 1024;

/// A payload's length before compression at most, so that a damaged length
/// cannot ask for memory.
const MAX_PAYLOAD_BYTES: usize = 1024 * 1024;

const FIXED_BYTES: usize = 4 + 1 + 1 + 1 + 1 + 4 + 8 + 8 + 8 + 8 + 4 + 4 + 16 + 1;
const NUMBER_AT: usize = 12;
const CRC_BYTES: usize = 4;
/// An entry's bytes in a payload without its body.
const ENTRY_BYTES: usize = 8 + 8 + 8 + 1 + 4;
const FLAG_FOREIGN: u8 = 1;
const FLAG_SIMULATED: u8 = 2;
const FLAG_SYNCED: u8 = 1;

/// Why bytes are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("no frame begins here")]
    NoMagic,
    #[error("the frame is of version {0}, newer than this agent: install that agent again")]
    Newer(u8),
    #[error("the frame is cut short")]
    Short,
    #[error("the frame's checksum does not match")]
    Checksum,
    #[error("the frame's contents contradict each other")]
    Contents,
}

/// Consecutive samples of one device and run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    pub number: u64,
    pub device: Arc<str>,
    pub run: Run,
    pub boot: BootId,
    pub simulated: bool,
    /// The records came from elsewhere and are opaque.
    pub foreign: bool,
    pub stride_log2: u8,
    pub revision: u8,
    pub first_seq: u64,
    pub last_seq: u64,
    pub entries: Vec<Entry>,
}

/// When and on which boot something was sampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    pub boot: BootId,
    pub at: Moment,
}

/// One sample of a chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub seq: u64,
    pub at: Moment,
    /// As in [`crate::record::Sample::body`].
    pub body: Box<str>,
}

impl Entry {
    /// Its bytes in a payload before compression.
    pub fn payload_bytes(&self) -> usize {
        ENTRY_BYTES + self.body.len()
    }
}

impl Chunk {
    /// The frame. May be longer than [`MAX_FRAME_BYTES`]: see [`Chunk::split`].
    pub fn encode(&self) -> Vec<u8> {
        let mut payload = Vec::with_capacity(self.entries.iter().map(Entry::payload_bytes).sum());
        for entry in &self.entries {
            payload.extend(entry.seq.to_le_bytes());
            payload.extend(entry.at.wall_ms.to_le_bytes());
            payload.extend(entry.at.boot_ms.to_le_bytes());
            payload.push(if entry.at.synced { FLAG_SYNCED } else { 0 });
            payload.extend((entry.body.len() as u32).to_le_bytes());
            payload.extend(entry.body.as_bytes());
        }
        let packed = lz4_flex::block::compress(&payload);
        let length = FIXED_BYTES + self.device.len() + CRC_BYTES + packed.len() + CRC_BYTES;
        let foreign = if self.foreign { FLAG_FOREIGN } else { 0 };
        let simulated = if self.simulated { FLAG_SIMULATED } else { 0 };
        let mut frame = Vec::with_capacity(length);
        frame.extend(MAGIC);
        frame.extend([VERSION, foreign | simulated, self.stride_log2, self.revision]);
        frame.extend((length as u32).to_le_bytes());
        for n in [self.number, self.run.0, self.first_seq, self.last_seq] {
            frame.extend(n.to_le_bytes());
        }
        frame.extend((self.entries.len() as u32).to_le_bytes());
        frame.extend((payload.len() as u32).to_le_bytes());
        frame.extend(self.boot.0);
        frame.push(self.device.len() as u8);
        frame.extend(self.device.as_bytes());
        frame.extend(crc32c::crc32c(&frame).to_le_bytes());
        frame.extend(packed);
        frame.extend(crc32c::crc32c(&frame).to_le_bytes());
        frame
    }

    /// Reads a frame from the front of `bytes`; what follows it is ignored.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let (header, frame) = Header::read(bytes)?;
        let packed =
            frame.get(header.bytes()..frame.len() - CRC_BYTES).ok_or(FrameError::Contents)?;
        let payload = lz4_flex::block::decompress(packed, header.payload_bytes)
            .map_err(|_| FrameError::Contents)?;
        let entries = read_entries(&payload, header.entries).ok_or(FrameError::Contents)?;
        Ok(Self {
            number: header.number,
            device: Arc::from(header.device),
            run: header.run,
            boot: header.boot,
            simulated: header.simulated,
            foreign: header.foreign,
            stride_log2: header.stride_log2,
            revision: header.revision,
            first_seq: header.first_seq,
            last_seq: header.last_seq,
            entries,
        })
    }

    /// The two halves of a chunk; a chunk of one entry stays whole.
    pub fn split(mut self) -> (Self, Option<Self>) {
        if self.entries.len() < 2 {
            return (self, None);
        }
        let rest = self.entries.split_off(self.entries.len() / 2);
        let Some(boundary) = rest.first().map(|entry| entry.seq) else {
            return (self, None);
        };
        let device = Arc::clone(&self.device);
        let second = Self { first_seq: boundary, entries: rest, device, ..self };
        self.last_seq = boundary - 1;
        (self, Some(second))
    }

    /// When its first entry was sampled.
    pub fn stamp(&self) -> Option<Stamp> {
        self.entries.first().map(|entry| Stamp { boot: self.boot, at: entry.at })
    }
}

/// `frame`, whole and sound, under another number.
pub fn renumbered(frame: &[u8], number: u64) -> Option<Vec<u8>> {
    let (header, _) = Header::read(frame).ok()?;
    let (head, body) = (header.bytes() - CRC_BYTES, frame.len() - CRC_BYTES);
    let mut frame = frame.to_vec();
    frame.get_mut(NUMBER_AT..NUMBER_AT + 8)?.copy_from_slice(&number.to_le_bytes());
    for end in [head, body] {
        let crc = crc32c::crc32c(frame.get(..end)?);
        frame.get_mut(end..end + CRC_BYTES)?.copy_from_slice(&crc.to_le_bytes());
    }
    Some(frame)
}

/// A frame's head, its payload still packed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header<'a> {
    pub number: u64,
    pub device: &'a str,
    pub run: Run,
    pub boot: BootId,
    pub simulated: bool,
    pub foreign: bool,
    pub stride_log2: u8,
    pub revision: u8,
    pub first_seq: u64,
    pub last_seq: u64,
    pub entries: usize,
    payload_bytes: usize,
}

impl<'a> Header<'a> {
    /// Checks the frame at the front of `bytes`; returns its head and its
    /// exact bytes.
    pub fn read(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), FrameError> {
        let mut reader = Reader(bytes);
        if reader.array() != Some(MAGIC) {
            return Err(FrameError::NoMagic);
        }
        let [version, ..] = reader.array::<4>().ok_or(FrameError::Short)?;
        let length = reader.u32().ok_or(FrameError::Short)? as usize;
        let frame = bytes.get(..length).ok_or(FrameError::Short)?;
        let (body, crc) = frame.split_last_chunk::<CRC_BYTES>().ok_or(FrameError::Short)?;
        if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
            return Err(FrameError::Checksum);
        }
        if version > VERSION {
            return Err(FrameError::Newer(version));
        }
        Ok((Self::head(bytes)?, frame))
    }

    /// Checks and reads the head alone: what a damaged payload was about.
    pub fn head(bytes: &'a [u8]) -> Result<Self, FrameError> {
        let mut reader = Reader(bytes);
        if reader.array() != Some(MAGIC) {
            return Err(FrameError::NoMagic);
        }
        let header = Self::fields(&mut reader).ok_or(FrameError::Short)?;
        let crc = reader.array().map(u32::from_le_bytes).ok_or(FrameError::Short)?;
        let head = bytes.get(..header.bytes() - CRC_BYTES).ok_or(FrameError::Short)?;
        if crc32c::crc32c(head) != crc {
            return Err(FrameError::Checksum);
        }
        let sound = header.payload_bytes <= MAX_PAYLOAD_BYTES
            && header.first_seq <= header.last_seq
            && header.entries > 0;
        if sound { Ok(header) } else { Err(FrameError::Contents) }
    }

    /// What follows the magic, up to the head's CRC.
    fn fields(reader: &mut Reader<'a>) -> Option<Self> {
        let [_, flags, stride_log2, revision] = reader.array()?;
        let _length = reader.u32()?;
        let number = reader.u64()?;
        let run = Run(reader.u64()?);
        let (first_seq, last_seq) = (reader.u64()?, reader.u64()?);
        let (entries, payload_bytes) = (reader.u32()? as usize, reader.u32()? as usize);
        let boot = BootId(reader.array()?);
        let [device_bytes] = reader.array()?;
        let device = std::str::from_utf8(reader.take(device_bytes.into())?).ok()?;
        Some(Self {
            number,
            device,
            run,
            boot,
            simulated: flags & FLAG_SIMULATED != 0,
            foreign: flags & FLAG_FOREIGN != 0,
            stride_log2,
            revision,
            first_seq,
            last_seq,
            entries,
            payload_bytes,
        })
    }

    /// The head's bytes in the frame, CRC included.
    fn bytes(&self) -> usize {
        FIXED_BYTES + self.device.len() + CRC_BYTES
    }
}

fn read_entries(payload: &[u8], count: usize) -> Option<Vec<Entry>> {
    let mut reader = Reader(payload);
    let mut entries = Vec::with_capacity(count.min(payload.len() / ENTRY_BYTES));
    for _ in 0..count {
        let seq = reader.u64()?;
        let wall_ms = reader.u64()?.cast_signed();
        let boot_ms = reader.u64()?;
        let [flags] = reader.array()?;
        let body_bytes = reader.u32()? as usize;
        let body = std::str::from_utf8(reader.take(body_bytes)?).ok()?;
        let at = Moment { wall_ms, boot_ms, synced: flags & FLAG_SYNCED != 0 };
        entries.push(Entry { seq, at, body: body.into() });
    }
    reader.0.is_empty().then_some(entries)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chunks() -> impl Strategy<Value = Chunk> {
        let entry = (any::<i64>(), any::<u64>(), any::<bool>(), "[ -~é]{0,80}");
        let head = ("[A-Za-z0-9._-]{1,64}", 0..1u64 << 60, any::<u64>(), 0..1u64 << 60);
        let bits = (any::<bool>(), any::<bool>(), 0..8u8, any::<u8>(), any::<[u8; 16]>());
        (head, bits, prop::collection::vec(entry, 1..40)).prop_map(|(head, bits, entries)| {
            let (device, number, run, first_seq) = head;
            let (simulated, foreign, stride_log2, revision, boot) = bits;
            let seqs = first_seq..;
            let entries: Vec<Entry> = seqs
                .zip(entries)
                .map(|(seq, (wall_ms, boot_ms, synced, body))| {
                    let at = Moment { wall_ms, boot_ms, synced };
                    Entry { seq, at, body: body.into() }
                })
                .collect();
            Chunk {
                number,
                device: device.into(),
                run: Run(run),
                boot: BootId(boot),
                simulated,
                foreign,
                stride_log2,
                revision,
                first_seq,
                last_seq: first_seq + entries.len() as u64 - 1,
                entries,
            }
        })
    }

    proptest! {
        #[test]
        fn a_frame_reads_back_wherever_it_ends(chunk in chunks(), tail in prop::collection::vec(any::<u8>(), 0..9)) {
            let mut bytes = chunk.encode();
            bytes.extend(tail);
            prop_assert_eq!(Chunk::decode(&bytes), Ok(chunk));
        }

        #[test]
        fn no_changed_bit_goes_unnoticed(chunk in chunks(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
            let mut bytes = chunk.encode();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(Chunk::decode(&bytes).is_err());
        }

        #[test]
        fn a_damaged_payload_leaves_the_head(chunk in chunks(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
            let mut bytes = chunk.encode();
            let head = FIXED_BYTES + chunk.device.len() + CRC_BYTES;
            let at = head + at.index(bytes.len() - head);
            bytes[at] ^= 1 << bit;
            let header = Header::head(&bytes).unwrap();
            let told = (header.device, header.run, header.first_seq, header.last_seq);
            prop_assert_eq!(told, (&*chunk.device, chunk.run, chunk.first_seq, chunk.last_seq));
        }

        #[test]
        fn no_changed_bit_of_a_head_goes_unnoticed(chunk in chunks(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
            let mut bytes = chunk.encode();
            let at = at.index(FIXED_BYTES + chunk.device.len() + CRC_BYTES);
            bytes[at] ^= 1 << bit;
            prop_assert!(Header::head(&bytes).is_err());
        }

        #[test]
        fn another_number_changes_nothing_else(chunk in chunks(), number in any::<u64>()) {
            let frame = renumbered(&chunk.encode(), number).unwrap();
            prop_assert_eq!(Chunk::decode(&frame), Ok(Chunk { number, ..chunk }));
        }

        #[test]
        fn a_newer_frame_is_told_from_a_damaged_one(chunk in chunks(), version in 2..=u8::MAX) {
            let mut frame = chunk.encode();
            frame[MAGIC.len()] = version;
            prop_assert_eq!(Chunk::decode(&frame), Err(FrameError::Checksum));
            let body = frame.len() - CRC_BYTES;
            let crc = crc32c::crc32c(&frame[..body]);
            frame[body..].copy_from_slice(&crc.to_le_bytes());
            prop_assert_eq!(Chunk::decode(&frame), Err(FrameError::Newer(version)));
        }

        #[test]
        fn a_cut_frame_is_an_error(chunk in chunks(), at in any::<prop::sample::Index>()) {
            let bytes = chunk.encode();
            prop_assert!(Chunk::decode(&bytes[..at.index(bytes.len())]).is_err());
        }

        #[test]
        fn noise_is_no_frame(noise in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = MAGIC.to_vec();
            bytes.extend(noise);
            prop_assert!(Chunk::decode(&bytes).is_err());
        }

        #[test]
        fn halves_hold_what_the_whole_held(chunk in chunks()) {
            let (first, second) = chunk.clone().split();
            let (last, count) = match &second {
                Some(second) => {
                    prop_assert_eq!(first.last_seq + 1, second.first_seq);
                    (second.last_seq, first.entries.len() + second.entries.len())
                }
                None => (first.last_seq, first.entries.len()),
            };
            prop_assert_eq!((first.first_seq, last, count), (chunk.first_seq, chunk.last_seq, chunk.entries.len()));
        }
    }
}
