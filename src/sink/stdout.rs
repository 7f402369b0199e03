//! NDJSON on standard output.
//!
//! A parcel counts as delivered when the pipe, terminal or file behind it has
//! taken all of its lines; how long they last is that one's business. Where
//! writing stops within a line, the next delivery ends that line first: a
//! reader sees whole lines, and after trouble some of them twice.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::drain::{Batch, Limits, Outcome, Parcel, Trouble, TroubleKind, Verdict, Wire};
use crate::sink::{Delivering, Probing, Sink};

/// How often a full pipe is tried again that its reader made non-blocking.
const FULL_PIPE_WAIT: Duration = Duration::from_millis(20);

/// The sink. A reader that stalls holds up its deliveries and nothing else.
#[derive(Debug, Default)]
pub struct Stdout(Arc<Mutex<Output>>);

#[derive(Debug, Default)]
struct Output {
    /// Standard output without a buffer, from the first delivery on.
    file: Option<File>,
    /// The end of a line whose beginning was written.
    unfinished: Vec<u8>,
}

impl Stdout {
    pub fn new() -> Self {
        Self::default()
    }
}

impl Sink for Stdout {
    fn name(&self) -> String {
        "stdout".into()
    }

    fn limits(&self) -> Limits {
        Limits {
            parcel_samples: 500,
            parcel_bytes: 256 * 1024,
            batch_parcels: 64,
            batch_bytes: 1024 * 1024,
            billing_quantum_bytes: 1,
            wire: Wire::PLAIN,
        }
    }

    fn deliver(&self, batch: Arc<Batch>) -> Delivering {
        let output = Arc::clone(&self.0);
        Box::pin(async move {
            let write = move || {
                output.lock().unwrap_or_else(PoisonError::into_inner).deliver(&batch.parcels)
            };
            let done = tokio::task::spawn_blocking(write).await;
            done.unwrap_or_else(|error| Verdict::Failed(trouble(&io::Error::other(error))))
        })
    }

    fn probe(&self) -> Probing {
        let opened = open().map_err(|error| trouble(&error));
        Box::pin(async { opened.map(|_| "records go to standard output".into()) })
    }
}

impl Output {
    fn deliver(&mut self, parcels: &[Parcel]) -> Verdict {
        let mut outcomes = vec![Outcome::Delivered; parcels.len()];
        for (at, parcel) in parcels.iter().enumerate() {
            let Err(error) = self.write(parcel.ndjson()) else { continue };
            if at == 0 {
                return Verdict::Failed(trouble(&error));
            }
            outcomes.truncate(at);
            outcomes.resize(parcels.len(), Outcome::Retry(trouble(&error)));
            break;
        }
        Verdict::Answered(outcomes)
    }

    /// Writes whole lines, after what is left of an earlier one.
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let file = match self.file.take() {
            Some(file) => file,
            None => open()?,
        };
        let file = self.file.insert(file);
        let (written, result) = write_some(file, &self.unfinished);
        self.unfinished.drain(..written);
        result?;
        let (written, result) = write_some(file, lines);
        if let Some((done, rest)) = lines.split_at_checked(written)
            && done.last().is_some_and(|&byte| byte != b'\n')
        {
            self.unfinished = rest.split_inclusive(|&b| b == b'\n').next().unwrap_or(rest).into();
        }
        result
    }
}

/// How many bytes were written, and what stopped it if that is not all.
fn write_some(mut file: &File, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match file.write(rest) {
            Ok(0) => return (written, Err(ErrorKind::WriteZero.into())),
            Ok(count) => written += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(FULL_PIPE_WAIT);
            }
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}

/// A handle of its own: the one of the standard library keeps bytes back and
/// does not tell how many were written before an error.
fn open() -> io::Result<File> {
    io::stdout().as_fd().try_clone_to_owned().map(File::from)
}

fn trouble(error: &io::Error) -> Trouble {
    let (kind, remedy) = match error.kind() {
        ErrorKind::BrokenPipe => (
            TroubleKind::Configuration,
            "whoever read it is gone: start iot-agent again with a reader, or set another sink.kind",
        ),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            (TroubleKind::Disk, "free some space where it goes, or set another sink.kind")
        }
        _ => (TroubleKind::Disk, "check where it goes, or set another sink.kind"),
    };
    Trouble::new(kind, format!("standard output cannot be written: {error}; {remedy}"))
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, Read};
    use std::os::fd::OwnedFd;

    use rustix::fs::{OFlags, fcntl_setfl};

    use super::*;
    use crate::sink::small_disk::SmallDisk;

    fn over(file: impl Into<OwnedFd>) -> Stdout {
        let file = Some(File::from(file.into()));
        Stdout(Arc::new(Mutex::new(Output { file, unfinished: Vec::new() })))
    }

    fn line(number: usize) -> String {
        format!("{{\"number\":{number},\"pad\":\"{}\"}}\n", "x".repeat(1000))
    }

    /// Parcels of a hundred lines each.
    fn batch(parcels: usize) -> Arc<Batch> {
        let parcel = |at: usize| {
            let lines: String = (at * 100..(at + 1) * 100).map(line).collect();
            Parcel::new(lines.into_bytes(), 100, "pi".into(), 7, 0)
        };
        let parcels = (0..parcels).map(parcel).collect();
        Arc::new(Batch { timestamp_sent: "2026-11-24 14".into(), parcels })
    }

    fn delivered(parcels: usize) -> Verdict {
        Verdict::Answered(vec![Outcome::Delivered; parcels])
    }

    fn reading(mut reader: PipeReader) -> std::thread::JoinHandle<String> {
        std::thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            text
        })
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_stalled_reader_holds_up_nothing_else() {
        let (reader, writer) = io::pipe().unwrap();
        let sink = over(writer);
        let mut delivering = sink.deliver(batch(5));
        // The timer of this one thread fires: the pipe holds 64 KiB of 500.
        let early = tokio::time::timeout(Duration::from_millis(50), &mut delivering).await;
        assert!(early.is_err());
        let text = reading(reader);
        assert_eq!(delivering.await, delivered(5));
        drop(sink);
        assert_eq!(text.join().unwrap(), (0..500).map(line).collect::<String>());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_pipe_that_does_not_block_is_waited_for() {
        let (reader, writer) = io::pipe().unwrap();
        fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
        let sink = over(writer);
        let delivering = sink.deliver(batch(3));
        let text = reading(reader);
        assert_eq!(delivering.await, delivered(3));
        drop(sink);
        assert_eq!(text.join().unwrap(), (0..300).map(line).collect::<String>());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_closed_pipe_is_said_in_words() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let verdict = over(writer).deliver(batch(2)).await;
        let Verdict::Failed(trouble) = verdict else { panic!("{verdict:?}") };
        assert_eq!(trouble.kind, TroubleKind::Configuration);
        assert!(trouble.text.contains("whoever read it is gone"), "{}", trouble.text);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn after_a_full_disk_every_line_is_whole() {
        let disk = SmallDisk::new("256k");
        let path = disk.path().join("out.ndjson");
        let sink = over(File::options().append(true).create(true).open(&path).unwrap());
        assert_eq!(sink.deliver(batch(1)).await, delivered(1));
        let Verdict::Answered(outcomes) = sink.deliver(batch(3)).await else {
            panic!("the first of these parcels fits");
        };
        assert_eq!(outcomes[0], Outcome::Delivered);
        let [Outcome::Retry(trouble), Outcome::Retry(_)] = &outcomes[1..] else {
            panic!("{outcomes:?}");
        };
        assert_eq!(trouble.kind, TroubleKind::Disk);
        assert!(!std::fs::read(&path).unwrap().ends_with(b"\n"), "the disk filled within a line");
        disk.remount("size=4m");
        assert_eq!(sink.deliver(batch(3)).await, delivered(3));
        let text = std::fs::read_to_string(&path).unwrap();
        let whole =
            text.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok());
        assert!(whole && text.lines().count() > 500 && text.ends_with('\n'));
    }
}
