//! The port that tenants' API servers dial: TLS with a certificate on both sides, then HTTP/1.1.
//!
//! A connection is one task: it shakes hands, serves requests, and becomes a stream where a request made it one.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use runtime::log::Chain;
use runtime::task::Tasks;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::identity::Caller;
use crate::session::{self, Agent, Peer, Slot};

/// To finish the handshake of TLS.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// For the head of a request to come, also on a connection that has served others: API servers dial again.
const HEAD: Duration = Duration::from_mins(1);

/// Handshakes at a time: they cost CPU before it is known who is calling.
const HANDSHAKES: usize = 64;

/// The most of a request's head that is read: a command may be long.
const HEAD_BYTES: usize = 64 * 1024;

/// Headers of one request.
const HEADERS: usize = 64;

/// Connections beyond the sessions that may run: probes, metrics, and those that wait for their next request.
const SPARE_CONNECTIONS: usize = 1024;

/// A pause after a failed accept, most likely for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Serves until `stop`; what runs then goes on until its owner cuts it short.
pub async fn run(listener: TcpListener, agent: Arc<Agent>, tasks: &Tasks, stop: CancellationToken) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    let connections = Arc::new(Semaphore::new(agent.limits.all.saturating_add(SPARE_CONNECTIONS).min(Semaphore::MAX_PERMITS)));
    let all = connections.available_permits();
    loop {
        let permit = tokio::select! {
            () = stop.cancelled() => return,
            permit = Arc::clone(&connections).acquire_owned() => permit,
        };
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let (agent, handshakes, stop) = (Arc::clone(&agent), Arc::clone(&handshakes), stop.clone());
                agent.metrics.connections(all - connections.available_permits());
                let gauge = (agent.metrics.clone(), Arc::clone(&connections));
                drop(tasks.spawn("connection", async move {
                    connection(stream, agent, &handshakes, stop).await;
                    drop(permit);
                    gauge.0.connections(all - gauge.1.available_permits());
                }));
            }
            Err(error) => {
                warn!(error = %Chain(&error), "connection not accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, agent: Arc<Agent>, handshakes: &Semaphore, stop: CancellationToken) {
    let slot = Slot::default();
    // Apart, so that a stream does not hold for hours what its beginning needed.
    if let Some((stream, peer)) = Box::pin(shake_hands(stream, &agent, handshakes)).await {
        Box::pin(serve(stream, agent, peer, &slot, stop)).await;
    }
    let tunnel = slot.lock().take();
    if let Some(tunnel) = tunnel {
        tunnel.run().await;
    }
}

type Stream = tokio_rustls::server::TlsStream<TcpStream>;

async fn shake_hands(stream: TcpStream, agent: &Agent, handshakes: &Semaphore) -> Option<(Stream, Peer)> {
    let address = stream.peer_addr().map(|address| address.to_string()).unwrap_or_default();
    let result = timeout(HANDSHAKE, async {
        let _turn = handshakes.acquire().await;
        // What passes is keystrokes as often as files.
        let _ = stream.set_nodelay(true);
        let config = Arc::clone(&agent.credentials.borrow().server);
        TlsAcceptor::from(config).accept(stream).await
    });
    let result = result.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let peer = result.map_err(|error| Chain(&error).to_string()).and_then(|stream| {
        let chain: Arc<[_]> =
            stream.get_ref().1.peer_certificates().unwrap_or_default().iter().map(|der| der.clone().into_owned()).collect();
        let leaf = chain.first().ok_or("no client certificate")?;
        let caller = Caller::of_certificate(leaf).map_err(|error| Chain(&error).to_string())?;
        Ok((stream, Peer { caller, chain }))
    });
    agent.metrics.shook_hands(peer.is_ok());
    peer.map_err(|reason: String| info!(peer = address, reason, "caller not let in")).ok()
}

async fn serve(stream: Stream, agent: Arc<Agent>, peer: Peer, slot: &Slot, stop: CancellationToken) {
    let service = service_fn(|request| session::answer(Arc::clone(&agent), peer.clone(), Arc::clone(slot), request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stop.cancelled() => {
            // The request under way is served to its end; no further one is begun.
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        debug!(error = %Chain(&error), "connection of a caller failed");
    }
}
