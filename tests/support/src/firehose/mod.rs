//! A stand-in for Amazon Data Firehose that can be told to fail.
//!
//! It speaks PutRecordBatch and DescribeDeliveryStream (and STS's AssumeRole,
//! so that roles can be tried against it), listens on 127.0.0.1 only, and
//! checks what the service checks: protocol, signature, session token, limits.
//! What it stores stays in memory until it is dropped.
//!
//! It is no Firehose: nothing is partitioned, converted or delivered anywhere,
//! there are no quotas but the limits of one request, and every key may do
//! everything unless a [`Fault`] says otherwise.

mod answer;
mod fault;
mod keys;
mod server;
mod service;
mod signature;
mod store;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use chrono::TimeDelta;
use tokio::sync::oneshot;

pub use fault::{Call, Fault, Faults, Mix};
pub use keys::Key;
pub use service::Stats;
pub use store::{BILLING_QUANTUM_BYTES, RunOf, Stored, Totals};

/// The account that every ARN names.
pub const ACCOUNT: &str = "123456789012";

/// What stands there.
#[derive(Debug, Clone)]
pub struct Options {
    pub stream: String,
    pub region: String,
    /// As DescribeDeliveryStream says: `ACTIVE`, `CREATING`, …
    pub stream_status: String,
    /// `DirectPut` or `KinesisStreamAsSource`.
    pub stream_type: String,
    pub keys: Vec<Key>,
    pub tls: bool,
    /// The year from which its certificate is valid.
    pub valid_from: i32,
    /// 0 takes a free one.
    pub port: u16,
    /// Whether bodies are kept; otherwise only how often each seq came, at one
    /// byte a sample.
    pub keep_records: bool,
    /// How far its clock is ahead of this host's.
    pub clock_ahead: TimeDelta,
    /// How long a session of AssumeRole says that it lasts.
    pub session: Duration,
    /// Whether a second port takes orders; see [`FirehoseStandIn::control_url`].
    pub control: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            stream: "iot-telemetry".into(),
            region: "eu-west-1".into(),
            stream_status: "ACTIVE".into(),
            stream_type: "DirectPut".into(),
            keys: vec![Key::new("AKIASTANDIN00000", "stand-in/secret+key")],
            tls: false,
            valid_from: 2000,
            port: 0,
            keep_records: true,
            clock_ahead: TimeDelta::zero(),
            session: Duration::from_secs(3600),
            control: false,
        }
    }
}

/// A running stand-in, with a thread of its own; dropping it ends it.
pub struct FirehoseStandIn {
    service: Arc<service::Service>,
    options: Options,
    address: SocketAddr,
    control: Option<SocketAddr>,
    ca: tempfile::TempDir,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl FirehoseStandIn {
    /// Returns when it listens. Panics where it cannot, saying why.
    pub fn start(options: Options) -> Self {
        let ca = tempfile::tempdir().expect("a folder for the certificate authority");
        let tls = options.tls.then(|| server::tls(&ca.path().join(CA_FILE), options.valid_from));
        let service = Arc::new(service::Service::new(options.clone()));
        let (stop, stopped) = oneshot::channel();
        let (tell, listening) = mpsc::channel();
        let (port, with_control, serving) = (options.port, options.control, service.clone());
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async move {
                let (listener, address) = server::listen(port).await.expect("a port to listen on");
                let mut control = None;
                if with_control {
                    let (listener, address) = server::listen(0).await.expect("a control port");
                    tokio::spawn(server::control(listener, serving.clone()));
                    control = Some(address);
                }
                tokio::spawn(server::serve(listener, tls, serving));
                let _ = tell.send((address, control));
                let _ = stopped.await;
            });
        };
        let thread = std::thread::Builder::new().name("firehose-stand-in".into()).spawn(run);
        let thread = Some(thread.expect("a thread"));
        let (address, control) = listening.recv().expect("the stand-in's thread says why not");
        Self { service, options, address, control, ca, stop: Some(stop), thread }
    }

    /// `http://127.0.0.1:port`, or https.
    pub fn url(&self) -> String {
        let scheme = if self.options.tls { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Where `GET /stats`, `POST /faults` and `POST /expire-tokens` are
    /// served, if [`Options::control`] asked for it.
    pub fn control_url(&self) -> Option<String> {
        self.control.map(|address| format!("http://{address}"))
    }

    /// The authority behind its certificate; `None` without TLS.
    pub fn ca_pem_path(&self) -> Option<PathBuf> {
        self.options.tls.then(|| self.ca.path().join(CA_FILE))
    }

    /// The first of its keys.
    pub fn key(&self) -> &Key {
        self.options.keys.first().expect("a stand-in with a key")
    }

    /// What was stored so far.
    pub fn stored(&self) -> Stored {
        self.service.state().stored.clone()
    }

    pub fn stats(&self) -> Stats {
        self.service.stats()
    }

    /// What goes wrong from here on.
    pub fn set_faults(&self, faults: Faults) {
        self.service.state().plan = fault::Plan::new(faults);
    }

    /// Refuses every batch with a record that contains this, as invalid.
    pub fn refuse_marked(&self, marker: Option<&str>) {
        self.service.state().refuse_marker = marker.map(str::to_owned);
    }

    /// Answers ExpiredTokenException to every session token issued so far.
    pub fn expire_tokens(&self) {
        self.service.state().keys.expire_tokens();
    }
}

const CA_FILE: &str = "ca.pem";

impl Drop for FirehoseStandIn {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
