//! TLS, proxies, and everything between the host and the service.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use iot_agent_test_support::firehose::{FirehoseStandIn, Options};

use super::{DELIVERED, Setup, line, says};

fn with_tls() -> FirehoseStandIn {
    FirehoseStandIn::start(Options { tls: true, ..Options::default() })
}

#[test]
fn only_the_authorities_in_ca_file_are_trusted() {
    let (stand_in, other) = (with_tls(), with_tls());
    assert_eq!(Setup::new(&stand_in).start().deliver(&[&line(0)]), DELIVERED);

    let foreign = other.ca_pem_path().unwrap().display().to_string();
    let verdict = Setup::new(&stand_in).set("ca_file", &foreign).start().deliver(&[&line(0)]);
    println!("{verdict}");
    says(&verdict, &["Failed", "kind: Unreachable", "UnknownIssuer", "not in ca_file"]);

    let mut system = Setup::new(&stand_in);
    system.settings.remove("ca_file");
    let verdict = system.start().deliver(&[&line(0)]);
    println!("{verdict}");
    says(&verdict, &["Failed", "kind: Unreachable", "UnknownIssuer", "ca-certificates"]);
}

#[test]
fn a_certificate_from_the_future_makes_the_clock_a_suspect() {
    let options = Options { tls: true, valid_from: 2090, ..Options::default() };
    let verdict = Setup::new(&FirehoseStandIn::start(options)).start().deliver(&[&line(0)]);
    says(&verdict, &["kind: Unreachable", "not valid yet", "clock right (`timedatectl`)"]);
}

#[test]
fn a_ca_file_of_no_use_is_refused_at_the_start() {
    let stand_in = with_tls();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    let name = file.display().to_string();
    let made = || Setup::new(&stand_in).set("ca_file", &name).made();
    says(&made(), &[&name, "cannot be read", "No such file"]);
    fs::write(&file, "no certificate at all\n").unwrap();
    says(&made(), &[&name, "no certificate in it", "BEGIN CERTIFICATE"]);
    fs::write(&file, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    says(&made(), &[&name, "is of no use"]);
    fs::write(&file, "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n").unwrap();
    says(&made(), &[&name, "is of no use"]);
}

#[test]
fn an_endpoint_that_is_not_there_is_named_with_its_cause() {
    let deliver = |url: &str| {
        let setup = Setup::elsewhere(url).env("AWS_ACCESS_KEY_ID", "AKIAANY");
        let verdict = setup.env("AWS_SECRET_ACCESS_KEY", "any-secret").start().deliver(&[&line(0)]);
        println!("{verdict}");
        verdict
    };
    // The discard port, which nothing listens on.
    says(&deliver("http://127.0.0.1:9"), &["kind: Unreachable", "Connection refused"]);
    says(
        &deliver("https://firehose.invalid"),
        &["kind: Unreachable", "lookup", "a region eu-west-1?"],
    );
    let plain = FirehoseStandIn::start(Options::default());
    let https = plain.url().replace("http://", "https://");
    says(&deliver(&https), &["Failed", "kind: Unreachable", "does the port speak TLS"]);
    says(&Setup::elsewhere("gateway.local:8443").made(), &["endpoint_url", "https://host"]);
}

/// A proxy that only tunnels (CONNECT) or, asked for a whole URL, forwards.
struct Proxy {
    url: String,
    used: Arc<AtomicUsize>,
}

impl Proxy {
    /// Its threads end with the process.
    fn start(refuses: bool) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let used = Arc::new(AtomicUsize::new(0));
        let counter = used.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                counter.fetch_add(1, Ordering::SeqCst);
                thread::spawn(move || relay(client, refuses));
            }
        });
        Self { url, used }
    }

    fn used(&self) -> usize {
        self.used.load(Ordering::SeqCst)
    }
}

fn relay(mut client: TcpStream, refuses: bool) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    if refuses {
        let answer = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n";
        return client.write_all(answer).ok();
    }
    let text = String::from_utf8_lossy(&head);
    let target = text.split(' ').nth(1)?;
    let host = target.strip_prefix("http://").unwrap_or(target).split('/').next()?;
    let mut server = TcpStream::connect(host).ok()?;
    if text.starts_with("CONNECT ") {
        client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").ok()?;
    } else {
        server.write_all(&head).ok()?;
    }
    let (mut from, mut to) = (client.try_clone().ok()?, server.try_clone().ok()?);
    thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    std::io::copy(&mut server, &mut client).ok()?;
    client.shutdown(Shutdown::Write).ok()
}

#[test]
fn proxies_are_used_unless_no_proxy_names_the_host() {
    let (tls, plain) = (with_tls(), FirehoseStandIn::start(Options::default()));
    for (stand_in, variable) in [(&tls, "HTTPS_PROXY"), (&plain, "HTTP_PROXY")] {
        let proxy = Proxy::start(false);
        let with_proxy = || Setup::new(stand_in).env(variable, &proxy.url);
        assert_eq!(with_proxy().start().deliver(&[&line(0)]), DELIVERED);
        assert_eq!(proxy.used(), 1, "{variable}");
        let around = with_proxy().env("NO_PROXY", "127.0.0.1").start().deliver(&[&line(1)]);
        assert_eq!(around, DELIVERED);
        assert_eq!(proxy.used(), 1, "{variable} despite NO_PROXY");
    }
}

#[test]
fn a_proxy_that_refuses_or_is_not_there_is_named() {
    let stand_in = with_tls();
    let refusing = Proxy::start(true);
    let deliver = |variable: &str, url: &str| {
        let verdict = Setup::new(&stand_in).env(variable, url).start().deliver(&[&line(0)]);
        println!("{verdict}");
        verdict
    };
    says(&deliver("HTTPS_PROXY", &refusing.url), &["kind: Unreachable", "proxy"]);
    says(
        &deliver("HTTPS_PROXY", "http://127.0.0.1:9"),
        &["kind: Unreachable", "Connection refused", "HTTPS_PROXY"],
    );
    let plain = FirehoseStandIn::start(Options::default());
    let setup = Setup::new(&plain).env("HTTP_PROXY", &refusing.url);
    let verdict = setup.start().deliver(&[&line(0)]);
    says(&verdict, &["kind: Unreachable", "the proxy asks for a password"]);
}
