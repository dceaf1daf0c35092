//! List and watch of one kind on one side: WatchList where it is served, a paged list where not.

mod line;
pub(crate) mod page;

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use bytes::Bytes;
use common::{Side, Tenant};
use futures::FutureExt;
use rand::Rng;
use runtime::log::Chain;
use runtime::transport::Failure;
use serde::de::Error as _;
use serde_json::value::RawValue;
use tokio::time::Instant;

use self::line::{Said, is_version, version_of};
pub use self::page::Bounds;
use self::page::{Budget, Size};
use crate::remote::{CallError, Remote};
use crate::throttle::Throttle;

/// What an informer tells, in order.
#[derive(Debug)]
pub enum Told {
    /// The API server answers again: a watch is open, whether or not anything comes.
    Opened,
    /// A whole list begins.
    ListBegins,
    /// An object is there, as it is now.
    Object(Bytes),
    /// An object was deleted; this was its last state.
    Gone(Bytes),
    /// The list is complete, and stands at this version.
    ListEnds(String),
    /// Something of what came cannot be read. It was skipped, and what follows is looked at.
    Unreadable(serde_json::Error),
    /// The API server does not serve the kind, which is asked for again now and then. Of what there is that says nothing.
    Unserved,
    /// The last try failed; the informer goes on trying.
    Failed(CallError),
}

/// What to watch.
#[derive(Clone, Debug)]
pub struct Source {
    /// The collection's URL path.
    pub path: String,
    /// The kind of what is in it.
    pub kind: &'static str,
    /// A label selector, URL-encoded where needed.
    pub selector: Option<String>,
    /// Only the object of this name, which needs no encoding.
    pub name: Option<String>,
    /// Skip what is there and watch from now on (Events).
    pub from_now: bool,
    /// What one list may take.
    pub bounds: Bounds,
    /// How often the kind is asked for again where it is not served, if that may be so.
    pub optional: Option<Duration>,
}

/// A watch that ends sooner is opened again only after a back-off: an API server that ends each at once is not asked in a hurry.
const BRIEF: Duration = Duration::from_secs(1);

/// How long an informer that panicked rests.
const AFTER_PANIC: Duration = Duration::from_secs(5);

/// What a line counts that was too long to be read, in bytes: the longest that can be.
const TOO_LARGE: usize = 4 * 1024 * 1024;

/// How to go on.
enum Next {
    List,
    Watch(String),
}

/// Lists and watches for ever, telling `sink` everything in order. Ends only by being dropped; after a panic it lists anew.
///
/// *Guarantees*: a list that is cut, garbled or without end is never told as complete. What cannot be read of a watch or a list costs
/// that alone. A watch goes on behind the last thing that was told, however it ended.
pub async fn run<S: Side>(remote: Remote<S>, source: Source, sink: impl FnMut(Told)) {
    let mut informer = Informer { remote, source, sink, throttle: Throttle::default(), size: Size::default() };
    loop {
        let Err(_) = AssertUnwindSafe(informer.list_and_watch()).catch_unwind().await else { return };
        tracing::error!(side = S::NAME, path = informer.source.path, "an informer panicked");
        tokio::time::sleep(AFTER_PANIC).await;
    }
}

struct Informer<S, F> {
    remote: Remote<S>,
    source: Source,
    sink: F,
    throttle: Throttle,
    size: Size,
}

impl<S: Side, F: FnMut(Told)> Informer<S, F> {
    async fn list_and_watch(&mut self) {
        let builder = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(200))
            .with_max_delay(Duration::from_secs(30))
            .with_factor(2.0)
            .with_jitter()
            .without_max_times();
        let mut backoff = builder.build();
        let mut stream_lists = !self.source.from_now;
        let mut next = Next::List;
        loop {
            let begun = Instant::now();
            let lists = matches!(next, Next::List);
            let follows = !lists || stream_lists;
            let outcome = if follows { self.follow(&mut next).await } else { self.list(&mut next).await };
            match outcome {
                // A list says nothing of whether a watch goes well from there.
                Ok(()) if !follows => continue,
                Ok(()) if begun.elapsed() < BRIEF => {}
                Ok(()) => {
                    backoff = builder.build();
                    continue;
                }
                Err(error) if lists && matches!(next, Next::List) && stream_lists && is_unserved(&error) => {
                    stream_lists = false;
                    continue;
                }
                Err(error) => {
                    if is_lost(&error) {
                        next = Next::List;
                    }
                    if let Some(pace) = self.source.optional.filter(|_| error.is_not_found()) {
                        (self.sink)(Told::Unserved);
                        backoff = builder.build();
                        let wait = pace.mul_f64(rand::rng().random_range(1.0..1.5));
                        tokio::time::sleep(wait).await;
                        continue;
                    }
                    (self.sink)(Told::Failed(error));
                }
            }
            tokio::time::sleep(backoff.next().unwrap_or(Duration::from_secs(30))).await;
        }
    }

    /// Follows one watch to its end; `next` says at any time how to go on. Without a version it begins with a list.
    async fn follow(&mut self, next: &mut Next) -> Result<(), CallError> {
        // Watches are asked for unequal times, so that they do not all come back together.
        let seconds: u32 = rand::rng().random_range(240..420);
        let rest = match next {
            Next::List => "sendInitialEvents=true&resourceVersionMatch=NotOlderThan".to_owned(),
            Next::Watch(version) => format!("resourceVersion={version}"),
        };
        let path = self.query(&format!("watch=true&allowWatchBookmarks=true&{rest}&timeoutSeconds={seconds}"));
        let mut lines = self.remote.watch(path.clone(), None).await?;
        let mut budget = Budget::new(self.source.bounds);
        (self.sink)(Told::Opened);
        if matches!(next, Next::List) {
            (self.sink)(Told::ListBegins);
        }
        while let Some(line) = lines.next().await {
            let bytes = match line {
                Ok(bytes) => bytes,
                // Passed over. What it is about is known from before, or is asked for when a list does not name it.
                Err(source) if source.kind() == Failure::TooLarge => {
                    if matches!(next, Next::List) {
                        budget.bytes(TOO_LARGE, S::NAME)?;
                    }
                    self.pause(1, TOO_LARGE).await;
                    (self.sink)(Told::Unreadable(serde_json::Error::custom(Chain(&source))));
                    continue;
                }
                // A cut list starts anew.
                Err(source) if matches!(next, Next::List) => return Err(CallError::Transport { side: S::NAME, source }),
                // A cut stream goes on where it was. That may be mere silence: an API server need not send bookmarks for a kind of which
                // it has heard nothing. Whether it is well is seen when the stream is opened again.
                Err(error) => {
                    tracing::debug!(side = S::NAME, path, error = %Chain(&error), "a watch was cut");
                    break;
                }
            };
            if matches!(next, Next::List) {
                budget.bytes(bytes.len(), S::NAME)?;
            }
            self.pause(1, bytes.len()).await;
            self.line(&bytes, next)?;
        }
        if matches!(next, Next::List) { Err(unreadable::<S>("it ended before the list was complete")) } else { Ok(()) }
    }

    /// Looks at one line.
    fn line(&mut self, bytes: &Bytes, next: &mut Next) -> Result<(), CallError> {
        match line::read(bytes) {
            Ok(Said::Object(object)) => {
                note_version(&object, next);
                (self.sink)(Told::Object(object));
            }
            Ok(Said::Gone(object)) => {
                note_version(&object, next);
                (self.sink)(Told::Gone(object));
            }
            Ok(Said::Mark { version, ends_list }) => match next {
                Next::List if ends_list => {
                    check_version::<S>(&version)?;
                    (self.sink)(Told::ListEnds(version.clone()));
                    *next = Next::Watch(version);
                }
                Next::Watch(known) if is_version(&version) => *known = version,
                Next::List | Next::Watch(_) => {}
            },
            Ok(Said::Failed { code, reason, message }) => {
                return Err(CallError::Status { side: S::NAME, code, reason, message, retry_after: None });
            }
            Err(error) => (self.sink)(Told::Unreadable(error)),
        }
        Ok(())
    }

    /// Lists page by page, or (for what is watched from now on) only asks where the collection stands.
    async fn list(&mut self, next: &mut Next) -> Result<(), CallError> {
        let mut budget = Budget::new(self.source.bounds);
        let mut begun = false;
        let mut from = String::new();
        loop {
            budget.page(S::NAME)?;
            let Some(bytes) = self.page(&from).await? else { continue };
            if !std::mem::replace(&mut begun, true) {
                (self.sink)(Told::ListBegins);
            }
            let (sink, is_told) = (&mut self.sink, !self.source.from_now);
            // Copied, so that one kept object does not keep the page.
            let tell = |item: &RawValue| {
                if is_told {
                    sink(Told::Object(Bytes::copy_from_slice(item.get().as_bytes())));
                }
            };
            let kind = if is_told { self.source.kind } else { page::METADATA };
            let (meta, objects) = page::read(&bytes, kind, tell).map_err(|source| CallError::Unreadable { side: S::NAME, source })?;
            let length = bytes.len();
            drop(bytes);
            budget.bytes(length, S::NAME)?;
            self.size.read(length);
            if meta.next.is_empty() || self.source.from_now {
                let version = meta.resource_version;
                check_version::<S>(&version)?;
                (self.sink)(Told::ListEnds(version.clone()));
                *next = Next::Watch(version);
                // The last page is paid for too, before anything more is asked for: most lists have no other.
                self.pause(objects, length).await;
                return Ok(());
            }
            if meta.next == from {
                return Err(CallError::Endless { side: S::NAME });
            }
            from = meta.next;
            self.pause(objects, length).await;
        }
    }

    /// Asks for one page; `None` if it was too large and a smaller one is to be asked for.
    async fn page(&mut self, from: &str) -> Result<Option<Bytes>, CallError> {
        if self.source.from_now {
            return self.remote.list_metadata(self.query("limit=1"), None).await.map(Some);
        }
        let limit = self.size.objects();
        let rest = if from.is_empty() { format!("limit={limit}") } else { format!("limit={limit}&continue={from}") };
        match self.remote.list(self.query(&rest), None).await {
            Err(CallError::Transport { source, .. }) if source.kind() == Failure::TooLarge && self.size.halve() => Ok(None),
            other => other.map(Some),
        }
    }

    /// Waits where a tenant's API server says more than is looked at.
    async fn pause(&mut self, objects: usize, bytes: usize) {
        if S::NAME == Tenant::NAME
            && let Some(wait) = self.throttle.take(objects, bytes, Instant::now())
        {
            tokio::time::sleep(wait).await;
        }
    }

    fn query(&self, rest: &str) -> String {
        let selector = self.source.selector.as_ref().map(|s| format!("labelSelector={s}&")).unwrap_or_default();
        let name = self.source.name.as_ref().map(|name| format!("fieldSelector=metadata.name%3D{name}&")).unwrap_or_default();
        format!("{}?{selector}{name}{rest}", self.source.path)
    }
}

/// Whether the place from where to watch on is of no use any more: a version that the API server cannot make sense of does not get
/// better, and one that is ahead of it (its storage was restored) may not be reached for days.
fn is_lost(error: &CallError) -> bool {
    let is_ahead = matches!(error, CallError::Status { message, .. } if message.contains("Too large resource version"));
    matches!(error.code(), Some(400 | 404 | 410 | 422)) || error.reason() == "Expired" || is_ahead
}

/// WatchList is off, or its storage cannot do it.
fn is_unserved(error: &CallError) -> bool {
    matches!(error.code(), Some(400 | 422 | 500 | 501))
}

fn check_version<S: Side>(text: &str) -> Result<(), CallError> {
    if is_version(text) { Ok(()) } else { Err(unreadable::<S>("it has no version to watch from")) }
}

fn unreadable<S: Side>(what: &str) -> CallError {
    CallError::Unreadable { side: S::NAME, source: serde_json::Error::custom(what) }
}

/// Where a watch stands moves with what it tells; that of a list is said at its end.
fn note_version(object: &Bytes, next: &mut Next) {
    if let Next::Watch(known) = next
        && let Some(version) = version_of(object)
    {
        version.clone_into(known);
    }
}
