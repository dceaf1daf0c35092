//! Probes and metrics on one port: `/livez`, `/readyz` (with `?verbose`), `/metrics`.
//!
//! Anyone on the network may talk to this port, so it answers from memory, one request a connection, and a caller who
//! takes his time is shown out: past `CONNECTIONS` the oldest connection makes room for the newest, so that nobody
//! can keep the kubelet's probes out.

mod health;

use std::{collections::VecDeque, convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

pub use self::health::{Condition, Health, Heartbeat};
use crate::{
    log::Chain,
    metrics::{CONTENT_TYPE, Registry},
};

/// Connections served at a time; a kubelet and two scrapers need a handful.
const CONNECTIONS: usize = 64;
/// The head of a request must be there within this time.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection lives no longer than this.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(20);
/// The most of a request's head that is read; hyper's minimum.
const HEAD_LIMIT_BYTES: usize = 8192;
/// A pause after a failed accept, most likely for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Flags of the port for probes and metrics.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Probes and metrics")]
pub struct ServeArgs {
    /// Address of /livez, /readyz and /metrics
    #[arg(long, env = "VC_LISTEN", value_name = "ADDRESS", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,
}

/// The server of probes and metrics.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    pages: Arc<Pages>,
}

#[derive(Debug)]
struct Pages {
    health: Health,
    registry: Registry,
}

impl Server {
    /// Takes the port; nothing is answered before [`Server::run`].
    pub async fn bind(args: &ServeArgs, health: Health, registry: Registry) -> io::Result<Self> {
        let listener = TcpListener::bind(args.listen).await?;
        info!(address = %listener.local_addr()?, "serving probes and metrics");
        Ok(Self { listener, pages: Arc::new(Pages { health, registry }) })
    }

    /// The address taken, with the port where the flag said 0.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop`. Stop it last: probes should be answered while the rest drains.
    pub async fn run(self, stop: CancellationToken) {
        let mut connections = Connections::default();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some(_) = connections.tasks.join_next() => {}
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => connections.add(serve(stream, Arc::clone(&self.pages))),
                    Err(error) => {
                        warn!(error = %Chain(&error), "connection not accepted");
                        sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
    }
}

/// The connections under way, oldest first. Dropping it closes them.
#[derive(Default)]
struct Connections {
    tasks: JoinSet<()>,
    by_age: VecDeque<AbortHandle>,
}

impl Connections {
    fn add(&mut self, connection: impl Future<Output = ()> + Send + 'static) {
        self.by_age.retain(|handle| !handle.is_finished());
        if self.by_age.len() >= CONNECTIONS
            && let Some(oldest) = self.by_age.pop_front()
        {
            oldest.abort();
        }
        let handle = self.tasks.spawn(connection);
        self.by_age.push_back(handle);
    }
}

async fn serve(stream: TcpStream, pages: Arc<Pages>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = pages.answer(request.method(), request.uri().path(), request.uri().query());
        async { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_LIMIT_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(CONNECTION_TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(error = %Chain(&error), "connection failed"),
        Err(_) => debug!("connection took too long"),
    }
}

impl Pages {
    fn answer(&self, method: &Method, path: &str, query: Option<&str>) -> Response<Full<Bytes>> {
        if method != Method::GET && method != Method::HEAD {
            return plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n".to_owned());
        }
        let is_verbose = query.is_some_and(|query| query.split('&').any(|part| part.split('=').next() == Some("verbose")));
        match path {
            "/livez" => probe("livez", &self.health.alive(), is_verbose),
            "/readyz" => probe("readyz", &self.health.ready(), is_verbose),
            "/metrics" => self.metrics(),
            _ => plain(StatusCode::NOT_FOUND, "not found\n".to_owned()),
        }
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        match self.registry.encode() {
            Ok(body) => page(StatusCode::OK, CONTENT_TYPE, body),
            Err(error) => {
                warn!(error = %Chain(&error), "metrics could not be encoded");
                plain(StatusCode::INTERNAL_SERVER_ERROR, "metrics could not be encoded\n".to_owned())
            }
        }
    }
}

/// The answer to a probe, in the form that Kubernetes' own servers use.
fn probe(name: &str, checks: &[health::Check], is_verbose: bool) -> Response<Full<Bytes>> {
    let is_ok = checks.iter().all(|check| check.problem.is_none());
    let status = if is_ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if is_ok && !is_verbose {
        return plain(status, "ok\n".to_owned());
    }
    let verdict = format!("{name} check {}\n", if is_ok { "passed" } else { "failed" });
    let lines = checks.iter().map(ToString::to_string).chain([verdict]);
    plain(status, lines.collect::<Vec<_>>().join("\n"))
}

fn plain(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    page(status, "text/plain; charset=utf-8", body)
}

fn page(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests;
