//! Network namespaces: an agent without a network, or with a cable to pull.
//!
//! Needs root and `ip` of iproute2. Nothing here touches the host's own network.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::process::succeed;

/// A network namespace with nothing but loopback; removed when dropped.
pub struct Netns {
    name: String,
}

impl Netns {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("iot-test-{}-{number}", std::process::id());
        ip(["netns", "add", &name]);
        let netns = Self { name };
        netns.ip(["link", "set", "lo", "up"]);
        netns
    }

    /// To be put before a command that shall run inside; the process keeps its id.
    pub fn wrapper(&self) -> [&str; 4] {
        ["ip", "netns", "exec", &self.name]
    }

    /// Where it can be entered by its name.
    pub fn path(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    /// Runs `work` on a thread inside. Sockets opened there stay inside,
    /// whichever thread uses them later.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let path = self.path();
        let file = File::open(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let enter_and_work = || {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("root may enter a network namespace");
            work()
        };
        thread::scope(|scope| scope.spawn(enter_and_work).join()).expect("the work panicked")
    }

    /// What a file of /etc says to those who are started inside after the first
    /// call; what later calls say reaches them too.
    pub fn etc(&self, file: &str, text: &str) {
        let folder = self.etc_folder();
        fs::create_dir_all(&folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
        // In place: what is mounted over the host's file is this very one.
        fs::write(folder.join(file), text).unwrap_or_else(|error| panic!("{file}: {error}"));
    }

    fn etc_folder(&self) -> PathBuf {
        PathBuf::from("/etc/netns").join(&self.name)
    }

    fn ip<const N: usize>(&self, arguments: [&str; N]) {
        ip(["-n", &self.name].into_iter().chain(arguments));
    }
}

impl Default for Netns {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
        let _ = fs::remove_dir_all(self.etc_folder());
    }
}

/// Two namespaces and a cable between them.
pub struct Wire {
    /// Where the agent runs.
    pub near: Netns,
    /// Where the servers listen, on [`Wire::FAR`].
    pub far: Netns,
}

impl Wire {
    /// The far end's address, reached from nowhere but the near end.
    pub const FAR: &str = "192.0.2.1";
    const NEAR: &str = "192.0.2.2";
    /// An address of the wire at which nobody is.
    pub const NOBODY: &str = "192.0.2.3";

    pub fn new() -> Self {
        let (near, far) = (Netns::new(), Netns::new());
        let ends = ["link", "add", "wire", "netns", &near.name];
        ip(ends.into_iter().chain(["type", "veth", "peer", "name", "wire", "netns", &far.name]));
        for (end, address) in [(&near, Self::NEAR), (&far, Self::FAR)] {
            end.ip(["address", "add", &format!("{address}/29"), "dev", "wire"]);
            end.ip(["link", "set", "wire", "up"]);
        }
        Self { near, far }
    }

    /// Pulls the cable: the near end loses its carrier, and what is under way is lost.
    pub fn cut(&self) {
        self.far.ip(["link", "set", "wire", "down"]);
    }

    pub fn mend(&self) {
        self.far.ip(["link", "set", "wire", "up"]);
    }
}

impl Default for Wire {
    fn default() -> Self {
        Self::new()
    }
}

#[track_caller]
fn ip<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) {
    succeed(Command::new("ip").args(arguments));
}
