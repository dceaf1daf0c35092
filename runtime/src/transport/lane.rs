//! The connections for one sort of requests.

use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use parking_lot::Mutex;
use rustls::ClientConfig;
use tokio::time::timeout;

use super::answer::Answer;
use super::dial::Dialer;
use super::link::{Link, SendError, Slot};
use super::{Step, TransportError};

/// Connections opened when needed, each used up to its number of streams before the next is opened.
pub(super) struct Lane {
    dialer: Arc<Dialer>,
    tls: Arc<ClientConfig>,
    streams: usize,
    links: Mutex<Vec<Arc<Link>>>,
    opening: tokio::sync::Mutex<()>,
}

impl Lane {
    pub(super) fn new(dialer: Arc<Dialer>, tls: Arc<ClientConfig>, streams: usize) -> Self {
        Self { dialer, tls, streams, links: Mutex::default(), opening: tokio::sync::Mutex::default() }
    }

    /// Sends a request and waits for the headers of the response.
    ///
    /// A request that never left, because its connection was about to end, is sent on a new one, once. One that may have
    /// left is never repeated.
    pub(super) async fn exchange(&self, request: &Request<Bytes>) -> Result<Answer, TransportError> {
        let (slot, unsent) = match self.attempt(request).await? {
            Attempt::Answer(answer) => return Ok(answer),
            Attempt::Unsent(slot, error) => (slot, error),
        };
        tracing::debug!(error = %unsent, "connection ended before the request left");
        slot.link().retire();
        drop(slot);
        match self.attempt(request).await? {
            Attempt::Answer(answer) => Ok(answer),
            Attempt::Unsent(_, error) => Err(self.dialer.broken(error)),
        }
    }

    async fn attempt(&self, request: &Request<Bytes>) -> Result<Attempt, TransportError> {
        let slot = self.slot().await?;
        let sent = timeout(self.dialer.limits.headers, slot.send(request.clone().map(Full::new))).await;
        match sent {
            Err(_) => Err(self.dialer.late(Step::Headers)),
            Ok(Err(SendError::Broken(error))) => Err(self.dialer.broken(error)),
            Ok(Err(SendError::Unsent(error))) => Ok(Attempt::Unsent(slot, error)),
            Ok(Ok(response)) => Answer::new(response, slot, Arc::clone(&self.dialer)).map(Attempt::Answer),
        }
    }

    async fn slot(&self) -> Result<Slot, TransportError> {
        if let Some(slot) = self.free() {
            return Ok(slot);
        }
        // Those behind a connection that does not open give up when it would have: they do not each wait for one more.
        let limits = &self.dialer.limits;
        let wait = limits.connect.saturating_add(limits.tls);
        let _only = timeout(wait, self.opening.lock()).await.map_err(|_| self.dialer.late(Step::Connect))?;
        if let Some(slot) = self.free() {
            return Ok(slot);
        }
        let link = self.dialer.dial(&self.tls, self.streams).await?;
        let slot = link.slot();
        self.links.lock().push(link);
        slot.ok_or_else(|| self.dialer.late(Step::Connect))
    }

    fn free(&self) -> Option<Slot> {
        let mut links = self.links.lock();
        links.retain(|link| !link.is_over());
        links.iter().find_map(Link::slot)
    }
}

enum Attempt {
    Answer(Answer),
    Unsent(Slot, hyper::Error),
}
