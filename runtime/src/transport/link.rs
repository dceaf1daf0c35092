//! One connection: who uses it, when it is of no more use, and the tasks that drive it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// The tasks of one connection; they end with it.
#[derive(Clone, Default)]
pub(super) struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl Tasks {
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.0.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(work);
    }
}

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, work: F) {
        self.spawn(work);
    }
}

/// The side of a connection that takes requests.
pub(super) enum Sender {
    /// Many at once.
    Http2(http2::SendRequest<Full<Bytes>>),
    /// One after the other.
    Http1(tokio::sync::Mutex<http1::SendRequest<Full<Bytes>>>),
}

/// Why a request got no response.
pub(super) enum SendError {
    /// It never left, so that it may be sent again.
    Unsent(hyper::Error),
    /// It may have left.
    Broken(hyper::Error),
}

/// A connection.
pub(super) struct Link {
    sender: Sender,
    /// Requests at once, by our own choice.
    streams: usize,
    /// Requests at once, by the server's.
    negotiated: Arc<AtomicUsize>,
    in_use: AtomicUsize,
    retired: AtomicBool,
    last_used: Mutex<Instant>,
    tasks: Tasks,
}

impl Link {
    pub(super) fn new(sender: Sender, streams: usize, negotiated: Arc<AtomicUsize>, tasks: Tasks, idle: Duration) -> Arc<Self> {
        let link = Arc::new(Self {
            sender,
            streams,
            negotiated,
            in_use: AtomicUsize::new(0),
            retired: AtomicBool::new(false),
            last_used: Mutex::new(Instant::now()),
            tasks,
        });
        link.tasks.spawn(close_when_idle(Arc::downgrade(&link), idle));
        link
    }

    /// A place for one request, if there is one.
    pub(super) fn slot(self: &Arc<Self>) -> Option<Slot> {
        // At least one, or a server that offers none would make us open connections without end.
        let most = self.negotiated.load(SeqCst).min(self.streams).max(1);
        let taken = self.in_use.fetch_update(SeqCst, SeqCst, |used| (used < most).then_some(used.saturating_add(1)));
        let slot = taken.is_ok().then(|| Slot(Arc::clone(self)))?;
        (!self.is_over()).then_some(slot)
    }

    /// Whether no further request can be sent.
    pub(super) fn is_over(&self) -> bool {
        self.retired.load(SeqCst)
            || match &self.sender {
                Sender::Http2(sender) => sender.is_closed(),
                Sender::Http1(sender) => sender.try_lock().is_ok_and(|sender| sender.is_closed()),
            }
    }

    /// Takes no further request; those under way go on.
    pub(super) fn retire(&self) {
        self.retired.store(true, SeqCst);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.tasks.0.lock().abort_all();
    }
}

/// Ends a connection that nobody has used for `idle`.
async fn close_when_idle(link: Weak<Link>, idle: Duration) {
    loop {
        sleep(idle).await;
        let Some(link) = link.upgrade() else { return };
        if link.in_use.load(SeqCst) == 0 && link.last_used.lock().elapsed() >= idle {
            link.retire();
            // A slot taken just now sees `retired`; one taken just before is counted.
            if link.in_use.load(SeqCst) == 0 {
                link.tasks.0.lock().abort_all();
                return;
            }
        }
    }
}

/// The right to send one request on a connection; held until its response has been read.
pub(super) struct Slot(Arc<Link>);

impl Slot {
    pub(super) fn link(&self) -> &Link {
        &self.0
    }

    pub(super) async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, SendError> {
        let sent = match &self.0.sender {
            Sender::Http2(sender) => sender.clone().try_send_request(request).await,
            Sender::Http1(sender) => {
                let mut sender = sender.lock().await;
                sender.ready().await.map_err(SendError::Unsent)?;
                sender.try_send_request(origin_form(request)).await
            }
        };
        sent.map_err(|mut error| match error.take_message() {
            Some(_) => SendError::Unsent(error.into_error()),
            None => SendError::Broken(error.into_error()),
        })
    }
}

/// HTTP/1.1 wants the path alone in the request line, and the host in a header.
fn origin_form(mut request: Request<Full<Bytes>>) -> Request<Full<Bytes>> {
    let uri = std::mem::take(request.uri_mut());
    if let Some(host) = uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok()) {
        request.headers_mut().insert(HOST, host);
    }
    if let Some(path) = uri.path_and_query() {
        *request.uri_mut() = Uri::from(path.clone());
    }
    request
}

impl Drop for Slot {
    fn drop(&mut self) {
        *self.0.last_used.lock() = Instant::now();
        self.0.in_use.fetch_sub(1, SeqCst);
    }
}
