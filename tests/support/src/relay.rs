//! A port between the agent and a server, with a plug to pull; or a proxy that
//! tunnels (CONNECT).

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use crate::POLL;

/// A running relay; dropping it closes its connections.
pub struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    /// Where everything goes; without it, where each CONNECT asks for.
    target: Option<SocketAddr>,
    plugged: AtomicBool,
    ended: AtomicBool,
    connections: AtomicUsize,
    open: Mutex<Vec<TcpStream>>,
}

impl Relay {
    /// Forwards to `target` from a port of loopback.
    pub fn to(target: SocketAddr) -> Self {
        Self::on(loopback(), Some(target))
    }

    /// Tunnels to wherever a client asks for.
    pub fn proxy() -> Self {
        Self::on(loopback(), None)
    }

    /// Takes connections from `listener`, which may be one of another network
    /// namespace; then it cannot be mended after [`Relay::pull`].
    pub fn on(listener: TcpListener, target: Option<SocketAddr>) -> Self {
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            target,
            plugged: AtomicBool::new(true),
            ended: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            open: Mutex::default(),
        });
        let serving = shared.clone();
        let thread = Some(thread::spawn(move || serve(listener, &serving)));
        Self { address, shared, thread }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many connections came.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Cuts what is open, and refuses what is new.
    pub fn pull(&self) {
        self.shared.plugged.store(false, Ordering::SeqCst);
        let refused = || TcpStream::connect(self.address).is_err();
        crate::eventually("connections are refused", std::time::Duration::from_secs(5), refused);
    }

    /// Takes connections again.
    pub fn mend(&self) {
        self.shared.plugged.store(true, Ordering::SeqCst);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn loopback() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port")
}

fn serve(listener: TcpListener, shared: &Arc<Shared>) {
    let address = listener.local_addr().expect("it is bound");
    let mut listening = Some(listener);
    while !shared.ended.load(Ordering::SeqCst) {
        if !shared.plugged.load(Ordering::SeqCst) {
            listening = None;
            shared.close_all();
        } else if let Some(listener) = &listening {
            listener.set_nonblocking(true).expect("a socket of ours");
            while let Ok((client, _)) = listener.accept() {
                let shared = shared.clone();
                shared.connections.fetch_add(1, Ordering::SeqCst);
                // A client or a server that leaves ends only its own relay.
                thread::spawn(move || relay(client, &shared));
            }
        } else {
            listening = TcpListener::bind(address).ok();
        }
        thread::sleep(POLL);
    }
    shared.close_all();
}

impl Shared {
    fn close_all(&self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        for stream in open.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn note(&self, stream: &TcpStream) -> io::Result<()> {
        let stream = stream.try_clone()?;
        self.open.lock().unwrap_or_else(PoisonError::into_inner).push(stream);
        Ok(())
    }
}

fn relay(mut client: TcpStream, shared: &Shared) -> io::Result<()> {
    client.set_nonblocking(false)?;
    client.set_nodelay(true)?;
    shared.note(&client)?;
    let mut server = match shared.target {
        Some(target) => TcpStream::connect(target)?,
        None => tunnel(&mut client)?,
    };
    server.set_nodelay(true)?;
    shared.note(&server)?;
    let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
    let _ = io::copy(&mut server, &mut client);
    client.shutdown(Shutdown::Both)
}

/// Answers a CONNECT; returns the connection that it asked for.
fn tunnel(client: &mut TcpStream) -> io::Result<TcpStream> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head);
    let host = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next());
    let server = TcpStream::connect(host.ok_or_else(|| io::Error::other("no CONNECT"))?)?;
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
    Ok(server)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pulled_plug_cuts_and_refuses_until_it_is_mended() {
        let server = loopback();
        let relay = Relay::to(server.local_addr().unwrap());
        let connect = || TcpStream::connect(relay.address());
        let talk = |near: &mut TcpStream| {
            near.write_all(b"!").unwrap();
            let mut far = server.accept().unwrap().0;
            far.read_exact(&mut [0]).unwrap();
            far
        };
        let mut near = connect().unwrap();
        let _far = talk(&mut near);
        relay.pull();
        assert_eq!(near.read(&mut [0]).unwrap(), 0);
        relay.mend();
        crate::eventually("connections are taken", std::time::Duration::from_secs(5), || {
            connect().map(|mut near| talk(&mut near)).is_ok()
        });
        assert!(relay.connections() >= 2);
    }
}
