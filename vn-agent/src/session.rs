//! One request of one caller, from its head to its last byte.
//!
//! ```text
//! head: one that may pass? ─► caller: a tenant that exists? ─► route ─► Pod: the caller's, by the record? container its own?
//!   ─► back end answers ─► is it still that very Pod? ─► only now: the head passes, then bytes
//! ```

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::header::{HeaderMap, UPGRADE};
use http::{Request, Response, StatusCode};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use runtime::log::{Chain, Escaped};
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::DropGuard;
use tracing::{debug, info};

use crate::answer::{Body, BodyError, Failure, Hop, empty};
use crate::backend::{Backend, Tenant};
use crate::credentials::Credentials;
use crate::guard::{End, Full, Guard, Limits, Places, Taken};
use crate::headers::{self, Upgrade};
use crate::identity::{Caller, Scope};
use crate::line::Line;
use crate::metrics::AgentMetrics;
use crate::pace::Paces;
use crate::page::{self, Opened};
use crate::pods::SuperPod;
use crate::quiet::{Ended, Quiet};
use crate::relay::{Counters, Finish, relay};
use crate::route::{Page, Route, RouteError};
use crate::tenants::Tenants;
use crate::text;

/// For a page to be taken whole: a kubelet holds all of it until then.
const PAGE: Duration = Duration::from_mins(2);

/// How a session ends that has come to its own end.
const OK: &str = "ok";

/// What all sessions share.
pub struct Agent {
    /// The node's name, for people who read errors.
    pub node: String,
    /// Who answers.
    pub backend: Backend,
    /// Which tenants there are.
    pub tenants: watch::Receiver<Arc<Tenants>>,
    /// Whom certificates must come from.
    pub credentials: watch::Receiver<Arc<Credentials>>,
    /// Bounds of sessions.
    pub limits: Limits,
    /// Who has how many.
    pub places: Places,
    /// How often a tenant may begin a stream.
    pub starts: Paces,
    /// What is counted.
    pub metrics: AgentMetrics,
    /// What may be logged.
    pub quiet: Quiet,
}

/// Who is at the other end of a connection.
#[derive(Clone)]
pub struct Peer {
    /// As the certificate says.
    pub caller: Caller,
    /// The certificates shown, leaf first.
    pub chain: Arc<[CertificateDer<'static>]>,
    /// The serial number of the leaf, in hexadecimal.
    pub serial: Arc<str>,
}

/// Answers a request. Never fails: what goes wrong is an answer too.
pub async fn answer(agent: Arc<Agent>, peer: Peer, line: Line, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let is_upgrade = request.headers().contains_key(UPGRADE);
    // Apart, so that a stream does not hold for hours what its beginning needed.
    let result = Box::pin(attempt(&agent, &peer, &line, request)).await;
    Ok(result.unwrap_or_else(|failure| {
        agent.metrics.failed(failure.hop.name(), failure.status.as_u16());
        let (tenant, hop, code) = (peer.caller.tenant, failure.hop.name(), failure.status.as_u16());
        if let Some(left_out) = agent.quiet.about(tenant) {
            let cause = failure.cause.as_deref().map(|cause| tracing::field::display(Escaped(cause)));
            info!(%tenant, hop, code, reason = failure.message, cause, left_out, "not served");
        }
        failure.response(&agent.node, is_upgrade)
    }))
}

async fn attempt(agent: &Arc<Agent>, peer: &Peer, line: &Line, mut request: Request<Incoming>) -> Result<Response<Body>, Failure> {
    let upgrade = headers::check(&request).map_err(|refused| Failure::refused(StatusCode::BAD_REQUEST, refused.to_string()))?;
    let tenant = admitted(agent, peer)?;
    let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
    let route = Route::parse(request.method(), path, query).map_err(|error| refused(&error))?;
    if peer.caller.scope == Scope::Metrics && !matches!(route, Route::Page(page) if page.is_metrics()) {
        let message = "this certificate is for metrics and stats alone";
        return Err(Failure::refused(StatusCode::FORBIDDEN, message));
    }
    match (&route, upgrade) {
        (Route::Exec { .. } | Route::Attach { .. } | Route::PortForward { .. }, Some(upgrade)) => {
            let client = hyper::upgrade::on(&mut request);
            Box::pin(stream(agent, peer, &tenant, route, &upgrade, (line, client))).await
        }
        (Route::Exec { .. } | Route::Attach { .. } | Route::PortForward { .. }, None) => {
            Err(Failure::refused(StatusCode::BAD_REQUEST, "this path needs an upgrade to SPDY/3.1 or websocket"))
        }
        (Route::Logs { .. } | Route::Page(_), Some(_)) => Err(Failure::refused(StatusCode::BAD_REQUEST, "this path has no upgrade")),
        (Route::Logs { .. }, None) => Box::pin(logs(agent, peer, &tenant, route, line)).await,
        (Route::Page(page), None) => pages(agent, peer, &tenant, *page, line).await,
    }
}

/// That the caller's certificate is good now, and its tenant exists now.
fn admitted(agent: &Agent, peer: &Peer) -> Result<Tenant, Failure> {
    let forbidden = |end: End| Failure::refused(StatusCode::FORBIDDEN, end.to_string());
    if !agent.credentials.borrow().is_good(&peer.chain) {
        return Err(forbidden(End::Certificate));
    }
    let uid = peer.caller.tenant;
    let tenants = Arc::clone(&agent.tenants.borrow());
    if tenants.has_revoked(uid, &peer.serial) {
        return Err(forbidden(End::Certificate));
    }
    let name = tenants.name(uid);
    let name = name.ok_or_else(|| Failure::refused(StatusCode::FORBIDDEN, "the client certificate names no tenant that exists"))?;
    Ok(Tenant { uid, name })
}

fn refused(error: &RouteError) -> Failure {
    let status = match error {
        RouteError::NotFound => StatusCode::NOT_FOUND,
        RouteError::Method => StatusCode::METHOD_NOT_ALLOWED,
        RouteError::Query(_) => StatusCode::BAD_REQUEST,
    };
    Failure::refused(status, Chain(error).to_string())
}

/// A place for one more session of the caller's, taken before anything is asked of others for it: what a tenant has under way there is bounded.
fn place(agent: &Agent, peer: &Peer) -> Result<Taken, Failure> {
    let full = |full: Full| Failure::new(StatusCode::TOO_MANY_REQUESTS, Hop::Agent, format!("of sessions on this node: {full}"));
    agent.places.take(peer.caller.tenant, &agent.limits).map_err(full)
}

/// The Pod that the route is about, if it and its container are the caller's.
async fn own_pod(agent: &Agent, tenant: &Tenant, route: &Route) -> Result<SuperPod, Failure> {
    let Some(asked) = route.pod() else {
        return Err(Failure::new(StatusCode::INTERNAL_SERVER_ERROR, Hop::Agent, "the route names no Pod"));
    };
    let pod = agent.backend.find(tenant, asked, route.container()).await?;
    match route.container() {
        Some(container) if !pod.has(container) => {
            let message = format!("container {} is not in the spec of pod {asked}", container.as_str());
            Err(Failure::refused(StatusCode::FORBIDDEN, message))
        }
        Some(_) | None => Ok(pod),
    }
}

async fn logs(agent: &Arc<Agent>, peer: &Peer, tenant: &Tenant, route: Route, line: &Line) -> Result<Response<Body>, Failure> {
    let place = place(agent, peer)?;
    let pod = own_pod(agent, tenant, &route).await?;
    let session = Session::begin(agent, peer, &route, Some(&pod), (line, place));
    let mut ended = session.ended().boxed();
    let exchange = exchange(agent, tenant, &route, None, pod, &session);
    let response = tokio::select! {
        response = exchange => response,
        end = &mut ended => Err(Failure::refused(StatusCode::GATEWAY_TIMEOUT, end.to_string())),
    };
    let response = session.watch(response)?;
    session.answered();
    let (head, inner) = response.into_parts();
    Ok(passed(StatusCode::OK, headers::answered(&head.headers), Guarded::new(inner, ended, session, None).boxed_unsync()))
}

async fn stream(
    agent: &Arc<Agent>,
    peer: &Peer,
    tenant: &Tenant,
    route: Route,
    upgrade: &Upgrade,
    (line, client): (&Line, OnUpgrade),
) -> Result<Response<Body>, Failure> {
    // Each has a line in the log: who begins them in a loop would wash out what it says of others.
    let too_often = |error| Failure::new(StatusCode::TOO_MANY_REQUESTS, Hop::Agent, format!("of streams on this node: {error}"));
    agent.starts.turn(tenant.uid).await.map_err(too_often)?;
    let place = place(agent, peer)?;
    let pod = own_pod(agent, tenant, &route).await?;
    let session = Session::begin(agent, peer, &route, Some(&pod), (line, place));
    let mut response = session.watch(Box::pin(exchange(agent, tenant, &route, Some(upgrade), pod, &session)).await)?;
    let (headers, backend) = (headers::switched(response.headers()), hyper::upgrade::on(&mut response));
    session.answered();
    line.becomes(Tunnel { client, backend, session });
    Ok(passed(StatusCode::SWITCHING_PROTOCOLS, headers, empty()))
}

async fn pages(agent: &Arc<Agent>, peer: &Peer, tenant: &Tenant, page: Page, line: &Line) -> Result<Response<Body>, Failure> {
    let session = Session::begin(agent, peer, &Route::Page(page), None, (line, place(agent, peer)?));
    let mut ended = session.ended().boxed();
    let opened = tokio::select! {
        opened = page::open(agent, tenant, page) => opened,
        end = &mut ended => Err(Failure::refused(StatusCode::GATEWAY_TIMEOUT, end.to_string())),
    };
    let (headers, Opened { body, place }) = session.watch(opened)?;
    session.answered();
    Ok(passed(StatusCode::OK, headers, Guarded::new(body, ended, session, Some(place)).boxed_unsync()))
}

/// The answer about the very Pod that has its name now.
///
/// What is known of Pods may be older than the Pod: where one was made again under its name meanwhile, that one is asked for.
async fn exchange(
    agent: &Agent,
    tenant: &Tenant,
    route: &Route,
    upgrade: Option<&Upgrade>,
    pod: SuperPod,
    session: &Session,
) -> Result<Response<Incoming>, Failure> {
    // Over WebSocket a process runs as soon as its command is heard of, before anything can be taken back.
    let is_at_once = upgrade.is_some_and(|upgrade| !upgrade.is_spdy());
    let pod = if is_at_once { Box::pin(newest(agent, tenant, route, pod, session)).await? } else { pod };
    let response = begun(agent, route, upgrade, &pod).await?;
    let Err(replaced) = agent.backend.confirm(&pod).await else { return Ok(response) };
    // Ends what was begun there.
    drop(response);
    if is_at_once {
        return Err(replaced);
    }
    let now = own_pod(agent, tenant, route).await?;
    if now.uid == pod.uid {
        return Err(replaced);
    }
    session.is_about(&now);
    let response = begun(agent, route, upgrade, &now).await?;
    agent.backend.confirm(&now).await?;
    Ok(response)
}

/// The Pod that has the name by a list begun from now on.
async fn newest(agent: &Agent, tenant: &Tenant, route: &Route, pod: SuperPod, session: &Session) -> Result<SuperPod, Failure> {
    if agent.backend.confirm(&pod).await.is_ok() {
        return Ok(pod);
    }
    let now = own_pod(agent, tenant, route).await?;
    session.is_about(&now);
    Ok(now)
}

/// The answer of the back end, if it is what was asked for.
async fn begun(agent: &Agent, route: &Route, upgrade: Option<&Upgrade>, pod: &SuperPod) -> Result<Response<Incoming>, Failure> {
    let response = agent.backend.exchange(route, pod, upgrade).await?;
    let Some(upgrade) = upgrade else { return successful(agent, pod, response).await };
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        successful(agent, pod, response).await?;
        return Err(Failure::new(StatusCode::BAD_GATEWAY, agent.backend.hop(), "it answered without switching protocols"));
    }
    if !upgrade.is_agreed(response.headers()) {
        return Err(Failure::new(StatusCode::BAD_GATEWAY, agent.backend.hop(), "it switched to another protocol than was asked for"));
    }
    Ok(response)
}

/// An answer that is a success; any other is a failure in the tenant's words.
async fn successful(agent: &Agent, pod: &SuperPod, response: Response<Incoming>) -> Result<Response<Incoming>, Failure> {
    if response.status() == StatusCode::OK {
        return Ok(response);
    }
    Err(text::failure(agent.backend.hop(), pod, response).await)
}

fn passed(status: StatusCode, headers: HeaderMap, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// A session that runs; logged and counted once, when it ends, however it does.
pub struct Session {
    agent: Arc<Agent>,
    verb: &'static str,
    /// Whether it has a line in the log of its own, however many there are.
    is_stream: bool,
    pod: String,
    uid: Mutex<String>,
    container: String,
    began: Instant,
    outcome: Mutex<&'static str>,
    /// What its right to go on hangs on.
    guard: Guard,
    _place: Taken,
    _watched: DropGuard,
}

impl Session {
    fn begin(agent: &Arc<Agent>, peer: &Peer, route: &Route, pod: Option<&SuperPod>, (line, place): (&Line, Taken)) -> Self {
        agent.metrics.session_began(route.verb());
        let total = if matches!(route, Route::Page(_)) { PAGE } else { agent.limits.total };
        let guard = Guard {
            caller: peer.caller,
            chain: Arc::clone(&peer.chain),
            serial: Arc::clone(&peer.serial),
            tenants: agent.tenants.clone(),
            credentials: agent.credentials.clone(),
            limits: Limits { total: total.min(agent.limits.total), ..agent.limits },
            counters: Arc::default(),
        };
        Self {
            agent: Arc::clone(agent),
            verb: route.verb(),
            is_stream: route.is_stream(),
            pod: pod.map(|pod| format!("{}/{}", pod.tenant_namespace, pod.owner.name)).unwrap_or_default(),
            uid: Mutex::new(pod.map(|pod| pod.uid.to_string()).unwrap_or_default()),
            container: route.container().map(|container| container.as_str().to_owned()).unwrap_or_default(),
            began: Instant::now(),
            // What is dropped before it has ended was cut off by the caller or by our own end.
            outcome: Mutex::new("cut"),
            _place: place,
            _watched: line.watch(guard.clone()),
            guard,
        }
    }

    /// Notes that it is about another Pod of the same name.
    fn is_about(&self, pod: &SuperPod) {
        *self.uid.lock() = pod.uid.to_string();
    }

    /// What has passed.
    fn counters(&self) -> &Counters {
        &self.guard.counters
    }

    /// Waits until it must end.
    fn ended(&self) -> impl Future<Output = End> + Send + use<> {
        self.guard.clone().ended()
    }

    fn answered(&self) {
        self.agent.metrics.session_answered(self.verb, self.began.elapsed());
    }

    fn end(&self, outcome: &'static str) {
        *self.outcome.lock() = outcome;
    }

    /// Notes that it failed, if it did.
    fn watch<T>(&self, result: Result<T, Failure>) -> Result<T, Failure> {
        if let Err(failure) = &result {
            self.end(match failure.hop {
                Hop::Request => "refused",
                Hop::Agent | Hop::Kubelet | Hop::ApiServer => "failed",
            });
        }
        result
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let outcome = *self.outcome.lock();
        let (sent, received) = (self.counters().sent.load(Ordering::Relaxed), self.counters().received.load(Ordering::Relaxed));
        let (tenant, verb) = (self.guard.caller.tenant, self.verb);
        if self.is_stream || self.agent.quiet.has_a_line(Ended { tenant, verb, is_ok: outcome == OK, sent, received }) {
            info!(
                %tenant,
                verb,
                pod = %Escaped(&self.pod),
                uid = *self.uid.lock(),
                container = self.container,
                sent_bytes = sent,
                received_bytes = received,
                duration_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
                outcome,
                "session"
            );
        }
        // What is counted is in the log.
        self.agent.metrics.session_ended(verb, outcome, sent, received);
    }
}

/// A body that ends when its session must.
struct Guarded<B> {
    inner: B,
    ended: BoxFuture<'static, End>,
    session: Session,
    _page: Option<Taken>,
}

impl<B: http_body::Body<Data = Bytes, Error: Into<BodyError>> + Unpin> Guarded<B> {
    fn new(inner: B, ended: BoxFuture<'static, End>, session: Session, page: Option<Taken>) -> Self {
        let guarded = Self { inner, ended, session, _page: page };
        guarded.note_end();
        guarded
    }

    /// Who knows how much there is to come does not ask for more after the last of it.
    fn note_end(&self) {
        if self.inner.is_end_stream() {
            self.session.end(OK);
        }
    }
}

impl<B: http_body::Body<Data = Bytes, Error: Into<BodyError>> + Unpin> http_body::Body for Guarded<B> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Poll::Ready(end) = self.ended.poll_unpin(cx) {
            self.session.end(end.outcome());
            return Poll::Ready(Some(Err(end.into())));
        }
        match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                self.session.counters().received.fetch_add(bytes as u64, Ordering::Relaxed);
                self.note_end();
                // Trailers say nothing that a caller needs.
                let data = frame.into_data().unwrap_or_default();
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Some(Err(error)) => {
                self.session.end("broken");
                Poll::Ready(Some(Err(error.into())))
            }
            None => {
                self.session.end(OK);
                Poll::Ready(None)
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Two connections that are one from here on.
pub struct Tunnel {
    client: OnUpgrade,
    backend: OnUpgrade,
    session: Session,
}

impl Tunnel {
    /// Carries bytes until both sides have ended, one is gone or broken, or the session must end.
    pub async fn run(self) {
        let Self { client, backend, session } = self;
        let (client, backend) = match tokio::try_join!(client, backend) {
            Ok((client, backend)) => (client, backend),
            Err(error) => {
                debug!(error = %Chain(&error), "the switch of protocols failed");
                session.end("broken");
                return;
            }
        };
        let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
        tokio::select! {
            result = relay(&mut client, &mut backend, session.counters()) => {
                if let Err(error) = &result {
                    debug!(error = %Chain(error), "a side of the session broke off");
                }
                session.end(match result {
                    Ok(Finish::Ended) => OK,
                    Ok(Finish::Cut) => "cut",
                    Err(_) => "broken",
                });
            }
            end = session.ended() => session.end(end.outcome()),
        }
    }
}
