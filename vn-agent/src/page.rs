//! Pages about the node: filtered as they come, and passed on in parts.
//!
//! ```text
//! the node's Pods are listed ─► the page is asked for ─► a part of it, filtered ─► the Pods are listed again ─► what is about Pods that
//!   are on both lists passes ─► the next part
//! ```
//!
//! *Guarantees*: what is said under a name is passed on only if one and the same Pod of the tenant had that name before the page was
//! asked for and after the last byte of the part had come.
//!
//! A page that is open holds one part: what passed the filter, [`PART_BYTES`] and perhaps what one piece of the kubelet's answer adds, and one
//! line or Pod that has not come whole; twice that for the moment in which a part is put together. What does not pass is not held. How many pages are open, and how many parts are read at once, is bounded by the back end.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::Uid;
use futures::stream::try_unfold;
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http_body::{Body, Frame};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Incoming;
use tokio::time::timeout;

use crate::answer::{BodyError, Failure, Hop};
use crate::backend::kubelet::Kubelet;
use crate::backend::{Backend, Tenant};
use crate::filter::{Filter, Passed, View};
use crate::guard::Taken;
use crate::pods::Pods;
use crate::route::Page;
use crate::session::Agent;

/// How much of what passed is held before it goes on: a list of the node's Pods is asked for each time.
const PART_BYTES: usize = 512 * 1024;

/// For one part to come. A kubelet measures first and writes then.
const PART: Duration = Duration::from_secs(30);

/// A page of which the first part may pass.
pub(crate) struct Opened {
    /// All of it.
    pub(crate) body: Pin<Box<dyn Body<Data = Bytes, Error = BodyError> + Send>>,
    /// One of its tenant's pages; kept until it is taken.
    pub(crate) place: Taken,
}

/// Asks for a page and reads its first part.
pub(crate) async fn open(agent: &Arc<Agent>, tenant: &Tenant, page: Page) -> Result<(HeaderMap, Opened), Failure> {
    let kubelet = kubelet(agent)?;
    let place = kubelet.page_place(tenant.uid).await?;
    let before = kubelet.fresh().await?;
    let filter = Filter::new(page, View::new(Arc::clone(&before), tenant.uid));
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(filter.content_type()));
    let body = kubelet.page(page).await?;
    let mut reading = Reading { agent: Arc::clone(agent), body, filter, passed: Passed::default(), before, is_at_end: false };
    let first = reading.part().await?;
    if reading.is_at_end {
        let body = Box::pin(Full::from(first).map_err(|never| match never {}));
        return Ok((headers, Opened { body, place }));
    }
    let parts = try_unfold((Some(first), reading), |(ready, mut reading)| async move {
        let part = match ready {
            Some(part) => part,
            None if reading.is_at_end => return Ok::<_, BodyError>(None),
            None => reading.part().await?,
        };
        Ok(Some((Frame::data(Bytes::from(part)), (None, reading))))
    });
    Ok((headers, Opened { body: Box::pin(StreamBody::new(parts)), place }))
}

fn kubelet(agent: &Agent) -> Result<&Kubelet, Failure> {
    match &agent.backend {
        Backend::Kubelet(kubelet) => Ok(kubelet),
        Backend::Super(_) => {
            let message = "pages about a node need the kubelet as back end (--backend=kubelet)";
            Err(Failure::new(StatusCode::NOT_FOUND, Hop::Agent, message))
        }
    }
}

/// A page that is being read.
struct Reading {
    agent: Arc<Agent>,
    body: Incoming,
    filter: Filter,
    passed: Passed,
    /// The node's Pods before the page was asked for.
    before: Arc<Pods>,
    is_at_end: bool,
}

impl Reading {
    /// What of the next part may pass. Not empty unless nothing of it may.
    async fn part(&mut self) -> Result<Vec<u8>, Failure> {
        let agent = Arc::clone(&self.agent);
        let kubelet = kubelet(&agent)?;
        let _turn = kubelet.turn().await;
        timeout(PART, self.fill()).await.map_err(|_| {
            let message = format!("the kubelet did not write its page within {} s", PART.as_secs());
            Failure::new(StatusCode::GATEWAY_TIMEOUT, Hop::Kubelet, message)
        })??;
        // Begun now, and so younger than all that is held.
        let same: HashSet<Uid> = kubelet.fresh().await?.since(&self.before);
        let mut part = self.passed.release(self.filter.separator(), |uid| same.contains(&uid));
        if self.is_at_end {
            part.extend_from_slice(self.filter.closing(self.passed.totals()).as_bytes());
        }
        Ok(part)
    }

    /// Reads until there is enough for a part, or the page ends.
    async fn fill(&mut self) -> Result<(), Failure> {
        while self.passed.len() < PART_BYTES {
            let Some(frame) = self.body.frame().await else {
                self.is_at_end = true;
                return self.filter.finish(&mut self.passed).map_err(|_| unreadable());
            };
            let frame = frame.map_err(|_| unreadable())?;
            if let Some(bytes) = frame.data_ref() {
                self.filter.push(bytes, &mut self.passed).map_err(|_| unreadable())?;
            }
        }
        Ok(())
    }
}

fn unreadable() -> Failure {
    Failure::new(StatusCode::BAD_GATEWAY, Hop::Kubelet, "the kubelet's page cannot be read")
}
