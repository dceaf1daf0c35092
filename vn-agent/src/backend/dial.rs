//! HTTP/1.1 over TLS to a back end: one server, its certificate verified, and nothing followed, unpacked or repeated.
//!
//! A connection that was switched to another protocol never comes back; one that has answered a plain request may carry the next.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use runtime::log::Chain;
use runtime::task::Tasks;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;

use crate::answer::{Failure, Hop};

/// To open a TCP connection, and to finish the handshake of TLS. The kubelet is on the same machine.
const CONNECT: Duration = Duration::from_secs(5);

/// Connections kept for the next request, and for how long: kubelets and API servers let theirs be idle for 90 s.
const MOST_IDLE: usize = 6;
const IDLE: Duration = Duration::from_secs(75);

/// Connections opened ahead when one is taken, so that the next sessions need not wait for a handshake: one for each of three that come before
/// there are more, and one for the lists of Pods that they ask for.
const SPARE: usize = 4;

/// How long after a session's beginning. Its process is being started then, and nobody waits for the spare ones.
const SETTLED: Duration = Duration::from_millis(100);

/// The most that is read of an answer before it is looked at.
const BUFFER_BYTES: usize = 16 * 1024;

type Sender = SendRequest<Empty<Bytes>>;

/// The way to one back end.
#[derive(Clone)]
pub struct Dialer(Arc<Way>);

struct Way {
    /// Host and port.
    address: String,
    /// Whose certificate is expected.
    name: ServerName<'static>,
    hop: Hop,
    tasks: Arc<Tasks>,
    idle: Mutex<Vec<Idle>>,
    /// Whether spare connections are being opened.
    is_preparing: AtomicBool,
}

struct Idle {
    sender: Sender,
    since: Instant,
    /// The credentials it was opened with: a connection with earlier ones is not used again.
    config: Arc<ClientConfig>,
}

impl Dialer {
    /// To a server of this name at this address.
    pub fn new(address: String, name: ServerName<'static>, hop: Hop, tasks: Arc<Tasks>) -> Self {
        Self(Arc::new(Way { address, name, hop, tasks, idle: Mutex::default(), is_preparing: AtomicBool::new(false) }))
    }

    /// Host and port.
    pub fn address(&self) -> &str {
        &self.0.address
    }

    /// Who owns what runs for it.
    pub(super) fn tasks(&self) -> &Tasks {
        &self.0.tasks
    }

    /// Sends a request on a connection that may come back, and gives the head of the answer within `limit`.
    pub async fn ask(&self, config: &Arc<ClientConfig>, request: Request<Empty<Bytes>>, limit: Duration) -> Result<Answer<'_>, Failure> {
        let exchange = async {
            let mut request = request;
            if let Some(mut sender) = self.take(config) {
                match sender.try_send_request(request).await {
                    Ok(response) => return Ok((sender, response)),
                    // The server had closed it meanwhile. Only what was provably not sent is sent again.
                    Err(mut error) => match error.take_message() {
                        Some(unsent) => request = unsent,
                        None => return Err(self.broken(error.error())),
                    },
                }
            }
            let mut sender = self.open(config).await?;
            let response = sender.send_request(request).await.map_err(|error| self.broken(&error))?;
            Ok((sender, response))
        };
        let (sender, response) = timeout(limit, exchange).await.map_err(|_| self.silent(limit))??;
        Ok(Answer { response, back: Back { dialer: self, sender, config: Arc::clone(config) } })
    }

    /// Sends a request on a connection of its own, which ends with it, and gives the head of the answer.
    ///
    /// Waits without end if `limit` is none: the log of a container that says nothing has no head.
    pub async fn open_for(
        &self,
        config: &Arc<ClientConfig>,
        request: Request<Empty<Bytes>>,
        limit: Option<Duration>,
    ) -> Result<Response<Incoming>, Failure> {
        self.prepare(config);
        let mut sender = match self.take(config) {
            Some(sender) => sender,
            None => self.open(config).await?,
        };
        let exchange = async {
            match sender.try_send_request(request).await {
                Ok(response) => Ok(response),
                Err(mut error) => match error.take_message() {
                    Some(unsent) => {
                        let mut fresh = self.open(config).await?;
                        fresh.send_request(unsent).await.map_err(|error| self.broken(&error))
                    }
                    None => Err(self.broken(error.error())),
                },
            }
        };
        match limit {
            Some(limit) => timeout(limit, exchange).await.map_err(|_| self.silent(limit))?,
            None => exchange.await,
        }
    }

    fn take(&self, config: &Arc<ClientConfig>) -> Option<Sender> {
        let mut idle = self.0.idle.lock();
        idle.retain(|held| held.since.elapsed() < IDLE && !held.sender.is_closed() && Arc::ptr_eq(&held.config, config));
        let at = idle.iter().rposition(|held| held.sender.is_ready())?;
        Some(idle.swap_remove(at).sender)
    }

    /// Opens connections ahead, unless somebody does.
    fn prepare(&self, config: &Arc<ClientConfig>) {
        if self.0.is_preparing.swap(true, Ordering::AcqRel) {
            return;
        }
        let (dialer, config) = (self.clone(), Arc::clone(config));
        drop(self.0.tasks.spawn("backend-spare", async move {
            sleep(SETTLED).await;
            while dialer.0.idle.lock().len() < SPARE {
                // Whoever needs one finds out why there is none.
                let Ok(sender) = dialer.open(&config).await else { break };
                dialer.keep(sender, &config);
            }
            dialer.0.is_preparing.store(false, Ordering::Release);
        }));
    }

    fn keep(&self, sender: Sender, config: &Arc<ClientConfig>) {
        let mut idle = self.0.idle.lock();
        if idle.len() < MOST_IDLE && !sender.is_closed() {
            idle.push(Idle { sender, since: Instant::now(), config: Arc::clone(config) });
        }
    }

    async fn open(&self, config: &Arc<ClientConfig>) -> Result<Sender, Failure> {
        let connect = timeout(CONNECT, TcpStream::connect(&self.0.address)).await;
        let stream = connect.map_err(|_| self.silent(CONNECT))?.map_err(|error| self.unreachable(&error))?;
        // What passes is keystrokes as often as files.
        let _ = stream.set_nodelay(true);
        let shake = TlsConnector::from(Arc::clone(config)).connect(self.0.name.clone(), stream);
        let stream = timeout(CONNECT, shake).await.map_err(|_| self.silent(CONNECT))?.map_err(|error| self.unreachable(&error))?;
        let (sender, connection) =
            Builder::new().max_buf_size(BUFFER_BYTES).handshake(TokioIo::new(stream)).await.map_err(|error| self.broken(&error))?;
        // Ends with its sender and the body of its answer.
        drop(self.0.tasks.spawn("backend-connection", async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(error = %Chain(&error), "connection to the back end failed");
            }
        }));
        Ok(sender)
    }

    fn unreachable(&self, error: &io::Error) -> Failure {
        Failure::new(StatusCode::BAD_GATEWAY, self.0.hop, format!("could not reach {}: {}", self.what(), in_a_word(error.kind())))
            .because(Chain(error))
    }

    fn broken(&self, error: &hyper::Error) -> Failure {
        Failure::new(StatusCode::BAD_GATEWAY, self.0.hop, format!("the connection to {} broke", self.what())).because(Chain(error))
    }

    fn silent(&self, limit: Duration) -> Failure {
        let message = format!("{} did not answer within {} s", self.what(), limit.as_secs());
        Failure::new(StatusCode::GATEWAY_TIMEOUT, self.0.hop, message)
    }

    fn what(&self) -> &'static str {
        match self.0.hop {
            Hop::Kubelet => "the kubelet",
            Hop::ApiServer => "the super cluster's API server",
            Hop::Request | Hop::Agent => "the back end",
        }
    }
}

/// Why a connection could not be opened, without an address or a name of the super cluster.
const fn in_a_word(kind: io::ErrorKind) -> &'static str {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable, InvalidData, NetworkUnreachable, UnexpectedEof,
    };
    if matches!(kind, ConnectionRefused) {
        "it refuses connections"
    } else if matches!(kind, ConnectionReset | ConnectionAborted | UnexpectedEof) {
        "it closed the connection"
    } else if matches!(kind, HostUnreachable | NetworkUnreachable) {
        "no network leads there"
    } else if matches!(kind, InvalidData) {
        "its certificate is not to be believed, or it does not believe vn-agent's"
    } else {
        "the connection failed"
    }
}

/// An answer whose connection can carry the next request once its body is read.
pub struct Answer<'a> {
    /// Head and body.
    pub response: Response<Incoming>,
    /// What to do with the connection afterwards.
    pub back: Back<'a>,
}

/// A connection on loan.
pub struct Back<'a> {
    dialer: &'a Dialer,
    sender: Sender,
    config: Arc<ClientConfig>,
}

impl Back<'_> {
    /// Gives it back: the body was read to its end.
    pub fn keep(self) {
        self.dialer.keep(self.sender, &self.config);
    }
}
