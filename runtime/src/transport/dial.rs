//! Opens connections: resolve, judge the address, TCP, TLS, HTTP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use url::{Host, Url};

use super::gate::{Gate, Gated};
use super::link::{Link, Sender, Tasks};
use super::traffic::Traffic;
use super::{Limits, Step, TransportError};
use crate::address::{AddressPolicy, Resolve};

/// Flow-control window of one stream: what a server may send ahead of our reading. Small, so that a stream that is not
/// read for a moment neither fills memory nor takes the connection's window from the others.
const STREAM_WINDOW_BYTES: u32 = 128 * 1024;

/// Largest header list that is read; Kubernetes sends some hundred bytes.
const HEADER_BYTES: u32 = 32 * 1024;

/// Largest read buffer of an HTTP/1.1 connection.
const HTTP1_BUFFER_BYTES: usize = 64 * 1024;

/// Whatever it takes to reach one server.
pub(super) struct Dialer {
    /// `host:port`, for errors.
    pub(super) server: String,
    host: Host,
    port: u16,
    name: ServerName<'static>,
    addresses: AddressPolicy,
    resolver: Arc<dyn Resolve>,
    pub(super) limits: Limits,
    pub(super) traffic: Arc<Traffic>,
    gate: Gate,
}

impl Dialer {
    pub(super) fn new(
        url: &Url,
        tls_server_name: Option<&str>,
        addresses: AddressPolicy,
        resolver: Arc<dyn Resolve>,
        limits: Limits,
        gate: Gate,
    ) -> Result<Self, TransportError> {
        let host = url.host().ok_or(TransportError::Invalid { what: "the server has no host" })?.to_owned();
        let port = url.port_or_known_default().unwrap_or(443);
        let name = match (tls_server_name, &host) {
            (Some(name), _) => ServerName::try_from(name.to_owned()).ok(),
            (None, Host::Domain(name)) => ServerName::try_from(name.clone()).ok(),
            (None, Host::Ipv4(address)) => Some(ServerName::from(std::net::IpAddr::V4(*address))),
            (None, Host::Ipv6(address)) => Some(ServerName::from(std::net::IpAddr::V6(*address))),
        };
        let name = name.ok_or(TransportError::Invalid { what: "the server's name can stand in no certificate" })?;
        let server = format!("{host}:{port}");
        Ok(Self { server, host, port, name, addresses, resolver, limits, traffic: Arc::default(), gate })
    }

    /// Opens a connection that carries at most `streams` requests at once.
    pub(super) async fn dial(&self, tls: &Arc<ClientConfig>, streams: usize) -> Result<Arc<Link>, TransportError> {
        let tcp = self.within(self.limits.connect, Step::Connect, self.connect()).await?;
        let tls = self.within(self.limits.tls, Step::Tls, self.secure(tls, tcp)).await?;
        self.traffic.connection();
        let is_http2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
        let tasks = Tasks::default();
        let negotiated = Arc::new(AtomicUsize::new(streams));
        let sender = if is_http2 {
            self.within(self.limits.tls, Step::Tls, self.http2(tls, streams, &tasks, &negotiated)).await?
        } else {
            self.within(self.limits.tls, Step::Tls, self.http1(tls, &tasks)).await?
        };
        let streams = if is_http2 { streams } else { 1 };
        Ok(Link::new(sender, streams, negotiated, tasks, self.limits.idle))
    }

    async fn within<T>(
        &self,
        limit: std::time::Duration,
        step: Step,
        work: impl Future<Output = Result<T, TransportError>>,
    ) -> Result<T, TransportError> {
        timeout(limit, work).await.unwrap_or_else(|_| Err(self.late(step)))
    }

    /// Connects to the first address that is allowed and answers. Only addresses that were judged are connected to.
    async fn connect(&self) -> Result<TcpStream, TransportError> {
        let mut denied = None;
        let mut failed = None;
        for address in self.resolve().await? {
            if !self.addresses.allows(address.ip()) {
                denied.get_or_insert(address.ip());
                continue;
            }
            match TcpStream::connect(address).await.and_then(|tcp| tcp.set_nodelay(true).map(|()| tcp)) {
                Ok(tcp) => return Ok(tcp),
                Err(error) => failed = Some(error),
            }
        }
        match (failed, denied) {
            (None, Some(address)) => Err(TransportError::AddressDenied { server: self.server.clone(), address }),
            (failed, _) => Err(self.unreachable(failed.unwrap_or_else(|| std::io::ErrorKind::NotFound.into()))),
        }
    }

    async fn resolve(&self) -> Result<Vec<SocketAddr>, TransportError> {
        match &self.host {
            Host::Ipv4(address) => Ok(vec![SocketAddr::from((*address, self.port))]),
            Host::Ipv6(address) => Ok(vec![SocketAddr::from((*address, self.port))]),
            Host::Domain(name) => self.resolver.resolve(name.clone(), self.port).await.map_err(|source| self.unreachable(source)),
        }
    }

    async fn secure(&self, tls: &Arc<ClientConfig>, tcp: TcpStream) -> Result<TlsStream<Gated<TcpStream>>, TransportError> {
        let connector = TlsConnector::from(Arc::clone(tls));
        let failed = |source| TransportError::Tls { server: self.server.clone(), source };
        connector.connect(self.name.clone(), Gated::new(tcp, self.gate.clone())).await.map_err(failed)
    }

    async fn http2(
        &self,
        tls: TlsStream<Gated<TcpStream>>,
        streams: usize,
        tasks: &Tasks,
        negotiated: &Arc<AtomicUsize>,
    ) -> Result<Sender, TransportError> {
        let all_streams = u32::try_from(streams).unwrap_or(u32::MAX).saturating_add(1);
        let (sender, mut connection) = http2::Builder::new(tasks.clone())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(STREAM_WINDOW_BYTES.saturating_mul(all_streams))
            .max_header_list_size(HEADER_BYTES)
            .keep_alive_interval(self.limits.ping)
            .keep_alive_timeout(self.limits.pong)
            .keep_alive_while_idle(false)
            .handshake(TokioIo::new(tls))
            .await
            .map_err(|source| self.broken(source))?;
        let negotiated = Arc::clone(negotiated);
        tasks.spawn(async move {
            let ended = std::future::poll_fn(|cx| {
                negotiated.store(connection.current_max_send_streams(), std::sync::atomic::Ordering::Relaxed);
                std::pin::Pin::new(&mut connection).poll(cx)
            });
            if let Err(error) = ended.await {
                tracing::debug!(%error, "connection ended");
            }
        });
        Ok(Sender::Http2(sender))
    }

    async fn http1(&self, tls: TlsStream<Gated<TcpStream>>, tasks: &Tasks) -> Result<Sender, TransportError> {
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(HTTP1_BUFFER_BYTES)
            .handshake(TokioIo::new(tls))
            .await
            .map_err(|source| self.broken(source))?;
        tasks.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection ended");
            }
        });
        Ok(Sender::Http1(tokio::sync::Mutex::new(sender)))
    }

    pub(super) fn late(&self, step: Step) -> TransportError {
        TransportError::Timeout { server: self.server.clone(), step }
    }

    pub(super) fn broken(&self, source: hyper::Error) -> TransportError {
        TransportError::Closed { server: self.server.clone(), source }
    }

    fn unreachable(&self, source: std::io::Error) -> TransportError {
        TransportError::Connect { server: self.server.clone(), source }
    }
}
