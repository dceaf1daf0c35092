//! The node's own kubelet as back end, by a credential for this node alone. Pods are learned from its own list.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, HOST, HeaderMap, HeaderValue, USER_AGENT};
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use parking_lot::Mutex;
use rustls::ClientConfig;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

use super::dial::{Answer, Dialer};
use crate::answer::{Failure, Hop};
use crate::credentials::Credentials;
use crate::guard::{Full, Limits, Places, Taken};
use crate::headers::Upgrade;
use crate::metrics::AgentMetrics;
use crate::pace::{Paces, TooOften};
use crate::pods::{Pods, PodsReader, SuperPod};
use crate::quiet::Bucket;
use crate::route::{Container, Page, PodRef, Route};

/// For the list of Pods, whole.
const LIST: Duration = Duration::from_secs(10);

/// Longest rest of the kubelet after a list. It rests as long as the list took, so that who asks in a loop has it list half of the time at most.
const REST: Duration = Duration::from_secs(1);

/// For a list that was begun after it was asked for: one may be under way before it.
const WAIT: Duration = Duration::from_secs(2 * LIST.as_secs() + REST.as_secs() + 1);

/// For the head of an answer to a stream or a page: the kubelet asks the container runtime first, and statistics are measured.
const HEAD: Duration = Duration::from_secs(30);

/// Pages that are open, of a tenant and in all. A reader may be as slow as it likes, and each page holds what [`crate::page`] says.
const PAGES: Limits = Limits { per_tenant: 6, all: 64, idle: Duration::MAX, total: Duration::MAX };

/// Parts of pages that are being read from the kubelet at once. Whoever reads slowly holds none of these.
const TURNS: usize = 4;

/// How we call ourselves.
pub(super) const AGENT: &str = concat!("vn-agent/", env!("CARGO_PKG_VERSION"));

/// The kubelet of this node.
pub struct Kubelet {
    lists: Arc<Lists>,
    pages: Places,
    turns: Semaphore,
    /// Pages, by tenant.
    measured: Paces,
    /// Lookups of Pods that no list knows yet, by tenant.
    unknown: Paces,
}

/// Asks for the node's Pods. Whoever waits for a list does not carry it: it comes to its end also when they leave.
struct Lists {
    dialer: Dialer,
    credentials: watch::Receiver<Arc<Credentials>>,
    metrics: AgentMetrics,
    known: Mutex<Arc<Pods>>,
    asked: Mutex<Asked>,
    /// The last list.
    last: watch::Sender<Listing>,
    failures: Bucket,
}

#[derive(Default)]
struct Asked {
    /// Number of the last caller who asked for a list.
    last: u64,
    /// Whether lists are being made. One at a time: who asks meanwhile is served by the next.
    is_listing: bool,
}

struct Listing {
    /// Callers up to this number were there before the list was begun.
    covers: u64,
    result: Result<Arc<Pods>, Failure>,
}

impl Kubelet {
    /// Behind this dialer.
    pub fn new(dialer: Dialer, credentials: watch::Receiver<Arc<Credentials>>, metrics: AgentMetrics) -> Self {
        let last = watch::Sender::new(Listing { covers: 0, result: Ok(Arc::default()) });
        let (known, asked, failures) = (Mutex::default(), Mutex::default(), Bucket::default());
        let lists = Arc::new(Lists { dialer, credentials, metrics, known, asked, last, failures });
        Self { lists, pages: Places::default(), turns: Semaphore::new(TURNS), measured: Paces::default(), unknown: Paces::default() }
    }

    /// The caller's Pod of that name, by the last list or, if that does not know it or its container, a fresh one.
    pub async fn find(&self, tenant: common::Uid, pod: &PodRef, container: Option<&Container>) -> Result<SuperPod, Failure> {
        let mut last = self.lists.last.subscribe();
        let known = || self.lists.known(tenant, pod, container);
        if let Some(found) = known() {
            return Ok(found);
        }
        // A list that others asked for serves all who wait and whose Pods it knows.
        let listed = async {
            while last.changed().await.is_ok() {
                if let Some(found) = known() {
                    return found;
                }
            }
            std::future::pending().await
        };
        let turn = tokio::select! {
            found = listed => return Ok(found),
            turn = self.unknown.turn(tenant) => turn,
        };
        if turn.is_err() {
            self.lists.under_way().await;
        }
        if let Some(found) = known() {
            return Ok(found);
        }
        turn.map_err(|error| too_often("of lookups of Pods that are not there", error))?;
        let fresh = self.fresh().await?;
        fresh.find(tenant, pod).cloned().map_err(|error| Failure::refused(StatusCode::NOT_FOUND, format!("pod {pod}: {error}")))
    }

    /// That this very Pod still has its name, by a list begun from now on.
    ///
    /// A kubelet looks a Pod up by its name even where its path names a UID, so what it answered is known to be this Pod's only afterwards.
    pub async fn confirm(&self, pod: &SuperPod) -> Result<(), Failure> {
        if self.fresh().await?.still_has(pod) { Ok(()) } else { Err(super::replaced(pod)) }
    }

    /// A list that was begun after this call. Callers who come while one is under way share the next.
    pub async fn fresh(&self) -> Result<Arc<Pods>, Failure> {
        let (mut last, number) = (self.lists.last.subscribe(), self.lists.ask());
        let listed = timeout(WAIT, last.wait_for(|listing| listing.covers >= number)).await;
        match listed {
            Ok(Ok(listing)) => listing.result.clone(),
            // The sender is ours: it is not gone.
            Ok(Err(_)) | Err(_) => Err(silent(WAIT)),
        }
    }

    /// A page of the node, as it comes.
    pub async fn page(&self, page: Page) -> Result<Incoming, Failure> {
        let config = self.lists.config()?;
        let response = self.lists.dialer.open_for(&config, self.lists.request(Method::GET, &page.at_kubelet(), None)?, Some(HEAD)).await?;
        if response.status() == StatusCode::OK { Ok(response.into_body()) } else { Err(super::unexpected(Hop::Kubelet, response.status())) }
    }

    /// A place for a page that is open, of so many for one tenant, once it is its turn.
    pub async fn page_place(&self, tenant: common::Uid) -> Result<Taken, Failure> {
        let full = |full: Full| Failure::new(StatusCode::TOO_MANY_REQUESTS, Hop::Agent, format!("of pages about this node: {full}"));
        // Whoever waits holds no place: there are so many for all tenants.
        self.measured.turn(tenant).await.map_err(|error| too_often("of pages about this node", error))?;
        self.pages.take(tenant, &PAGES).map_err(full)
    }

    /// Waits for a turn to read a part of a page.
    pub async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        // Never closed.
        self.turns.acquire().await.ok()
    }

    /// Sends a request about a Pod and gives the head of the answer, whatever its status.
    pub async fn exchange(&self, route: &Route, pod: &SuperPod, upgrade: Option<&Upgrade>) -> Result<Response<Incoming>, Failure> {
        let config = self.lists.config()?;
        // A kubelet takes both for a stream; with POST it asks its API server for the right to create, as for an exec of old.
        let method = if upgrade.is_some_and(Upgrade::is_spdy) { Method::POST } else { Method::GET };
        let mut request = self.lists.request(method, &route.at_kubelet(pod.place()), upgrade.map(Upgrade::headers))?;
        if matches!(route, Route::Logs { .. }) {
            // A kubelet writes a log by the line, and to a client of HTTP/1.1 each as a chunk: to take them apart costs many times what
            // they hold. An end without the last word of TLS is an error all the same.
            *request.version_mut() = Version::HTTP_10;
        }
        if !route.follows() {
            return self.lists.dialer.open_for(&config, request, Some(HEAD)).await;
        }
        // The log of a container that says nothing has no head yet: whether the kubelet still answers is seen by other questions.
        tokio::select! {
            answer = self.lists.dialer.open_for(&config, request, None) => answer,
            failure = self.silence() => Err(failure),
        }
    }

    /// Asks now and then, until there is no answer.
    async fn silence(&self) -> Failure {
        loop {
            sleep(HEAD).await;
            if let Err(failure) = self.fresh().await {
                return failure;
            }
        }
    }
}

impl Lists {
    /// The tenant's Pod by the last list, if that knows it and its container.
    fn known(&self, tenant: common::Uid, pod: &PodRef, container: Option<&Container>) -> Option<SuperPod> {
        let known = Arc::clone(&self.known.lock());
        let found = known.find(tenant, pod).ok()?;
        container.is_none_or(|container| found.has(container)).then(|| found.clone())
    }

    /// Waits until all who have asked are served, and asks for no list.
    async fn under_way(&self) {
        let (mut last, number) = (self.last.subscribe(), self.asked.lock().last);
        // Whether it came in time is seen by what is known then.
        let _ = timeout(WAIT, last.wait_for(|listing| listing.covers >= number)).await;
    }

    /// Notes that there is one more who wants a list, and sees to it that one is made. Gives the caller's number.
    fn ask(self: &Arc<Self>) -> u64 {
        let (number, is_listing) = {
            let mut asked = self.asked.lock();
            asked.last += 1;
            (asked.last, std::mem::replace(&mut asked.is_listing, true))
        };
        if !is_listing {
            let at_work = AtWork { lists: Arc::clone(self), is_done: false };
            drop(self.dialer.tasks().spawn("pods-list", at_work.serve()));
        }
        number
    }

    /// Up to whom the next list serves, if anybody is not served.
    fn due(&self) -> Option<u64> {
        let mut asked = self.asked.lock();
        // Looked at under one lock with what the next caller looks at: nobody is left without a list.
        asked.is_listing = asked.last > self.last.borrow().covers;
        asked.is_listing.then_some(asked.last)
    }

    /// Makes one list, for the callers up to this number.
    async fn serve(&self, covers: u64) {
        let result = self.list().await.map(Arc::new);
        self.metrics.listed(result.is_ok());
        match &result {
            Ok(pods) => {
                self.metrics.pods(pods.len());
                *self.known.lock() = Arc::clone(pods);
            }
            Err(error) => {
                if let Some(left_out) = self.failures.line() {
                    let cause = error.cause.as_deref();
                    warn!(hop = error.hop.name(), reason = error.message, cause, left_out, "the node's Pods could not be listed");
                }
            }
        }
        self.last.send_replace(Listing { covers, result });
    }

    /// As it comes: what is held of it is one Pod at a time.
    async fn list(&self) -> Result<Pods, Failure> {
        let whole = async {
            let config = self.config()?;
            let Answer { response, back } =
                self.dialer.ask(&config, self.request(Method::GET, &Page::Pods.at_kubelet(), None)?, LIST).await?;
            if response.status() != StatusCode::OK {
                return Err(super::unexpected(Hop::Kubelet, response.status()));
            }
            let (mut body, mut reader) = (response.into_body(), PodsReader::default());
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|_| misunderstood())?;
                reader.push(frame.data_ref().map_or(&[], |data| data)).map_err(|_| misunderstood())?;
            }
            back.keep();
            reader.finish().map_err(|_| misunderstood())
        };
        timeout(LIST, whole).await.map_err(|_| silent(LIST))?
    }

    fn request(&self, method: Method, path: &str, headers: Option<&HeaderMap>) -> Result<Request<Empty<Bytes>>, Failure> {
        let invalid = || Failure::new(StatusCode::INTERNAL_SERVER_ERROR, Hop::Agent, "the request to the kubelet cannot be formed");
        let mut request = Request::new(Empty::new());
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().map_err(|_| invalid())?;
        let out = request.headers_mut();
        out.insert(HOST, HeaderValue::try_from(self.dialer.address()).map_err(|_| invalid())?);
        out.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        out.insert(ACCEPT, HeaderValue::from_static("*/*"));
        out.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        for (name, value) in headers.into_iter().flatten() {
            out.append(name, value.clone());
        }
        Ok(request)
    }

    fn config(&self) -> Result<Arc<ClientConfig>, Failure> {
        let config = self.credentials.borrow().kubelet.clone();
        config.ok_or_else(|| Failure::new(StatusCode::SERVICE_UNAVAILABLE, Hop::Agent, "it has no credential for the kubelet"))
    }
}

/// Makes lists; if it is cut short, the next caller begins anew.
struct AtWork {
    lists: Arc<Lists>,
    is_done: bool,
}

impl AtWork {
    /// Lists until all who have asked are served. Who asks while the kubelet rests is served by the next list.
    async fn serve(mut self) {
        while let Some(covers) = self.lists.due() {
            let began = Instant::now();
            self.lists.serve(covers).await;
            let rest = began.elapsed().min(REST);
            if !rest.is_zero() {
                sleep(rest).await;
            }
        }
        self.is_done = true;
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        // When it is done there may be another at work already.
        if !self.is_done {
            self.lists.asked.lock().is_listing = false;
        }
    }
}

fn too_often(what: &str, error: TooOften) -> Failure {
    Failure::new(StatusCode::TOO_MANY_REQUESTS, Hop::Agent, format!("{what}: {error}"))
}

fn silent(limit: Duration) -> Failure {
    Failure::new(StatusCode::GATEWAY_TIMEOUT, Hop::Kubelet, format!("the kubelet did not answer within {} s", limit.as_secs()))
}

fn misunderstood() -> Failure {
    Failure::new(StatusCode::BAD_GATEWAY, Hop::Kubelet, "the kubelet's list of Pods cannot be read")
}
