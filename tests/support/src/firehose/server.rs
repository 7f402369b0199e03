//! Connections: loopback, plain or TLS, HTTP/1.1.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;

use super::answer::Reply;
use super::service::Service;

/// A listener on 127.0.0.1.
pub(super) async fn listen(port: u16) -> io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// Serves until the runtime ends.
pub(super) async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, service: Arc<Service>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        service.connected();
        let (service, tls) = (service.clone(), tls.clone());
        tokio::spawn(async move {
            match tls {
                None => converse(stream, service).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        converse(stream, service).await;
                    }
                }
            }
        });
    }
}

async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin, service: Arc<Service>) {
    let answer = service_fn(|request| answer(request, &service));
    // An error is the cut that a fault asked for, or a client that left.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
}

/// An `Err` makes hyper close the connection without an answer.
async fn answer(
    request: Request<Incoming>,
    service: &Service,
) -> Result<Response<Full<Bytes>>, io::Error> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let (reply, fault) = service.handle(&parts, &body);
    if let Some(delay) = fault.delay() {
        tokio::time::sleep(delay).await;
    }
    let answer = match reply {
        Reply::Answer(answer) => answer,
        Reply::Cut => return Err(io::Error::other("cut")),
        Reply::Hang => std::future::pending().await,
    };
    let mut response = Response::builder();
    if let Some(seconds) = fault.retry_after() {
        response = response.header("retry-after", seconds);
    }
    response
        .status(answer.status)
        .header("content-type", answer.content_type)
        .header("date", service.now().format("%a, %d %b %Y %H:%M:%S GMT").to_string())
        .header("x-amzn-requestid", "00000000-0000-0000-0000-000000000000")
        .body(Full::new(answer.body.into()))
        .map_err(io::Error::other)
}

/// A fresh authority, written as PEM to `ca`, and a server certificate of it
/// for `localhost` and 127.0.0.1, valid from that year on.
pub(super) fn tls(ca: &Path, valid_from: i32) -> TlsAcceptor {
    let mut params = CertificateParams::new([]).expect("no names, no errors");
    // Two stand-ins must not pass for one another by their name.
    let name = format!("firehose stand-in {:016x}", rand::random::<u64>());
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = || KeyPair::generate().expect("a key pair");
    let issuer = CertifiedIssuer::self_signed(params, key()).expect("a certificate authority");
    std::fs::write(ca, issuer.pem()).expect("the authority's PEM file");

    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let server = key();
    let mut params = CertificateParams::new(names).expect("two good names");
    params.not_before = rcgen::date_time_ymd(valid_from, 1, 1);
    let certificate = params.signed_by(&server, &issuer).expect("a server certificate");
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring knows TLS 1.2 and 1.3")
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivatePkcs8KeyDer::from(server.serialize_der()).into(),
        )
        .expect("certificate and key fit");
    TlsAcceptor::from(Arc::new(config))
}

/// The control port: `GET /stats`, `POST /faults` (JSON of `Faults`),
/// `POST /expire-tokens`.
pub(super) async fn control(listener: TcpListener, service: Arc<Service>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let service = service.clone();
        tokio::spawn(async move {
            let answer = service_fn(|request| order(request, &service));
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

async fn order(
    request: Request<Incoming>,
    service: &Service,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let (status, text) = match path.as_str() {
        "/stats" => (200, serde_json::to_string(&service.stats()).expect("stats are JSON")),
        "/expire-tokens" => {
            service.state().keys.expire_tokens();
            (200, String::new())
        }
        "/faults" => match serde_json::from_slice(&body) {
            Ok(faults) => {
                service.state().plan = super::fault::Plan::new(faults);
                (200, String::new())
            }
            Err(error) => (400, error.to_string()),
        },
        _ => (404, "GET /stats, POST /faults, POST /expire-tokens".to_owned()),
    };
    let mut response = Response::new(Full::new((text + "\n").into()));
    *response.status_mut() = hyper::StatusCode::from_u16(status).expect("a known status");
    Ok(response)
}
