//! The port that tenants' API servers dial: TLS with a certificate on both sides, then HTTP/1.1.
//!
//! A connection is one task: it shakes hands, serves requests, and becomes a stream where a request made it one.

use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use runtime::log::Chain;
use runtime::task::Tasks;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::door::{Door, Stranger};
use crate::guard::{Limits, Places, Taken};
use crate::identity::{Caller, serial};
use crate::line::{Line, Noted, Stall};
use crate::session::{self, Agent, Peer, Tunnel};

/// To finish the handshake of TLS.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// For the head of a request to come, also on a connection that has served others: API servers dial again.
const HEAD: Duration = Duration::from_mins(1);

/// The most of a request's head that is read: a command may be long.
const HEAD_BYTES: usize = 64 * 1024;

/// Headers of one request.
const HEADERS: usize = 64;

/// Connections of one tenant beyond its sessions: probes, metrics, and those that wait for their next request.
const SPARE_OF_TENANT: usize = 64;

/// The same of all tenants.
const SPARE: usize = 1024;

/// A pause after a failed accept, most likely for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Serves until `stop`; what runs then goes on until its owner cuts it short.
pub async fn run(listener: TcpListener, agent: Arc<Agent>, tasks: &Tasks, stop: CancellationToken) {
    let (door, callers) = (Door::default(), Places::default());
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, from)) => {
                let hall = Hall { stranger: door.enter(from.ip()), callers: callers.clone() };
                drop(tasks.spawn("connection", connection(stream, Arc::clone(&agent), hall, stop.clone())));
            }
            Err(error) => {
                warn!(error = %Chain(&error), "connection not accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// What a connection takes up: a place among strangers first, then one among its tenant's.
struct Hall {
    stranger: Stranger,
    callers: Places,
}

impl Hall {
    fn enter(self, caller: &Caller, sessions: &Limits) -> Result<Taken, String> {
        let connections = Limits { per_tenant: sessions.per_tenant + SPARE_OF_TENANT, all: sessions.all + SPARE, ..*sessions };
        self.callers.take(caller.tenant, &connections).map_err(|full| format!("too many connections: {full}"))
    }
}

async fn connection(stream: TcpStream, agent: Arc<Agent>, hall: Hall, stop: CancellationToken) {
    // Apart, so that a stream does not hold for hours what its beginning needed.
    let Some((stream, peer, place)) = Box::pin(let_in(stream, &agent, hall)).await else { return };
    let callers = place.all();
    agent.metrics.connections(callers.len());
    let tunnel = Box::pin(speak(stream, &agent, peer, stop)).await;
    if let Some(tunnel) = tunnel {
        tunnel.run().await;
    }
    drop(place);
    agent.metrics.connections(callers.len());
}

/// Speaks HTTP until the connection ends, must end, or becomes a stream.
async fn speak(stream: Stream, agent: &Arc<Agent>, peer: Peer, stop: CancellationToken) -> Option<Tunnel> {
    let stall = Stall::default();
    let (line, ends) = Line::new(stall.clone());
    tokio::select! {
        () = serve(Noted::new(stream, stall), Arc::clone(agent), peer, &line, stop) => line.tunnel(),
        () = ends.must_be_cut() => None,
    }
}

type Stream = tokio_rustls::server::TlsStream<TcpStream>;

/// Finds out who it is, and whether there is room for one more of its tenant.
async fn let_in(stream: TcpStream, agent: &Agent, hall: Hall) -> Option<(Stream, Peer, Taken)> {
    let address = stream.peer_addr().map(|address| address.to_string()).unwrap_or_default();
    let shaken = tokio::select! {
        shaken = timeout(HANDSHAKE, shake_hands(stream, agent)) => shaken.unwrap_or_else(|_| Err("the handshake took too long".to_owned())),
        () = hall.stranger.sent_away() => Err("the handshake took too long while many others came".to_owned()),
    };
    agent.metrics.shook_hands(shaken.is_ok());
    let (stream, peer) = match shaken {
        Ok(shaken) => shaken,
        Err(reason) => {
            if let Some(left_out) = agent.quiet.about_a_stranger() {
                info!(peer = address, reason, left_out, "caller not let in");
            }
            return None;
        }
    };
    match hall.enter(&peer.caller, &agent.limits) {
        Ok(place) => Some((stream, peer, place)),
        Err(reason) => {
            let tenant = peer.caller.tenant;
            if let Some(left_out) = agent.quiet.about(tenant) {
                info!(%tenant, peer = address, reason, left_out, "caller not let in");
            }
            None
        }
    }
}

async fn shake_hands(stream: TcpStream, agent: &Agent) -> Result<(Stream, Peer), String> {
    // What passes is keystrokes as often as files.
    let _ = stream.set_nodelay(true);
    let config = Arc::clone(&agent.credentials.borrow().server);
    let stream = TlsAcceptor::from(config).accept(stream).await.map_err(|error| Chain(&error).to_string())?;
    let chain: Arc<[_]> = stream.get_ref().1.peer_certificates().unwrap_or_default().iter().map(|der| der.clone().into_owned()).collect();
    let leaf = chain.first().ok_or("no client certificate")?;
    let caller = Caller::of_certificate(leaf).map_err(|error| Chain(&error).to_string())?;
    let serial = serial(leaf).ok_or("the client certificate has no serial number that can be read")?.into();
    Ok((stream, Peer { caller, chain, serial }))
}

async fn serve(stream: Noted<Stream>, agent: Arc<Agent>, peer: Peer, line: &Line, stop: CancellationToken) {
    let service = service_fn(|request| session::answer(Arc::clone(&agent), peer.clone(), line.clone(), request));
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
