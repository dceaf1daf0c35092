//! A loopback TLS server that says what it was told to say.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::BoxFuture;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use url::Url;

use crate::http::Body;
use crate::pki::{Authority, Leaf};

/// What a server saw.
#[derive(Default)]
pub struct Seen {
    /// Connections accepted, before TLS.
    pub accepted: AtomicUsize,
    /// Connections open.
    pub open: AtomicUsize,
    /// Requests, each as `METHOD path`, with its headers.
    pub requests: Mutex<Vec<Request<()>>>,
    connections: Mutex<JoinSet<()>>,
}

/// A server; it ends when dropped.
pub struct Server {
    address: SocketAddr,
    host: String,
    ca_pem: String,
    /// What it has seen.
    pub seen: Arc<Seen>,
    _tasks: JoinSet<()>,
}

/// What it speaks and says.
#[derive(Clone)]
pub enum Behavior {
    /// HTTP/2, or HTTP/1.1.
    Http {
        /// Which of the two.
        is_http2: bool,
        /// Streams at once on one connection.
        streams: u32,
        /// What it answers.
        handler: Handler,
    },
    /// Whatever it likes, after the TLS handshake, with this ALPN protocol.
    Raw(&'static [u8], Arc<dyn Fn(TlsStream<TcpStream>) -> BoxFuture<'static, ()> + Send + Sync>),
    /// Accepts the connection and says nothing.
    Mute,
}

/// What is answered to a request.
pub type Handler = Arc<dyn Fn(Request<Incoming>) -> BoxFuture<'static, Response<Body>> + Send + Sync>;

impl Behavior {
    /// Answers over HTTP/2.
    pub fn http2<F, R>(handler: F) -> Self
    where
        F: Fn(Request<Incoming>) -> R + Send + Sync + 'static,
        R: Future<Output = Response<Body>> + Send + 'static,
    {
        Self::Http { is_http2: true, streams: 100, handler: Arc::new(move |request| Box::pin(handler(request))) }
    }

    /// Answers over HTTP/1.1.
    pub fn http1<F, R>(handler: F) -> Self
    where
        F: Fn(Request<Incoming>) -> R + Send + Sync + 'static,
        R: Future<Output = Response<Body>> + Send + 'static,
    {
        Self::Http { is_http2: false, streams: 1, handler: Arc::new(move |request| Box::pin(handler(request))) }
    }

    fn alpn(&self) -> Vec<u8> {
        match self {
            Self::Http { is_http2: true, .. } => b"h2".to_vec(),
            Self::Http { .. } | Self::Mute => b"http/1.1".to_vec(),
            Self::Raw(alpn, _) => alpn.to_vec(),
        }
    }
}

impl Server {
    /// A server that is what it says it is, at `127.0.0.1`.
    pub async fn start(behavior: Behavior) -> Self {
        let authority = Authority::new();
        let leaf = authority.leaf("127.0.0.1");
        Self::with("127.0.0.1", &authority, leaf, behavior).await
    }

    /// The same, of a TLS version of long ago.
    pub async fn tls12(behavior: Behavior) -> Self {
        let authority = Authority::new();
        let leaf = authority.leaf("127.0.0.1");
        Self::of("127.0.0.1", &authority, leaf, &[&rustls::version::TLS12], behavior).await
    }

    /// A server with the certificate `leaf`; its clients reach it as `host` and trust `authority`.
    pub async fn with(host: &str, authority: &Authority, leaf: Leaf, behavior: Behavior) -> Self {
        Self::of(host, authority, leaf, rustls::DEFAULT_VERSIONS, behavior).await
    }

    async fn of(
        host: &str,
        authority: &Authority,
        leaf: Leaf,
        versions: &[&'static rustls::SupportedProtocolVersion],
        behavior: Behavior,
    ) -> Self {
        let verifier = {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(authority.der()).unwrap();
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).allow_unauthenticated().build().unwrap()
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![leaf.certificate], leaf.key)
            .unwrap();
        tls.alpn_protocols = vec![behavior.alpn()];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Seen>::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, TlsAcceptor::from(Arc::new(tls)), behavior, Arc::clone(&seen)));
        Self { address, host: host.to_owned(), ca_pem: authority.pem(), seen, _tasks: tasks }
    }

    /// Where it is.
    pub fn url(&self) -> Url {
        Url::parse(&format!("https://{}:{}", self.host, self.address.port())).unwrap()
    }

    /// The authority to be trusted, as PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// How many connections it accepted.
    pub fn connections(&self) -> usize {
        self.seen.accepted.load(Ordering::SeqCst)
    }

    /// Ends every connection; new ones are welcome.
    pub fn hang_up(&self) {
        self.seen.connections.lock().abort_all();
    }

    /// How many requests it got.
    pub fn requests(&self) -> usize {
        self.seen.requests.lock().len()
    }
}

async fn accept(listener: TcpListener, tls: TlsAcceptor, behavior: Behavior, seen: Arc<Seen>) {
    while let Ok((tcp, _)) = listener.accept().await {
        seen.accepted.fetch_add(1, Ordering::SeqCst);
        let (tls, behavior, open) = (tls.clone(), behavior.clone(), Open::new(&seen));
        seen.connections.lock().spawn(async move {
            let seen = Arc::clone(&open.0);
            if matches!(behavior, Behavior::Mute) {
                let _held = tcp;
                return std::future::pending().await;
            }
            let Ok(stream) = tls.accept(tcp).await else { return };
            match behavior {
                Behavior::Mute => {}
                Behavior::Raw(_, script) => script(stream).await,
                Behavior::Http { is_http2, streams, handler } => serve(stream, is_http2, streams, handler, seen).await,
            }
        });
    }
}

async fn serve(stream: TlsStream<TcpStream>, is_http2: bool, streams: u32, handler: Handler, seen: Arc<Seen>) {
    let has_certificate = stream.get_ref().1.peer_certificates().is_some();
    let service = service_fn(move |request: Request<Incoming>| {
        let mut record = Request::builder().method(request.method()).uri(request.uri()).body(()).unwrap();
        *record.headers_mut() = request.headers().clone();
        if has_certificate {
            record.headers_mut().insert("x-client-certificate", "shown".parse().unwrap());
        }
        seen.requests.lock().push(record);
        let response = handler(request);
        async move { Ok::<_, Infallible>(response.await) }
    });
    let io = TokioIo::new(stream);
    if is_http2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        let _ = builder.max_concurrent_streams(streams).serve_connection(io, service).await;
    } else {
        let _ = http1::Builder::new().serve_connection(io, service).await;
    }
}

/// An open connection, counted.
struct Open(Arc<Seen>);

impl Open {
    fn new(seen: &Arc<Seen>) -> Self {
        seen.open.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(seen))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.hang_up();
    }
}
