//! Log events to systemd's journal, by its native protocol
//! (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>).
//!
//! Every field goes twice: by itself, as `IOT_<NAME>`, for
//! `journalctl IOT_CHUNK=7` and tools; and in the message, for who reads
//! `journalctl -u iot-agent` must see what went wrong. A journal that does not
//! listen costs a log line and never a sample: nothing here waits.

use std::fmt::Write;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

const SOCKET: &str = "/run/systemd/journal/socket";

/// Bytes of one value at most; the whole must fit a datagram.
const MAX_VALUE_BYTES: usize = 8 * 1024;

/// The journal's socket.
pub struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Journal {
    /// Fails where no journal listens.
    pub fn connect() -> io::Result<Self> {
        Self::at(Path::new(SOCKET))
    }

    fn at(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        // The journal discards an empty datagram.
        socket.send_to(&[], path)?;
        Ok(Self { socket, path: path.into() })
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let meta = event.metadata();
        // As syslog(3) numbers them; systemd's own info is 6, too.
        let priority = match *meta.level() {
            Level::ERROR => "3",
            Level::WARN => "4",
            Level::INFO => "6",
            Level::DEBUG | Level::TRACE => "7",
        };
        let mut fields = Fields::default();
        event.record(&mut fields);
        let mut entry = Vec::with_capacity(512);
        put(&mut entry, "PRIORITY", priority);
        put(&mut entry, "SYSLOG_IDENTIFIER", "iot-agent");
        put(&mut entry, "TARGET", meta.target());
        if let (Some(file), Some(line)) = (meta.file(), meta.line()) {
            put(&mut entry, "CODE_FILE", file);
            put(&mut entry, "CODE_LINE", &line.to_string());
        }
        let mut message = fields.message;
        for (name, value) in &fields.others {
            let _ = write!(message, " {name}={value}");
            put(&mut entry, &variable(name), value);
        }
        put(&mut entry, "MESSAGE", &message);
        let _ = self.socket.send_to(&entry, &self.path);
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, String)>,
}

impl Fields {
    fn take(&mut self, field: &Field, value: String) {
        match field.name() {
            "message" => self.message = value,
            name => self.others.push((name, value)),
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.take(field, format!("{value:?}"));
    }
}

/// A journal field may hold capitals, digits and underscores only.
fn variable(name: &str) -> String {
    let fit = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    format!("IOT_{}", name.chars().map(fit).collect::<String>())
}

/// Appends a field in the form that may hold any bytes.
fn put(entry: &mut Vec<u8>, name: &str, value: &str) {
    let value = value.get(..value.floor_char_boundary(MAX_VALUE_BYTES)).unwrap_or(value);
    entry.extend(name.as_bytes());
    entry.push(b'\n');
    entry.extend((value.len() as u64).to_le_bytes());
    entry.extend(value.as_bytes());
    entry.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use tracing_subscriber::layer::SubscriberExt;

    fn parse(mut entry: &[u8]) -> BTreeMap<String, String> {
        let mut fields = BTreeMap::new();
        while !entry.is_empty() {
            let end = entry.iter().position(|&b| b == b'\n').unwrap();
            let (name, rest) = (&entry[..end], &entry[end + 1..]);
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            let value = &rest[8..8 + length];
            assert_eq!(rest[8 + length], b'\n');
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            fields.insert(text(name), text(value));
            entry = &rest[8 + length + 1..];
        }
        fields
    }

    #[test]
    fn an_event_arrives_with_its_fields_and_is_readable_without_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let server = UnixDatagram::bind(&path).unwrap();
        let subscriber = tracing_subscriber::registry().with(Journal::at(&path).unwrap());
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(chunk = 7, error = %"no\nroute", stream = "a", "cannot be sent");
        });
        let mut buffer = [0; 4096];
        assert_eq!(server.recv(&mut buffer).unwrap(), 0);
        let length = server.recv(&mut buffer).unwrap();
        let fields = parse(&buffer[..length]);
        assert_eq!(fields["MESSAGE"], "cannot be sent chunk=7 error=no\nroute stream=a");
        assert_eq!(fields["PRIORITY"], "6");
        assert_eq!(fields["IOT_CHUNK"], "7");
        assert_eq!(fields["IOT_ERROR"], "no\nroute");
        assert_eq!(fields["CODE_FILE"], file!());
    }

    #[test]
    fn a_journal_that_does_not_read_stops_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let _server = UnixDatagram::bind(&path).unwrap();
        let subscriber = tracing_subscriber::registry().with(Journal::at(&path).unwrap());
        tracing::subscriber::with_default(subscriber, || {
            (0..10_000).for_each(|n| tracing::info!(n, "nobody reads this"));
        });
    }

    #[test]
    fn no_journal_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Journal::at(&folder.path().join("socket")).is_err());
    }
}
