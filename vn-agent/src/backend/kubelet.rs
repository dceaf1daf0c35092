//! The node's own kubelet as back end, by a credential for this node alone. Pods are learned from its own list.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, HOST, HeaderMap, HeaderValue, USER_AGENT};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use parking_lot::Mutex;
use rustls::ClientConfig;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tracing::warn;

use super::dial::{Answer, Dialer};
use crate::answer::{Failure, Hop};
use crate::credentials::Credentials;
use crate::guard::{Full, Limits, Places, Taken};
use crate::headers::Upgrade;
use crate::metrics::AgentMetrics;
use crate::pods::{Pods, PodsReader, SuperPod};
use crate::route::{Container, Page, PodRef, Route};

/// For the list of Pods, whole.
const LIST: Duration = Duration::from_secs(10);

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
    dialer: Dialer,
    credentials: watch::Receiver<Arc<Credentials>>,
    metrics: AgentMetrics,
    known: Mutex<Arc<Pods>>,
    pages: Places,
    turns: Semaphore,
    /// Number of the last caller who asked for a list.
    asked: AtomicU64,
    /// One list at a time. Held across its await on purpose: who waits is served by the next one.
    listing: tokio::sync::Mutex<Listing>,
}

struct Listing {
    /// Callers up to this number were there before the list was begun.
    covers: u64,
    result: Result<Arc<Pods>, Failure>,
}

impl Kubelet {
    /// Behind this dialer.
    pub fn new(dialer: Dialer, credentials: watch::Receiver<Arc<Credentials>>, metrics: AgentMetrics) -> Self {
        let listing = Listing { covers: 0, result: Ok(Arc::default()) };
        Self {
            dialer,
            credentials,
            metrics,
            known: Mutex::default(),
            pages: Places::default(),
            turns: Semaphore::new(TURNS),
            asked: AtomicU64::new(0),
            listing: tokio::sync::Mutex::new(listing),
        }
    }

    /// The caller's Pod of that name, by the last list or, if that does not know it or its container, a fresh one.
    pub async fn find(&self, tenant: common::Uid, pod: &PodRef, container: Option<&Container>) -> Result<SuperPod, Failure> {
        let known = Arc::clone(&self.known.lock());
        if let Ok(found) = known.find(tenant, pod)
            && container.is_none_or(|container| found.has(container))
        {
            return Ok(found.clone());
        }
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
        let number = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let mut listing = self.listing.lock().await;
        if listing.covers >= number {
            return listing.result.clone();
        }
        let covers = self.asked.load(Ordering::SeqCst);
        let result = self.list().await.map(Arc::new);
        self.metrics.listed(result.is_ok());
        match &result {
            Ok(pods) => {
                self.metrics.pods(pods.len());
                *self.known.lock() = Arc::clone(pods);
            }
            Err(error) => warn!(hop = error.hop.name(), reason = error.message, "the node's Pods could not be listed"),
        }
        *listing = Listing { covers, result: result.clone() };
        result
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
        tokio::time::timeout(LIST, whole).await.map_err(|_| {
            Failure::new(StatusCode::GATEWAY_TIMEOUT, Hop::Kubelet, format!("the kubelet did not answer within {} s", LIST.as_secs()))
        })?
    }

    /// A page of the node, as it comes.
    pub async fn page(&self, page: Page) -> Result<Incoming, Failure> {
        let config = self.config()?;
        let response = self.dialer.open_for(&config, self.request(Method::GET, &page.at_kubelet(), None)?, Some(HEAD)).await?;
        if response.status() == StatusCode::OK { Ok(response.into_body()) } else { Err(super::unexpected(Hop::Kubelet, response.status())) }
    }

    /// A place for a page that is open, of so many for one tenant.
    pub fn page_place(&self, tenant: common::Uid) -> Result<Taken, Failure> {
        let full = |full: Full| Failure::new(StatusCode::TOO_MANY_REQUESTS, Hop::Agent, format!("of pages about this node: {full}"));
        self.pages.take(tenant, &PAGES).map_err(full)
    }

    /// Waits for a turn to read a part of a page.
    pub async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        // Never closed.
        self.turns.acquire().await.ok()
    }

    /// Sends a request about a Pod and gives the head of the answer, whatever its status.
    pub async fn exchange(&self, route: &Route, pod: &SuperPod, upgrade: Option<&Upgrade>) -> Result<Response<Incoming>, Failure> {
        let config = self.config()?;
        // A kubelet takes both for a stream; with POST it asks its API server for the right to create, as for an exec of old.
        let method = if upgrade.is_some_and(Upgrade::is_spdy) { Method::POST } else { Method::GET };
        let request = self.request(method, &route.at_kubelet(pod.place()), upgrade.map(Upgrade::headers))?;
        if !route.follows() {
            return self.dialer.open_for(&config, request, Some(HEAD)).await;
        }
        // The log of a container that says nothing has no head yet: whether the kubelet still answers is seen by other questions.
        tokio::select! {
            answer = self.dialer.open_for(&config, request, None) => answer,
            failure = self.silence() => Err(failure),
        }
    }

    /// Asks now and then, until there is no answer.
    async fn silence(&self) -> Failure {
        loop {
            tokio::time::sleep(HEAD).await;
            if let Err(failure) = self.fresh().await {
                return failure;
            }
        }
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

fn misunderstood() -> Failure {
    Failure::new(StatusCode::BAD_GATEWAY, Hop::Kubelet, "the kubelet's list of Pods cannot be read")
}
