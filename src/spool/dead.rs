//! Dead letters: records that the sink will never take, set aside and counted.
//!
//! One JSON object a line in a plain file, so that an operator can read them
//! while the agent runs. Two files of [`FILE_BYTES`] at most; then the older
//! half goes. A line cut by a power cut is passed over.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

const FILE: &str = "dead-letters.ndjson";
const OLDER: &str = "dead-letters.1.ndjson";

/// Bytes of one file at most.
const FILE_BYTES: u64 = 256 * 1024;

/// Characters of a reason at most: a service may answer with a page.
const REASON_CHARS: usize = 200;

/// The files in one spool folder.
#[derive(Debug)]
pub struct DeadLetters {
    folder: PathBuf,
}

impl DeadLetters {
    pub fn new(spool: &Path) -> Self {
        Self { folder: spool.to_owned() }
    }

    /// Sets `record` (one JSON object) aside with the `reason`, durably.
    pub fn bury(&self, reason: &str, record: &str) -> io::Result<()> {
        let reason: String = reason.chars().take(REASON_CHARS).collect();
        let letter = serde_json::json!({ "reason": reason, "record": record.trim_end() });
        let line = format!("{letter}\n");
        let path = self.folder.join(FILE);
        let bytes = fs::metadata(&path).map_or(0, |meta| meta.len());
        if bytes > 0 && bytes + line.len() as u64 > FILE_BYTES {
            fs::rename(&path, self.folder.join(OLDER))?;
        }
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(&path)?;
        if !ends_with_newline(&mut file)? {
            file.write_all(b"\n")?;
        }
        file.write_all(line.as_bytes())?;
        file.sync_data()?;
        if bytes == 0 || bytes + line.len() as u64 > FILE_BYTES {
            File::open(&self.folder)?.sync_all()?;
        }
        Ok(())
    }

    /// All letters, oldest first; none if nothing was ever refused.
    pub fn list(&self) -> io::Result<Vec<serde_json::Value>> {
        let mut letters = Vec::new();
        for name in [OLDER, FILE] {
            let text = match fs::read(self.folder.join(name)) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                text => text?,
            };
            let lines = text.split(|&byte| byte == b'\n');
            letters.extend(lines.filter_map(|line| serde_json::from_slice(line).ok()));
        }
        Ok(letters)
    }
}

fn ends_with_newline(file: &mut File) -> io::Result<bool> {
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(true);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_kept_oldest_first_past_a_torn_line() {
        let folder = tempfile::tempdir().unwrap();
        let dead = DeadLetters::new(folder.path());
        assert_eq!(dead.list().unwrap().len(), 0);
        dead.bury("too odd", "{\"cpu\":1}\n").unwrap();
        let path = folder.path().join(FILE);
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"rea").unwrap();
        dead.bury("odder still", "{}").unwrap();
        let letters = dead.list().unwrap();
        assert_eq!(letters.len(), 2);
        assert_eq!(letters[0]["record"], "{\"cpu\":1}");
        assert_eq!(letters[1]["reason"], "odder still");
    }

    #[test]
    fn letters_stay_within_their_bound_and_the_newest_stay() {
        let folder = tempfile::tempdir().unwrap();
        let dead = DeadLetters::new(folder.path());
        let long = "x".repeat(20_000);
        for n in 0..60 {
            dead.bury(&n.to_string(), &long).unwrap();
        }
        let letters = dead.list().unwrap();
        assert_eq!(letters.last().unwrap()["reason"], "59");
        assert!(letters.len() >= 12 && letters.len() <= 26, "{}", letters.len());
        let bytes: u64 = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum();
        assert!(bytes <= 2 * FILE_BYTES);
    }
}
