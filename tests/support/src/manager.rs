//! A service manager, as far as sd_notify(3) goes.

use std::io::ErrorKind;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::process::{Agent, Launch};

/// What it was told at once, and when.
#[derive(Debug, Clone)]
pub struct Told {
    pub at: Instant,
    lines: String,
}

impl Told {
    /// The value of the assignment `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.lines.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
    }
}

/// Listens until it is dropped.
pub struct Manager {
    folder: TempDir,
    told: Arc<Mutex<Vec<Told>>>,
    ends: Arc<AtomicBool>,
    listener: Option<JoinHandle<()>>,
}

impl Manager {
    pub fn new() -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let socket = UnixDatagram::bind(folder.path().join("notify")).expect("a socket");
        Self::on(socket, folder)
    }

    /// With a socket that has no file; its address begins with `@`.
    pub fn abstractly(name: &str) -> Self {
        use std::os::linux::net::SocketAddrExt;
        let address = SocketAddr::from_abstract_name(name).expect("a name");
        let socket = UnixDatagram::bind_addr(&address).expect("a socket");
        Self::on(socket, TempDir::new().expect("a temporary folder"))
    }

    fn on(socket: UnixDatagram, folder: TempDir) -> Self {
        let (told, ends) = (Arc::<Mutex<Vec<Told>>>::default(), Arc::new(AtomicBool::new(false)));
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a time limit");
        let (list, over) = (Arc::clone(&told), Arc::clone(&ends));
        let listener = thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while !over.load(Ordering::SeqCst) {
                match socket.recv(&mut buffer) {
                    Ok(bytes) => {
                        let lines = String::from_utf8_lossy(&buffer[..bytes]).into_owned();
                        let told = Told { at: Instant::now(), lines };
                        list.lock().unwrap_or_else(PoisonError::into_inner).push(told);
                    }
                    Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                    Err(error) => panic!("the manager's socket: {error}"),
                }
            }
        });
        Self { folder, told, ends, listener: Some(listener) }
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("notify")
    }

    /// `launch` as a service of this manager, with `WATCHDOG_USEC` where it has
    /// a watchdog.
    pub fn service(&self, launch: Launch, watchdog: Option<Duration>) -> Launch {
        let launch = launch.env("NOTIFY_SOCKET", self.socket());
        match watchdog {
            Some(period) => launch.env("WATCHDOG_USEC", period.as_micros().to_string()),
            None => launch,
        }
    }

    /// All that it was told so far.
    pub fn told(&self) -> Vec<Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What was said of `name` so far.
    pub fn values(&self, name: &str) -> Vec<String> {
        self.told().iter().filter_map(|told| told.get(name).map(String::from)).collect()
    }

    /// When `name` was said.
    pub fn times(&self, name: &str) -> Vec<Instant> {
        self.told().iter().filter(|told| told.get(name).is_some()).map(|told| told.at).collect()
    }

    /// Waits until a value of `name` satisfies `wanted`.
    #[track_caller]
    pub fn wait_for(
        &self,
        agent: &mut Agent,
        name: &str,
        deadline: Duration,
        wanted: impl Fn(&str) -> bool,
    ) {
        let what = format!("{name} as wanted");
        agent.wait_for(&what, deadline, |_| self.values(name).iter().any(|value| wanted(value)));
    }
}

impl Default for Manager {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}
